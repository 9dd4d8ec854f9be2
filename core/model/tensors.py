"""Whether a checkpoint holds the tensors that its configuration promises, by the headers alone.

What the usual decoder needs is known here, so that a fault shows before anything is imported; a stage asks
transformers itself besides (``core.model.load.check_tensors``), which knows every architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from core.model.folder import ModelFacts
from core.model.matrices import HEADS
from core.model.weights import TensorEntry

USUAL = frozenset(
    {
        "llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "granite", "gemma", "gemma2", "gemma3_text",
        "ernie4_5", "hunyuan_v1_dense",
    }
)  # fmt: skip
"""``model_type`` of decoders whose layers are all alike and have Llama's names, or Phi-3's joined ones."""

_LAYER = re.compile(r"(?P<before>.*\blayers)\.(?P<number>\d+)\.(?P<name>.+)")


@dataclass(frozen=True)
class Gap:
    """A tensor that is not there, or has another shape than the configuration gives it.

    Attributes:
        wanted: its shape by the configuration; empty where that is not known.
        found: its shape in the file; None where it is not there.
    """

    name: str
    wanted: tuple[int, ...] = ()
    found: tuple[int, ...] | None = None


def has_head(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> bool:
    """Whether there is an output matrix: one of its own, or the embeddings where they are tied."""
    return facts.tied_embeddings or any(
        name.rpartition(".")[0].rpartition(".")[2] in (*HEADS, "output_layer") for name in entries
    )


def layers_there(entries: Mapping[str, TensorEntry]) -> set[int]:
    """The numbers of the decoder layers that any tensor names."""
    return {int(match["number"]) for name in entries if (match := _LAYER.match(name))}


def gaps(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Gap]:
    """What is missing or of another shape in a float checkpoint of one of the :data:`USUAL` architectures."""
    if facts.model_type not in USUAL or not entries:
        return
    before = next((m["before"] for name in entries if (m := _LAYER.match(name))), "model.layers")
    root = before.removesuffix("layers")
    outer = {
        f"{root}embed_tokens.weight": (facts.vocab_size, facts.hidden_size),
        f"{root}norm.weight": (facts.hidden_size,),
    }
    for name, shape in outer.items():
        yield from _compare(name, shape, entries)
    if "lm_head.weight" in entries:
        yield from _compare("lm_head.weight", outer[f"{root}embed_tokens.weight"], entries)
    seen = _suffixes(entries)
    joined = {"self_attn.q_proj.weight": "qkv", "mlp.gate_proj.weight": "gate_up"}
    shapes = _shapes(facts)
    fused = {what for first, what in joined.items() if first not in seen and _joined(what) in seen}
    wanted = {
        name: shape
        for name, (shape, group) in shapes.items()
        if (group in fused) == name.endswith(("qkv_proj.weight", "gate_up_proj.weight")) or not group
    }
    # What half of the layers have beside that (biases, more norms), every layer has.
    wanted |= {name: () for name, count in seen.items() if name not in shapes and 2 * count >= facts.layers}
    for layer in range(facts.layers):
        for name, shape in wanted.items():
            yield from _compare(f"{before}.{layer}.{name}", shape, entries)


def _joined(what: str) -> str:
    return "self_attn.qkv_proj.weight" if what == "qkv" else "mlp.gate_up_proj.weight"


def _shapes(facts: ModelFacts) -> dict[str, tuple[tuple[int, ...], str]]:
    """Each tensor's shape, and the group of those that stand for each other: joined or apart."""
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    hidden, middle = facts.hidden_size, facts.intermediate_size
    return {
        "input_layernorm.weight": ((hidden,), ""),
        "self_attn.q_proj.weight": ((q, hidden), "qkv"),
        "self_attn.k_proj.weight": ((kv, hidden), "qkv"),
        "self_attn.v_proj.weight": ((kv, hidden), "qkv"),
        "self_attn.qkv_proj.weight": ((q + 2 * kv, hidden), "qkv"),
        "self_attn.o_proj.weight": ((hidden, q), ""),
        "mlp.gate_proj.weight": ((middle, hidden), "gate_up"),
        "mlp.up_proj.weight": ((middle, hidden), "gate_up"),
        "mlp.gate_up_proj.weight": ((2 * middle, hidden), "gate_up"),
        "mlp.down_proj.weight": ((hidden, middle), ""),
    }


def _suffixes(entries: Mapping[str, TensorEntry]) -> dict[str, int]:
    """In how many layers each tensor's name stands."""
    found: dict[str, int] = {}
    for name in entries:
        if match := _LAYER.match(name):
            found[match["name"]] = found.get(match["name"], 0) + 1
    return found


def _compare(name: str, shape: tuple[int, ...], entries: Mapping[str, TensorEntry]) -> Iterator[Gap]:
    entry = entries.get(name)
    if entry is None:
        yield Gap(name, shape)
    elif shape and entry.shape != shape:
        yield Gap(name, shape, entry.shape)
