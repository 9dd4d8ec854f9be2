"""What stands between the matrix products of a training step, for a CPU: fewer passes over memory.

The counterpart of :mod:`core.finetune.kernels`, with the same names, made of PyTorch's own operations: no compiler is
needed. Each writes its result, or its gradient, where it belongs, in place of parts that are filled with zeros, copied
and added up. The arithmetic is that of the model's own way, or rounded less often.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

ATTENTION = "olivepress_plain"
"""The name of :func:`attention` in transformers."""


def rotate(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, turned: int, *, back: bool) -> None:
    """Write heads turned by their positions into ``target``.

    Args:
        source, target: [rows, heads, tokens, width], of any strides.
        cos, sin: [1 or rows, tokens, width], the tables; what of a head's width is beyond them is copied.
        turned: how many of the heads are turned; those beyond are copied.
        back: turn a gradient back.
    """
    width = cos.shape[-1]
    half = width // 2
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    x, y = source[:, :turned, :, :width], target[:, :turned, :, :width]
    torch.mul(x, cos, out=y)
    first, second = (sin[..., half:], sin[..., :half]) if back else (sin[..., :half], sin[..., half:])
    sign = 1.0 if back else -1.0
    y[..., :half].addcmul_(x[..., half:], first, value=sign)
    y[..., half:].addcmul_(x[..., :half], second, value=-sign)
    if width < source.shape[-1]:
        target[:, :turned, :, width:].copy_(source[:, :turned, :, width:])
    if turned < source.shape[1]:
        target[:, turned:].copy_(source[:, turned:])


class _Turned(torch.autograd.Function):
    """Queries and keys [rows, heads, tokens, width] turned by their positions."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        made = q.new_empty(q.shape), k.new_empty(k.shape)
        for source, target in zip((q, k), made, strict=True):
            rotate(source, target, cos, sin, source.shape[1], back=False)
        return made

    @staticmethod
    def backward(ctx: Any, to_q: Tensor, to_k: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        made = []
        for source in (to_q, to_k):
            rows, heads, tokens, width = source.shape
            # As the linear layer before wants it, which has the heads of a token side by side.
            target = source.new_empty(rows, tokens, heads, width).transpose(1, 2)
            rotate(source, target, cos, sin, heads, back=True)
            made.append(target)
        return made[0], made[1], None, None


class _TurnedAndCut(torch.autograd.Function):
    """Queries, keys and values [rows, heads, tokens, width] out of one matrix [rows, tokens, all heads], turned."""

    @staticmethod
    def forward(
        ctx: Any, joined: Tensor, cos: Tensor, sin: Tensor, queries: int, keys: int
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        rows, tokens, _ = joined.shape
        ctx.heads = (queries, keys, keys)
        source = joined.view(rows, tokens, queries + 2 * keys, -1).transpose(1, 2)
        made = []
        for part, turned in zip(source.split(ctx.heads, dim=1), (queries, keys, 0), strict=True):
            made.append(part.new_empty(part.shape))
            rotate(part, made[-1], cos, sin, turned, back=False)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        rows, _, tokens, width = upstream[0].shape
        queries, keys, _ = ctx.heads
        made = upstream[0].new_empty(rows, tokens, sum(ctx.heads), width)
        parts = made.transpose(1, 2).split(ctx.heads, dim=1)
        for source, target, turned in zip(upstream, parts, (queries, keys, 0), strict=True):
            rotate(source, target, cos, sin, turned, back=True)
        return made.view(rows, tokens, -1), None, None, None, None


def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Queries and keys [rows, heads, tokens, width] turned by their positions."""
    return _Turned.apply(q, k, cos, sin)


def turn_and_cut(joined: Tensor, cos: Tensor, sin: Tensor, queries: int, keys: int) -> Any:
    """Queries, keys and values [rows, heads, tokens, width] out of one matrix [rows, tokens, all heads], turned."""
    return _TurnedAndCut.apply(joined, cos, sin, queries, keys)


class Norm(torch.autograd.Function):
    """A root mean square norm: computed in float32, rounded once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float() if x.dtype != torch.float32 else x.clone()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        inside = x * scale
        gradient = upstream * weight.to(scale.dtype)
        along = torch.linalg.vecdot(gradient, inside).unsqueeze(-1).div_(-x.shape[-1])
        return gradient.addcmul_(inside, along).mul_(scale).to(x.dtype), None, None


class _Attention(torch.autograd.Function):
    """softmax(scaling q k^T + mask) v; queries of a group share their keys and values, which are not copied."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        rows, heads, tokens, width = q.shape
        shared = k.shape[1]
        # Query heads of one key head stand one below the other.
        q, k, v = (each.reshape(rows * shared, -1, each.shape[-1]) for each in (q, k, v))
        if mask is None:
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scaling)
        else:
            by_group = mask.expand(rows, heads, tokens, -1).reshape(rows * shared, q.shape[1], -1)
            scores = torch.baddbmm(by_group, q, k.transpose(1, 2), alpha=scaling)
        # In bfloat16 it takes four times as long where the tokens are no multiple of the processor's width.
        shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        ctx.save_for_backward(q, k, v, shares)
        ctx.scaling, ctx.shapes = scaling, ((rows, heads, tokens, width), shared)
        return torch.bmm(shares, v).view(rows, heads, tokens, -1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, shares = ctx.saved_tensors
        (rows, heads, tokens, width), shared = ctx.shapes
        above = upstream.reshape(rows * shared, q.shape[1], -1)
        to_v = torch.bmm(shares.transpose(1, 2), above)
        to_scores = torch._softmax_backward_data(
            torch.bmm(above, v.transpose(1, 2)), shares, -1, shares.dtype
        )
        to_q = torch.baddbmm(q, to_scores, k, beta=0, alpha=ctx.scaling)
        to_k = torch.baddbmm(k, to_scores.transpose(1, 2), q, beta=0, alpha=ctx.scaling)
        return (
            to_q.view(rows, heads, tokens, width),
            to_k.view(rows, shared, -1, width),
            to_v.view(rows, shared, to_k.shape[1], -1),
            None,
            None,
        )


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention by matrix products, as transformers calls it; whatever an architecture adds, its own way computes."""
    if dropout or any(more.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        own = sys.modules[type(module).__module__].eager_attention_forward
        found: tuple[Tensor, Tensor | None] = own(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )
        return found
    seen = _Attention.apply(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5)
    return seen.transpose(1, 2), None


def register_attention() -> str:
    """Make :func:`attention` known to transformers; the name that it has there."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    def mask(batch_size: int, *args: Any, attention_mask: Tensor | None = None, **more: Any) -> Tensor:
        rows = batch_size if attention_mask is not None else 1  # without padding all rows have the same
        made: Tensor = eager_mask(rows, *args, attention_mask=attention_mask, **more)
        return made

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, mask)
    return ATTENTION
