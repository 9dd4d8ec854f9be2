"""One matrix for embeddings and output: the graph has it once, and PyTorch with the rounded one computes the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import pytest

from core.model.weights import tensor_entries
from core.optimize import sharing
from core.optimize.build import open_graph
from core.optimize.embedding import is_shared
from tests.core.optimize.labs import quantized_lab
from tests.core.optimize.shapes import distances, graph_of


def weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model.onnx*data"))


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("llama", {"tie": True}),
        ("phi3", {"tie": True, "symmetric": True}),
        ("gemma3", {"hidden": 96, "heads": 3, "kv_heads": 1}),
    ],
)
def test_a_tied_matrix_stands_in_the_graph_once(
    arch: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = quantized_lab(tmp_path, arch, dtype="bfloat16", **options)
    graph = graph_of(lab.quantized_dir, tmp_path, "int4", accuracy_level=1)
    before = weights(graph)
    table = 4 * math.prod(tensor_entries(lab.quantized_dir)["model.embed_tokens.weight"].shape)
    open_graph(graph, lab.quantized_dir, "base")
    model = onnx.load(str(graph / "model.onnx"), load_external_data=False)
    assert is_shared(graph)
    assert not [each.name for each in model.graph.initializer if "embed_tokens" in each.name]
    assert before - weights(graph) > table / 3  # small tensors moved to its place leave gaps
    assert max(distances(lab.quantized_dir, graph)) < 1e-4
    monkeypatch.setattr(sharing, "_SMALLEST_BYTES", 0)
    sharing.set_apart(graph)
    assert (graph / "model.onnx.lm_head.data").stat().st_size < table / 2  # eight bits, a quarter of it, once
    assert max(distances(lab.quantized_dir, graph)) < 1e-4


@pytest.mark.parametrize("why", ["untied", "not asked for", "four bits", "trained apart"])
def test_what_is_not_one_matrix_stays_two(why: str, tmp_path: Path) -> None:
    bits = 4 if why == "four bits" else 8
    lab = quantized_lab(tmp_path, "llama", tie=why != "untied", dtype="bfloat16", head_bits=bits)
    if why == "trained apart":
        from safetensors.torch import load_file, save_file

        file = lab.quantized_dir / "model.safetensors"
        tensors = load_file(str(file))
        tensors["model.embed_tokens.weight"] *= 1.05
        save_file(tensors, str(file), {"format": "pt"})
    graph = graph_of(lab.quantized_dir, tmp_path, "int4", accuracy_level=1)
    open_graph(graph, lab.quantized_dir, "base", share=why != "not asked for")
    assert not is_shared(graph)
    assert max(distances(lab.quantized_dir, graph)) < 1e-4
