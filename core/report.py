"""``report.md``: what the lab made, from what, how well and how fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.evaluated import TITLES, explained, left_out, measured, samples, table, tasks_table
from core.events import now
from core.files import MANIFEST, read_if_whole, read_json
from core.folder import LabFolder
from core.language import _, shown, told
from core.model.auto import Chosen
from core.recipe import Recipe
from core.results import numbers_of
from core.searched import PLOT_LEGEND, TABLE_LEGEND, Board, boards_of, plot, refused_words, seen, summary
from core.searched import table as search_table
from core.stages import STAGES, assessment, result_lines
from core.stale import stale
from core.text import clean

_UPLOAD = "<!-- upload -->"
"""Stands before the report's part on the last upload, whatever its language."""


@dataclass(frozen=True)
class LastResult:
    """What a stage last gave.

    Attributes:
        stage: its name.
        heading: what people call it.
        where: the folder that it made, or the page of what it registered.
        numbers: the result, as the stage's own documentation lists it.
    """

    stage: str
    heading: str
    where: str
    numbers: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it."""
        return {"stage": self.stage, "where": self.where, "result": self.numbers}


def last_results(lab: LabFolder) -> list[LastResult]:
    """The last result of every stage that has one, each adapter's for itself, in the order of the lab.

    Raises:
        RequestError: the file that keeps one is damaged.
    """
    found = []
    for stage, heading, folder in what_is_made(lab):
        manifest = read_json(folder / MANIFEST)
        if manifest:
            found.append(LastResult(stage, heading, str(folder), numbers_of(manifest)))
    uploaded = read_if_whole(lab.upload_path)
    if isinstance(uploaded, dict):
        found.append(LastResult("upload", told("Upload"), str(uploaded.get("url") or ""), uploaded))
    return found


def what_is_made(lab: LabFolder) -> Iterator[tuple[str, str, Path]]:
    """What the stages have left in the lab: the stage's name, a heading and the folder of each."""
    for stage in STAGES.values():
        if (makes := stage.makes) is None:
            continue
        for folder in makes.folders(lab):
            yield stage.name, makes.heading(lab, folder), folder


def report_text(lab: LabFolder, recipe: Recipe) -> str:
    """The report as Markdown."""
    parts = [
        f"# {escape(lab.root.name)}",
        _(
            "Model {model}, data {data}. Written {time} by OlivePress.",
            model=code(recipe.model.source),
            data=code(recipe.data.file),
            time=written(),
        ),
    ]
    old = stale(lab, recipe)
    for stage, heading, folder in what_is_made(lab):
        title = _said(heading)
        try:
            manifest = read_json(folder / MANIFEST)
        except RequestError as error:
            parts += [f"## {title}", escape(f"{shown(error.title)} {shown(error.detail)}")]
            continue
        if not manifest:
            continue
        parts.append(f"## {title}")
        result = numbers_of(manifest)
        if sentence := assessment(stage, result).text:
            parts.append(_said(sentence))
        parts.append(code(str(folder.relative_to(lab.root))))
        if stage in old and folder == _now(lab, recipe, stage):
            parts.append(_("Stale: {reason}.", reason=_said(old[stage])))
        parts.append(_table(stage, result))
        parts += _evaluation(result) if stage == "evaluate" else []
        if manifest.get("auto"):
            parts.append(_("What followed the model and the data:"))
            heads = (_("setting"), _("value"), _("why"))
            parts.append(auto_table(manifest["auto"], heads, shown))
        packages = (manifest.get("fingerprint") or {}).get("versions") or {}
        if packages:
            names = ", ".join(f"{name} {version}" for name, version in packages.items())
            parts.append(_("Made with {names}.", names=names))
    for board in boards_of(lab, recipe.model.source):
        parts += _search(board)
    uploaded = read_if_whole(lab.upload_path)
    text = "\n\n".join(parts) + "\n"
    return with_upload(text, uploaded) if isinstance(uploaded, dict) else text


def written() -> str:
    """The time now, as a report has it."""
    at = now()
    return f"{at[:10]}, {at[11:16]} UTC"


