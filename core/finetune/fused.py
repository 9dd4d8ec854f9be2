"""A model made ready to train fast: fewer operations for the same numbers.

Everything here is tried first against what the model does by itself, and left out where it differs by more than
rounding, or where the kernels cannot be built.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

from core.finetune import cpu
from core.olive.checkpoint import QuantLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Forward = Callable[..., Any]

MOST_KEPT = 256
"""Shapes of batches whose tables are kept."""


def has_kernels(device: torch.device) -> bool:
    """Whether kernels may be built for a device."""
    return device.type == "cuda" and find_spec("triton") is not None


def _kernels(device: torch.device) -> ModuleType | None:
    """What takes the place of a model's own operations on a device."""
    if device.type == "cpu":
        return cpu
    if has_kernels(device):
        from core.finetune import kernels

        return kernels
    return None


def fuse(model: PreTrainedModel) -> int:
    """Let gated MLPs, and attention on joined queries, keys and values, use operations of ours; returns how many do.

    Call it before adapters are added: they change nothing in this.
    """
    like = next(model.parameters())
    if _kernels(like.device) is None:
        return 0
    works: dict[type[nn.Module], bool] = {}
    fused = 0
    for module in model.modules():
        kind = type(module)
        if works.get(kind) is False or (made := _gated(module, like) or _joined(module, like)) is None:
            continue
        forward, inputs = made
        if kind not in works:
            works[kind] = _alike(module.forward, forward, inputs)
        if works[kind]:
            module.forward = forward
            fused += 1
    return fused


def _alike(own: Forward, ours: Forward, inputs: tuple[Any, ...]) -> bool:
    """Whether two ways give the same for an input, and the same gradient for the first of them."""
    try:
        pairs = zip(_tried(own, inputs), _tried(ours, inputs), strict=True)
        return all(_near(found, wanted) for wanted, found in pairs)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # no compiler, another form of the module: it stays as it is
        return False


