"""The arithmetic of AWQ on Gram matrices: rounding grids, scales and ranges.

Everything here is a function of tensors; nothing knows of models.

The squared error of a linear layer's output over all calibration tokens is
``|| (W - Q) X ||^2 = tr((W - Q) G (W - Q)^T)`` with ``G = X X^T``, so a candidate costs one matrix
product and no forward pass. Source: Lin et al., AWQ, arXiv 2306.00978. Weights are (outputs, inputs) in
float32; a Gram matrix is (inputs, inputs) in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from core.hardware import multiplies_bf16

Check = Callable[[], None]
"""Called between candidates; raises when the user asked to stop."""

CHUNK = 1 << 25
"""Weights that are worked on at once where every candidate needs several copies of them (128 MiB)."""


def never() -> None:
    """Nobody asks to stop."""


def has_kernels(values: Tensor) -> bool:
    """Whether the inner loops can be kernels of ours: on an NVIDIA GPU, where torch has brought Triton."""
    return values.device.type == "cuda" and find_spec("triton") is not None


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def matrix_units() -> AbstractContextManager[None]:
    """Let float32 products use a GPU's TF32 units: what is multiplied came from 16 bits or is only compared."""
    return _tf32(True)


def exact_products() -> AbstractContextManager[None]:
    """Float32 products as they are, within :func:`matrix_units` too: for what is solved for, or a small difference."""
    return _tf32(False)


