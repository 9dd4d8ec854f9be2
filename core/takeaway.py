"""What a lab has made, to take along: where it lies, what is in it, what it answers, and how to use it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from core.errors import RequestError
from core.export.forms import FORMS
from core.files import MANIFEST, read_json
from core.folder import RECIPE_NAME, LabFolder
from core.formats import counted, human_bytes
from core.language import N_, _
from core.text import clean, command, shell

TITLE = N_("Take it with you")
GRAPH, ADAPTERS, REST = N_("the model: graph and weights"), N_("adapters"), N_("tokenizer and settings")


@dataclass(frozen=True)
class Way:
    """One way to use it.

    Attributes:
        what: what it is, for people.
        how: the command line.
    """

    what: str
    how: str


@dataclass(frozen=True)
class Takeaway:
    """What there is to take along.

    Attributes:
        folder: the ONNX model's folder.
        bytes, files: its size, and how many files.
        parts: what is in it, with the bytes of each.
        question, base, tuned: one of the records' questions, and what base and tuned model answered when they were
            tried; empty where they were not.
        ways: to use it elsewhere.
    """

    folder: Path
    bytes: int
    files: int
    parts: tuple[tuple[str, int], ...]
    question: str
    base: str
    tuned: str
    ways: tuple[Way, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it."""
        return {**asdict(self), "folder": str(self.folder)}

    def lines(self) -> list[str]:
        """All of it for people, harmless for a terminal."""
        files = counted(self.files, "file")
        said = [
            _(
                "{folder}, {size} in {files}:",
                folder=_flat(str(self.folder)),
                size=human_bytes(self.bytes),
                files=files,
            )
        ]
        said += [f"  {human_bytes(size):>9}  {_(what)}" for what, size in self.parts]
        if self.question:
            before, now = _("before:"), _("now:")
            wide = max(len(before), len(now))
            said += [
                _("Asked: {question}", question=_flat(self.question)),
                f"  {before:<{wide}} {_flat(self.base)}",
                f"  {now:<{wide}} {_flat(self.tuned)}",
            ]
        for way in self.ways:
            said += [f"{way.what}:", f"  {way.how}"]
        return said


def takeaway(lab: LabFolder) -> Takeaway | None:
    """What a lab has to take along; None while there is no ONNX model.

    Nothing but names, sizes and the manifest is read.
    """
    folder = lab.onnx_dir
    if not (folder / "genai_config.json").is_file():
        return None
    sizes: dict[str, int] = dict.fromkeys((GRAPH, ADAPTERS, REST), 0)
    files = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files += 1
            sizes[_part(path.relative_to(folder))] += path.stat().st_size
    answers = _answers(folder)
    return Takeaway(
        folder,
        sum(sizes.values()),
        files,
        tuple((what, size) for what, size in sizes.items() if size),
        answers.get("question", ""),
        answers.get("base", ""),
        answers.get("tuned", ""),
        _ways(lab),
    )


def _part(name: PurePath) -> str:
    if name.parts[0] == "adapters" or name.name == "adapters.json":
        return ADAPTERS
    return GRAPH if name.suffix in (".onnx", ".data") else REST


def _answers(folder: Path) -> dict[str, str]:
    """One question and its answers, as the stage found them."""
    try:
        manifest = read_json(folder / MANIFEST)
    except RequestError:  # what is damaged is told where it matters
        return {}
    result = manifest.get("result") if isinstance(manifest, Mapping) else None
    found = result.get("answers") if isinstance(result, Mapping) else None
    return {key: str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}


def _ways(lab: LabFolder) -> tuple[Way, ...]:
    name = lab.root.name or "lab"
    onnx = lab.onnx_dir.relative_to(lab.root)
    return (
        Way(_("Pack it"), shell("tar", "-C", lab.root, "-cf", f"{name}.tar", RECIPE_NAME, onnx)),
        Way(
            _("Chat with it on another machine that has OlivePress"),
            f"{shell('mkdir', name)} && {shell('tar', '-C', name, '-xf', f'{name}.tar')} && {command('chat', name)}",
        ),
        Way(_("Let programs here ask it, as they ask OpenAI's"), command("serve", lab.root)),
        *(
            Way(
                f"{_(form.title)}. {_(form.about)}".rstrip("."),
                command(
                    "export",
                    lab.root,
                    "--to",
                    form.name,
                    f"{name}-{form.name}" if form.is_folder else form.out,
                ),
            )
            for form in FORMS.values()
            if form.made_from
        ),
        Way(_("Azure Machine Learning, one way of several"), command("upload", lab.root)),
    )


def _flat(text: str) -> str:
    return clean(text, keep_newlines=False)