def _tried(way: Forward, inputs: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        first = inputs[0].clone().requires_grad_()
        made = way(first, *inputs[1:])
        result: torch.Tensor = made[0] if isinstance(made, tuple) else made
        (gradient,) = torch.autograd.grad(result, first, _sample(*result.shape, like=result))
    return result.detach(), gradient


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return False
    off = (found.float() - wanted.float()).norm() / wanted.float().norm().clamp(min=1e-9)
    return bool(off <= 4 * torch.finfo(wanted.dtype).eps)


def _sample(*shape: int, like: torch.Tensor) -> torch.Tensor:
    # No random numbers are taken: the training's own must not depend on this.
    count = torch.Size(shape).numel()
    values = torch.arange(count, device=like.device, dtype=torch.float32)
    return torch.sin(values * 1.7 + 0.3 * torch.cos(values)).view(shape).to(like.dtype)


def _inputs(linear: Any) -> int:
    found: int = linear.in_features if isinstance(linear, nn.Linear) else linear.cols
    return found


def _activation(module: nn.Module) -> int | None:
    """Which of the kernel's activations a module has."""
    own = getattr(module, "act_fn", None) or getattr(module, "activation_fn", None)
    if not callable(own):
        return None
    from core.finetune.kernels import GELU_TANH, SILU

    x = torch.linspace(-6, 6, 64)
    for kind, known in (
        (SILU, functional.silu(x)),
        (GELU_TANH, functional.gelu(x, approximate="tanh")),
    ):
        if torch.allclose(own(x), known, atol=1e-6):
            return kind
    return None


def _gated(module: nn.Module, like: torch.Tensor) -> tuple[Forward, tuple[Any, ...]] | None:
    """A way of its own for a gated MLP, with or without its two matrices joined, and something to try it on."""
    joined = hasattr(module, "gate_up_proj") and hasattr(module, "down_proj")
    apart = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
    # On a CPU PyTorch's own operations are as quick.
    if not (joined or apart) or like.device.type == "cpu" or (kind := _activation(module)) is None:
        return None
    from core.finetune.kernels import Gated

    made: Any = module
    first = made.gate_up_proj if joined else made.gate_proj
    if not isinstance(first, nn.Linear | QuantLinear):
        return None

    def forward(x: torch.Tensor) -> Any:
        if joined:
            middle = Gated.apply(made.gate_up_proj(x), None, kind)
        else:
            middle = Gated.apply(made.gate_proj(x), made.up_proj(x), kind)
        return made.down_proj(middle)

    return forward, (_sample(1, 3, _inputs(first), like=like),)


def _joined(module: nn.Module, like: torch.Tensor) -> tuple[Forward, tuple[Any, ...]] | None:
    """A way of its own for attention whose queries, keys and values are one matrix, as Phi-3 has it."""
    config: Any = getattr(module, "config", None)
    if not (hasattr(module, "qkv_proj") and hasattr(module, "o_proj")) or config is None:
        return None
    if config._attn_implementation not in ("sdpa", cpu.ATTENTION) or not hasattr(module, "scaling"):
        return None
    from transformers import AttentionInterface

    attend: Forward = AttentionInterface()[config._attn_implementation]
    kernels: Any = _kernels(like.device)
    made: Any = module
    own = made.forward
    queries, keys = config.num_attention_heads, config.num_key_value_heads

    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **more: Any,
    ) -> Any:
        if past_key_values is not None:
            return own(hidden_states, position_embeddings, attention_mask, past_key_values, **more)
        q, k, v = kernels.turn_and_cut(made.qkv_proj(hidden_states), *position_embeddings, queries, keys)
        dropped = made.attention_dropout if made.training else 0.0
        seen, _ = attend(made, q, k, v, attention_mask, dropout=dropped, scaling=made.scaling, **more)
        return made.o_proj(seen.reshape(*hidden_states.shape[:-1], -1)), None

    turned = int(made.head_dim * (config.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    angles = _sample(1, 16, turned // 2, like=like)
    cos, sin = (torch.cat((each, each), dim=-1) for each in (1 - angles.abs(), angles))
    return forward, (_sample(1, 16, _inputs(made.qkv_proj), like=like), (cos, sin), None)


@contextmanager
def kept_tables(model: PreTrainedModel) -> Iterator[None]:
    """While entered, what depends on a batch's shape alone is computed once for each shape: masks and rotary tables.

    Transformers computes them anew in each pass, and waits for the GPU to decide how. For passes over whole rows
    from their first token on, without padding masks or caches; any other is computed as always.
    """
    with ExitStack() as stack:
        for home in _homes(model):
            for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
                if hasattr(home, name):
                    stack.enter_context(patch.object(home, name, _kept_mask(getattr(home, name))))
        for module in model.modules():
            if type(module).__name__.endswith("RotaryEmbedding"):
                stack.enter_context(patch.object(module, "forward", _kept_rotary(module.forward)))
        yield


def _homes(model: PreTrainedModel) -> list[ModuleType]:
    """The modules of transformers that a model is made of."""
    homes = {sys.modules[type(module).__module__] for module in model.modules()}
    return [home for home in homes if home.__name__.startswith("transformers.models.")]


@contextmanager
def quick_turns(model: PreTrainedModel) -> Iterator[None]:
    """While entered, queries and keys are turned by operations of ours, where they give the same."""
    like = next(model.parameters())
    with ExitStack() as stack:
        if _kernels(like.device) is not None:
            for home in _homes(model):
                if hasattr(home, "apply_rotary_pos_emb"):
                    stack.enter_context(_turned_quickly(home, like))
        yield


def _from_the_start(position_ids: torch.Tensor | None, width: int) -> bool:
    """Whether the positions are 0, 1, 2, … in every row."""
    if position_ids is None:
        return True
    first = torch.arange(width, device=position_ids.device)
    return position_ids.shape[-1] == width and bool((position_ids == first).all())


def _kept_mask(own: Forward) -> Forward:
    kept: dict[Any, Any] = {}

    def mask(*args: Any, **kwargs: Any) -> Any:
        states = kwargs.get("inputs_embeds", kwargs.get("input_embeds"))
        known = {
            "config",
            "inputs_embeds",
            "input_embeds",
            "attention_mask",
            "past_key_values",
            "position_ids",
            "cache_position",
        }
        plain = kwargs.get("attention_mask") is None and kwargs.get("past_key_values") is None
        if args or not plain or not isinstance(states, torch.Tensor) or set(kwargs) - known:
            return own(*args, **kwargs)
        key = (id(kwargs.get("config")), states.shape, states.dtype, states.device)
        if key not in kept:
            made = own(**kwargs)
            if len(kept) >= MOST_KEPT or not _from_the_start(kwargs.get("position_ids"), states.shape[1]):
                return made
            kept[key] = made
        return kept[key]

    return mask


def _kept_rotary(own: Forward) -> Forward:
    kept: dict[Any, Any] = {}

    def rotary(x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        key = (tuple(position_ids.shape), x.dtype, x.device, args, tuple(sorted(kwargs.items())))
        if key not in kept:
            made = own(x, position_ids, *args, **kwargs)
            if len(kept) >= MOST_KEPT or not _from_the_start(position_ids, position_ids.shape[-1]):
                return made
            kept[key] = made
        return kept[key]

    return rotary


@contextmanager
def _turned_quickly(home: ModuleType, like: torch.Tensor) -> Iterator[None]:
    kernels: Any = _kernels(like.device)
    own: Forward = home.apply_rotary_pos_emb

    def turned(
        q: torch.Tensor,
        k: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = 1,
        **more: Any,
    ) -> Any:
        if more or unsqueeze_dim != 1 or q.device.type != like.device.type or q.dim() != 4 or cos.dim() != 3:
            return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim, **more)
        return kernels.turn(q, k, cos, sin)

    angles = _sample(1, 16, 8, like=like)
    tables = [torch.cat((each, each), dim=-1) for each in (1 - angles.abs(), angles)]
    sample = (_sample(2, 4, 16, 16, like=like), _sample(2, 2, 16, 16, like=like), *tables)
    if not _alike(own, turned, sample):
        yield
        return
    with patch.object(home, "apply_rotary_pos_emb", turned):
        yield
