"""What the stage does: it writes a file of as many words as the longest answer has tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.files import publish
from core.folder import LabFolder
from core.model.auto import Settled
from core.stage_context import StageContext


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """The one setting that it reads."""
    return {"words": recipe.chat.max_new_tokens}


def output(lab: LabFolder, recipe: Settled) -> Path:
    """Its folder."""
    return lab.models_dir / "shrunk"


def run(context: StageContext) -> dict[str, Any]:
    """Write the file."""
    words = context.recipe.chat.max_new_tokens
    made = context.work / "shrunk"
    made.mkdir()
    (made / "made.txt").write_text("word " * words)
    result = {"words": words}
    publish(made, output(context.lab, context.recipe), {**context.manifest, "result": result})
    return result
