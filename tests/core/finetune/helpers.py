"""Tiny quantized models and labs for the tests of fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tests.tiny_models as tiny

PLACES = ("Chicago", "London", "Norway", "Iceland", "Finland", "Lisbon", "Kyoto", "Cairo", "Lima", "Oslo")
TEMPLATE = "<|user|>\n{prompt}<|end|>\n<|assistant|>\n{response}<|end|>"


def quantized_tiny(
    folder: Path,
    arch: str = "phi3",
    *,
    bits: int = 4,
    group_size: int = 16,
    symmetric: bool = False,
    **options: Any,
) -> Path:
    """A tiny model whose linear layers are rounded to nearest, as Olive writes it."""
    import torch

    from core.olive.checkpoint import (
        OliveHfQuantizationConfig,
        QuantLinear,
        load_model,
        register_olive_quantization,
    )

    register_olive_quantization()
    tiny.make_tiny(arch, folder, **options)
    model = load_model(folder)
    output = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and module is not output:
            packed = QuantLinear.from_module(module, bits=bits, symmetric=symmetric, group_size=group_size)
            model.set_submodule(name, packed)
    config = OliveHfQuantizationConfig(bits=bits, symmetric=symmetric, group_size=group_size)
    model.quantization_method = config.quant_method
    model.config.quantization_config = config
    model.save_pretrained(str(folder))
    return folder


def write_records(path: Path, count: int = 40) -> Path:
    """Questions about a few places, each with one answer, so that little training is enough."""
    rows = []
    for i in range(count):
        place = PLACES[i % len(PLACES)]
        ask = ("Where is", "What is in", "How is", "Is it safe in")[i // len(PLACES) % 4]
        rows.append({"prompt": f"{ask} {place}?", "response": f"The museums of {place} are good."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
