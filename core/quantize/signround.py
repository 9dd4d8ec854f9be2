"""Learn how a layer's matrices are rounded, by the signs of gradients.

What GPTQ does matrix by matrix, this does for all of a layer together, through its attention and gates: each weight
may move by half a step before it is rounded, each group's scale by half of itself, and both go against the sign of
the gradient of how far the rounded layer's output is from the float one's. Source: Cheng et al., Optimize Weight
Rounding via Signed Gradient Descent (SignRound, AutoRound), arXiv 2309.05516.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.quantize.awq_math import Check, Grid, Rounded, never
from core.quantize.layerwise import CalibrationBatch, LayerwiseModel

_HALF = 0.49
"""How far from its code a weight may begin: at half a step it would be between two."""


class _Moving:
    """A matrix whose rounding and scales are being learnt."""

    def __init__(self, weight: Tensor, start: Rounded, grid: Grid) -> None:
        self._grid, self._start = grid, start
        self._groups = weight.unflatten(-1, (start.scale.shape[-1], -1))
        plain = self._groups / start.scale.unsqueeze(-1) + start.zero.unsqueeze(-1)
        codes = start.codes.float().unflatten(-1, (start.scale.shape[-1], -1))
        self.push = (plain.clamp(codes - _HALF, codes + _HALF) - plain).requires_grad_(True)
        self.stretch = torch.ones_like(start.scale).requires_grad_(True)

    def scale(self) -> Tensor:
        """The scales as they will be stored; to gradients they were not rounded."""
        scale = self._start.scale * self.stretch
        return scale + (scale.to(self._grid.dtype).float() - scale).detach()

    def codes(self, scale: Tensor) -> Tensor:
        """Codes as floats, (outputs, groups, group); to gradients they were not rounded."""
        wanted = self._groups / scale.unsqueeze(-1) + self._start.zero.unsqueeze(-1) + self.push
        return (wanted + (wanted.round() - wanted).detach()).clamp(0, self._grid.top)

    def weight(self) -> Tensor:
        """The matrix that the codes stand for, (outputs, inputs), float32."""
        scale = self.scale()
        return self._grid.values(self.codes(scale), scale, self._start.zero).flatten(-2)

    def rounded(self) -> Rounded:
        """What has been learnt."""
        scale = self.scale()
        return Rounded(self.codes(scale).to(torch.uint8).flatten(-2), scale, self._start.zero)


@dataclass(frozen=True)
class Learnt:
    """A layer's matrices, and what learning was worth.

    Attributes:
        rounded: the matrices; as they came where learning did not help.
        before, after: mean squared distance of the layer's output from the wanted one, over all tokens.
    """

    rounded: dict[nn.Linear, Rounded]
    before: float
    after: float


def learn_rounding(
    model: LayerwiseModel,
    index: int,
    work: Sequence[CalibrationBatch],
    targets: Sequence[Tensor],
    weights: Mapping[nn.Linear, Tensor],
    start: Mapping[nn.Linear, Rounded],
    grids: Mapping[nn.Linear, Grid],
    *,
    steps: int,
    seed: int = 0,
    check: Check = never,
) -> Learnt:
    """Learn the rounding and the scales of a layer, from a rounding that is good already.

    Args:
        model: the layer ``index`` of it is loaded.
        work: what the layer reads, with ``real`` as the flat places of the tokens that count.
        targets: for each batch the output to come near to, (rows, tokens, width).
        weights: the layer's float32 matrices.
        start: how they are rounded before the first step.
        steps: each reads one batch, drawn by its tokens, and moves by ``(1 - step / steps) / steps``.
        check: is called before each step; what it raises ends the work.
    """
    layer = model.layers[index]
    names = {module: name for name, module in layer.named_modules() if module in start}
    moving = {linear: _Moving(weights[linear], one, grids[linear]) for linear, one in start.items()}

    tokens = [batch.real.numel() for batch in work]

    def difference(number: int) -> Tensor:
        batch = work[number]
        args, options = batch.calls[index]
        made = {f"{names[linear]}.weight": one.weight().to(model.compute) for linear, one in moving.items()}
        out = torch.func.functional_call(layer, made, (batch.hidden, *args), options)
        out = out[0] if isinstance(out, tuple) else out
        return (out.float() - targets[number].float()).flatten(0, -2).index_select(0, batch.real)

    def whole() -> float:
        squares = [float(difference(number).square().sum()) for number in range(len(work))]
        return float(sum(squares) / (sum(tokens) * targets[0].shape[-1]))

    with torch.no_grad():
        before = whole()
    picker = random.Random(seed * 1_000_003 + index)
    values = [value for one in moving.values() for value in (one.push, one.stretch)]
    for step in range(steps):
        check()
        (number,) = picker.choices(range(len(work)), tokens)
        with torch.enable_grad():
            # The length and not its square: signs are the same, and a gradient of 16 bits is not too small for them.
            far = torch.linalg.vector_norm(difference(number))
            gradients = torch.autograd.grad(far, values, materialize_grads=True)
        rate = (1 - step / steps) / steps
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value.sub_(gradient.sign(), alpha=rate)
    with torch.no_grad():
        after = whole()
        if not after < before:
            return Learnt(dict(start), before, before)
        return Learnt({linear: one.rounded() for linear, one in moving.items()}, before, after)
