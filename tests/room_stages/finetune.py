"""As the stage of this name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.folder import LabFolder
from core.recipe import Recipe
from core.stage_context import StageContext
from tests.room_stages.work import made_of, place, work


def fingerprint(lab: LabFolder, recipe: Recipe) -> dict[str, Any]:
    return made_of("finetune", lab, recipe)


def output(lab: LabFolder, recipe: Recipe) -> Path:
    return place("finetune", lab, recipe)


def run(context: StageContext) -> dict[str, Any]:
    return work("finetune", context)
