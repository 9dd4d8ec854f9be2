"""Gradient checkpointing for some of a model's layers.

Chen et al. 2016, arXiv:1604.06174: keep a layer's input only, and compute the rest again in the
backward pass.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def recompute_layers(model: PreTrainedModel, count: int) -> int:
    """Let the first ``count`` decoder layers recompute their activations; returns how many now do.

    The first ones, since the backward pass meets them last: by then the others' memory is free.
    """
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for index, layer in enumerate(layers):
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = index < count
    return min(count, len(layers))
