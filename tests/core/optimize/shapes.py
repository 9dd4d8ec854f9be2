"""Tiny models in the shapes that architectures come in, and how far a graph of one is from PyTorch.

The tests and ``benchmarks/architectures.py`` look at the same ones.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from core.olive.checkpoint import embed_by_output_matrix, load_model
from core.optimize.embedding import is_shared
from core.optimize.genai_builder import build
from core.optimize.session import OnnxSession

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


def distances(checkpoint: Path, graph: Path, lengths: tuple[int, ...] = LENGTHS) -> list[float]:
    """How far the graph's logits are from PyTorch's at most, in spreads, for texts of these lengths."""
    model, session = load_model(checkpoint, dtype=torch.float32), OnnxSession(graph)
    if is_shared(graph):
        embed_by_output_matrix(model)
    ids = random.Random(1).choices(range(6, 300), k=max(LENGTHS))
    found = []
    for length in lengths:
        with torch.inference_mode():
            expected = model(torch.tensor([ids[:length]]), use_cache=False).logits[0]
        apart = (torch.from_numpy(session.logits(ids[:length])) - expected).abs().max(dim=1).values
        found.append(float((apart / expected.std(dim=1)).max()))
    return found


def graph_of(checkpoint: Path, work: Path, precision: str, **options: Any) -> Path:
    """A graph for the CPU of a checkpoint, in ``work``."""
    build(
        checkpoint,
        work / "onnx",
        precision=precision,
        provider="CPUExecutionProvider",
        options=options,
        work=work / "work",
    )
    return work / "onnx"
