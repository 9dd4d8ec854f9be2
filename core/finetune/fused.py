"""Norms in one kernel instead of six, for GPUs.

Transformers writes root mean square norms (Zhang and Sennrich 2019, arXiv:1910.07467) as separate
operations in float32. PyTorch has one for them, forward and backward, that also keeps only its input.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fuse_norms(model: PreTrainedModel) -> int:
    """Let the model's norms use PyTorch's own operation; returns how many do.

    Each class of norm is tried first and left alone where the result differs by more than rounding:
    Gemma's multiply by 1 + weight.
    """
    same: dict[type[nn.Module], bool] = {}
    fused = 0
    for module in model.modules():
        kind = type(module)
        if not kind.__name__.endswith("RMSNorm"):
            continue
        if kind not in same:
            same[kind] = _is_plain(module)
        if same[kind]:
            weight = module.weight
            operation = partial(
                functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=_eps(module)
            )
            module.forward = operation
            fused += 1
    return fused


def _eps(module: nn.Module) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return found if isinstance(found, float) else None


@torch.no_grad()  # type: ignore[untyped-decorator]
def _is_plain(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or _eps(module) is None:
        return False
    # No random numbers are taken: the training's own must not depend on this.
    x = torch.linspace(-2, 3, 4 * len(weight), device=weight.device).view(4, -1).to(weight.dtype)
    wanted = module(x)
    found = functional.rms_norm(x, weight.shape, weight, _eps(module))
    near = 2e-2 if weight.dtype == torch.bfloat16 else 1e-4
    return bool(found.dtype == wanted.dtype and torch.allclose(found, wanted, rtol=near, atol=near))
