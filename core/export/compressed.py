"""The form of compressed-tensors (``pack-quantized``), which transformers and vLLM open when that package is there.

A matrix is ``weight_packed`` (8-bit numbers around 128, side by side in 32-bit words, the first in the lowest bits),
``weight_scale`` by groups of a row, and ``weight_shape``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from core.olive.checkpoint import Packed

_GROUP = 32


@dataclass(frozen=True)
class Scheme:
    """How a matrix is rounded."""

    bits: int
    group_size: int
    symmetric: bool


def as_packed(packed: Packed) -> tuple[dict[str, torch.Tensor], Scheme]:
    """The lab's own 4-bit matrix: its codes less their zero points, which 8 bits hold without another rounding.

    With 4 bits and zero points beside them it would be half as large, but compressed-tensors 0.20 tells transformers
    another shape of zero points than it packs them in, and no such file is opened.
    """
    rows, columns = packed.codes.shape
    groups = packed.codes.view(rows, packed.scales.shape[1], -1).to(torch.int16)
    numbers = (groups - packed.zeros.to(torch.int16).unsqueeze(-1)).view(rows, columns)
    return _parts(numbers, packed.scales), Scheme(8, packed.group_size, symmetric=True)


def rounded(weight: torch.Tensor, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Scheme]:
    """A float matrix rounded to 8 bits, group by group of a row around zero."""
    rows, columns = weight.shape
    size = _GROUP if columns % _GROUP == 0 else columns
    grouped = weight.float().view(rows, -1, size)
    scales = (grouped.abs().amax(-1) / 127).clamp_min_(1e-10).to(dtype)
    codes = (grouped / scales.float().unsqueeze(-1)).round_().clamp_(-127, 127).view(rows, columns)
    return _parts(codes, scales), Scheme(8, size, symmetric=True)


def _parts(numbers: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "weight_packed": _words((numbers + 128).to(torch.uint8)),
        "weight_scale": scales.contiguous(),
        "weight_shape": torch.tensor(numbers.shape),
    }


def _words(numbers: torch.Tensor) -> torch.Tensor:
    """Bytes of a row side by side in 32-bit words, the last word filled up with zeros."""
    padded = torch.nn.functional.pad(numbers, (0, -numbers.shape[1] % 4))
    return padded.contiguous().view(torch.int32)


def quantization_config(schemes: Mapping[str, Scheme], floats: list[str]) -> dict[str, Any]:
    """The entry of ``config.json``.

    Args:
        schemes: by the names of the rounded matrices' modules.
        floats: the modules of the linear layers that stay float.
    """
    groups = {}
    for number, scheme in enumerate(dict.fromkeys(schemes.values())):
        weights = {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": "group",
            "group_size": scheme.group_size,
            "dynamic": False,
        }
        groups[f"group_{number}"] = {
            "targets": _targets(schemes, scheme),
            "weights": weights,
            "format": "pack-quantized",
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "dequantize": True,  # when it is loaded, and not in the first forward: PEFT needs layers with weights
        "config_groups": groups,
        "ignore": floats,
    }


def _targets(schemes: Mapping[str, Scheme], scheme: Scheme) -> list[str]:
    """The matrices of a scheme: by their last name where all of that name have it, else each by itself."""
    found: dict[str, None] = {}
    for module, own in schemes.items():
        if own != scheme:
            continue
        last = module.rpartition(".")[2]
        alike = all(other == scheme for name, other in schemes.items() if name.rpartition(".")[2] == last)
        found[f"re:.*\\b{last}$" if alike else module] = None
    return list(found)
