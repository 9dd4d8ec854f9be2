"""Models of odd sizes, as many real ones have, with every setting left as it is: the groups fit all matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.model.folder import read_config
from tests.core.quantize.test_stage import Bench
from tests.recipes import settled
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
def test_quantize_with_all_defaults_on_odd_sizes(
    arch: str, group: int, sizes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny(arch, tmp_path / "model", layers=1, **sizes)
    bench = Bench(tmp_path / "lab")
    recipe = settled({"model.source": str(folder)}, folder)
    monkeypatch.setattr(bench, "recipe", lambda *_, **__: recipe)
    result = bench.run(folder)
    assert (result["bits"], result["group_size"]) == (4, group)
    assert read_config(bench.lab.quantized_dir)["quantization_config"]["group_size"] == group
    assert result["kl_to_float"] > 0
    assert result["same_likeliest_token"] > 0.4  # of 384, by a model of random weights
    assert result["bytes_after"] < result["bytes_before"]
