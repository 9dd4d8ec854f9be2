"""What feeds what in a decoder layer, and moving a scale from one to the other.

A fold multiplies the columns of the matrices that read an input by ``s`` and divides what makes that
input by ``s``: a norm's weight, or the rows of the matrix before. The float layer must then give the
same output; :func:`apply` is undone with :func:`undo` where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from olive.common.hf.wrapper import LayerWrapper
from torch import Tensor, nn

Master = dict[nn.Linear, Tensor]
"""The float32 weights of a layer's matrices while they are being scaled."""


@dataclass
class Fold:
    """One place where a scale can be moved.

    Attributes:
        name: for people: ``attention input``, ``value to output``, ``mlp input``, ``up to down``.
        readers: the matrices that read the input; they get the scale on their columns.
        norm: what makes the input, if it is a norm.
        maker: what makes it, if it is a matrix; ``rows`` are those of its outputs that do.
        repeat: how many readers' channels one made channel serves (grouped-query attention), each
            time for ``head`` channels in a row.
    """

    name: str
    readers: list[nn.Linear]
    norm: nn.Module | None = None
    maker: nn.Linear | None = None
    rows: slice = field(default_factory=lambda: slice(0, None))
    repeat: int = 1
    head: int = 1

    def share(self, values: Tensor) -> Tensor:
        """Make channels equal that one made channel serves: their mean, given to each."""
        if self.repeat == 1:
            return values
        heads = values.reshape(-1, self.repeat, self.head).mean(1, keepdim=True)
        return heads.expand(-1, self.repeat, -1).reshape(-1)

    def made(self, scales: Tensor) -> Tensor:
        """The scale of each made channel, one for each of the maker's rows."""
        return scales if self.repeat == 1 else scales.reshape(-1, self.repeat, self.head)[:, 0].reshape(-1)


def find_folds(view: LayerWrapper, head_dim: int) -> tuple[list[Fold], list[str]]:
    """The folds that a layer has room for, and in words what it has not."""
    folds: list[Fold] = []
    left: list[str] = []
    attention = _linears(view.get_attention_inputs)
    out = _linears(view.get_attention_outputs)
    ups = _linears(view.get_mlp_inputs)
    down = _linears(view.get_mlp_outputs)
    for name, readers, getter in (
        ("attention input", attention, view.get_first_layer_norm),
        ("mlp input", ups, lambda **_: _mlp_norm(view)),
    ):
        norm = _module(getter)
        if readers and norm is not None and getattr(norm, "weight", None) is not None:
            folds.append(Fold(name, readers, norm=norm))
        else:
            left.append(f"{name}: no norm with weights stands right before it")
    value = _value_to_output(attention, out, getattr(view.attn, "head_dim", None) or head_dim)
    folds += [value] if isinstance(value, Fold) else []
    left += [value] if isinstance(value, str) else []
    up = _up_to_down(ups, down)
    folds += [up] if isinstance(up, Fold) else []
    left += [up] if isinstance(up, str) else []
    order = ["attention input", "value to output", "mlp input", "up to down"]
    return sorted(folds, key=lambda fold: order.index(fold.name)), left


def _module(getter: Callable[..., Any]) -> nn.Module | None:
    try:
        found = getter(return_name=False)
    except AttributeError:
        return None
    return found if isinstance(found, nn.Module) else None


def _mlp_norm(view: LayerWrapper) -> nn.Module | None:
    # Gemma 2 and 3 have a norm after attention and another before the MLP; Olive knows that of Gemma 2 only.
    own = getattr(view.layer, "pre_feedforward_layernorm", None)
    return own if own is not None else view.get_second_layer_norm(return_name=False)


def _linears(getter: Callable[..., Any]) -> list[nn.Linear]:
    try:
        found = getter(return_name=False)
    except (AttributeError, TypeError):
        return []
    return list(found) if all(isinstance(each, nn.Linear) for each in found) else []


