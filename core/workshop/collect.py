"""What the room has made: each seat's report, one page over all, and a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from core.errors import LabError
from core.events import now
from core.files import MANIFEST, read_if_whole, write_atomic
from core.folder import LabFolder
from core.language import RIGHT_TO_LEFT, _, in_use, ngettext, shown, told
from core.recipe import read_recipe
from core.report_page import page
from core.results import PREPARED, numbers_of
from core.stages import STAGES, assessment, default_stages, result_lines
from core.text import clean
from core.version import __version__
from core.workshop.folder import Workshop
from core.workshop.watch import SeatStatus, seats_status

_TEMPLATE = Path(__file__).with_name("collected.html.j2")


def collect(workshop: Workshop) -> Path:
    """Gather every seat's report and a table of results below ``collected``; the page to open.

    No chats and no records are taken; a report shows one question with the answers of base and tuned model.

    Raises:
        MachineError: the folder cannot be written.
    """
    from jinja2 import Environment

    seats, rows = [], []
    for status in seats_status(workshop):
        lab = LabFolder(workshop.root / status.seat)
        results = {} if status.state == "unreadable" else _results(lab)
        report = _report(workshop, lab) if results else ""
        seats.append(
            {
                "name": status.seat,
                "report": report,
                "where": clean(shown(words_of(status)), keep_newlines=False),
                "poor": bool(status.code or status.title or status.note),
                "stages": [_cell(stage, results.get(stage)) for stage in default_stages()],
            }
        )
        rows += [
            (status.seat, stage, label, value)
            for stage, numbers in results.items()
            for label, value in result_lines(stage, numbers, main=True)
        ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=clean(workshop.root.name, keep_newlines=False),
        titles=[_(STAGES[name].title) for name in default_stages()],
        seats=seats,
        words=_words_of_page(len(seats)),
        language=in_use(),
        direction="rtl" if in_use() in RIGHT_TO_LEFT else "ltr",
    )
    write_atomic(workshop.collected_dir / "table.csv", _csv(rows))
    write_atomic(workshop.collected_dir / "index.html", text)
    return workshop.collected_dir / "index.html"


def _words_of_page(seats: int) -> dict[str, str]:
    return {
        "title": _("OlivePress workshop"),
        "about": ngettext("{n} seat.", "{n} seats.", seats)
        + " "
        + _("Written {time} by OlivePress {version}.", time=f"{now()[:19]}Z", version=__version__),
        "figures": _("The figures are in the table:"),
        "seat": _("Seat"),
        "now": _("Now"),
        "prepared": _("prepared"),
        "not_made": _("not made"),
    }


def words_of(status: SeatStatus) -> str:
    """Where a seat is, in words."""
    if status.note:
        return status.note
    if status.state == "ready":
        return told("all made") if status.step == "chat" else told("ready for {step}", step=status.step)
    words = told("{step} {state}", step=status.step, state=status.state)
    if status.title or status.code:
        said = told("{words}: {title}", words=words, title=status.title)
        return told("{said} ({code})", said=said, code=status.code) if status.code else said
    return told("{words}: {phase}", words=words, phase=status.phase) if status.phase else words


def _results(lab: LabFolder) -> dict[str, dict[str, Any]]:
    """Each stage's result in numbers, of the adapter that the recipe names."""
    try:
        adapter = read_recipe(lab.recipe_path).finetune.adapter
    except LabError:
        return {}
    found = {}
    for name in default_stages():
        makes = STAGES[name].makes
        manifest = read_if_whole(makes.folder(lab, adapter) / MANIFEST) if makes else None
        if isinstance(manifest, dict):
            found[name] = numbers_of(manifest)
    return found


def _report(workshop: Workshop, lab: LabFolder) -> str:
    """Write a seat's report, made anew from its manifests: what lies there may be another's work. Its name."""
    try:
        text = page(lab, read_recipe(lab.recipe_path))
    except LabError:
        return ""
    name = f"{lab.root.name}.html"
    write_atomic(workshop.collected_dir / name, text)
    return name


def _cell(stage: str, numbers: dict[str, Any] | None) -> dict[str, Any]:
    if numbers is None:
        return {"made": False, "prepared": False, "text": "", "poor": False}
    said = assessment(stage, numbers)
    return {
        "made": True,
        "prepared": bool(numbers.get(PREPARED)),
        "text": shown(said.text) or _("made"),
        "poor": said.poor,
    }


def _csv(rows: list[tuple[str, str, str, str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("seat", "stage", "figure", "value"))
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return out.getvalue()


def _harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell
