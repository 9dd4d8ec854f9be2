"""``report.md``: what the lab made, from what, how well and how fast."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.evaluated import TITLES, explained, left_out, measured, samples, table, tasks_table
from core.events import now
from core.files import MANIFEST, read_if_whole, read_json
from core.folder import LabFolder
from core.model.auto import Chosen
from core.recipe import Recipe
from core.results import numbers_of
from core.searched import PLOT_LEGEND, TABLE_LEGEND, Board, boards_of, plot, refused_words, seen, summary
from core.searched import table as search_table
from core.stages import STAGES, assessment, result_lines
from core.stale import stale
from core.text import clean

"""The file of the lab's own folder that keeps what was last registered."""


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
        found.append(LastResult("upload", "Upload", str(uploaded.get("url") or ""), uploaded))
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
        f"Model {code(recipe.model.source)}, data {code(recipe.data.file)}. "
        f"Written {written()} by OlivePress.",
    ]
    old = stale(lab, recipe)
    for stage, heading, folder in what_is_made(lab):
        title = escape(heading)
        try:
            manifest = read_json(folder / MANIFEST)
        except RequestError as error:
            parts += [f"## {title}", escape(f"{error.title} {error.detail}")]
            continue
        if not manifest:
            continue
        parts.append(f"## {title}")
        result = numbers_of(manifest)
        if sentence := assessment(stage, result).text:
            parts.append(escape(sentence))
        parts.append(code(str(folder.relative_to(lab.root))))
        if stage in old and folder == _now(lab, recipe, stage):
            parts.append(f"Stale: {escape(old[stage])}.")
        parts.append(_table(stage, result))
        parts += _evaluation(result) if stage == "evaluate" else []
        if manifest.get("auto"):
            parts.append("What followed the model and the data:")
            parts.append(auto_table(manifest["auto"]))
        packages = (manifest.get("fingerprint") or {}).get("versions") or {}
        if packages:
            parts.append(
                "Made with " + ", ".join(f"{name} {version}" for name, version in packages.items()) + "."
            )
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
    text = text.split("\n## Upload\n", 1)[0].rstrip("\n") + "\n"
    if uploaded is None:
        return text
    sentence = escape(assessment("upload", uploaded).text)
    return (
        f"{text}\n## Upload\n\n" + (f"{sentence}\n\n" if sentence else "") + f"{_table('upload', uploaded)}\n"
    )


def _table(stage: str, result: dict[str, Any]) -> str:
    rows = [("what", "value"), ("---", "---")]
    rows += [(label, escape(value)) for label, value in result_lines(stage, result)]
    return "\n".join(f"| {label} | {value} |" for label, value in rows)


def _evaluation(result: Mapping[str, Any]) -> list[str]:
    """The variants as a table, and some answers of the first and the last of them."""
    there = measured(result)
    if not there:
        return []
    rows = [["", *(TITLES[name] for name, _ in there)], ["---"] * (len(there) + 1)]
    rows += [[label, *cells] for label, cells in (*table(result), *tasks_table(result))]
    parts = ["\n".join("| " + " | ".join(map(escape, row)) + " |" for row in rows)]
    parts.append(escape(explained(result)))
    parts += [f"Not measured: {escape(line)}" for line in left_out(result)]
    for sample in samples(result):
        lines = [("Question", sample.get("question")), ("Expected", sample.get("expected"))]
        lines += [(TITLES.get(str(name), str(name)), text) for name, text in sample["answers"].items()]
        parts.append("\n".join(f"- **{escape(who)}**: {escape(str(text or ''))}" for who, text in lines))
    return parts


def search_heading(board: Board) -> str:
    """What people call what a search found."""
    return f"Search, {STAGES[board.kind].title}"


def _search(board: Board) -> list[str]:
    """What a search found: the sentence, the choices as a table, and as points."""
    parts = [f"## {escape(search_heading(board))}", escape(assessment("search", summary(board)).text)]
    found = search_table(board)
    rows = [found.heads, ["---"] * len(found.heads), *found.rows]
    parts.append("\n".join("| " + " | ".join(map(escape, row)) + " |" for row in rows))
    parts.append(escape(f"{TABLE_LEGEND}."))
    if lines := plot(seen(board)):
        parts.append("\n".join(("```", PLOT_LEGEND, *lines, "```")))
    return parts + [escape(words) for words in (refused_words(board), board.note) if words]


def code(text: str) -> str:
    """Foreign text as Markdown shows code, in which nothing is escaped."""
    text = clean(text, keep_newlines=False)
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{marks}{space}{text}{space}{marks}"


def auto_table(chosen: Iterable[Mapping[str, Any]]) -> str:
    """The settings that are "auto" (as :meth:`core.model.auto.Chosen.as_dict` gives them), as a Markdown table."""
    rows = ["| setting | value | why |", "| --- | --- | --- |"]
    for each in chosen:
        words = Chosen.from_dict(each).words
        rows.append(f"| {each['option']} | {escape(words)} | {escape(each['reason'])} |")
    return "\n".join(rows)


def escape(text: str) -> str:
    """Foreign text, so that Markdown does not read it as its own."""
    text = clean(text, keep_newlines=False)
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in text)
