"""Whose turn it is to compute: one job at a time on a GPU, and in a workshop without GPUs so many as its host allows.

Two jobs on one GPU take each other's memory, and the first to ask for too much fails. The line (:mod:`core.jobs.turns`)
lies in the user's folder for state, and before that one in the folder of the workshop that the lab belongs to, where
all its seats see it, whatever their accounts. It holds for this program alone: other programs are told by ``check``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.events import Reporter
from core.folder import WORKSHOP_NAME, workshop_of
from core.formats import listed, some
from core.hardware import GpuReading, load_nvml, package_version, read_gpus, usable_gpus
from core.jobs.job import Job
from core.jobs.turns import OPEN, Ahead, Ticket, turn
from core.language import told
from core.recipe import Recipe
from core.text import clean
from core.user_dirs import state_dir

LINE = "turns"
"""The folder of a line, in a workshop or in the user's own place."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus_here() -> list[GpuReading]:
    """The GPUs that a computing stage can use; none where the installed torch can use none."""
    nvml = None if package_version("torch").endswith("+cpu") else load_nvml()
    return [] if nvml is None else usable_gpus(read_gpus(nvml))


def gpus_wanted(stage: str, recipe: Recipe, there: int) -> int:
    """How many of so many GPUs a computing stage takes: one, or as many as it is told to."""
    wanted = recipe.finetune.gpus if stage == "finetune" else 1
    return min(wanted, there) if isinstance(wanted, int) else there


def at_once(workshop: Path) -> int:
    """How many jobs may compute at once in a workshop without GPUs; 0 where it sets no limit."""
    try:
        noted = tomllib.loads((workshop / WORKSHOP_NAME).read_text(encoding="utf-8")).get("at_once")
    except (OSError, ValueError):
        return 0
    return noted if isinstance(noted, int) and noted > 0 else 0


@contextmanager
def held(gpus: Sequence[GpuReading], count: int, job: Job, report: Reporter) -> Iterator[None]:
    """While entered, so many of these GPUs are this job's alone. Waits until it is its turn.

    Where there are more GPUs than it takes, what it starts sees those that it was given and no others.

    Args:
        gpus: those that it can use; none where it computes on the CPU.

    Raises:
        Cancelled: somebody asked to stop while it waited.
    """
    lab = job.folder.parent.parent
    workshop = workshop_of(lab)
    names = [gpu.uuid or str(gpu.index) for gpu in gpus]
    if not gpus:
        names, count = [f"cpu-{number}" for number in range(1, at_once(workshop) + 1)] if workshop else [], 1
    waiting = _Waiting(gpus[0].name if gpus else told("a turn"), lab, report)
    with ExitStack() as stack:
        if workshop and names:
            line = turn(workshop / LINE, names, count, lab=lab, job=job.id, waiting=waiting, mode=OPEN)
            given = stack.enter_context(line)
            if given is None:
                report.log(f"{workshop / LINE} cannot be written: this job takes no turn.", "warning")
            names = list(given or names)
        if gpus:
            own = turn(state_dir() / LINE, names, count, lab=lab, job=job.id, waiting=waiting)
            names = list(stack.enter_context(own) or names[:count])
            if len(names) < len(gpus):
                # CUDA is not awake yet in this process: it reads this when a stage first asks for a GPU.
                os.environ[_VISIBLE] = ",".join(names)
        waiting.over()
        yield


class _Waiting:
    """Tells a job's people for whom it waits, whenever that changes, and stops the wait when they ask for it."""

    def __init__(self, what: str, lab: Path, report: Reporter) -> None:
        self._what, self._lab, self._report = what, lab, report
        self._told = ""

    def __call__(self, line: Ahead) -> None:
        phase = waiting_words(self._what, line, self._lab)
        if phase != self._told:
            if not self._told:
                self._report.log(f"{phase}. This job begins by itself when it is its turn.", "warning")
            self._told = phase
            self._report.progress(phase, 0, None)
        self._report.check_cancelled()

    def over(self) -> None:
        """It is this job's turn: what was said of the wait holds no more."""
        if self._told:
            self._report.progress(told("its turn has come"), 0, None)


def waiting_words(what: str, line: Ahead, lab: Path) -> str:
    """What a job that waits is told: its place in the line, who is at work, and who is before it."""
    words = told("waiting for {what}, place {place}", what=what, place=line.place)
    said = []
    if line.at_work:
        said.append(told("{jobs} at work", jobs=some([_who(each, lab) for each in line.at_work])))
    if line.before:
        said.append(told("before you {jobs}", jobs=some([_who(each, lab) for each in line.before])))
    return told("{waiting}: {others}", waiting=words, others=listed(said)) if said else words


def _who(ticket: Ticket, lab: Path) -> str:
    """Whose ticket it is: in the same workshop the seat's name says it."""
    if not ticket.lab:
        return told("another job")
    other = Path(ticket.lab)
    place = other.name if other.parent == lab.parent and workshop_of(lab) else ticket.lab
    return clean(f"{ticket.job} of {place}", keep_newlines=False)[:200]
