"""Which architectures the lab can bring to an ONNX model, and which it refuses, and why.

One table, by ``model_type`` of ``config.json``, for ``check``, the stages and the guide. "Tried" means that the
tests build a small model of it, on prompts shorter and longer than its windows, with packed and float weights,
and that the graph's logits are PyTorch's. What the builder knows besides is built and verified all the same:
optimize publishes no graph whose logits are not PyTorch's.

Light: nothing is imported, ``config.json`` alone is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import RequestError
from core.language import told

TRIED, UNTRIED, REFUSED = "tried", "untried", "refused"

_PLAIN = ("default", "linear")
_LLAMA = (*_PLAIN, "llama3")


@dataclass(frozen=True)
class Architecture:
    """What is known of one ``model_type``.

    Attributes:
        state: :data:`TRIED`, :data:`UNTRIED` or :data:`REFUSED`.
        model_class: the class in ``architectures`` that the builder goes by.
        ropes: the kinds of rope with which its graph is right.
        reason: what is wrong with it, where it is refused.
    """

    state: str
    model_class: str = ""
    ropes: tuple[str, ...] = _PLAIN
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a model: ``state`` as of :class:`Architecture`, the reason in words, what to do."""

    state: str
    reason: str
    hint: str = ""


_EXPERTS = told(
    "its experts are no linear layers, so quantize would leave them float and finetune would not train them"
)
_UNKNOWN = told("the ONNX builder does not know it")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(TRIED, "LlamaForCausalLM", _LLAMA),
    "mistral": Architecture(TRIED, "MistralForCausalLM"),
    "qwen2": Architecture(TRIED, "Qwen2ForCausalLM"),
    "qwen3": Architecture(TRIED, "Qwen3ForCausalLM"),
    "phi3": Architecture(TRIED, "Phi3ForCausalLM", ("default", "longrope")),
    "smollm3": Architecture(TRIED, "SmolLM3ForCausalLM", ("default", "llama3")),
    "granite": Architecture(TRIED, "GraniteForCausalLM"),
    "ernie4_5": Architecture(TRIED, "Ernie4_5ForCausalLM"),
    "hunyuan_v1_dense": Architecture(TRIED, "HunYuanDenseV1ForCausalLM", ("default", "dynamic")),
    "gemma": Architecture(TRIED, "GemmaForCausalLM"),
    "gemma2": Architecture(TRIED, "Gemma2ForCausalLM"),
    "gemma3_text": Architecture(TRIED, "Gemma3ForCausalLM"),
    "nemotron": Architecture(UNTRIED, "NemotronForCausalLM"),
    "chatglm": Architecture(UNTRIED, "ChatGLMModel"),
    "olmo": Architecture(
        REFUSED,
        reason=told("the ONNX builder's graph of it is wrong: its norms have no weights, and get them there"),
    ),
    "phi": Architecture(
        REFUSED, reason=told("the ONNX builder cannot read its packed layers (dense, fc1, fc2)")
    ),
    "granitemoehybrid": Architecture(
        REFUSED, reason=told("the ONNX builder cannot read its packed shared_mlp")
    ),
    "lfm2": Architecture(
        REFUSED, reason=told("the runtime cannot go back in its cache, which the chat does")
    ),
    "gemma3": Architecture(
        REFUSED, reason=told("it reads pictures too; only Gemma 3's text models (gemma3_text) are built")
    ),
    "gpt_oss": Architecture(REFUSED, reason=_EXPERTS),
    "phimoe": Architecture(REFUSED, reason=_EXPERTS),
    "mixtral": Architecture(REFUSED, reason=_EXPERTS),
    "qwen2_moe": Architecture(REFUSED, reason=_EXPERTS),
    "qwen3_moe": Architecture(REFUSED, reason=_EXPERTS),
    "llama4": Architecture(REFUSED, reason=_UNKNOWN),
    "llama4_text": Architecture(REFUSED, reason=_UNKNOWN),
}
"""By ``model_type``; what is not in it is refused, for the builder does not know it."""


