"""The builder's graphs of every architecture that is tried: their logits are PyTorch's, short and past the windows."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
import torch

from core.files import read_json
from core.model.architectures import ARCHITECTURES, TRIED, judge
from core.model.folder import read_config
from core.olive.checkpoint import load_model
from core.optimize.build import open_graph
from tests.core.optimize.labs import quantized_lab
from tests.core.optimize.shapes import LENGTHS, SHAPES, WINDOW, distances, graph_of
from tests.tiny_models import make_tiny


@pytest.mark.parametrize("shape", SHAPES)
def test_float_graphs_compute_what_pytorch_computes(shape: str, tmp_path: Path) -> None:
    arch, options = SHAPES[shape]
    checkpoint = make_tiny(arch, tmp_path / "model", **options)
    assert judge(read_config(checkpoint)).state == TRIED
    assert max(distances(checkpoint, graph_of(checkpoint, tmp_path, "fp32"))) < 1e-4


@pytest.mark.parametrize(
    "shape",
    [
        "llama, tied",
        "qwen2, window",
        "phi3, window",
        "phi3, Phi-4-mini's shape",
        "smollm3",
        "granite",
        "ernie4_5",
        "hunyuan",
        "gemma, 16 bits",
        "gemma2, 16 bits",
        "gemma2, window",
        "gemma3, 16 bits",
        "gemma3, window and long context",
    ],
)
def test_packed_graphs_compute_what_pytorch_computes(shape: str, tmp_path: Path) -> None:
    arch, options = SHAPES[shape]
    lab = quantized_lab(tmp_path, arch, **{"dtype": "bfloat16", **options})
    graph = graph_of(lab.quantized_dir, tmp_path, "int4", accuracy_level=1)
    assert max(distances(lab.quantized_dir, graph)) < 1e-4


def test_packed_weights_without_zero_points(tmp_path: Path) -> None:
    lab = quantized_lab(tmp_path, "phi3", symmetric=True)
    graph = graph_of(lab.quantized_dir, tmp_path, "int4", accuracy_level=1)
    assert max(distances(lab.quantized_dir, graph)) < 1e-4


def test_a_long_rope_has_no_tables_for_texts_that_the_model_does_not_take(tmp_path: Path) -> None:
    arch, options = SHAPES["phi3, long rope"]
    checkpoint = make_tiny(arch, tmp_path / "model", **options)
    graph = graph_of(checkpoint, tmp_path, "fp32")
    short, _ = distances(checkpoint, graph)
    open_graph(graph, checkpoint, "base", places=False)
    assert not any(node.op_type == "If" for node in onnx.load(str(graph / "model.onnx")).graph.node)
    assert distances(checkpoint, graph, lengths=LENGTHS[:1]) == [short]


@pytest.mark.parametrize("shape", ["mistral, window", "gemma2, window", "gemma3, window"])
def test_going_back_behind_a_window_forgets_what_was_said(shape: str, tmp_path: Path) -> None:
    """As a chat does when a question is changed: its cache keeps what stands before the window, too."""
    import numpy as np

    from core.optimize.genai import import_genai

    og = import_genai()
    arch, options = SHAPES[shape]
    checkpoint = make_tiny(arch, tmp_path / "model", **options)
    graph = graph_of(checkpoint, tmp_path, "fp32")
    assert read_json(graph / "genai_config.json")["search"]["past_present_share_buffer"] is True
    ids = random.Random(2).choices(range(6, 300), k=3 * WINDOW)
    other = random.Random(3).choices(range(6, 300), k=WINDOW)
    model = og.Model(str(graph))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=200, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.asarray(ids, dtype=np.int32))
    generator.generate_next_token()
    generator.rewind_to(2 * WINDOW)
    generator.append_tokens(np.asarray(other, dtype=np.int32))
    text = torch.tensor([[*ids[: 2 * WINDOW], *other]])
    with torch.inference_mode():
        expected = load_model(checkpoint, dtype=torch.float32)(text, use_cache=False).logits[0, -WINDOW:]
    got = torch.from_numpy(np.asarray(generator.get_output("logits"), dtype=np.float32)[0])
    assert float(((got - expected).abs().max(1).values / expected.std(1)).max()) < 1e-4


def test_every_tried_architecture_is_here() -> None:
    kinds = {
        "hunyuan": "hunyuan_v1_dense",
        "gemma3": "gemma3_text",
    }
    here = {kinds.get(arch, arch) for arch, _ in SHAPES.values()}
    assert here == {name for name, each in ARCHITECTURES.items() if each.state == TRIED}


def test_the_architecture_that_is_refused_is_wrong_still(tmp_path: Path) -> None:
    checkpoint = make_tiny("olmo", tmp_path / "model")
    assert max(distances(checkpoint, graph_of(checkpoint, tmp_path, "fp32"))) > 0.5


def test_a_checkpoint_is_cut_in_a_view_beside_it(tmp_path: Path) -> None:
    from core.model.weights import tensor_entries
    from core.olive.checkpoint import unfused

    plain = quantized_lab(tmp_path / "llama", "llama").quantized_dir
    assert unfused(plain, tmp_path / "not") == plain
    fused = quantized_lab(tmp_path / "phi3", "phi3", eight_bit="qkv_proj").quantized_dir
    before = sorted(tensor_entries(fused))
    view = unfused(fused, tmp_path / "view")
    assert sorted(tensor_entries(fused)) == before
    names = {name.split(".")[-2] for name in tensor_entries(view) if name.endswith("qweight")}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}
    overrides = read_config(view)["quantization_config"]["overrides"]
    assert overrides["model.layers.0.self_attn.v_proj"] == {"bits": 8}
