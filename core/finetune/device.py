"""The device to train on: which one, in which float type, how much memory it has, and a model made ready for it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from core.finetune.cpu import Norm, register_attention
from core.hardware import free_ram, give_memory_back, multiplies_bf16
from core.text import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def training_device(rank: int = 0) -> torch.device:
    """The CUDA device of a rank, or the CPU."""
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU or a CPU that multiplies in it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if multiplies_bf16() else torch.float32


def free_bytes(device: torch.device) -> int:
    """Memory that a training may use on the device: free GPU memory, or RAM that is available."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What this process has set aside and does not use is free to it.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return free_ram()


def give_back(device: torch.device) -> None:
    """Return unused memory to the device, so that other programs see it free."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_memory_back()


def out_of_memory_words(error: BaseException) -> str:
    """What torch says of a full device: who holds how much, without its advice on its own settings."""
    return first_line(error).split(" Of the allocated memory")[0].rstrip(".")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch's says that the device is full; its libraries have words of their own."""
    # CUDA's and cuDNN's own failures come as plain RuntimeErrors without a code; these are the names of their statuses.
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("CUDA error: out of memory", "ALLOC_FAILED", "CUDNN_STATUS_ALLOC")
    )


# The model


def fuse_norms(model: PreTrainedModel) -> int:
    """Let the model's norms use PyTorch's own operation; returns how many do.

    Transformers writes root mean square norms (Zhang and Sennrich 2019, arXiv:1910.07467) as six operations in
    float32. PyTorch has one for them, forward and backward, that also keeps only its input.

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
            module.forward = _norm_operation(module)
            fused += 1
    return fused


def _norm_operation(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    weight, eps = module.weight, _eps(module)
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        return lambda x: Norm.apply(x, weight, eps)
    return partial(functional.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)


def _eps(module: nn.Module) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return found if isinstance(found, float) else None


@torch.no_grad()
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


def spread_layers(model: PreTrainedModel, devices: Sequence[torch.device], counts: Sequence[int]) -> None:
    """Put a model's decoder layers on several devices, and all else on the first.

    A layer takes what it is given to its own device, and what stands behind the last one brings it back. One device
    works at a time; a base that is too large for one of them is trained so.

    Args:
        counts: how many layers each device has, in their order.
    """
    layers = decoder_layers(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            _move_own(module, devices[0])
            # What the first device holds is given what comes from the last one.
            module.register_forward_pre_hook(partial(_brought, device=devices[0]), with_kwargs=True)
    places = [device for device, count in zip(devices, counts, strict=True) for _ in range(count)]
    for layer, device in zip(layers, places, strict=True):
        layer.to(device)
        layer.register_forward_pre_hook(partial(_brought, device=device), with_kwargs=True)


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a causal language model, in order."""
    from olive.common.hf.wrapper import ModelWrapper

    return list(ModelWrapper.from_model(model).get_layers(return_name=False))


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Bring a module's own tensors to a device, and not those of the modules in it."""
    for parameter in module._parameters.values():
        if parameter is not None:
            parameter.data = parameter.data.to(device)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = buffer.to(device)


def _brought(
    module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], device: torch.device
) -> tuple[Any, Any]:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # kernels that are not torch's own are started there
    return _on(args, device), _on(options, device)


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(_on(each, device) for each in value)
    if type(value) is dict:
        return {name: _on(each, device) for name, each in value.items()}
    return value


PLAIN_ATTENTION = 256
"""Tokens of a row up to which a CPU computes attention in bfloat16 by plain matrix products."""


def attend_plainly(model: PreTrainedModel, longest: int) -> bool:
    """Let a model on a CPU compute attention by plain matrix products where that is faster; returns whether.

    PyTorch's own operation for it does not use the processor's bfloat16: forward and backward take three to five
    times as long on rows of 60 to 256 tokens. Plain products keep all scores, so they are for short rows.
    """
    plain = model.device.type == "cpu" and model.dtype == torch.bfloat16 and longest <= PLAIN_ATTENTION
    if plain and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(register_attention())
        return True
    return False


def recompute_layers(model: PreTrainedModel, count: int, *, random: bool = True) -> int:
    """Let the first ``count`` decoder layers recompute their activations; returns how many now do.

    Such a layer keeps its input only, and computes the rest again in the backward pass (Chen et al. 2016,
    arXiv:1604.06174). The first ones, since the backward pass meets them last: by then the others' memory is free.

    Args:
        random: whether a layer takes random numbers, which must be the same ones again.
    """
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for index, layer in enumerate(layers):
        layer._gradient_checkpointing_func = partial(
            checkpoint, use_reentrant=False, preserve_rng_state=random
        )
        layer.gradient_checkpointing = index < count
    return min(count, len(layers))
