"""GGUF files of tiny models, written with the ``gguf`` package as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

CONTROL, NORMAL = 3, 1


def write_gguf(
    folder: Path,
    file: Path,
    *,
    architecture: str | None = None,
    packed: str = "F32",
    extra: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    tensors: dict[str, Any] | None = None,
    pre: str = "gpt-2",
) -> Path:
    """Write the Hugging Face folder of a tiny model as one GGUF file.

    Args:
        architecture: ``general.architecture``; the folder's own if left out.
        packed: ggml type of the matrices.
        extra: more metadata, or other values for what is there; None leaves a key out.
        without: tensors to leave out, by their GGUF names.
        tensors: more of them, as float32 arrays.
    """
    import gguf
    import numpy as np
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    kind = config["model_type"].removesuffix("_text")
    name = architecture or kind
    known = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[kind], config["num_hidden_layers"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    vocab = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    special = {t["content"] for t in tokenizer["added_tokens"] if t["special"]}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    told: dict[str, Any] = {
        "general.name": "Tiny",
        "general.license": "mit",
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": heads,
        f"{name}.attention.head_count_kv": kv_heads,
        f"{name}.attention.key_length": head_dim,
        f"{name}.attention.value_length": head_dim,
        f"{name}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{name}.rope.freq_base": rope.get("rope_theta", 10000.0),
        f"{name}.rope.dimension_count": int(head_dim * (rope.get("partial_rotary_factor") or 1)),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": vocab["<|end|>"],
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }
    if config.get("sliding_window"):
        told[f"{name}.attention.sliding_window"] = config["sliding_window"]
    told |= extra or {}

    writer = gguf.GGUFWriter(file, name)
    for key, value in told.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for key, tensor in load_file(folder / "model.safetensors").items():
        stem, _, suffix = key.rpartition(".")
        target = names.get_name(stem)
        assert target is not None, key
        array = tensor.float().numpy()
        if kind == "llama" and stem.endswith((".q_proj", ".k_proj")):
            array = _permuted(array, heads if stem.endswith(".q_proj") else kv_heads)
        if kind.startswith("gemma") and "norm" in stem:
            array = array + 1
        if f"{target}.{suffix}" in without:
            continue
        packing = gguf.GGMLQuantizationType[packed if array.ndim == 2 else "F32"]
        writer.add_tensor(f"{target}.{suffix}", gguf.quantize(array, packing), raw_dtype=packing)
    for key, array in (tensors or {}).items():
        writer.add_tensor(key, np.asarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _permuted(weights: Any, heads: int) -> Any:
    """Rows as llama.cpp turns positions: halves of a head side by side."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def llama3_factors(theta: float, head_dim: int, factor: float) -> list[float]:
    """``rope_freqs.weight`` as llama.cpp's converter writes it for Llama 3.1 and later."""
    factors = []
    for index in range(0, head_dim, 2):
        length = 2 * math.pi * theta ** (index / head_dim)
        smooth = (8192 / length - 1) / 3
        middle = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1.0 if length < 2048 else factor if length > 8192 else middle)
    return factors
