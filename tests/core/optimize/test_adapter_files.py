"""Adapter files: what is refused before a chat, and how matrices become graph inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import RequestError, StageError
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
    read_lora,
    read_shapes,
    scale_of,
)
from core.optimize.adding import add_adapter

LAYOUT = AdapterLayout(
    "float32",
    (
        Branch(
            "qkv.A",
            8,
            (Output("qkv.B", 12),),
            (BranchPart("m.q_proj", 0, 6), BranchPart("m.k_proj", 6, 3), BranchPart("m.v_proj", 9, 3)),
        ),
        Branch("gu.A", 8, (Output("gate.B", 5), Output("up.B", 5)), (BranchPart("m.gate_up_proj", 0, 10),)),
    ),
)


def pair(rank: int, inputs: int, outputs: int, scale: float = 1.0) -> Pair:
    return Pair(torch.randn(rank, inputs), torch.randn(outputs, rank), scale)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as far as adapters are concerned."""
    (tmp_path / "model.onnx").write_bytes(b"the graph of one base")
    LAYOUT.save(tmp_path)
    return tmp_path


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return arrange(Lora(2, 4, {"m.q_proj": pair(2, 8, 6), "m.gate_up_proj": pair(3, 8, 10)}), LAYOUT)


def test_separate_layers_against_one_node_give_each_layers_own_product() -> None:
    torch.manual_seed(0)
    pairs = {
        "m.q_proj": pair(2, 8, 6, 0.5),
        "m.k_proj": pair(3, 8, 3, 2.0),
        "m.v_proj": pair(1, 8, 3, 1.5),
    }
    found = arrange(Lora(2, 4, pairs), LAYOUT)
    x = torch.randn(5, 8)
    expected = torch.cat([x @ p.a.T @ p.b.T * p.scale for p in pairs.values()], dim=1)
    torch.testing.assert_close(x @ found["qkv.A"] @ found["qkv.B"], expected)
    assert "gu.A" not in found  # nothing of that branch was trained: the graph's rank 0 stands for it


def test_one_layer_against_two_nodes_shares_a_and_cuts_b() -> None:
    torch.manual_seed(0)
    fused = pair(3, 8, 10, 0.25)
    found = arrange(Lora(3, 4, {"m.gate_up_proj": fused}), LAYOUT)
    x = torch.randn(5, 8)
    both = torch.cat([x @ found["gu.A"] @ found[name] for name in ("gate.B", "up.B")], dim=1)
    torch.testing.assert_close(both, x @ fused.a.T @ fused.b.T * 0.25)


def test_a_part_of_the_layers_leaves_the_others_untouched() -> None:
    found = arrange(Lora(2, 4, {"m.v_proj": pair(2, 8, 3)}), LAYOUT)
    delta = torch.randn(4, 8) @ found["qkv.A"] @ found["qkv.B"]
    assert not delta[:, :9].any()
    assert delta[:, 9:].any()


def test_an_unknown_or_misfitting_layer_is_named() -> None:
    with pytest.raises(StageError) as unknown:
        arrange(Lora(2, 4, {"m.router": pair(2, 8, 4)}), LAYOUT)
    assert "m.router" in unknown.value.detail
    with pytest.raises(StageError) as other_size:
        arrange(Lora(2, 4, {"m.q_proj": pair(2, 16, 6)}), LAYOUT)
    assert "m.q_proj" in other_size.value.detail


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 8.0),
        ({"alpha_pattern": {"q_proj": 64}}, 4.0),
        ({"rank_pattern": {r".*\.q_proj": 8}}, 4.0),
    ],
)
def test_the_scale_is_pefts(config: dict[str, Any], expected: float) -> None:
    assert scale_of({"r": 16, "lora_alpha": 32, **config}, "m.layers.0.q_proj") == expected


def test_a_good_adapter_passes_and_its_note_tells_what_it_is(
    folder: Path, inputs: dict[str, torch.Tensor]
) -> None:
    path = add_adapter(folder, "travel.v1", inputs, {"rank": 2, "alpha": 4})
    note = check_adapter(folder, path)
    assert (note["name"], note["rank"], note["alpha"], note["dtype"]) == ("travel.v1", 2, 4, "float32")
    assert {item["name"] for item in note["parameters"]} == set(inputs) == set(read_shapes(path))
    assert {item.name for item in path.parent.iterdir()} == {"travel.v1.onnx_adapter", "travel.v1.json"}


def test_a_wrong_adapter_is_refused_with_what_differs(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    path = add_adapter(folder, "travel", inputs, {})
    other = AdapterLayout("float32", (Branch("qkv.A", 16, (Output("qkv.B", 12),), LAYOUT.branches[0].parts),))
    other.save(folder)
    with pytest.raises(RequestError) as caught:
        check_adapter(folder, path)
    assert "qkv.A has the shape [8, 2], the model takes [16, rank]" in caught.value.detail
    assert "gu.A is no input of the model" in caught.value.detail


def test_a_wrong_type_is_refused(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    path = add_adapter(folder, "travel", inputs, {})
    AdapterLayout("float16", LAYOUT.branches).save(folder)
    with pytest.raises(RequestError, match="does not fit") as caught:
        check_adapter(folder, path)
    assert "is float32, the model takes float16" in caught.value.detail


def test_half_an_adapter_is_not_written(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    del inputs["up.B"]
    with pytest.raises(StageError) as caught:
        add_adapter(folder, "travel", inputs, {})
    assert "up.B is not" in caught.value.detail
    assert not list((folder / "adapters").iterdir())


def test_an_adapter_of_another_base_is_refused(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    path = add_adapter(folder, "travel", inputs, {})
    (folder / "model.onnx").write_bytes(b"the graph of another base")
    with pytest.raises(RequestError) as caught:
        check_adapter(folder, path)
    assert "another build of the base model" in caught.value.detail


def test_damaged_missing_and_foreign_files(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    path = add_adapter(folder, "travel", inputs, {})
    with pytest.raises(RequestError) as missing:
        check_adapter(folder, path.with_name("food.onnx_adapter"))
    assert "travel" in missing.value.detail
    path.write_bytes(b"not an adapter at all, but long enough to look at" * 4)
    with pytest.raises(RequestError) as damaged:
        check_adapter(folder, path)
    assert "cannot be read" in damaged.value.title
    with pytest.raises(RequestError):
        read_layout(folder / "adapters")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_adapters_that_no_graph_input_can_carry(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", **change}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(RequestError) as caught:
        read_lora(tmp_path)
    assert named in caught.value.detail
