"""Models of odd sizes, as many real ones have: the group size that fits all of their matrices, and AWQ with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.model.folder import model_facts, read_config
from core.model.matrices import fitting_group_sizes, rounded_matrices
from tests.core.quantize.test_stage import Bench
from tests.tiny_models import make_tiny


@pytest.mark.parametrize(
    ("arch", "group", "sizes"),
    [
        ("llama", 16, {"hidden": 48, "heads": 3, "kv_heads": 1, "intermediate": 80}),
        ("qwen2", 16, {"hidden": 80, "heads": 5, "kv_heads": 1, "intermediate": 112}),
        ("phi3", 32, {"hidden": 96, "heads": 3, "kv_heads": 3, "intermediate": 160}),
        ("gemma", 16, {"hidden": 112, "heads": 7, "kv_heads": 1, "intermediate": 144}),
        ("qwen3", 16, {"hidden": 144, "heads": 9, "kv_heads": 3, "intermediate": 208}),
        ("smollm", 64, {"hidden": 192, "heads": 3, "kv_heads": 1, "intermediate": 320}),
    ],
)
def test_the_largest_group_that_fits_is_used(
    arch: str, group: int, sizes: dict[str, Any], tmp_path: Path
) -> None:
    folder = make_tiny(arch, tmp_path / "model", layers=1, **sizes)
    fitting = max(size for size in fitting_group_sizes(rounded_matrices(model_facts(folder))) if size <= 128)
    assert fitting == group
    bench = Bench(tmp_path / "lab")
    result = bench.run(folder, quantize__group_size=fitting, quantize__calibration_samples=8)
    assert (result["bits"], result["group_size"]) == (4, group)
    assert read_config(bench.lab.quantized_dir)["quantization_config"]["group_size"] == group
    assert result["kl_to_float"] > 0
    assert result["same_likeliest_token"] > 0.4  # of 384, by a model of random weights
    assert result["bytes_after"] < result["bytes_before"]
