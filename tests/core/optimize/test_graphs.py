"""The builder's graphs of every architecture that is tried: their logits are PyTorch's, short and past the windows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint import load_model
from core.files import read_json
from core.model.folder import read_config
from core.onnx.architectures import ARCHITECTURES, TRIED, judge
from core.onnx.genai_builder import build
from core.onnx.session import Session
from tests.core.optimize.labs import quantized_lab
from tests.tiny_models import make_tiny

WINDOW = 32
LENGTHS = (12, 100)
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [1.0 + i for i in range(8)],
}
PHI4_ROPE = {
    **LONG_ROPE,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0] * 24,
    "long_factor": [1.0 + i for i in range(24)],
}
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie": True}),
    "llama, biases": ("llama", {"bias": True}),
    "llama, linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama, Llama 3's rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("mistral", {}),
    "mistral, window": ("mistral", {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2, window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": WINDOW}),
    "phi3, long rope": ("phi3", {"original_max_position_embeddings": 64, "rope_parameters": LONG_ROPE}),
    "phi3, Phi-4-mini's shape": (
        "phi3",
        {
            "hidden": 192,
            "intermediate": 256,
            "heads": 3,
            "kv_heads": 1,
            "tie": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64,
            "rope_parameters": PHI4_ROPE,
        },
    ),
    "smollm3": ("smollm3", {}),
    "smollm3, window": ("smollm3", {"use_sliding_window": True, **WINDOWED}),
    "granite": ("granite", {}),
    "ernie4_5": ("ernie4_5", {}),
    "hunyuan": ("hunyuan", {}),
    "hunyuan, dynamic rope": (
        "hunyuan",
        {
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10000.0,
                "alpha": 1000.0,
                "factor": 1.0,
            }
        },
    ),
    "gemma": ("gemma", {}),
    # Their norms are 1 + weight, which needs more than 16 bits, and the root of this width more than two decimals.
    "gemma, 16 bits": ("gemma", {"dtype": "bfloat16", "hidden": 96, "heads": 3, "kv_heads": 1}),
    "gemma2, 16 bits": ("gemma2", {"dtype": "bfloat16", "hidden": 96, "heads": 3, "kv_heads": 1}),
    "gemma3, 16 bits": ("gemma3", {"dtype": "bfloat16", "hidden": 96, "heads": 3, "kv_heads": 1}),
    "gemma2, window": ("gemma2", {"sliding_window": WINDOW}),
    "gemma3, window": ("gemma3", WINDOWED),
    "gemma3, window and long context": ("gemma3", {**WINDOWED, "rope_parameters": GEMMA3_ROPE}),
}


def distances(checkpoint: Path, graph: Path) -> list[float]:
    """How far the graph's logits are from PyTorch's at most, in spreads, for each of :data:`LENGTHS`."""
    model, session = load_model(checkpoint, dtype=torch.float32), Session(graph)
    ids = random.Random(1).choices(range(6, 300), k=max(LENGTHS))
    found = []
    for length in LENGTHS:
        with torch.inference_mode():
            expected = model(torch.tensor([ids[:length]]), use_cache=False).logits[0]
        apart = (torch.from_numpy(session.logits(ids[:length])) - expected).abs().max(dim=1).values
        found.append(float((apart / expected.std(dim=1)).max()))
    return found


def graph_of(checkpoint: Path, work: Path, precision: str, **options: Any) -> Path:
    build(
        checkpoint,
        work / "onnx",
        precision=precision,
        provider="CPUExecutionProvider",
        options=options,
        work=work / "work",
    )
    return work / "onnx"


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


@pytest.mark.parametrize("shape", ["mistral, window", "gemma2, window", "gemma3, window"])
def test_going_back_behind_a_window_forgets_what_was_said(shape: str, tmp_path: Path) -> None:
    """As a chat does when a question is changed: its cache keeps what stands before the window, too."""
    import numpy as np

    from core.onnx.runtime import import_genai

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
    from core.onnx.genai_builder import unfused

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
