"""What the three do: a folder with the file that proves it, made from the settings and from what lies before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from core.errors import StageError
from core.files import MANIFEST, folder_stamp, publish, read_json
from core.folder import LabFolder
from core.recipe import Recipe
from core.stage_context import StageContext, versions
from core.stages import STAGES

BREAKS = "break"
"""The system message with which finetune fails."""


def made_of(stage: str, lab: LabFolder, recipe: Recipe) -> dict[str, Any]:
    settings = dataclasses.asdict(recipe)
    told = {stage: settings[stage], "versions": versions("olivepress")}
    if stage != "quantize":
        told["base"] = (read_json(lab.quantized_dir / MANIFEST) or {}).get("fingerprint")
    if stage == "optimize":
        told["adapter_stamp"] = folder_stamp(lab.finetuned_dir(recipe.finetune.adapter))
    return told


def place(stage: str, lab: LabFolder, recipe: Recipe) -> Path:
    makes = STAGES[stage].makes
    assert makes is not None
    return makes.folder(lab, recipe.finetune.adapter)


def work(stage: str, context: StageContext) -> dict[str, Any]:
    if stage == "finetune" and context.recipe.chat.system == BREAKS:
        raise StageError("It broke on purpose.", "A record: my secret diary.", code="room.broken")
    makes = STAGES[stage].makes
    assert makes is not None
    made = context.work / "made"
    made.mkdir()
    (made / makes.proof).write_text("{}")
    (made / "weights").write_text(stage * 50)
    result = {"adapter": context.recipe.finetune.adapter, "steps": 3}
    publish(made, place(stage, context.lab, context.recipe), {**context.manifest, "result": result})
    return result
