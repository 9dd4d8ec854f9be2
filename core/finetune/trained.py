"""What is trained: an adapter's matrices, their gradients and their moments, each in one tensor.

So a step of the optimizer is one operation whatever the number of matrices, the ranks' gradients are added up by one
all-reduce, and a gradient lies at the same place in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from core.finetune.lora_layer import LoraLinear, Slot
from core.finetune.ranks import Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")

AT_ONCE = 1 << 17
"""Numbers that a CPU turns into another type at once, so that they stay in its cache."""


@dataclass(frozen=True)
class _Flat:
    """The matrices of one device.

    Attributes:
        values: all numbers; the parameter that the optimizer knows.
        gradients: theirs, and behind them what travels with them.
        half, half_gradients: both in the type in which the model computes; the same tensors where that is theirs.
    """

    names: list[str]
    values: torch.nn.Parameter
    gradients: torch.Tensor
    half: torch.Tensor
    half_gradients: torch.Tensor

    @property
    def size(self) -> int:
        return int(self.values.numel())


class Trained:
    """The parameters of a model that are trained.

    Args:
        model: its trained parameters become views of one tensor a device, and until :meth:`release` its LoRA layers
            put their gradients there.
        told: how many numbers travel beside the gradients.
    """

    def __init__(self, model: torch.nn.Module, ranks: Ranks, told: int) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._ranks, self._extra = ranks, told + 1
        self._places: dict[str, tuple[_Flat, slice]] = {}
        first = next(model.parameters())
        by_device: dict[torch.device, list[str]] = {}
        for name, parameter in self.parameters.items():
            by_device.setdefault(parameter.device, []).append(name)
        self._flats = [self._flatten(names, first.dtype) for names in by_device.values()]
        named = {id(p): name for name, p in self.parameters.items()}
        self._layers = [m for m in model.modules() if isinstance(m, LoraLinear)]
        for layer in self._layers:
            layer.places = {
                id(matrix.weight): self._place(named[id(matrix.weight)], matrix.weight.shape)
                for matrices in (layer.lora_A, layer.lora_B)
                for matrix in matrices.values()
                if id(matrix.weight) in named
            }

    def _flatten(self, names: list[str], dtype: torch.dtype) -> _Flat:
        parameters = [self.parameters[name] for name in names]
        values = torch.cat([p.detach().flatten() for p in parameters])
        gradients = values.new_zeros(len(values) + self._extra)
        half = values if dtype == values.dtype else values.to(dtype)
        half_gradients = gradients[: len(values)] if dtype == values.dtype else torch.zeros_like(half)
        flat = _Flat(names, torch.nn.Parameter(values), gradients, half, half_gradients)
        flat.values.grad = gradients[: len(values)]
        at = 0
        for name, each in zip(names, parameters, strict=True):
            part = slice(at, at + each.numel())
            each.data = values[part].view_as(each)
            each.grad = gradients[part].view_as(each)
            self._places[name] = flat, part
            at = part.stop
        return flat

    def _place(self, name: str, shape: torch.Size) -> Slot:
        flat, part = self._places[name]
        return Slot(flat.half[part].view(shape), flat.half_gradients[part].view(shape))

    def release(self) -> None:
        """Leave the layers to themselves: without :meth:`begin` they would compute with old values."""
        for layer in self._layers:
            layer.places = {}

    @property
    def flat(self) -> list[torch.nn.Parameter]:
        """The parameters for the optimizer."""
        return [flat.values for flat in self._flats]

    @property
    def devices(self) -> set[torch.device]:
        """Where they are."""
        return {flat.values.device for flat in self._flats}

    @property
    def gradients(self) -> list[torch.Tensor]:
        """All gradients, a tensor for each device."""
        return [flat.gradients[: flat.size] for flat in self._flats]

    @torch.no_grad()
    def begin(self) -> None:
        """Have the layers compute with the values that the parameters have now."""
        for flat in self._flats:
            if flat.half.dtype != flat.values.dtype:
                flat.half.copy_(flat.values)

    @torch.no_grad()
    def collect(self) -> None:
        """Add what the layers put into their places to the gradients."""
        for flat in self._flats:
            if flat.half_gradients.dtype != flat.gradients.dtype:
                _add(flat.gradients[: flat.size], flat.half_gradients)
                flat.half_gradients.zero_()

    def sum(self, numbers: torch.Tensor, *, stop: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Add up over the ranks; the numbers (the loss, first of all) of all, and how many of them asked to stop."""
        gradients = self._flats[0].gradients
        extra = gradients[-self._extra :]
        extra[:-1] = numbers
        extra[-1] = float(stop)
        self._ranks.sum(gradients)
        summed = extra.clone()
        return summed[:-1], summed[-1]

    @torch.no_grad()
    def clip(self, most: float, device: torch.device) -> torch.Tensor:
        """Shorten the gradient to a norm of at most ``most``; the norm that it had, on a device."""
        norms = [each.norm().to(device) for each in self.gradients]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        share = (most / (norm + 1e-6)).clamp(max=1.0)
        for each in self.gradients:
            each.mul_(share.to(each.device))
        return norm

    def clear(self) -> None:
        """Set all gradients to zero, where they are."""
        for flat in self._flats:
            flat.gradients.zero_()

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What an optimizer of :attr:`flat` has gathered, by the names of the parameters, to be kept."""
        kept: dict[str, Any] = {}
        for name, (flat, part) in self._places.items():
            state = optimizer.state[flat.values]
            kept[name] = [state[kind][part] for kind in MOMENTS]
        return kept

    def put_moments(self, optimizer: torch.optim.Optimizer, kept: dict[str, Any], step: int) -> None:
        """Give an optimizer back what :meth:`moments` gave of it, after so many steps."""
        states = {}
        for number, flat in enumerate(self._flats):
            joined = [
                torch.cat([kept[name][kind].flatten() for name in flat.names]) for kind in range(len(MOMENTS))
            ]
            states[number] = {
                "step": torch.tensor(float(step)),
                **dict(zip(MOMENTS, joined, strict=True)),
            }
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})

    @torch.no_grad()
    def put(self, values: dict[str, torch.Tensor]) -> None:
        """Set the parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


def _add(into: torch.Tensor, more: torch.Tensor) -> None:
    """Add numbers of another type; on a CPU in pieces, since there they are first turned into a tensor of this type."""
    size = AT_ONCE if into.device.type == "cpu" else len(into)
    for part, added in zip(into.split(size), more.split(size), strict=True):
        part += added
