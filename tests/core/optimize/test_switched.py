"""Adapters inside the graph: off by default, on by a switch, and then what the same adapter gives as inputs."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from core.errors import RequestError
from core.files import digest, read_json
from core.optimize.adapters import (
    AdapterLayout,
    Branch,
    BranchPart,
    Lora,
    Output,
    Pair,
    arrange,
    check_adapter,
    read_layout,
    switch_name,
)
from core.optimize.adding import add_adapter
from core.optimize.build import exact_copy, linked_copy, open_graph
from core.optimize.genai_builder import build
from core.optimize.switched import as_stored, leave_on, rounded, take_out
from tests.tiny_models import make_tiny

IDS = np.array([[5, 9, 2, 7, 4, 11], [8, 3, 3, 6, 10, 1]])
"""A batch of two rows."""


def built(root: Path, arch: str, level: int) -> tuple[Path, AdapterLayout]:
    """A model with 4-bit weights, its activations rounded to int8 (level 4) or not (1)."""
    checkpoint, folder = make_tiny(arch, root / "source"), root / "onnx"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        build(
            checkpoint,
            folder,
            precision="int4",
            provider="CPUExecutionProvider",
            options={"accuracy_level": level},
            work=root / "work",
        )
    return folder, open_graph(folder, checkpoint, "base")


def adapter(layout: AdapterLayout, rank: int, seed: int, without: str = "") -> dict[str, torch.Tensor]:
    """Random matrices for all branches but those with a word in their name."""
    torch.manual_seed(seed)
    return {
        name: torch.randn([rank if size is None else size for size in shape]) * 0.2
        for name, shape in layout.inputs().items()
        if not without or without not in name
    }


def logits(folder: Path, given: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Logits of :data:`IDS` from plain ONNX Runtime, with some more inputs."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": IDS.astype(np.int64), "attention_mask": np.ones_like(IDS, np.int64), **given}
    decoder = read_json(folder / "genai_config.json")["model"]["decoder"]
    empty = np.zeros((len(IDS), decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    feeds.update(
        {item.name: empty for item in session.get_inputs() if item.name.startswith("past_key_values")}
    )
    found: np.ndarray[Any, Any] = session.run(["logits"], feeds)[0]
    return found


def switch(name: str) -> dict[str, Any]:
    return {switch_name(name): np.array([1], np.int64)}


@pytest.fixture(scope="module", params=["llama", "phi3", "phi3, whole graphs"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two adapters inside, of other ranks; the second leaves out the MLP's layers.

    As for a CPU, behind each group of projections, or as for CUDA, with the whole graph to each.
    """
    kind, _, whole = request.param.partition(",")
    folder, layout = built(tmp_path_factory.mktemp(kind), kind, 4)
    if whole:
        layout = replace(layout, whole=True)
        layout.save(folder)
    shutil.copytree(folder, folder.with_name("bare"))
    add_adapter(folder, "one", adapter(layout, 5, 1), {})
    add_adapter(folder, "two", adapter(layout, 40, 2, without="mlp"), {})
    nodes = [
        node.op_type for node in onnx.load(str(folder / "model.onnx"), load_external_data=False).graph.node
    ]
    assert ("MatMulNBits" in nodes) == (not whole)
    return folder


def test_a_layout_is_read_as_it_was_written(model: Path, tmp_path: Path) -> None:
    layout = read_layout(model)
    assert set(layout.inside or {}) == {"one", "two"}
    layout.save(tmp_path)
    assert read_layout(tmp_path) == layout


def test_an_adapter_that_is_off_changes_nothing(model: Path) -> None:
    assert np.array_equal(logits(model, {}), logits(model.with_name("bare"), {}))


def test_switched_on_it_gives_what_it_gives_as_inputs(model: Path, tmp_path: Path) -> None:
    exact = exact_copy(model, tmp_path)
    kind = "llama" if "llama" in str(model) else "phi3"
    as_inputs, layout = built(tmp_path / "inputs", kind, 1)
    base = logits(as_inputs, {})
    for name, tensors in (("one", adapter(layout, 5, 1)), ("two", adapter(layout, 40, 2, without="mlp"))):
        stored = {key: back(*rounded(value))[: len(value)].numpy() for key, value in tensors.items()}
        expected = logits(as_inputs, stored)
        found = logits(exact, switch(name))
        moved = np.abs(expected - base).max(axis=(1, 2))
        assert (moved > 0.2 * expected.std()).all()  # each row of the batch
        assert np.abs(found - expected).max() < 1e-3 * expected.std()


