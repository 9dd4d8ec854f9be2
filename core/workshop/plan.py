"""How long the lab takes in a room: each step, measured where the reference lab has run, and the waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from core.check.durations import expected_seconds
from core.check.machine import estimates
from core.check.types import Subject
from core.jobs import list_jobs
from core.jobs.gpu import gpus_here
from core.language import N_
from core.recipe import Recipe
from core.stages import STAGES, default_stages
from core.workshop.folder import Workshop

READING: Mapping[str, float] = {"check": 2, "data": 4, "chat": 6, "upload": 3}
"""Minutes in which people read, talk and type; the machine waits for them."""

_TITLES = {"check": N_("Check"), "data": N_("Data"), "chat": N_("Chat")}


@dataclass(frozen=True)
class PlannedStep:
    """A step in the plan.

    Attributes:
        name, title: the step.
        alone_s: what it takes one seat alone; None where nobody can say.
        room_s: until the last seat has it, with the waits.
        measured: whether the reference lab's own run was measured.
        reading: whether it is people who take the time.
    """

    name: str
    title: str
    alone_s: float | None
    room_s: float | None
    measured: bool = False
    reading: bool = False


@dataclass(frozen=True)
class RoomPlan:
    """The plan of a workshop.

    Attributes:
        steps: in their order.
        seats, at_once: how many labs, and how many of them compute at once.
        gpus: how many GPUs there are.
        minutes: how long the lab may take.
    """

    steps: tuple[PlannedStep, ...]
    seats: int
    at_once: int
    gpus: int
    minutes: int

    @property
    def total_s(self) -> float | None:
        """Until the last seat is through; None where a step's time is not known."""
        times = [step.room_s for step in self.steps]
        return None if None in times else sum(time for time in times if time is not None)

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where nobody can say."""
        return None if self.total_s is None else self.total_s <= 60 * self.minutes

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it."""
        return {**asdict(self), "total_s": self.total_s, "fits": self.fits}


def plan(workshop: Workshop) -> RoomPlan:
    """The plan, by the reference lab. It reads the records: seconds."""
    gpus = len(gpus_here())
    at_once = _at_once(workshop, gpus)
    ran = {job.stage for job in list_jobs(workshop.reference) if job.seconds is not None}
    found = [_reading("check"), _reading("data")]
    for name in default_stages():
        alone = expected_seconds(workshop.reference.root, name)
        found.append(
            PlannedStep(
                name, STAGES[name].title, alone, _for_all(alone, workshop.seats, at_once, gpus), name in ran
            )
        )
    found.append(_reading("chat"))
    return RoomPlan(tuple(found), workshop.seats, at_once, gpus, workshop.minutes)


def steps_within(workshop: Workshop, recipe: Recipe) -> int | None:
    """How many training steps the minutes leave room for, if fewer than would be taken; None: no limit is needed.

    Nothing has run yet, so it goes by the estimates.
    """
    gpus = len(gpus_here())

    def total(steps: int | str) -> float | None:
        asked = recipe.with_values({"finetune.steps": steps})
        every = estimates(Subject(workshop.reference, asked))
        if not every:
            return None
        one = sum(every[name].seconds for name in default_stages() if name in every)
        return _for_all(one, workshop.seats, _at_once(workshop, gpus), gpus)

    reading = 60 * sum(READING[name] for name in ("check", "data", "chat"))
    left = 60 * workshop.minutes - reading
    wanted, least, more = total(recipe.finetune.steps), total(10), total(110)
    if wanted is None or least is None or more is None or wanted <= left:
        return None
    for_a_step = max(1e-6, (more - least) / 100)
    return max(10, int(10 + (left - least) / for_a_step))


def _reading(name: str) -> PlannedStep:
    seconds = 60.0 * READING[name]
    return PlannedStep(name, _TITLES[name], seconds, seconds, reading=True)


def _at_once(workshop: Workshop, gpus: int) -> int:
    return min(workshop.seats, gpus or workshop.at_once or workshop.seats)


def _for_all(alone: float | None, seats: int, at_once: int, gpus: int) -> float | None:
    """Until every seat has had its turn. On the CPU those at work share the cores, so none is gained by several."""
    if alone is None:
        return None
    return alone * (-(-seats // at_once) if gpus else seats)
