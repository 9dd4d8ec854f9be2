"""GPTQ: round a matrix column by column, and spread each column's error over those that follow.

Source: Frantar et al., GPTQ, arXiv 2210.17323, with its authors' later order of the columns
(``act-order``) and the groups' ranges found before it begins. The columns go in blocks: within a block
every column waits for the one before it, and what the block leaves is taken off all later columns in
one product. On an NVIDIA GPU a block is one kernel (:mod:`core.quantize.kernels`); elsewhere its columns
lie one after the other in memory, so that each step is a few whole-vector operations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from core.quantize.awq_math import Check, Grid, Rounded, exact_products, has_kernels, never, round_nearest

BLOCK = 128
"""Columns of a block."""

_NOT_DEFINITE = "the inputs of a layer are not finite, or all the same"


def round_gptq(
    weight: Tensor,
    gram: Tensor,
    grid: Grid,
    *,
    damping: float = 0.01,
    clip: bool = False,
    check: Check = never,
) -> Rounded:
    """The codes, scales and zero points of a matrix, rounded as GPTQ does.

    Args:
        weight: (outputs, inputs), float32; it is left as it is.
        gram: the Gram matrix of the inputs, (inputs, inputs), float32.
        damping: share of the mean diagonal that is added to it, raised until it can be factored.
        clip: search each group's range on the Gram matrix rather than take it from end to end.
        check: is called between blocks; what it raises ends the work.

    Raises:
        ValueError: the Gram matrix is not finite, or cannot be made definite.
    """
    inputs = weight.shape[1]
    width = grid.width(inputs)
    silent = gram.diagonal() == 0
    plain = round_nearest(weight, gram, grid, clip=clip, check=check)
    scale, zero = plain.scale, plain.zero
    # Columns that carry most go first, while there are others left to make up for their errors.
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    group = order // width
    work = weight[:, order]
    work[:, silent[order]] = 0
    upper = _inverse_factor(gram[order][:, order], silent[order], damping)
    round_block = _block
    if has_kernels(work):
        from core.quantize.kernels import round_block
    codes = torch.empty_like(work, dtype=torch.uint8)
    for first in range(0, inputs, BLOCK):
        check()
        last = min(first + BLOCK, inputs)
        errors = round_block(
            work[:, first:last],
            upper[first:last, first:last],
            scale[:, group[first:last]],
            zero[:, group[first:last]],
            grid.top,
            codes[:, first:last],
        )
        work[:, last:].addmm_(errors, upper[first:last, last:], alpha=-1)
    return Rounded(torch.empty_like(codes).index_copy_(1, order, codes), scale, zero)


def _block(part: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, top: int, codes: Tensor) -> Tensor:
    """Round the columns of ``part`` into ``codes``; return their errors, each over its diagonal of ``factor``."""
    columns, scales, zeros = (each.T.contiguous() for each in (part, scale, zero))
    errors = torch.empty_like(columns)
    made = torch.empty_like(columns)
    for at, pivot in enumerate(factor.diagonal().tolist()):
        current, code = columns[at], made[at]
        torch.div(current, scales[at], out=code)
        code.add_(zeros[at]).round_().clamp_(0, top)
        error = torch.sub(code, zeros[at], out=errors[at])
        error.mul_(scales[at]).sub_(current).div_(-pivot)
        columns[at + 1 :].addr_(factor[at, at + 1 :], error, alpha=-1)
    codes.copy_(made.T)
    return errors.T


def made_up_for(
    weight: Tensor, gram: Tensor, drift: Tensor, share: float, *, damping: float = 0.01
) -> Tensor:
    """The weights that undo with what rounded layers give a share of what these have done to it.

    ``W + share W D^T (G + damping)^-1``: with a share of 1 the matrix whose outputs come nearest to those of ``W`` on
    what float layers give. Source: Li et al., GPTAQ, arXiv 2504.02692, for whole matrices in place of columns.

    Args:
        weight: (outputs, inputs), float32; it is left as it is.
        gram: ``G = X^T X`` of the inputs, (inputs, inputs), float32.
        drift: ``D = X^T (F - X)``, where ``F`` is what float layers give in place of ``X``.
        damping: as of :func:`round_gptq`.

    Raises:
        ValueError: the Gram matrix is not finite, or cannot be made definite.
    """
    with exact_products():
        for factor in _factors(gram, gram.diagonal() == 0, damping):
            made = weight + share * torch.cholesky_solve(drift @ weight.T, factor).T
            if made.isfinite().all():
                return made
    raise ValueError(_NOT_DEFINITE)


def _inverse_factor(gram: Tensor, silent: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped Gram matrix's inverse."""
    for factor in _factors(gram, silent, damping):
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
        if not failed.item():
            return upper.contiguous()
    raise ValueError(_NOT_DEFINITE)


def _factors(gram: Tensor, silent: Tensor, damping: float) -> Iterator[Tensor]:
    """The lower Cholesky factors of the damped Gram matrix, more damped each time."""
    base = gram.clone()
    base[silent, silent] = 1.0
    mean = base.diagonal().mean()
    for power in range(5):
        damped = base.clone()
        damped.diagonal().add_(damping * 10**power * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed.item():
            yield factor
