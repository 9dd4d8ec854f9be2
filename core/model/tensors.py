"""The tensors of a float checkpoint: which are rounded, and whether all that the configuration promises is there.

Told by the names and shapes in the files' headers alone. What the usual decoder needs is known here, so that a fault
shows before anything is imported; a stage asks transformers itself besides (``core.model.load.check_tensors``), which
knows every architecture.

Olive's passes and ours round every ``torch.nn.Linear``, the output matrix among them, and nothing else: embeddings,
norms and GPT-2's ``Conv1D`` stay float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import RequestError
from core.formats import some
from core.language import told
from core.model.folder import ModelFacts
from core.model.weights import TensorEntry, tensor_entries

GROUP_SIZES = (16, 32, 64, 128, 256)
"""The sizes that the kernels know."""

HEADS = ("lm_head", "embed_out", "output")
"""What the output matrix is called."""

_EMBEDDING = re.compile(r"(^|[._])(embed\w*|wte|wpe|\w*embeddings?)$")
_CONV1D = frozenset({"gpt2", "openai-gpt", "gpt-sw3"})


def rounded_matrices(facts: ModelFacts) -> dict[str, int]:
    """The number of inputs of each matrix that quantize rounds, by name.

    Empty where the weights are packed already.
    """
    widths = {}
    for name, entry in tensor_entries(facts.path).items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or len(entry.shape) != 2:
            continue
        head = module in HEADS
        if not head and (_EMBEDDING.search(module) or facts.model_type in _CONV1D):
            continue
        widths[module] = entry.shape[1]
    if widths and facts.tied_embeddings and not any(name in widths for name in HEADS):
        widths["lm_head"] = facts.hidden_size  # rounded too, and no longer the embeddings then
    return widths


def fitting_group_sizes(widths: dict[str, int]) -> list[int]:
    """The group sizes that divide all of some matrices' inputs, the smallest first."""
    return [size for size in GROUP_SIZES if all(width % size == 0 for width in widths.values())]


USUAL = frozenset(
    {
        "llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "granite", "gemma", "gemma2", "gemma3_text",
        "ernie4_5", "hunyuan_v1_dense",
    }
)  # fmt: skip
"""``model_type`` of decoders whose layers are all alike and have Llama's names, or Phi-3's joined ones."""

PREFIXES = ("model.", "")
"""What may stand before ``layers.0`` in the names of these: transformers reads no other."""

_LAYER = re.compile(r"(?P<before>.*\blayers)\.(?P<number>\d+)\.(?P<name>.+)")
_OF_ADAPTERS = re.compile(
    r"\.(lora_\w+|base_layer|modules_to_save|original_module|hada_w\w+|oft_\w+|ia3_\w+|vera_lambda\w*)(\.|$)"
)
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_BIASES = {
    "llama": ("attention_bias", "mlp_bias"),
    "granite": ("attention_bias", "mlp_bias"),
    "smollm3": ("attention_bias", "mlp_bias"),
    "ernie4_5": ("use_bias", "use_bias"),
    **dict.fromkeys(("qwen3", "gemma", "gemma2", "gemma3_text", "hunyuan_v1_dense"), ("attention_bias", "")),
}
"""The keys of ``config.json`` that give the attention and the MLP biases; Qwen2 has them on q, k, v always."""
_HEAD_NORMS = {
    "qwen3": ("q_norm", "k_norm"),
    "gemma3_text": ("q_norm", "k_norm"),
    "hunyuan_v1_dense": ("query_layernorm", "key_layernorm"),
}
_IGNORED = "rotary_emb.inv_freq"
"""Older checkpoints have it in every layer; it is computed."""


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