def judge(config: Mapping[str, Any]) -> Verdict:
    """What becomes of a model with this ``config.json``, told before any work."""
    kind = str(config.get("model_type") or "")
    known = ARCHITECTURES.get(kind)
    tried = ", ".join(sorted(name for name, each in ARCHITECTURES.items() if each.state == TRIED))
    others = told("Choose a model of one of these: {tried}.", tried=tried)
    if known is None:
        return Verdict(
            REFUSED, told("{kind}: {unknown}", kind=kind or told("no model_type"), unknown=_UNKNOWN), others
        )
    if known.state == REFUSED:
        return Verdict(REFUSED, told("{kind}: {reason}", kind=kind, reason=known.reason), others)
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else known.model_class
    if named != known.model_class and kind != "chatglm":
        if "ForCausalLM" in str(named):
            return Verdict(
                REFUSED,
                told(
                    "{kind}: architectures says {named}, and a model of this model_type is a {model_class}",
                    kind=kind,
                    named=named,
                    model_class=known.model_class,
                ),
                told(
                    'If it is one, set architectures to ["{model_class}"] in its config.json.',
                    model_class=known.model_class,
                ),
            )
        return Verdict(
            REFUSED,
            told("{kind}: architectures says {named}, which writes no text", kind=kind, named=named),
            told("Take the {model_class} that it was made from.", model_class=known.model_class),
        )
    for reason, hint in _obstacles(config, kind, known):
        return Verdict(REFUSED, told("{kind}: {reason}", kind=kind, reason=reason), hint or others)
    if known.state == TRIED:
        return Verdict(TRIED, told("{kind}: tried through every stage", kind=kind))
    return Verdict(
        UNTRIED, told("{kind}: the ONNX builder knows it; not tried through the whole lab", kind=kind)
    )


def require(config: Mapping[str, Any], where: str) -> Verdict:
    """The verdict on a model that can be built.

    Args:
        where: the model's folder or name, for the message.

    Raises:
        RequestError: it is refused; the detail says why.
    """
    verdict = judge(config)
    if verdict.state == REFUSED:
        raise RequestError(
            told("No ONNX model can be made of this model."),
            told("{where}: {reason}.", where=where, reason=verdict.reason),
            verdict.hint,
            code="model.architecture",
        )
    return verdict


def _obstacles(config: Mapping[str, Any], kind: str, known: Architecture) -> Iterator[tuple[str, str]]:
    """What in the configuration of a known architecture comes out wrong or is not built: reason and hint."""
    share = 1.0
    for rope in _ropes(config):
        how = str(rope.get("rope_type") or rope.get("type") or "default")
        share = float(rope.get("partial_rotary_factor") or share)
        if how not in known.ropes and not (how == "su" and "longrope" in known.ropes):
            yield (
                told(
                    "its graph is wrong with {how} rope (right with {names})",
                    how=how,
                    names=", ".join(known.ropes),
                ),
                told(
                    "Take rope_scaling out of its config.json if its shorter context will do, or choose "
                    "another model."
                ),
            )
        if how == "dynamic" and "alpha" not in rope:
            yield told("dynamic rope without alpha is not built"), ""
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(heads, int) and isinstance(width, int) and heads > 0:
        size = int(config.get("head_dim") or width // heads)
        share = float(config.get("partial_rotary_factor") or share)
        for what, number in (
            (told("heads are"), size),
            (told("rotated part of the heads is"), int(size * share)),
        ):
            if number % 16:
                yield (
                    told(
                        "the runtime's attention wants multiples of 16, and its {what} {number} wide",
                        what=what,
                        number=number,
                    ),
                    "",
                )
    if config.get("clip_qkv"):
        yield told("clip_qkv is not in the graph"), ""


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rope settings, wherever this or older releases of transformers put them."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, Mapping):
            nested = [each for each in rope.values() if isinstance(each, Mapping)]
            yield from nested or [rope]
