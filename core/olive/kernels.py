"""Unpacking of Olive's quantized weights as a kernel for NVIDIA GPUs (Triton): one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _unpack(  # type: ignore[no-untyped-def]
    packed,
    scales,
    zeros,
    dense,
    columns,
    groups,
    zeros_row,
    middle,
    GROUP: tl.constexpr,
    FOUR_BITS: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    if FOUR_BITS:
        pair = first // 2 + tl.arange(0, BLOCK // 2)
        byte = tl.load(packed + row * (columns // 2) + pair, mask=pair < columns // 2, other=0)
        code = tl.interleave(byte & 15, byte >> 4)
    else:
        place = first + tl.arange(0, BLOCK)
        code = tl.load(packed + row * columns + place, mask=place < columns, other=0)
    at = first + tl.arange(0, BLOCK)
    inside = at < columns
    group = at // GROUP
    scale = tl.load(scales + row * groups + group, mask=inside, other=0.0)
    if HAS_ZEROS:
        if FOUR_BITS:
            both = tl.load(zeros + row * zeros_row + group // 2, mask=inside, other=0)
            zero = tl.where(group % 2 == 0, both & 15, both >> 4).to(tl.float32)
        else:
            zero = tl.load(zeros + row * zeros_row + group, mask=inside, other=0).to(tl.float32)
    else:
        zero = tl.zeros((BLOCK,), tl.float32) + middle
    # Rounded to the type of the scales first, as torch rounds.
    weight = ((code.to(tl.float32) - zero) * scale.to(tl.float32)).to(scales.dtype.element_ty)
    tl.store(dense + row * columns + at, weight.to(dense.dtype.element_ty), mask=inside)


def unpack(
    packed: Tensor, scales: Tensor, zeros: Tensor | None, *, columns: int, bits: int, dtype: torch.dtype
) -> Tensor:
    """The float weight [rows, columns] of codes in 4 or 8 bits.

    Args:
        packed: uint8, rows of codes; of two in a byte the first is in the low half.
        scales: [rows, groups].
        zeros: uint8, packed like the codes along the groups; None where each is the middle of the range.
    """
    rows, groups = scales.shape
    dense = torch.empty(rows, columns, dtype=dtype, device=scales.device)
    block = min(2048, triton.next_power_of_2(columns))
    _unpack[(rows, triton.cdiv(columns, block))](
        packed.contiguous(),
        scales.contiguous(),
        packed if zeros is None else zeros.contiguous(),
        dense,
        columns,
        groups,
        0 if zeros is None else zeros.numel() // rows,
        float(1 << (bits - 1)),
        GROUP=columns // groups,
        FOUR_BITS=bits == 4,
        HAS_ZEROS=zeros is not None,
        BLOCK=block,
    )
    return dense
