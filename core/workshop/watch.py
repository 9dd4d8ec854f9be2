"""Which step every seat is at, and what fails where: from the jobs' states alone, without anyone's chats or records."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import LabError, text_of
from core.files import MANIFEST, read_if_whole
from core.folder import LabFolder
from core.jobs import Job, list_jobs
from core.jobs.turns import tickets
from core.language import told
from core.recipe import read_recipe
from core.results import PREPARED
from core.stages import STAGES, default_stages, made_in
from core.text import clean
from core.workshop.folder import Workshop


@dataclass(frozen=True)
class SeatStatus:
    """Where a seat is.

    Attributes:
        seat: its name.
        step: the stage that runs, waits or went wrong; else the next to do; ``chat`` where all is made.
        state: of that stage's newest job (``running``, ``failed`` and so on); ``waiting`` for its turn; ``ready``
            where none runs; ``unreadable`` where it cannot be looked at.
        phase, done, total, eta_s: what its job tells of itself.
        place: its place in the line, from 1; 0 where it does not wait.
        made: the stages that have a result.
        prepared: those of them whose result is the prepared one.
        code, title: of the error, where it went wrong, or of what is wrong with its recipe.
        note: why it cannot be looked at.
    """

    seat: str
    step: str
    state: str
    phase: str = ""
    done: float | None = None
    total: float | None = None
    eta_s: float | None = None
    place: int = 0
    made: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()
    code: str = ""
    title: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it."""
        return asdict(self)


def seats_status(workshop: Workshop) -> list[SeatStatus]:
    """Every seat's, in their order. Only states, phases, times, and titles and codes of errors are read."""
    waiting = [each for each in tickets(workshop.line_dir) if not each.has]
    places = {(each.lab, each.job): number for number, each in enumerate(waiting, 1)}
    return [_of(LabFolder(workshop.root / name), places) for name in workshop.seat_names()]


def _of(lab: LabFolder, places: dict[tuple[str, str], int]) -> SeatStatus:
    name = lab.root.name
    if closed := _closed(lab):
        return SeatStatus(name, "", "unreadable", note=closed)
    there = made_in(lab)
    made = tuple(stage for stage in STAGES if stage in there)
    prepared = tuple(stage for stage in made if _is_prepared(lab, stage))
    jobs = [job for job in list_jobs(lab) if STAGES[job.stage].computes]
    newest = jobs[-1] if jobs else None
    state = newest.state if newest else ""
    if newest is None or state in ("succeeded", "cancelled"):
        ahead = next((stage for stage in default_stages() if stage not in there), "chat")
        code, title = _recipe_fault(lab)
        return SeatStatus(name, ahead, "ready", made=made, prepared=prepared, code=code, title=title)
    return _of_job(name, newest, places.get((str(lab.root), newest.id), 0), made, prepared)


def _recipe_fault(lab: LabFolder) -> tuple[str, str]:
    """Code and title of what is wrong with a seat's recipe: nothing can be run there until it is mended."""
    try:
        read_recipe(lab.recipe_path)
    except LabError as error:
        return error.code, error.title
    return "", ""


def _of_job(seat: str, job: Job, place: int, made: tuple[str, ...], prepared: tuple[str, ...]) -> SeatStatus:
    status = job.status()
    error = status.error or {}
    return SeatStatus(
        seat,
        job.stage,
        "waiting" if place and status.state == "running" else status.state,
        clean(status.phase or "", keep_newlines=False),
        status.done,
        status.total,
        status.eta_s,
        place,
        made,
        prepared,
        str(error.get("code") or ""),
        text_of(error, "title"),
    )


def _is_prepared(lab: LabFolder, stage: str) -> bool:
    makes = STAGES[stage].makes
    manifests = [read_if_whole(folder / MANIFEST) for folder in makes.folders(lab)] if makes else []
    return any(isinstance(each, dict) and each.get(PREPARED) for each in manifests)


def _closed(lab: LabFolder) -> str:
    """Why a seat cannot be looked at: what lies there belongs to another account, or it is gone."""
    if not lab.root.is_dir():
        return told("{root} is gone: prepare makes it again", root=lab.root)
    shut = [path for path in (lab.root, lab.jobs_dir, *_jobs(lab)) if path.exists() and not _open(path)]
    return (
        told(
            "{shut} belongs to {owner}: look as that account, or as root", shut=shut[0], owner=_owner(shut[0])
        )
        if shut
        else ""
    )


def _jobs(lab: LabFolder) -> list[Path]:
    try:
        return [path for path in lab.jobs_dir.iterdir() if path.is_dir()]
    except OSError:
        return []


def _open(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK)


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return told("another account")
