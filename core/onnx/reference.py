"""The PyTorch model that ONNX answers are compared with, made quick enough for a check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unpack_quickly(model: PreTrainedModel) -> None:
    """Let a model's packed layers multiply by weights that are unpacked in few passes over memory.

    Olive's own forward gives the same numbers and takes about three times as long.
    """
    from olive.common.quant.nn import QuantLinear
    from torch.nn import functional

    from core.passes.lora_layer import unpacked_weight

    def forward_of(layer: Any) -> Any:
        def forward(x: Any) -> Any:
            bias = None if layer.bias is None else layer.bias.to(x.dtype)
            return functional.linear(x, unpacked_weight(layer, x.dtype), bias)

        return forward

    for module in model.modules():
        if isinstance(module, QuantLinear):
            module.forward = forward_of(module)
