"""LoRA on Olive's quantized linear layers, for PEFT.

PEFT knows neither Olive's ``QuantLinear`` nor how to multiply by it cheaply. The layer here is
registered with PEFT as a custom module (its documented way for unknown layers), works on packed and
on float weights alike, and saves the same adapter as PEFT's own layer would.

LoRA: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn
from torch.nn import functional

from core.files import write_json
from core.olive.checkpoint import QuantLinear, unpacked_weight

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Slot:
    """Where a trained matrix lies while a training is under way.

    Attributes:
        value: the matrix, in the type in which the model computes.
        gradient: what gathers its gradient.
    """

    value: torch.Tensor
    gradient: torch.Tensor


@dataclass(frozen=True)
class _Fixed:
    """What is not trained of a layer, and where its two matrices lie if a training is under way."""

    bias: torch.Tensor | None
    scaling: float
    weight_of: Callable[[torch.dtype], torch.Tensor]
    places: tuple[Slot, Slot] | None


class _LowRankLinear(torch.autograd.Function):
    """y = x W^T + bias + scaling z A^T B^T, for a frozen W that is fetched when it is needed; z is what is kept of x.

    The low-rank part is added inside the matrix product, and W is fetched again for the backward
    pass, so that neither copies of y nor unpacked weights are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        kept: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        fixed: _Fixed,
    ) -> torch.Tensor:
        if fixed.places is not None:
            a, b = (place.value for place in fixed.places)
        flat = x.reshape(-1, x.shape[-1])
        y = functional.linear(flat, fixed.weight_of(x.dtype), fixed.bias)
        read = flat if kept is None else masked(flat, kept.reshape(flat.shape))
        low = read @ a.t()
        y.addmm_(low, b.t(), alpha=fixed.scaling)
        ctx.save_for_backward(read, a, b, low, kept)
        ctx.fixed, ctx.shape = fixed, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        read, a, b, low, kept = ctx.saved_tensors
        fixed: _Fixed = ctx.fixed
        dy = upstream.reshape(-1, upstream.shape[-1])
        dlow = dy @ b
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ fixed.weight_of(dy.dtype)
            if kept is None:
                dx.addmm_(dlow, a, alpha=fixed.scaling)
            else:
                dx.add_(masked(dlow @ a, kept.reshape(read.shape)), alpha=fixed.scaling)
            dx = dx.view(ctx.shape)
        da = db = None
        if fixed.places is None:
            da, db = (dlow.t() @ read).mul_(fixed.scaling), (dy.t() @ low).mul_(fixed.scaling)
        else:
            for place, left, right in zip(fixed.places, (dlow, dy), (read, low), strict=True):
                place.gradient.addmm_(left.t(), right, alpha=fixed.scaling)
        return dx, None, da, db, None


