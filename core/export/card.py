"""The model card: what an exported folder holds, what it was made from, how good it is, and under which licence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.export.write import ExportRequest
from core.files import MANIFEST, read_if_whole, write_atomic
from core.formats import human_bytes
from core.model.licence import Licence, read_licence
from core.model.sources import at_hand, kind_of, local_place
from core.report import auto_table, escape
from core.stages import STAGES, assessment, result_lines
from core.version import __version__

CARD = "README.md"
_LICENCE_FOLDER = "licence"
_HUBS = frozenset(
    {
        "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-4.0", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense",
        "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "openrail",
    }
)  # fmt: skip
"""Licences by the names that the hub takes; any other is ``other`` there, with a name of its own."""


def write_card(wanted: ExportRequest, folder: Path) -> list[str]:
    """Write ``README.md`` into a folder, and the base's licence beside it; what is to be said of that licence.

    Raises:
        RequestError: a manifest of the lab is damaged.
    """
    licence = base_licence(wanted)
    for file in licence.files:
        (folder / _LICENCE_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(file, folder / _LICENCE_FOLDER / file.name)
    write_atomic(folder / CARD, card_text(wanted, folder, licence))
    if licence.ban:
        return [
            f"The base's licence seems to forbid passing the model on: “{licence.ban}”. Keep this copy to yourself."
        ]
    if not licence.name:
        return ["Nothing tells the base's licence: look it up before you pass the model on."]
    return []


def base_licence(wanted: ExportRequest) -> Licence:
    """The licence of the model that the lab began with, as far as this machine knows it."""
    source, root = wanted.lab.recipe.model.source, wanted.lab.root
    kind = kind_of(source, root)
    if kind == "gguf":
        from core.model.gguf import check_gguf

        place = local_place(source, root)
        beside = read_licence(place.parent)
        name = check_gguf(place).licence if place.is_file() else ""
        return Licence(name or beside.name, beside.files, beside.ban)
    if kind == "rehearsal":
        return Licence("mit")
    found = at_hand(source, root)
    return read_licence(found) if found is not None else Licence()


def card_text(wanted: ExportRequest, folder: Path, licence: Licence) -> str:
    """The card as Markdown with the hub's front matter."""
    recipe, form = wanted.lab.recipe, wanted.form
    title = wanted.lab.root.name
    source = recipe.model.source
    base = source if kind_of(source, wanted.lab.root) == "hub" else Path(source).name
    adapter = wanted.adapter
    parts = [
        "\n".join(_front_matter(licence, source, kind_of(source, wanted.lab.root))),
        f"# {escape(title)}",
        f"{escape(base)}"
        + (f" with the LoRA adapter {escape(adapter)}" if adapter else "")
        + f": {form.about}",
        "\n".join(_from(wanted, base)),
    ]
    if form.next:
        usage = form.next.format(out=".", name=title).removeprefix("cd . && ")
        parts += ["## Use", f"```\n{usage}\n```"]
    parts += [
        "## Licence",
        f"The base model's licence is {escape(licence.name)}."
        if licence.name
        else "The base's licence is not known.",
    ]
    if licence.ban:
        parts.append(f"**It seems to forbid passing the model on:** {escape(licence.ban)}")
    for stage, where in _made(wanted):
        manifest = read_if_whole(where / MANIFEST) or {}
        result = manifest.get("result") or {}
        if not result:
            continue
        parts.append(f"## {STAGES[stage].title}")
        if sentence := assessment(stage, result).text:
            parts.append(escape(sentence))
        rows = ["| what | value |", "| --- | --- |"]
        rows += [f"| {label} | {escape(value)} |" for label, value in result_lines(stage, result, main=True)]
        parts.append("\n".join(rows))
        if manifest.get("auto"):
            parts.append(auto_table(manifest["auto"]))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CARD]
    parts += [
        "## Files",
        "\n".join(
            f"- `{escape(path.relative_to(folder).as_posix())}` {human_bytes(path.stat().st_size)}"
            for path in files
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(licence: Licence, source: str, kind: str) -> Iterator[str]:
    yield "---"
    name = licence.name.lower()
    if name in _HUBS:
        yield f"license: {name}"
    else:
        yield "license: other"
        if slug := re.sub(r"[^a-z0-9.]+", "-", name).strip("-"):
            yield f"license_name: {slug}"
    if kind == "hub":
        yield f"base_model: {source.partition('@')[0]}"
    yield "tags:"
    yield "- olivepress"
    yield "pipeline_tag: text-generation"
    yield "---"


def _from(wanted: ExportRequest, base: str) -> Iterator[str]:
    recipe = wanted.lab.recipe
    yield "| | |"
    yield "| --- | --- |"
    yield f"| Base model | {escape(base)} |"
    made = (read_if_whole(wanted.folder.quantized_dir / MANIFEST) or {}).get("fingerprint") or {}
    how = made.get("quantize") or {}
    if how.get("bits"):  # not where the weights were kept as they are
        yield f"| Quantized by | {escape(str(how.get('algorithm')))}, {escape(str(how['bits']))} bits |"
    if wanted.adapter:
        yield f"| Adapter | {escape(wanted.adapter)} |"
        manifest = read_if_whole(wanted.folder.finetuned_dir(wanted.adapter) / MANIFEST) or {}
        records = (manifest.get("fingerprint") or {}).get("records")
        name = Path((manifest.get("fingerprint") or {}).get("data", {}).get("file") or recipe.data.file).name
        yield f"| Trained on | {escape(name)}" + (
            f", fingerprint `{escape(str(records))}` |" if records else " |"
        )
    if wanted.type:
        yield f"| Type of the weights | {escape(wanted.type)} |"
    yield f"| Made with | OlivePress {__version__} |"


def _made(wanted: ExportRequest) -> Iterator[tuple[str, Path]]:
    for stage in STAGES.values():
        if stage.makes is None:
            continue
        folder = stage.makes.folder(wanted.folder, wanted.adapter or "")
        if stage.name == "finetune" and not wanted.adapter:
            continue
        if stage.name == "optimize" and wanted.form.made_from != "optimize":
            continue
        yield stage.name, folder
