"""The seven steps of the lab: their order, names, what each says of itself, and where its screen is.

Screens are named by module and class and imported when they are first shown, so that the first
screen is drawn without loading the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tui.screens.base import StepScreen


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: as in ``olivepress run DIR NAME`` and in job ids.
        title: for people.
        about: two sentences: what this step does, and why.
        screen: ``module:Class`` of its screen.
        stage: whether it is run as a job with a folder under ``jobs/``.
    """

    name: str
    title: str
    about: str
    screen: str
    stage: bool = False

    @property
    def number(self) -> int:
        """The step's place, from 1."""
        return STEPS.index(self) + 1

    def load(self) -> type[StepScreen]:
        """The class of this step's screen, imported now."""
        module, _, name = self.screen.partition(":")
        found: type[StepScreen] = getattr(import_module(module), name)
        return found


STEPS: tuple[Step, ...] = (
    Step(
        "check",
        "Check",
        "Looks at this machine: can it run the lab, and what is missing?"
        " A warning does not stop you; a FAIL says what to do first.",
        "tui.screens.check:CheckScreen",
    ),
    Step(
        "data",
        "Data",
        "Shows the records that the model will learn from, as the model will see them."
        " Rows that cannot be used are named by file and line.",
        "tui.screens.data:DataScreen",
    ),
    Step(
        "quantize",
        "Quantize",
        "Stores each weight of the model in 4 bits in place of 16."
        " The model gets about four times smaller and answers almost as well.",
        "tui.screens.quantize:QuantizeScreen",
        stage=True,
    ),
    Step(
        "finetune",
        "Finetune",
        "Teaches the small model your records by training a little adapter beside it (LoRA)."
        " The model itself stays as it is, so adapters can be swapped.",
        "tui.screens.finetune:FinetuneScreen",
        stage=True,
    ),
    Step(
        "optimize",
        "Optimize",
        "Turns the model into an ONNX graph for the device that will run it."
        " The adapter becomes a small file that is switched on and off while you chat.",
        "tui.screens.optimize:OptimizeScreen",
        stage=True,
    ),
    Step(
        "chat",
        "Chat",
        "Talk to the model that you made, on this machine."
        " Switch the adapter off to hear the base model, and compare.",
        "tui.screens.chat:ChatScreen",
    ),
    Step(
        "upload",
        "Upload",
        "Registers the result in an Azure Machine Learning workspace, with a version and tags."
        " Nothing leaves this machine until you press Upload.",
        "tui.screens.upload:UploadScreen",
    ),
)

BY_NAME: dict[str, Step] = {step.name: step for step in STEPS}
"""Every step by its name."""
