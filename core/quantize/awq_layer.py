"""What AWQ measures of a decoder layer, and how a rounded layer is put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from olive.common.quant.nn import QuantLinear
from torch import Tensor, nn

from core.quantize.awq_folds import Fold
from core.quantize.awq_math import Grid, Rounded
from core.quantize.layerwise import Batch, LayerwiseModel
from core.tqdm_progress import current_report


class LayerStats:
    """Gram matrix and mean magnitude of what each matrix of a layer reads; readers of one input share them."""

    def __init__(self, linears: Sequence[nn.Linear], folds: Sequence[Fold]) -> None:
        self._of: dict[nn.Linear, nn.Linear] = {linear: linear for linear in linears}
        for fold in folds:
            for reader in fold.readers:
                self._of[reader] = fold.readers[0]
        self._left = {first: list(self._of.values()).count(first) for first in self._of.values()}
        self._gram: dict[nn.Linear, Tensor] = {}
        self._sum: dict[nn.Linear, Tensor] = {}
        self._count = 0

    def collect(self, model: LayerwiseModel, index: int, work: Sequence[Batch]) -> list[Tensor]:
        """Run a layer on all batches; return its outputs."""
        real = [work[0].real]

        def look(linear: nn.Linear, inputs: tuple[Any, ...]) -> None:
            seen = inputs[0].flatten(0, -2).index_select(0, real[0]).float()
            if linear in self._gram:
                self._gram[linear].addmm_(seen.T, seen)
                self._sum[linear] += seen.abs().sum(0)
            else:
                self._gram[linear] = seen.T @ seen
                self._sum[linear] = seen.abs().sum(0)

        hooks = [first.register_forward_pre_hook(look) for first in self._left]
        outputs = []
        try:
            for batch in work:
                current_report().check_cancelled()
                real[0] = batch.real
                outputs.append(model.run_layer(index, batch))
                self._count += batch.real.numel()
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    def gram(self, linear: nn.Linear) -> Tensor | None:
        """The Gram matrix of the matrix's input; None if nothing was ever put into it."""
        return self._gram.get(self._of[linear])

    def mean(self, linear: nn.Linear) -> Tensor | None:
        """The mean magnitude of each input channel."""
        total = self._sum.get(self._of[linear])
        return None if total is None else total / max(self._count, 1)

    def rescale(self, linear: nn.Linear, scales: Tensor) -> None:
        """The input has been divided by ``scales``."""
        gram = self._gram[self._of[linear]]
        gram.div_(scales).div_(scales.unsqueeze(1))
        self._sum[self._of[linear]] /= scales

    def done(self, linear: nn.Linear) -> None:
        """Free the Gram matrix when its last reader has been rounded."""
        first = self._of[linear]
        self._left[first] -= 1
        if not self._left[first]:
            self._gram.pop(first, None)


def unclipped_rows(linear: nn.Linear, view: Any) -> int:
    """How many of a matrix's first rows make queries and keys: their product is no linear output."""
    inputs = view.get_attention_inputs(return_name=False)
    if not any(linear is each for each in inputs):
        return 0
    if len(inputs) > 1:
        return 0 if linear is inputs[-1] and len(inputs) == 3 else int(linear.out_features)
    out = view.get_attention_outputs(return_name=False)
    width = out[0].in_features if out else 0
    made = (linear.out_features - width) // 2
    return int(linear.out_features) - max(int(made), 0)


def pack(rounded: Rounded, linear: nn.Linear, grid: Grid) -> QuantLinear:
    """A rounded matrix in Olive's packed form, with the bias of the float one."""
    made: QuantLinear = QuantLinear.from_tensors(
        weight=rounded.codes,
        bits=grid.bits,
        symmetric=grid.symmetric,
        group_size=grid.group_size,
        scales=rounded.scale.to(grid.dtype),
        zero_points=rounded.zero.to(torch.int32),
        quantized=True,
        in_features=linear.in_features,
        out_features=linear.out_features,
        bias=linear.bias is not None,
    )
    if linear.bias is not None:
        made.bias = linear.bias.data.to(grid.dtype)
    return made


def store(layer: nn.Module, dtype: torch.dtype, scales: bool = False) -> None:
    """Bring what is left in float in a layer to ``dtype``, and with ``scales`` the packed matrices' too."""
    for module in layer.modules():
        if isinstance(module, QuantLinear):
            if scales:
                module.scales = module.scales.to(dtype)
                if module.bias is not None:
                    module.bias = module.bias.to(dtype)
            continue
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