def test_taken_out_the_graph_is_as_it_was(model: Path) -> None:
    graph = onnx.load(str(model / "model.onnx"), load_external_data=False).graph
    before = onnx.load(str(model.with_name("bare") / "model.onnx"), load_external_data=False).graph
    take_out(graph, "one")
    take_out(graph, "two")
    for part in ("node", "input", "initializer"):
        assert [each.SerializeToString() for each in getattr(graph, part)] == [
            each.SerializeToString() for each in getattr(before, part)
        ]


def test_left_on_it_needs_no_switch(model: Path, tmp_path: Path) -> None:
    folder = linked_copy(model, tmp_path / "on")
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    leave_on(graph.graph, "two", read_layout(folder).inside or {}, folder)
    (folder / "model.onnx").unlink()
    onnx.save(graph, str(folder / "model.onnx"))
    for suffix in (".data", ".onnx_adapter"):
        (folder / f"adapters/one{suffix}").unlink()
    found = logits(exact_copy(folder, tmp_path / "a"), {})
    expected = logits(exact_copy(model, tmp_path / "b"), switch("two"))
    assert np.abs(found - expected).max() < 1e-4 * found.std()


def test_an_adapter_made_again_takes_the_place_of_the_former(model: Path, tmp_path: Path) -> None:
    folder = linked_copy(model, tmp_path / "again")
    layout = read_layout(folder)
    was = digest(model / "model.onnx"), digest(model / "adapters/one.data")
    add_adapter(folder, "one", adapter(layout, 5, 3), {})
    assert (digest(model / "model.onnx"), digest(model / "adapters/one.data")) == was  # links, not changed
    assert not np.allclose(logits(folder, switch("one")), logits(model, switch("one")), atol=0.1)
    assert np.array_equal(logits(folder, switch("two")), logits(model, switch("two")))
    for name in ("one", "two"):
        check_adapter(folder, folder / "adapters" / f"{name}.onnx_adapter")


def test_an_adapter_that_is_not_in_the_graph_is_refused(model: Path, tmp_path: Path) -> None:
    folder = linked_copy(model, tmp_path / "other")
    for suffix in (".onnx_adapter", ".json", ".data"):
        shutil.copyfile(folder / f"adapters/one{suffix}", folder / f"adapters/three{suffix}")
    with pytest.raises(RequestError, match="does not fit") as caught:
        check_adapter(folder, folder / "adapters/three.onnx_adapter")
    assert "not the switch of three" in caught.value.detail
    shutil.copyfile(folder / "adapters/two.json", folder / "adapters/one.json.new")
    (folder / "adapters/one.json.new").replace(folder / "adapters/one.json")
    with pytest.raises(RequestError) as caught:
        check_adapter(folder, folder / "adapters/one.onnx_adapter")
    assert "another build" in caught.value.detail


def test_eight_bits_hold_a_matrix_to_half_a_step_in_each_block() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(72, 6)  # 32 + 32 + 8
    matrix[:32, 0] = 0
    codes, scales = rounded(matrix)
    assert codes.shape == (6, 3, 32)
    found = back(codes, scales)
    assert not found[72:].any()
    steps = scales.T.repeat_interleave(32, dim=0)[:72]
    assert bool(((found[:72] - matrix).abs() <= 0.5001 * steps).all())


def test_what_the_graph_has_is_told_for_each_layer() -> None:
    """Three layers against one node: ranks stand one above the other, and blocks of 32 of them cross the layers."""
    torch.manual_seed(0)
    parts = (BranchPart("q", 0, 6), BranchPart("k", 6, 3), BranchPart("v", 9, 3))
    layout = AdapterLayout("int8", (Branch("a", 40, (Output("b", 12),), parts),), {})
    pairs = {part.module: Pair(torch.randn(20, 40), torch.randn(part.size, 20), 0.5) for part in parts}
    stored = as_stored(Lora(20, 10, pairs), layout)
    in_graph = {name: back(*rounded(matrix)) for name, matrix in arrange(Lora(20, 10, pairs), layout).items()}
    x = torch.randn(7, 40)
    expected = x @ in_graph["a"][:40, :] @ in_graph["b"][:60, :]
    found = torch.cat([x @ each.a.T @ each.b.T * each.scale for each in stored.pairs.values()], dim=1)
    torch.testing.assert_close(found, expected)


def back(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What MatMulNBits multiplies by."""
    return ((codes.float() - 128) * scales[..., None]).reshape(len(codes), -1).T