def _value_to_output(attention: list[nn.Linear], out: list[nn.Linear], head: int) -> Fold | str:
    if not attention or len(out) != 1:
        return "value to output: the attention has not the usual projections"
    inputs = out[0].in_features
    if len(attention) == 3:
        maker, made = attention[2], attention[2].out_features
        rows = slice(0, made)
    elif len(attention) == 1:
        maker = attention[0]
        made = (maker.out_features - inputs) // 2
        if made <= 0 or inputs + 2 * made != maker.out_features:
            return "value to output: the sizes of the packed projection do not fit"
        rows = slice(inputs + made, None)
    else:
        return "value to output: the attention has not the usual projections"
    if inputs % made or made % head:
        return f"value to output: {made} values do not serve {inputs} channels evenly"
    return Fold("value to output", out, maker=maker, rows=rows, repeat=inputs // made, head=head)


def _up_to_down(ups: list[nn.Linear], down: list[nn.Linear]) -> Fold | str:
    if len(down) != 1 or not ups:
        return "up to down: the MLP has not the usual projections"
    inputs = down[0].in_features
    if len(ups) == 2 and ups[1].out_features == inputs:
        return Fold("up to down", down, maker=ups[1], rows=slice(0, inputs))
    if len(ups) == 1 and ups[0].out_features == 2 * inputs:
        return Fold("up to down", down, maker=ups[0], rows=slice(inputs, None))
    return "up to down: an activation stands between them"


@dataclass
class Undo:
    """What a fold changed, as it was before."""

    masters: list[tuple[nn.Linear, Tensor]]
    parameters: list[tuple[nn.Parameter, Tensor]]


def apply(fold: Fold, scales: Tensor, master: Master, stored: torch.dtype) -> tuple[Tensor, Undo]:
    """Move ``scales`` from a fold's readers to what makes their input.

    A norm's weight has to be stored in the checkpoint's ``stored`` type, where ``w / s`` is not exact;
    the readers get ``w / stored(w / s)``, so that the product is.

    Args:
        master: updated in place, as are the modules' own parameters.

    Returns:
        The scales that the readers have got, and what :func:`undo` needs.
    """
    touched = [*fold.readers, *([fold.maker] if fold.maker is not None else [])]
    before = Undo([(each, master[each]) for each in touched], [])

    def change(parameter: nn.Parameter, value: Tensor) -> None:
        before.parameters.append((parameter, parameter.data))
        parameter.data = value.to(parameter.dtype)

    if fold.norm is not None:
        weight: Any = fold.norm.weight
        offset = norm_offset(fold.norm)
        whole = weight.data.float() + offset
        kept = (whole / scales - offset).to(stored).float() + offset
        # A weight of 0 makes the channel silent, whatever the scale.
        scales = torch.where((kept == 0) | (whole == 0), scales, whole / torch.where(kept == 0, 1.0, kept))
        change(weight, kept - offset)
        bias: Any = getattr(fold.norm, "bias", None)
        if bias is not None:
            change(bias, bias.data.float() / scales)
    elif fold.maker is not None:
        made = fold.made(scales)
        weight = master[fold.maker].clone()
        weight[fold.rows] /= made.unsqueeze(1)
        master[fold.maker] = weight
        change(fold.maker.weight, weight)
        if fold.maker.bias is not None:
            shifted = fold.maker.bias.data.float().clone()
            shifted[fold.rows] /= made
            change(fold.maker.bias, shifted)
    for reader in fold.readers:
        master[reader] = master[reader] * scales
        change(reader.weight, master[reader])
    return scales, before


def undo(before: Undo, master: Master) -> None:
    """Bring back what :func:`apply` changed."""
    for linear, weight in before.masters:
        master[linear] = weight
    for parameter, value in reversed(before.parameters):
        parameter.data = value


def norm_offset(norm: nn.Module) -> float:
    """1 where the norm multiplies by ``1 + weight`` (Gemma), 0 where by ``weight``; found by trying."""
    weight: Any = norm.weight
    before = weight.data
    probe = torch.linspace(-1, 1, before.numel(), device=before.device, dtype=before.dtype).unsqueeze(0)
    bias: Any = getattr(norm, "bias", None)
    try:
        with torch.no_grad():
            weight.data = torch.zeros_like(before)
            out = norm(probe)
            out = out - bias if bias is not None else out
            return 0.0 if bool((out == 0).all()) else 1.0
    finally:
        weight.data = before


def moved(before: Iterable[Tensor], after: Iterable[Tensor], base: Iterable[Tensor]) -> float:
    """How far a layer's output moved, as a share of what the layer adds to its input; inf if not finite."""
    change = total = 0.0
    for old, new, given in zip(before, after, base, strict=True):
        change += (new.float() - old.float()).square().sum().item()
        total += (old.float() - given.float()).square().sum().item()
    share = (change / max(total, 1e-30)) ** 0.5
    return share if share == share else float("inf")
