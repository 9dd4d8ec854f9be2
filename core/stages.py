"""The stages that run as jobs: quantize, finetune, optimize and upload.

Each is a module with ``fingerprint``, ``output`` and ``run`` (see :class:`Stage`), loaded
only in a job's own process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from core.algorithms import is_calibrated
from core.errors import RequestError
from core.events import Reporter
from core.folder import LabFolder
from core.model.auto import (
    Facts,
    Resolved,
    Settled,
    facts_of_quantized,
    remembered_facts,
    resolve,
)
from core.recipe import Recipe
from core.stage_context import StageContext

STAGES = ("quantize", "finetune", "optimize", "upload")
"""The names of the stages, in the order of the lab."""

DEFAULT_STAGES = STAGES[:3]
"""What ``olivepress run`` runs when no stage is named."""


class Stage(Protocol):
    """A stage module."""

    def fingerprint(self, lab: LabFolder, recipe: Settled) -> dict[str, Any]:
        """All that the output depends on: recipe fields it reads, input files, package versions.

        Raises :class:`RequestError` when an input is missing, with the step that makes it.
        """

    def output(self, lab: LabFolder, recipe: Settled) -> Path | None:
        """The folder whose manifest tells whether there is anything to do; None: always run."""

    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work, verify it, publish it; return the result in numbers, JSON-able."""


def load_stage(name: str) -> Stage:
    """The module of a stage.

    The environment variable ``OLIVEPRESS_STAGES`` names another package to take stages from; tests
    use it to run jobs that do something quick or strange.

    Raises:
        RequestError: there is no such stage.
    """
    import importlib
    import os

    if name not in STAGES:
        raise RequestError(
            f"There is no stage {name!r}.",
            hint="The stages are: " + ", ".join(STAGES) + ".",
            code="stage.unknown",
        )
    package = os.environ.get("OLIVEPRESS_STAGES", "core")
    return cast(Stage, importlib.import_module(f"{package}.{name}.stage"))


def resolve_for_stage(
    stage: str, lab: LabFolder, recipe: Recipe, report: Reporter
) -> tuple[Resolved, Facts | None]:
    """A recipe resolved for a job: by the model that the stage works on, which is fetched if need be.

    Raises:
        LabError: the model cannot be had, or the records cannot be read.
    """
    from core.data.records import count
    from core.model.sources import kind_of, resolve_model

    if stage == "quantize":
        made_from = remembered_facts(lab)
        source = recipe.model.source
        if (
            made_from is not None
            and made_from[0] == source
            and kind_of(source, lab.root) in ("hub", "azureml")
        ):
            facts: Facts | None = made_from[1]
        else:
            trust = recipe.model.trust_remote_code
            facts = Facts.of(resolve_model(source, lab.root, report, trust_remote_code=trust).path)
    else:
        facts = facts_of_quantized(lab)
    records = None
    calibrates = stage == "quantize" and is_calibrated(recipe.quantize.algorithm)
    if (stage == "finetune" and facts is not None) or (calibrates and not recipe.quantize.calibration_file):
        records = count(recipe, lab.root, report)
    return resolve(recipe, facts, records), facts
