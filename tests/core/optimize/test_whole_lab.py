"""Gemma's norms and windows, from AWQ through training to an ONNX model that answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core.events import RecordingReporter
from core.finetune import stage as finetune
from core.folder import LabFolder
from core.model.auto import Settled
from core.optimize import stage as optimize
from core.quantize import stage as quantize
from core.stage_context import StageContext
from tests.core.optimize.labs import onnx_texts, torch_texts
from tests.recipes import settled
from tests.tiny_models import make_tiny

MODELS: dict[str, dict[str, Any]] = {
    "gemma3": {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma2": {"sliding_window": 64},
}


def run(stage: ModuleType, lab: LabFolder, recipe: Settled, report: RecordingReporter) -> dict[str, Any]:
    work = lab.models_dir / ".work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    prints = stage.fingerprint(lab, recipe)
    made: dict[str, Any] = stage.run(StageContext(lab, recipe, report, work, {"fingerprint": prints}, {}))
    return made


@pytest.mark.parametrize("arch", MODELS)
def test_awq_then_training_then_onnx(arch: str, tmp_path: Path) -> None:
    lab, report = LabFolder(tmp_path / "lab"), RecordingReporter()
    source = make_tiny(arch, tmp_path / "model", salient=3, dtype="bfloat16", **MODELS[arch])
    recipe = settled(
        {
            "model.source": str(source),
            "quantize.group_size": 32,
            "quantize.calibration_samples": 16,
            "finetune.steps": 2,
            "finetune.batch_size": 2,
            "finetune.rank": 4,
            "finetune.learning_rate": 0.01,
        }
    )
    rounded = run(quantize, lab, recipe, report)
    assert 0 < rounded["kl_to_float"] < 1
    run(finetune, lab, recipe, report)
    made = run(optimize, lab, recipe, report)
    assert made["verified_tokens"] == 512
    assert made["agreement"]["tuned"]["agreeing"] == 5
    tuned = onnx_texts(lab, "travel")
    assert tuned == torch_texts(lab, "travel")
    assert tuned != onnx_texts(lab, None) == torch_texts(lab, None)