class RowDropout(nn.Module):
    """Dropout whose choice for a row does not depend on which other rows of its batch are here.

    The choice is made for the whole batch, and of it those rows are taken that are here.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._rows, self._here, self._texts = 0, slice(0, 0), 1

    def here(self, rows: int, here: slice, texts: int = 1) -> None:
        """Of a batch with so many rows these are here. Of rows with two texts all first ones stand in front."""
        self._rows, self._here, self._texts = rows, here, texts

    def kept(self, x: torch.Tensor) -> torch.Tensor:
        """What is kept of ``x``, for :func:`masked`; that is to be scaled up by 1 / (1 - share)."""
        here = len(range(*self._here.indices(self._rows)))
        if x.dim() < 3 or x.shape[0] != self._texts * here:
            # rows that are not apart any more, as before a layer of experts
            return _chosen(x.shape, self.share, x)
        whole = _chosen(torch.Size((self._texts, self._rows, *x.shape[1:])), self.share, x)
        return whole[:, self._here].reshape(x.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zeros where something is dropped, the rest scaled up."""
        if not self.training:
            return x
        return x * masked(torch.ones_like(x), self.kept(x)) / (1 - self.share)


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def masked(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """``x`` where all bits of ``kept`` are set, 0 where none is: on a CPU in a tenth of the time of a product."""
    return (x.contiguous().view(kept.dtype) & kept).view(x.dtype)


def _chosen(shape: torch.Size, share: float, like: torch.Tensor) -> torch.Tensor:
    """Integers as wide as the numbers of ``like``: all bits set, or, at so large a share of the places, none."""
    bits = _BITS[like.element_size()]
    if like.device.type != "cpu":
        return torch.empty(shape, dtype=bits, device=like.device).bernoulli_(1 - share).neg_()
    count, lowest = shape.numel(), torch.iinfo(bits).min
    raw = torch.empty(-(-count * like.element_size() // 8), dtype=torch.int64).random_(
        torch.iinfo(torch.int64).min, None
    )
    drawn = raw.view(bits)[:count].view(shape)
    return drawn.lt_(lowest + round(share * 2 ** torch.iinfo(bits).bits)).sub_(1)


def share_dropout(dropouts: Iterable[RowDropout], rows: int, places: Sequence[int], texts: int = 1) -> None:
    """Tell an adapter's dropout which rows of a batch of so many are here: places at even distances."""
    stride = places[1] - places[0] if len(places) > 1 else 1
    for module in dropouts:
        module.here(rows, slice(places[0], places[-1] + 1, stride), texts)


class LoraLinear(PeftLinear):
    """PEFT's LoRA layer for float weights and for Olive's quantized ones.

    The adapter's matrices are kept in float32 and multiplied in the dtype of the input.

    Attributes:
        places: while a training is under way, where a matrix lies in that dtype, by its parameter's ``id``.
    """

    places: Mapping[int, Slot] = MappingProxyType({})

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        if isinstance(module, QuantLinear):
            return module.cols, module.rows
        features: tuple[int, int] = super()._get_in_out_features(module)
        return features

    def base_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The frozen weight [outputs, inputs] in a float dtype, unpacked if need be."""
        base = self.get_base_layer()
        if isinstance(base, QuantLinear):
            return unpacked_weight(base, dtype)
        weight: torch.Tensor = base.weight
        return weight.to(dtype)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        active = [name for name in self.active_adapters if name in self.lora_A]
        plain = len(active) == 1 and not (args or kwargs or self.merged or self.lora_variant)
        if plain and self.training:  # an adapter that add_lora did not put here may have another dropout
            plain = isinstance(self.lora_dropout[active[0]], RowDropout | nn.Identity)
        if self.disable_adapters or not plain:
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        name = active[0]
        first, second = self.lora_A[name].weight, self.lora_B[name].weight
        base, scaling, dropout = self.get_base_layer(), self.scaling[name], self.lora_dropout[name]
        kept, places = None, None
        if self.training and isinstance(dropout, RowDropout):
            kept, scaling = dropout.kept(x), scaling / (1 - dropout.share)
        if self.training and torch.is_grad_enabled() and id(first) in self.places:
            places = self.places[id(first)], self.places[id(second)]
            if places[0].value.dtype != x.dtype:
                places = None
        a, b = (first, second) if places is not None else (first.to(x.dtype), second.to(x.dtype))
        bias = None if base.bias is None else base.bias.to(x.dtype)
        summed: torch.Tensor = _LowRankLinear.apply(
            x, kept, a, b, _Fixed(bias, scaling, self.base_weight, places)
        )
        return summed

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        if isinstance(self.get_base_layer(), QuantLinear):
            raise NotImplementedError(
                "an adapter cannot be merged into packed weights: unpack them first (unpack_linears)"
            )
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)


def register_layers(config: LoraConfig) -> LoraConfig:
    """Tell a PEFT configuration to use :class:`LoraLinear`; returns the same configuration."""
    config._register_custom_module({QuantLinear: LoraLinear, nn.Linear: LoraLinear})
    return config


def linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of all linear layers but the output layer, such as ``qkv_proj``."""
    output = model.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, QuantLinear | nn.Linear) and module is not output
        }
    )


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: list[str] | None = None,
    base_name: str | None = None,
    **more: Any,
) -> PeftModel:
    """Put a fresh LoRA adapter on a frozen model; A is random by torch's seed, B is zero.

    Args:
        targets: names of linear layers; all but the output layer if None.
        base_name: what the saved adapter calls its base model.
        more: further fields of PEFT's ``LoraConfig``.
    """
    from peft import get_peft_model

    config = register_layers(
        LoraConfig(
            r=rank,
            lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
            lora_dropout=dropout,
            target_modules=targets or linear_names(model),
            bias="none",
            **{"task_type": "CAUSAL_LM", **more},
        )
    )
    model.requires_grad_(False)
    with _quiet():
        peft_model: PeftModel = get_peft_model(model, config)
    if base_name is not None:
        config.base_model_name_or_path = base_name
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in list(peft_model.modules()):
        if isinstance(module, LoraLinear):
            for name, dropped in module.lora_dropout.items():
                if isinstance(dropped, nn.Dropout):
                    module.lora_dropout[name] = RowDropout(dropped.p)
    return peft_model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning of transformers to PEFT (0.21), which asks it by a name before the last."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def save_adapter(peft_model: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, equal bytes for equal adapters."""
    peft_model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's form for a model card, not filled in
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps them as a set
    write_json(path, config)
    (folder / "adapter_model.safetensors").chmod(path.stat().st_mode & 0o777)


def load_lora(model: PreTrainedModel, folder: str) -> PeftModel:
    """Put a saved adapter on a model, quantized by Olive or float, ready to answer."""
    from peft import PeftModel

    config = register_layers(LoraConfig.from_pretrained(folder))
    with _quiet():
        loaded: PeftModel = PeftModel.from_pretrained(model, folder, config=config)
    return loaded.eval()
