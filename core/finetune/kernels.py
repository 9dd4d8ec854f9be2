"""What stands between the matrix products of a training step, as kernels for NVIDIA GPUs (Triton).

Rotary positions and gated activations are six to twelve operations each in transformers, forward and backward, and
each of them goes over the whole tensor once more. Here each is one pass. The arithmetic is in float32, rounded once
at the end.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SILU, GELU_TANH = 0, 1


@triton.jit
def _activated(gate, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The activation and its slope."""
    if KIND == 0:
        share = tl.sigmoid(gate)
        return gate * share, share * (1.0 + gate * (1.0 - share))
    # tanh(y) = 2 sigmoid(2 y) - 1, so 0.5 (1 + tanh(y)) = sigmoid(2 y)
    cube = gate * gate * gate
    share = tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * cube))
    inner = 1.5957691216057308 * (1.0 + 0.134145 * gate * gate)
    return gate * share, share + gate * share * (1.0 - share) * inner


@triton.jit
def _gate(  # type: ignore[no-untyped-def]
    gate, up, out, width, gate_row, up_row, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    g = tl.load(gate + row * gate_row + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + at, mask=inside, other=0.0).to(tl.float32)
    value, _ = _activated(g, KIND)
    tl.store(out + row * width + at, (value * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate_back(  # type: ignore[no-untyped-def]
    grad, gate, up, to_gate, to_up, width, gate_row, up_row, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    d = tl.load(grad + row * width + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + row * gate_row + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + at, mask=inside, other=0.0).to(tl.float32)
    value, slope = _activated(g, KIND)
    tl.store(to_gate + row * gate_row + at, (d * u * slope).to(to_gate.dtype.element_ty), mask=inside)
    tl.store(to_up + row * up_row + at, (d * value).to(to_up.dtype.element_ty), mask=inside)


_GATE_BLOCK = 1024


class Gated(torch.autograd.Function):
    """act(gate) * up, of two tensors with the same strides, or of the two halves of one (``up`` None)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None, kind: int) -> Tensor:
        gate = gate.contiguous()
        up = None if up is None else up.contiguous()
        ctx.kind = kind
        ctx.save_for_backward(gate, up)
        halves = (gate, up) if up is not None else gate.chunk(2, dim=-1)
        width, stride = halves[0].shape[-1], gate.shape[-1]
        out = torch.empty(halves[0].shape, dtype=gate.dtype, device=gate.device)
        _gate[(gate.numel() // stride, triton.cdiv(width, _GATE_BLOCK))](
            *halves, out, width, stride, stride, KIND=kind, BLOCK=_GATE_BLOCK
        )
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        halves = (gate, up) if up is not None else gate.chunk(2, dim=-1)
        width, stride = halves[0].shape[-1], gate.shape[-1]
        to_gate = torch.empty_like(gate)
        to_up = None if up is None else torch.empty_like(up)
        made = (to_gate, to_up) if to_up is not None else to_gate.chunk(2, dim=-1)
        _gate_back[(gate.numel() // stride, triton.cdiv(width, _GATE_BLOCK))](
            upstream.contiguous(), *halves, *made, width, stride, stride, KIND=ctx.kind, BLOCK=_GATE_BLOCK
        )
        return to_gate, to_up, None


@triton.jit(do_not_specialize=["tokens", "heads", "turned", "source_row", "target_row"])
def _rotate(  # type: ignore[no-untyped-def]
    source,
    target,
    cos,
    sin,
    tokens,
    heads,
    turned,
    source_row,
    source_token,
    source_head,
    target_row,
    target_token,
    target_head,
    table_row,
    table_token,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    BACK: tl.constexpr,
    HALF_UP: tl.constexpr,
    REST_UP: tl.constexpr,
    HEADS: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    row, token = number // tokens, number % tokens
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    at = tl.arange(0, HALF_UP)
    inside = (head < heads)[:, None] & (at < HALF)[None, :]
    table = row * table_row + token * table_token + at
    known = at < HALF
    cos_1 = tl.load(cos + table, mask=known, other=0.0).to(tl.float32)[None, :]
    cos_2 = tl.load(cos + table + HALF, mask=known, other=0.0).to(tl.float32)[None, :]
    sin_1 = tl.load(sin + table, mask=known, other=0.0).to(tl.float32)[None, :]
    sin_2 = tl.load(sin + table + HALF, mask=known, other=0.0).to(tl.float32)[None, :]
    base = source + row * source_row + token * source_token + head[:, None] * source_head
    goal = target + row * target_row + token * target_token + head[:, None] * target_head
    x_1 = tl.load(base + at[None, :], mask=inside, other=0.0).to(tl.float32)
    x_2 = tl.load(base + at[None, :] + HALF, mask=inside, other=0.0).to(tl.float32)
    if BACK:
        y_1 = x_1 * cos_1 + x_2 * sin_2
        y_2 = x_2 * cos_2 - x_1 * sin_1
    else:
        y_1 = x_1 * cos_1 - x_2 * sin_1
        y_2 = x_2 * cos_2 + x_1 * sin_2
    y_1 = tl.where((head < turned)[:, None], y_1, x_1)
    y_2 = tl.where((head < turned)[:, None], y_2, x_2)
    tl.store(goal + at[None, :], y_1.to(target.dtype.element_ty), mask=inside)
    tl.store(goal + at[None, :] + HALF, y_2.to(target.dtype.element_ty), mask=inside)
    if REST > 0:
        more = tl.arange(0, REST_UP)
        passed = (head < heads)[:, None] & (more < REST)[None, :]
        kept = tl.load(base + more[None, :] + 2 * HALF, mask=passed, other=0.0)
        tl.store(goal + more[None, :] + 2 * HALF, kept, mask=passed)


def rotate(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, turned: int, *, back: bool) -> None:
    """Write heads turned by their positions into ``target``.

    Args:
        source, target: [rows, tokens, heads, width], of any strides but the last.
        cos, sin: [1 or rows, tokens, width], the tables; what of a head's width is beyond them is copied.
        turned: how many of the heads are turned; those beyond are copied.
        back: turn a gradient back.
    """
    rows, tokens, heads, width = source.shape
    half, rest = cos.shape[-1] // 2, width - cos.shape[-1]
    at_once = min(16, triton.next_power_of_2(heads))
    _rotate[(rows * tokens, triton.cdiv(heads, at_once))](
        source,
        target,
        cos,
        sin,
        tokens,
        heads,
        turned,
        *source.stride()[:3],
        *target.stride()[:3],
        cos.stride(0) if cos.shape[0] > 1 else 0,
        cos.stride(1),
        HALF=half,
        REST=rest,
        BACK=back,
        HALF_UP=triton.next_power_of_2(half),
        REST_UP=triton.next_power_of_2(max(rest, 1)),
        HEADS=at_once,
    )


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Turned(torch.autograd.Function):
    """Queries and keys [rows, heads, tokens, width] turned by their positions."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _turned(q, cos, sin, back=False), _turned(k, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, to_q: Tensor, to_k: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(to_q, cos, sin, back=True), _turned(to_k, cos, sin, back=True), None, None


def _turned(heads: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    source = _dense(heads).transpose(1, 2)
    made = torch.empty(source.shape, dtype=source.dtype, device=source.device)
    rotate(source, made, cos, sin, source.shape[2], back=back)
    return made.transpose(1, 2)


class _TurnedAndCut(torch.autograd.Function):
    """Queries, keys and values [rows, heads, tokens, width] out of one matrix [rows, tokens, all heads], turned."""

    @staticmethod
    def forward(
        ctx: Any, joined: Tensor, cos: Tensor, sin: Tensor, queries: int, keys: int
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        rows, tokens, _ = joined.shape
        ctx.heads = (queries, keys, keys)
        source = joined.contiguous().view(rows, tokens, queries + 2 * keys, -1)
        made = torch.empty_like(source)
        rotate(source, made, cos, sin, queries + keys, back=False)
        return tuple(each.transpose(1, 2) for each in made.split(ctx.heads, dim=2))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        to_q, to_k, to_v = (_dense(each).transpose(1, 2) for each in upstream)
        rows, tokens, _, width = to_q.shape
        made = to_q.new_empty(rows, tokens, sum(ctx.heads), width)
        queries, keys, _ = ctx.heads
        for_q, for_k, for_v = made.split(ctx.heads, dim=2)
        rotate(to_q, for_q, cos, sin, queries, back=True)
        rotate(to_k, for_k, cos, sin, keys, back=True)
        rotate(to_v, for_v, cos, sin, 0, back=True)
        return made.view(rows, tokens, -1), None, None, None, None


def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Queries and keys [rows, heads, tokens, width] turned by their positions."""
    return _Turned.apply(q, k, cos, sin)


def turn_and_cut(joined: Tensor, cos: Tensor, sin: Tensor, queries: int, keys: int) -> Any:
    """Queries, keys and values [rows, heads, tokens, width] out of one matrix [rows, tokens, all heads], turned."""
    return _TurnedAndCut.apply(joined, cos, sin, queries, keys)