def _now(lab: LabFolder, recipe: Recipe, stage: str) -> Path | None:
    """The folder of a stage's result that the recipe means, where there is one for each adapter."""
    makes = STAGES[stage].makes
    return makes.folder(lab, recipe.finetune.adapter) if makes else None


def with_upload(text: str, uploaded: dict[str, Any] | None) -> str:
    """A report with its part on the last upload replaced, or taken out where that is None.

    The part stands last; an upload leaves it out of the report that it sends.
    """
    text = re.split(rf"\n(?:{_UPLOAD}|## Upload)\n", text, maxsplit=1)[0].rstrip("\n") + "\n"
    if uploaded is None:
        return text
    sentence = _said(assessment("upload", uploaded).text)
    return (
        f"{text}\n{_UPLOAD}\n## {_('Upload')}\n\n"
        + (f"{sentence}\n\n" if sentence else "")
        + f"{_table('upload', uploaded)}\n"
    )


def _table(stage: str, result: dict[str, Any]) -> str:
    rows = [(_("what"), _("value")), ("---", "---")]
    rows += [(shown(label), _said(value)) for label, value in result_lines(stage, result)]
    return "\n".join(f"| {label} | {value} |" for label, value in rows)


def _evaluation(result: Mapping[str, Any]) -> list[str]:
    """The variants as a table, and some answers of the first and the last of them."""
    there = measured(result)
    if not there:
        return []
    rows = [["", *(TITLES[name] for name, _numbers in there)], ["---"] * (len(there) + 1)]
    rows += [[label, *cells] for label, cells in (*table(result), *tasks_table(result))]
    parts = ["\n".join("| " + " | ".join(map(_said, row)) + " |" for row in rows)]
    parts.append(_said(explained(result)))
    parts += [_("Not measured: {variant}", variant=_said(line)) for line in left_out(result)]
    for sample in samples(result):
        lines = [(_("Question"), sample.get("question")), (_("Expected"), sample.get("expected"))]
        lines += [(TITLES.get(str(name), str(name)), text) for name, text in sample["answers"].items()]
        parts.append("\n".join(f"- **{_said(who)}**: {escape(str(text or ''))}" for who, text in lines))
    return parts


def search_heading(board: Board) -> str:
    """What people call what a search found."""
    return _("Search, {stage}", stage=_(STAGES[board.kind].title))


def _search(board: Board) -> list[str]:
    """What a search found: the sentence, the choices as a table, and as points."""
    parts = [f"## {escape(search_heading(board))}", _said(assessment("search", summary(board)).text)]
    found = search_table(board)
    rows = [found.heads, ["---"] * len(found.heads), *found.rows]
    parts.append("\n".join("| " + " | ".join(map(_said, row)) + " |" for row in rows))
    parts.append(escape(f"{shown(TABLE_LEGEND)}."))
    if lines := plot(seen(board)):
        parts.append("\n".join(("```", shown(PLOT_LEGEND), *lines, "```")))
    return parts + [_said(words) for words in (refused_words(board), board.note) if words]


def code(text: str) -> str:
    """Foreign text as Markdown shows code, in which nothing is escaped."""
    text = clean(text, keep_newlines=False)
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{marks}{space}{text}{space}{marks}"


def auto_table(
    chosen: Iterable[Mapping[str, Any]],
    heads: Sequence[str] = ("setting", "value", "why"),
    say: Callable[[str], str] = str,
) -> str:
    """The settings that are "auto" (as :meth:`core.model.auto.Chosen.as_dict` gives them), as a Markdown table.

    Args:
        heads: what stands above it.
        say: gives a text as it is to be read; English, if not given.
    """
    rows = [f"| {' | '.join(heads)} |", "| --- | --- | --- |"]
    for each in chosen:
        found = Chosen.from_dict(each)
        rows.append(f"| {each['option']} | {escape(say(found.words))} | {escape(say(found.reason))} |")
    return "\n".join(rows)


def _said(text: str) -> str:
    return escape(shown(text))


def escape(text: str) -> str:
    """Foreign text, so that Markdown does not read it as its own."""
    text = clean(text, keep_newlines=False)
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in text)
