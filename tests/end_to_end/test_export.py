"""``olivepress export``: Olive alone runs the file and makes a model with an adapter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from core import Lab
from core.cli import main
from core.optimize.adapters import check_adapter
from tests.tiny_models import make_tiny


def test_olive_runs_the_exported_workflow(tmp_path: Path) -> None:
    model = make_tiny("llama", tmp_path / "model")
    lab = Lab.create(
        tmp_path / "lab",
        model=str(model),
        settings={
            "quantize.group_size": 32,
            "quantize.calibration_samples": 8,
            "finetune.steps": 2,
            "finetune.batch_size": 2,
            "finetune.rank": 4,
        },
    )
    file = tmp_path / "flow.json"
    assert main(["export", str(lab.root), "--olive", str(file)]) == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "olive", "run", "--config", str(file)),
            *("--package-config", str(file.with_suffix(".package.json"))),
        ],
        env={**os.environ, "OLIVE_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    output = file.with_suffix(".output")
    assert (output / "model.onnx").exists(), done.stdout[-2000:] + done.stderr[-2000:]
    note = check_adapter(output, output / "adapters/travel.onnx_adapter")
    assert note["rank"] == 4
