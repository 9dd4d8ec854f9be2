"""The form of compressed-tensors (``pack-quantized``), which transformers and vLLM open when that package is there.

A matrix is ``weight_packed`` (whole numbers side by side in 32-bit words, the first in the lowest bits),
``weight_scale`` and ``weight_zero_point`` by groups of a row, and ``weight_shape``. The lab's own codes go over as they
are.
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
    """The lab's own rounded matrix in this form."""
    rows, columns = packed.codes.shape
    parts = {
        "weight_packed": _words(packed.codes, packed.bits),
        "weight_scale": packed.scales.contiguous(),
        # Zero points lie side by side along the outputs.
        "weight_zero_point": _words(packed.zeros.T.contiguous(), packed.bits).T.contiguous(),
        "weight_shape": torch.tensor([rows, columns]),
    }
    return parts, Scheme(packed.bits, packed.group_size, symmetric=False)


def rounded(weight: torch.Tensor, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Scheme]:
    """A float matrix rounded to 8 bits, group by group of a row around zero."""
    rows, columns = weight.shape
    size = _GROUP if columns % _GROUP == 0 else columns
    grouped = weight.float().view(rows, -1, size)
    scales = (grouped.abs().amax(-1) / 127).clamp_min_(1e-10).to(dtype)
    codes = (grouped / scales.float().unsqueeze(-1)).round_().clamp_(-127, 127).view(rows, columns)
    parts = {
        "weight_packed": _words((codes + 128).to(torch.uint8), 8),
        "weight_scale": scales.contiguous(),
        "weight_shape": torch.tensor([rows, columns]),
    }
    return parts, Scheme(8, size, symmetric=True)


def _words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Numbers of a row side by side in 32-bit words, the last word filled up with zeros."""
    in_a_word = 32 // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % in_a_word)).contiguous()
    if bits == 4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return codes.contiguous().view(torch.int32)


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
