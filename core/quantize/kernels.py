"""The inner loops of AWQ and GPTQ as kernels for NVIDIA GPUs (Triton).

Each does what its counterpart in torch does, in one launch: :func:`core.quantize.awq_math.search_ranges`
tries some forty ranges for every group, and a block of :func:`core.quantize.gptq.round_gptq` takes its
columns one after the other. Done by single operations of torch, both wait for launches and for memory
most of their time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _nearest(value):  # type: ignore[no-untyped-def]
    # Adding and taking away 1.5 * 2^23 rounds to the nearest integer, halves to the even one, as torch does.
    return (value + 12582912.0) - 12582912.0


@triton.jit
def _codes(values, scale, zero, top):  # type: ignore[no-untyped-def]
    return _nearest(tl.minimum(tl.maximum(tl.div_rn(values, scale) + zero, 0.0), top))


@triton.jit
def _round_columns(  # type: ignore[no-untyped-def]
    part,
    factor,
    scales,
    zeros,
    codes,
    errors,
    outputs,
    part_stride,
    factor_stride,
    codes_stride,
    top,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = (rows < outputs)[:, None] & (columns < COLUMNS)[None, :]
    within = rows[:, None] * COLUMNS + columns[None, :]
    tile = tl.load(part + rows[:, None] * part_stride + columns[None, :], mask=inside, other=0.0)
    scale = tl.load(scales + within, mask=inside, other=1.0)
    zero = tl.load(zeros + within, mask=inside, other=0.0)
    made = tl.zeros((ROWS, WIDTH), tl.float32)
    left = tl.zeros((ROWS, WIDTH), tl.float32)
    for at in range(COLUMNS):
        here = (columns == at)[None, :]
        current = tl.sum(tl.where(here, tile, 0.0), 1)
        its_scale = tl.sum(tl.where(here, scale, 0.0), 1)
        its_zero = tl.sum(tl.where(here, zero, 0.0), 1)
        code = _codes(current, its_scale, its_zero, top)
        error = current - (code - its_zero) * its_scale
        error = tl.div_rn(error, tl.load(factor + at * factor_stride + at))
        later = (columns > at) & (columns < COLUMNS)
        row = tl.load(factor + at * factor_stride + columns, mask=later, other=0.0)
        tile -= error[:, None] * row[None, :]
        made = tl.where(here, code[:, None], made)
        left = tl.where(here, error[:, None], left)
    tl.store(codes + rows[:, None] * codes_stride + columns[None, :], made.to(tl.uint8), mask=inside)
    tl.store(errors + within, left, mask=inside)


def round_block(part: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, top: int, codes: Tensor) -> Tensor:
    """Round the columns of ``part`` one after the other; return what each left, over its pivot.

    The rows of each tensor lie one after the other in memory; they may be parts of longer ones.

    Args:
        part: float32 weights, (outputs, columns); it is left as it is.
        factor: the block of the upper factor that belongs to these columns, (columns, columns).
        scale, zero: of each weight's group, (outputs, columns).
        top: the largest code.
        codes: gets the codes, uint8 (outputs, columns).
    """
    outputs, columns = part.shape
    errors = torch.empty(outputs, columns, device=part.device)
    rows = 16
    _round_columns[(triton.cdiv(outputs, rows),)](
        part,
        factor,
        scale.contiguous(),
        zero.contiguous(),
        codes,
        errors,
        outputs,
        part.stride(0),
        factor.stride(0),
        codes.stride(0),
        float(top),
        COLUMNS=columns,
        WIDTH=triton.next_power_of_2(columns),
        ROWS=rows,
        num_warps=4,
    )
    return errors


@triton.jit
def _parameters(low, high, top, tiny, SYMMETRIC: tl.constexpr, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    if SYMMETRIC:
        high = tl.maximum(-low, high)
        low = -high
    empty = low == high
    low = tl.where(empty, -1.0, low)
    high = tl.where(empty, 1.0, high)
    scale = tl.maximum(tl.div_rn(high - low, top).to(DTYPE).to(tl.float32), tiny)
    if SYMMETRIC:
        zero = scale * 0.0 + (top + 1.0) / 2.0
    else:
        zero = _nearest(tl.minimum(tl.maximum(tl.div_rn(-low, scale), 0.0), top))
    return scale, zero


@triton.jit
def _output_error(tile, block, scale, zero, top, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    made = _codes(tile, scale[:, None], zero[:, None], top)
    difference = (made - zero[:, None]) * scale[:, None] - tile
    return tl.sum(tl.dot(difference, block, input_precision=PRECISION) * difference, 1)


@triton.jit
def _search_ranges(  # type: ignore[no-untyped-def]
    groups,
    blocks,
    scales,
    zeros,
    rows_in_all,
    group_stride,
    row_stride,
    top,
    tiny,
    lowest,
    STEPS: tl.constexpr,
    SWEEPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = rows < rows_in_all
    where = groups + group.to(tl.int64) * group_stride + rows.to(tl.int64)[:, None] * row_stride
    tile = tl.load(where + columns[None, :], mask=inside[:, None], other=0.0)
    block = tl.load(blocks + group.to(tl.int64) * WIDTH * WIDTH + columns[:, None] * WIDTH + columns[None, :])
    low = tl.minimum(tl.min(tile, 1), 0.0)
    high = tl.maximum(tl.max(tile, 1), 0.0)
    scale, zero = _parameters(low, high, top, tiny, SYMMETRIC, DTYPE)
    best = _output_error(tile, block, scale, zero, top, PRECISION)
    keep_high = low * 0.0 + 1.0
    keep_low = keep_high
    for turn in range(SWEEPS):
        # Even turns move the upper end of the range, odd ones the lower end.
        upper = (turn % 2) == 0
        start_high, start_low = keep_high, keep_low
        # Going on from what the other end has become, 1 must be tried again too.
        for step in range(tl.where(turn < 2, 1, 0), STEPS + 1):
            factor = 1.0 - (1.0 - lowest) * step / STEPS
            if SYMMETRIC:
                now_high, now_low = start_high * 0.0 + factor, start_low * 0.0 + factor
            else:
                now_high = tl.where(upper, factor, start_high)
                now_low = tl.where(upper, start_low, factor)
            tried_scale, tried_zero = _parameters(low * now_low, high * now_high, top, tiny, SYMMETRIC, DTYPE)
            tried = _output_error(tile, block, tried_scale, tried_zero, top, PRECISION)
            better = tried < best
            best = tl.where(better, tried, best)
            scale = tl.where(better, tried_scale, scale)
            zero = tl.where(better, tried_zero, zero)
            keep_high = tl.where(better, now_high, keep_high)
            keep_low = tl.where(better, now_low, keep_low)
    tl.store(scales + group * rows_in_all + rows, scale, mask=inside)
    tl.store(zeros + group * rows_in_all + rows, zero, mask=inside)


def search_ranges(
    groups: Tensor,
    blocks: Tensor,
    *,
    top: int,
    symmetric: bool,
    dtype: torch.dtype,
    steps: int,
    lowest: float,
    sweeps: int,
) -> tuple[Tensor, Tensor]:
    """Scales and zero points of the ranges with the smallest output error, (groups of a row, rows) each.

    Args:
        groups: float32 weights as (groups of a row, rows, group), each group in one piece of memory, of 16, 32,
            64 or 128 weights: a longer one's Gram block does not fit into a multiprocessor.
        blocks: the Gram matrix's diagonal blocks, (groups of a row, group, group).
        top, symmetric, dtype: of the :class:`~core.quantize.awq_math.Grid`.
        steps, lowest, sweeps: as :func:`core.quantize.awq_math.search_ranges` takes them.
    """
    count, outputs, width = groups.shape
    scales = torch.empty(count, outputs, device=groups.device)
    zeros = torch.empty_like(scales)
    rows = 32
    _search_ranges[(triton.cdiv(outputs, rows), count)](
        groups,
        blocks.contiguous(),
        scales,
        zeros,
        outputs,
        groups.stride(0),
        groups.stride(1),
        float(top),
        torch.finfo(dtype).tiny,
        lowest,
        STEPS=steps,
        SWEEPS=1 if symmetric else 2 * sweeps,
        WIDTH=width,
        ROWS=rows,
        SYMMETRIC=symmetric,
        DTYPE=_TYPES[dtype],
        PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        num_warps=4,
    )
    return scales, zeros