def same_numbers(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two tensors of a checkpoint hold the same, bit by bit. Where they do, both are read whole."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.end - one.start
        while left > 0:
            size = min(left, 1 << 22)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


def layers_there(entries: Mapping[str, TensorEntry]) -> set[int]:
    """The numbers of the decoder layers that any tensor names."""
    return {int(match["number"]) for name in entries if (match := _LAYER.match(name))}


def of_adapters(entries: Iterable[str]) -> list[str]:
    """The tensors that PEFT adds or renames: an adapter that was saved with the model, and not merged."""
    return [name for name in entries if _OF_ADAPTERS.search(name)]


def not_merged(path: Path, names: list[str]) -> RequestError:
    """The error of a checkpoint with an adapter in it: transformers would leave the adapter out unsaid."""
    return RequestError(
        told("The weights hold an adapter that was not merged."),
        told("{path}: {names}.", path=path, names=some(names)),
        told(
            "Load the model with PEFT, call merge_and_unload() and save_pretrained(), and set "
            "model.source to that folder."
        ),
        code="model.not-merged",
    )


def unread(path: Path, names: list[str]) -> RequestError:
    """The error of a checkpoint whose layers have tensors that the configuration has no place for."""
    biases = all(name.endswith(".bias") for name in names)
    return RequestError(
        told("The layers have tensors that the model, as it is configured, would not use."),
        told("{path}: {names}.", path=path, names=some(names)),
        told(
            "Without them it computes something else: take the config.json that belongs to these weights, with "
            "attention_bias or mlp_bias = true where the architecture has them."
        )
        if biases
        else told(
            "Without them it computes something else: take the config.json that belongs to these weights."
        ),
        code="model.unread-tensors",
    )


def unread_of_layers(names: Iterable[str], layers: int) -> list[str]:
    """Those of some tensors that transformers would not read that lie in the layers it does read."""
    matches = [match for name in names if (match := _LAYER.fullmatch(name))]
    return [
        match.string
        for match in matches
        if int(match["number"]) < layers and not match["name"].endswith(_IGNORED)
    ]


def unknown_prefix(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> str | None:
    """What stands before the layers' names where transformers would not look for them."""
    before = _before(entries).removesuffix("layers")
    return before if facts.model_type in USUAL and before not in PREFIXES else None


def not_in_layers(facts: ModelFacts, entries: Iterable[str]) -> list[str]:
    """Tensors of the layers that one of the :data:`USUAL` architectures has not, as it is configured."""
    if facts.model_type not in USUAL:
        return []
    known = _layer(facts)
    return [
        name
        for name in unread_of_layers(entries, facts.layers)
        if (match := _LAYER.fullmatch(name)) and match["name"] not in known
    ]


def beside_layers(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> list[str]:
    """Tensors outside the layers that one of the :data:`USUAL` architectures does not read, such as a value head."""
    if facts.model_type not in USUAL or not entries:
        return []
    root = _before(entries).removesuffix("layers")
    read = {f"{root}embed_tokens.weight", f"{root}norm.weight", "lm_head.weight", f"{root}lm_head.weight"}
    return [
        name
        for name in entries
        if name not in read and not _LAYER.fullmatch(name) and not name.endswith(_IGNORED)
    ]


def gaps(facts: ModelFacts, entries: Mapping[str, TensorEntry]) -> Iterator[Gap]:
    """What is missing or of another shape in a float checkpoint of one of the :data:`USUAL` architectures."""
    if facts.model_type not in USUAL or not entries:
        return
    before = _before(entries)
    root = before.removesuffix("layers")
    outer = {
        f"{root}embed_tokens.weight": (facts.vocab_size, facts.hidden_size),
        f"{root}norm.weight": (facts.hidden_size,),
    }
    for name, shape in outer.items():
        yield from _compare(name, shape, entries)
    if "lm_head.weight" in entries:
        yield from _compare("lm_head.weight", outer[f"{root}embed_tokens.weight"], entries)
    for layer in range(facts.layers):
        for name, shape in _layer(facts).items():
            yield from _compare(f"{before}.{layer}.{name}", shape, entries)


def _before(entries: Iterable[str]) -> str:
    return next((match["before"] for name in entries if (match := _LAYER.match(name))), "model.layers")


def _layer(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """The tensors of each layer, with their shapes."""
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    hidden, middle, kind = facts.hidden_size, facts.intermediate_size, facts.model_type
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind in ("gemma2", "gemma3_text"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (hidden,) for name in norms}
    shapes |= {f"self_attn.{name}.weight": (facts.head_dim,) for name in _HEAD_NORMS.get(kind, ())}
    if kind == "phi3":
        return shapes | {
            "self_attn.qkv_proj.weight": (q + 2 * kv, hidden),
            "self_attn.o_proj.weight": (hidden, q),
            "mlp.gate_up_proj.weight": (2 * middle, hidden),
            "mlp.down_proj.weight": (hidden, middle),
        }
    sizes = [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q)]
    matrices = dict(zip(_ATTENTION, sizes, strict=True))
    matrices |= dict(zip(_MLP, [(middle, hidden), (middle, hidden), (hidden, middle)], strict=True))
    attention, mlp = _BIASES.get(kind, ("", ""))
    biased = [
        *(_ATTENTION if facts.config.get(attention) else _ATTENTION[:3] if kind == "qwen2" else ()),
        *(_MLP if facts.config.get(mlp) else ()),
    ]
    shapes |= {f"{name}.weight": shape for name, shape in matrices.items()}
    return shapes | {f"{name}.bias": matrices[name][:1] for name in biased}


def _compare(name: str, shape: tuple[int, ...], entries: Mapping[str, TensorEntry]) -> Iterator[Gap]:
    entry = entries.get(name)
    if entry is None:
        yield Gap(name, shape)
    elif shape and entry.shape != shape:
        yield Gap(name, shape, entry.shape)
