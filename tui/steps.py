"""The steps of the lab: their order, names, what each says of itself, and where its screen is.

What runs as a job is a step by :data:`core.stages.STAGES`; the others stand here. Screens are named by
module and class and imported when they are first shown, so that the first screen is drawn without
loading the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from core.language import N_, _
from core.stages import STAGES, Stage

if TYPE_CHECKING:
    from tui.screens.base import StepScreen
    from tui.snapshot import Snapshot


class Step(NamedTuple):
    """One step.

    Attributes:
        name: as in ``olivepress run DIR NAME`` and in job ids.
        in_english: its title and two sentences: what this step does, and why.
        screen: ``module:Class`` of its screen.
        needs: the step whose result it starts from; empty for none.
    """

    name: str
    in_english: tuple[str, str]
    screen: str
    needs: str = ""

    @property
    def title(self) -> str:
        """Its name for people."""
        return _(self.in_english[0])

    @property
    def about(self) -> str:
        """Two sentences: what this step does, and why."""
        return _(self.in_english[1])

    @property
    def number(self) -> int:
        """The step's place, from 1."""
        return steps().index(self) + 1

    def load(self) -> type[StepScreen]:
        """The class of this step's screen, imported now."""
        module, _, name = self.screen.partition(":")
        found: type[StepScreen] = getattr(import_module(module), name)
        return found

    def make(self) -> StepScreen:
        """This step's screen."""
        screen = self.load()
        return screen(self.name) if self.screen == _STAGE_SCREEN else screen()

    def missing(self, snapshot: Snapshot) -> Step | None:
        """The step that must be done before this one, if it is not."""
        return step_named(self.needs) if self.needs and self.needs not in snapshot.made else None


_CHECK = Step(
    "check",
    (
        N_("Check"),
        N_(
            "Looks at this machine: can it run the lab, and what is missing?"
            " A warning does not stop you; a FAIL says what to do first."
        ),
    ),
    "tui.screens.check:CheckScreen",
)
_DATA = Step(
    "data",
    (
        N_("Data"),
        N_(
            "Shows the records that the model will learn from, as the model will see them."
            " Rows that cannot be used are named by file and line."
        ),
    ),
    "tui.screens.data:DataScreen",
)
_CHAT = Step(
    "chat",
    (
        N_("Chat"),
        N_(
            "Talk to the model that you made, on this machine."
            " Switch the adapter off to hear the base model, and compare."
        ),
    ),
    "tui.screens.chat.screen:ChatScreen",
    needs="optimize",
)
_SCREENS: Mapping[str, str] = {"upload": "tui.screens.upload:UploadScreen"}
"""The stages that have a screen of their own; the others share one."""


def steps() -> tuple[Step, ...]:
    """Every step, in the order of the lab: what works on this machine stands before the chat."""
    return _steps(tuple(STAGES.values()))


@cache
def _steps(stages: tuple[Stage, ...]) -> tuple[Step, ...]:
    made = [
        Step(each.name, (each.title, each.about), _SCREENS.get(each.name, _STAGE_SCREEN), each.needs)
        for each in stages
        if each.usual
    ]
    computing = {each.name for each in stages if each.computes}
    here = [step for step in made if step.name in computing]
    return (_CHECK, _DATA, *here, _CHAT, *(step for step in made if step not in here))


_STAGE_SCREEN = "tui.screens.stage.screen:StageScreen"


def step_named(name: str) -> Step:
    """The step of that name; of a stage that is none, the step on whose screen it is shown."""
    if name in STAGES and not STAGES[name].usual:
        name = STAGES[name].beside
    return next(step for step in steps() if step.name == name)


def first_step(snapshot: Snapshot) -> Step:
    """Where a person who opens the lab most likely wants to be: at what runs, else at what ran last, else the first."""
    newest = max(snapshot.jobs.values(), key=lambda view: view.started or 0, default=None)
    found = snapshot.active or newest
    return step_named(found.stage) if found else steps()[0]