@dataclass(frozen=True)
class Grid:
    """Which numbers a group of weights can be rounded to.

    Attributes:
        bits: 2, 4 or 8.
        symmetric: the zero point is the middle code; else it is chosen for each group.
        group_size: weights of a row that share a scale; -1 for whole rows.
        dtype: in which the scales are stored; they are rounded to it before anything is measured.
    """

    bits: int = 4
    symmetric: bool = False
    group_size: int = 128
    dtype: torch.dtype = torch.float32

    @property
    def top(self) -> int:
        """The largest code; the smallest is 0."""
        return (1 << self.bits) - 1

    def width(self, inputs: int) -> int:
        """Weights in a group of a row with that many."""
        return inputs if self.group_size <= 0 else self.group_size

    def parameters(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for ranges ``low <= 0 <= high``, as Olive's WeightQuantizer chooses them."""
        if self.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        empty = low == high
        low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
        scale = ((high - low) / self.top).to(self.dtype).float()
        # A scale that is too small for its type would divide by zero.
        scale = scale.clamp_min(torch.finfo(self.dtype).tiny)
        if self.symmetric:
            return scale, torch.full_like(scale, (self.top + 1) // 2)
        return scale, torch.round(-low / scale).clamp(0, self.top)

    def ranges(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest weight over the last axis, with 0 between them."""
        low, high = torch.aminmax(groups, dim=-1)
        return low.clamp_max(0.0), high.clamp_min(0.0)

    def codes(self, groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes, as floats, of weights whose last axis is a group."""
        return torch.round(groups / scale.unsqueeze(-1) + zero.unsqueeze(-1)).clamp_(0, self.top)

    def values(self, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The weights that codes stand for."""
        return (codes - zero.unsqueeze(-1)) * scale.unsqueeze(-1)

    def rounded(self, weight: Tensor) -> Tensor:
        """A matrix as plain rounding leaves it."""
        groups = weight.unflatten(-1, (-1, self.width(weight.shape[-1])))
        scale, zero = self.parameters(*self.ranges(groups))
        return self.values(self.codes(groups, scale, zero), scale, zero).flatten(-2)


@dataclass(frozen=True)
class Rounded:
    """A matrix in codes: ``codes`` (outputs, inputs) as uint8, ``scale`` and ``zero`` (outputs, groups)."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def weight(self, grid: Grid) -> Tensor:
        """The float32 matrix that it stands for."""
        groups = self.codes.float().unflatten(-1, (self.scale.shape[-1], -1))
        return grid.values(groups, self.scale, self.zero).flatten(-2)


_STRIPE = 192
"""Rows of a Gram matrix that a CPU takes at once: those left of its diagonal are the others once more."""


def add_to_gram(gram: Tensor, seen: Tensor) -> None:
    """Add ``X^T X`` for more inputs, (tokens, inputs); :func:`complete_gram` is due when all were added."""
    if gram.device.type != "cpu":
        gram.addmm_(seen.T, seen)
        return
    for first in range(0, gram.shape[0], _STRIPE):
        gram[first : first + _STRIPE, first:].addmm_(seen[:, first : first + _STRIPE].T, seen[:, first:])


def complete_gram(gram: Tensor) -> None:
    """Give a Gram matrix that was added up the half that was left out."""
    if gram.device.type == "cpu":
        gram.triu_().add_(gram.triu(1).T)


def for_products(gram: Tensor) -> Tensor:
    """The Gram matrix as it is multiplied where errors are only compared: in 16 bits where a CPU is quick at those."""
    return gram.bfloat16() if gram.device.type == "cpu" and multiplies_bf16() else gram


def output_error(difference: Tensor, gram: Tensor) -> Tensor:
    """``tr(D G D^T)``: the squared output error that a change ``D`` of the weights makes."""
    return ((difference.to(gram.dtype) @ gram).to(difference.dtype) * difference).sum()


@dataclass(frozen=True)
class ScaleChoice:
    """What the search over the grid found.

    Attributes:
        scales: one for each input, 1 everywhere where scaling did not help.
        ratio: the exponent r that was kept.
        duo: whether the weights' own magnitudes took part.
        error: the output error with these scales.
        plain: the output error without scaling.
    """

    scales: Tensor
    ratio: float
    duo: bool
    error: float
    plain: float


def candidate_scales(x_mean: Tensor, w_mean: Tensor, ratio: float, duo: bool) -> Tensor:
    """``x^r``, or ``x^r / w^(1-r)``, brought to a geometric middle of 1 (AWQ's section 3.2 and code)."""
    scales = x_mean.pow(ratio)
    if duo:
        scales = scales / (w_mean.pow(1 - ratio) + 1e-4)
    scales = scales.clamp_min(1e-4)
    return scales / (scales.max() * scales.min()).sqrt()


def weight_magnitude(weight: Tensor, width: int) -> Tensor:
    """Mean over the rows of each column's size within its group, between 0 and 1."""
    groups = weight.abs().unflatten(-1, (-1, width))
    return (groups / (groups.amax(-1, keepdim=True) + 1e-6)).flatten(-2).mean(0)


def search_scales(
    weight: Tensor,
    gram: Tensor,
    x_mean: Tensor,
    grid: Grid,
    *,
    steps: int = 20,
    duo: bool = True,
    share: Callable[[Tensor], Tensor] | None = None,
    check: Check = never,
) -> ScaleChoice:
    """Find the input scales that leave the smallest output error after rounding.

    Args:
        weight: all matrices that read this input, one below the other.
        gram, x_mean: Gram matrix and mean magnitude of the input.
        steps: the exponents are 0, 1/steps, … 1.
        duo: try ``x^r / w^(1-r)`` as well as ``x^r``.
        share: makes inputs equal that must have one scale (averages over them).
    """
    tie = share or (lambda values: values)
    magnitude = tie(x_mean).clamp_min(1e-8)
    magnitude = magnitude.clamp_min(1e-4 * magnitude.mean())
    own = tie(weight_magnitude(weight, grid.width(weight.shape[1])))
    tried = [
        (step / steps, kind) for kind in ((False, True) if duo else (False,)) for step in range(steps + 1)
    ]
    errors = []
    gram = for_products(gram)
    for ratio, kind in tried:
        check()
        scales = candidate_scales(magnitude, own, ratio, kind)
        difference = grid.rounded(weight * scales).div_(scales).sub_(weight)
        errors.append(output_error(difference, gram))
    measured = torch.nan_to_num(torch.stack(errors).double(), nan=torch.inf).tolist()
    best = min(range(len(tried)), key=measured.__getitem__)
    ratio, kind = tried[best]
    return ScaleChoice(
        candidate_scales(magnitude, own, ratio, kind), ratio, kind, measured[best], measured[0]
    )


def diagonal_blocks(gram: Tensor, width: int) -> Tensor:
    """The Gram matrix's blocks on the diagonal, one for each group: (groups, width, width)."""
    count = gram.shape[0] // width
    return gram.reshape(count, width, count, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def search_ranges(
    groups: Tensor,
    blocks: Tensor,
    grid: Grid,
    *,
    steps: int = 10,
    lowest: float = 0.5,
    sweeps: int = 2,
    check: Check = never,
) -> tuple[Tensor, Tensor]:
    """Find the range of each group that leaves the smallest error of the group's part of the output.

    Clipping a few large weights makes the others' steps finer. Each end of the range shrinks on its
    own, first the upper, then the lower, and again.

    Args:
        groups: weights as (groups of a row, rows, group).
        blocks: :func:`diagonal_blocks` of the input's Gram matrix.
        steps: how many widths between 1 and ``lowest`` are tried for each end.

    Returns:
        Scales and zero points, (groups of a row, rows) each.
    """
    if has_kernels(groups) and groups.shape[-1] in (16, 32, 64, 128):
        from core.quantize import kernels

        check()
        return kernels.search_ranges(
            groups,
            blocks,
            top=grid.top,
            symmetric=grid.symmetric,
            dtype=grid.dtype,
            steps=steps,
            lowest=lowest,
            sweeps=sweeps,
        )
    low, high = grid.ranges(groups)
    scale, zero = grid.parameters(low, high)

    def error(scale: Tensor, zero: Tensor) -> Tensor:
        difference = grid.values(grid.codes(groups, scale, zero), scale, zero).sub_(groups)
        return torch.bmm(difference, blocks).mul_(difference).sum(-1)

    best = error(scale, zero)
    shrink = {"high": torch.ones_like(high), "low": torch.ones_like(low)}
    factors = [1 - (1 - lowest) * step / steps for step in range(1, steps + 1)]
    ends = ("high",) if grid.symmetric else ("high", "low")
    for sweep in range(1 if grid.symmetric else sweeps):
        for end in ends:
            start = dict(shrink)
            # Going on from what the other end has become, 1 must be tried again too.
            for factor in ([1.0] if sweep else []) + factors:
                check()
                now = {**start, end: torch.full_like(high, factor)}
                tried_scale, tried_zero = grid.parameters(
                    low * now["high" if grid.symmetric else "low"], high * now["high"]
                )
                tried = error(tried_scale, tried_zero)
                better = tried < best
                best = torch.where(better, tried, best)
                scale = torch.where(better, tried_scale, scale)
                zero = torch.where(better, tried_zero, zero)
                shrink[end] = torch.where(better, now[end], shrink[end])
    return scale, zero


def round_nearest(
    weight: Tensor, gram: Tensor | None, grid: Grid, *, clip: bool, check: Check = never
) -> Rounded:
    """Round a matrix to the nearest codes, with ranges searched on ``gram`` if ``clip``."""
    width = grid.width(weight.shape[1])
    blocks = diagonal_blocks(gram, width) if clip and gram is not None else None
    rows = max(1, CHUNK // weight.shape[1])
    parts = []
    for start in range(0, weight.shape[0], rows):
        groups = weight[start : start + rows].float().unflatten(-1, (-1, width)).transpose(0, 1)
        if not has_kernels(groups):
            groups = groups.contiguous()
        if blocks is None:
            scale, zero = grid.parameters(*grid.ranges(groups))
        else:
            scale, zero = search_ranges(groups, blocks, grid, check=check)
        codes = grid.codes(groups, scale, zero).to(torch.uint8)
        parts.append((codes.transpose(0, 1).flatten(1), scale.T, zero.T))
    return Rounded(*(torch.cat(each).contiguous() for each in zip(*parts, strict=True)))
