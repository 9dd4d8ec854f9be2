"""Fine-tuning on a GPU; skipped where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import MachineError
from core.events import RecordingReporter
from core.finetune import stage as finetune
from core.finetune.memory import TrainingSize
from core.folder import LabFolder
from core.model.folder import config_facts, read_config
from core.stage_context import StageContext
from tests.core.finetune.helpers import quantized_tiny, write_records
from tests.recipes import settled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture
def lab(tmp_path: Path) -> LabFolder:
    """A model large enough that its activations, not the libraries, decide on the memory."""
    folder = LabFolder(tmp_path / "lab")
    folder.models_dir.mkdir(parents=True)
    write_records(folder.root / "records.jsonl", 400)
    sizes: dict[str, Any] = {"hidden": 1024, "layers": 6, "heads": 16, "kv_heads": 16, "dtype": "bfloat16"}
    quantized_tiny(folder.quantized_dir, "phi3", group_size=32, **sizes)
    return folder


def run(lab: LabFolder, **changes: Any) -> dict[str, Any]:
    values = {
        "data.file": "records.jsonl",
        "finetune.steps": 20,
        "finetune.rank": 16,
        "finetune.batch_size": 64,
        "finetune.learning_rate": 1e-3,
    }
    recipe = settled({**values, **{k.replace("__", "."): v for k, v in changes.items()}})
    work = lab.models_dir / ".work"
    work.mkdir()
    torch._C._cuda_clearCublasWorkspaces()  # those of the trainings before
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        return finetune.run(StageContext(lab, recipe, RecordingReporter(), work, {"fingerprint": {}}, {}))
    finally:
        shutil.rmtree(work)


def test_both_ways_learn_the_same_and_need_what_was_estimated(lab: LabFolder) -> None:
    facts = config_facts(read_config(lab.quantized_dir))
    results = {way: run(lab, finetune__memory=way) for way in ("fast", "low")}
    for way, result in results.items():
        assert result["dtype"] == "bfloat16"
        assert result["eval_loss_tuned"] < 0.9 * result["eval_loss_base"]
        size = TrainingSize(facts, rank=16, batch=64, length=result["longest_row_tokens"])
        need = size.need("fast" if way == "fast" else "low")
        # What libraries work in, for each stream of a capture, does not grow with a model; it is much of this one.
        assert result["gpu_peak_gib"] * 2**30 == pytest.approx(need.total, rel=0.35, abs=160 * 2**20), way
    assert results["low"]["eval_loss_tuned"] == pytest.approx(results["fast"]["eval_loss_tuned"], rel=0.05)


def test_a_full_gpu_says_what_fits_and_is_left_empty(lab: LabFolder) -> None:
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 150 * 2**20) / total)
    try:
        with pytest.raises(MachineError) as failure:
            run(lab, finetune__batch_size=256)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "256 rows a batch" in failure.value.detail
    assert failure.value.hint
    failure.value.__traceback__ = None
    torch._C._cuda_clearCublasWorkspaces()
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert not lab.finetuned_root.exists()


def test_cancelled_on_the_gpu_it_goes_on_alike(lab: LabFolder) -> None:
    from core.errors import Cancelled

    class CancelAt(RecordingReporter):
        def check_cancelled(self) -> None:
            if len(self.metrics("loss")) >= 8:
                raise Cancelled

    wanted = run(lab)
    recipe_values: dict[str, Any] = {
        "data.file": "records.jsonl",
        "finetune.steps": 20,
        "finetune.rank": 16,
        "finetune.batch_size": 64,
        "finetune.learning_rate": 1e-3,
    }
    work = lab.models_dir / ".work"
    work.mkdir()
    recipe = settled(recipe_values)
    with pytest.raises(Cancelled):
        finetune.run(StageContext(lab, recipe, CancelAt(), work, {"fingerprint": {}}, {}))
    shutil.rmtree(work)
    result = run(lab)
    assert result["resumed_from"] == 8
    for (_, loss), (_, other) in zip(result["loss_curve"], wanted["loss_curve"], strict=True):
        assert loss == pytest.approx(other, rel=0.02)
