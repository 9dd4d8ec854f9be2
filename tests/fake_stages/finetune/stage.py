"""As the fake quantize stage, publishing where finetune does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.folder import LabFolder
from core.recipe import Recipe
from core.stage_context import StageContext
from tests.fake_stages.quantize import stage as quantize


def fingerprint(lab: LabFolder, recipe: Recipe) -> dict[str, Any]:
    return quantize.fingerprint(lab, recipe)


def output(lab: LabFolder, recipe: Recipe) -> Path:
    return lab.finetuned_dir(recipe.finetune.adapter)


def run(context: StageContext) -> dict[str, Any]:
    return quantize.work(context, output(context.lab, context.recipe))
