"""The PyTorch model that ONNX answers are compared with, made quick enough for a check."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unpack_quickly(model: PreTrainedModel) -> None:
    """Let all of a model's packed layers multiply by weights that are unpacked in few passes over memory."""
    from olive.common.quant.nn import QuantLinear

    from core.finetune.lora_layer import multiply_quickly

    for module in model.modules():
        if isinstance(module, QuantLinear):
            multiply_quickly(module)
