"""An adapter folded into the float weights, before they are rounded.

It was trained beside the quantized model, whose algorithm may have moved scales from one layer's weights into
another's (AWQ): a weight ``W`` became, but for rounding, ``W'`` with ``W'_ij = r_i W_ij c_j``. What the adapter adds to
``W'`` is brought back to ``W`` by the same factors, which are read off the two weights by least squares, whatever
moved them. Loads torch and olive: only for a job's process.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.errors import StageError, Use
from core.events import Reporter
from core.files import explained
from core.language import told
from core.model.weights import weight_files
from core.olive.checkpoint import QuantLinear, load_model, load_reference, unpacked_weight
from core.optimize.adapters import Lora, Pair
from core.quantize.quality import Quality, compare, of_model, reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROUNDS = 8
"""Of least squares, columns and rows by turns; each takes the error to about a fifth."""


def fold_in(
    source: Path,
    quantized: Path,
    lora: Lora,
    target: Path,
    *,
    report: Reporter,
    trust_remote_code: bool = False,
) -> Path:
    """Write the float checkpoint ``source`` with an adapter in its weights; returns ``target``.

    Args:
        quantized: the checkpoint that the adapter was trained beside, made from ``source``, or itself.

    Raises:
        StageError: the adapter has a layer that the float model lacks, or of another shape.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    model = load_model(quantized, trust_remote_code=trust_remote_code)
    left = dict(lora.pairs)
    files = weight_files(source)
    with explained(target):
        target.mkdir(parents=True)
        for path in source.iterdir():
            if path.is_file() and path not in files and path.suffix != ".safetensors":
                shutil.copyfile(path, target / path.name)
        for number, file in enumerate(files):
            report.progress(told("Folding the adapter in"), number, len(files))
            tensors = {}
            with safe_open(str(file), "pt") as stream:
                for name in stream.keys():  # noqa: SIM118 - not a dictionary
                    report.check_cancelled()
                    tensor = stream.get_tensor(name)
                    module = name.removesuffix(".weight")
                    if (pair := left.pop(module, None)) is not None:
                        tensor = _folded(name, tensor, pair, _weight(model, module))
                    tensors[name] = tensor
            save_file(tensors, str(target / file.name), {"format": "pt"})
    if left:
        raise StageError(
            told("The adapter has layers that the float model lacks."),
            told("{source} has no {next}.weight.", source=source, next=next(iter(left))),
            told("Set {adapters}.", adapters=Use("optimize.adapters", "switched")),
            code="adapter.shape",
        )
    return target


def _weight(model: PreTrainedModel, module: str) -> torch.Tensor:
    """A linear layer's weight, float32, unpacked if need be."""
    layer: nn.Module = model.get_submodule(module)
    weight = (
        unpacked_weight(layer, torch.float32)
        if isinstance(layer, QuantLinear)
        else layer.get_parameter("weight").detach()
    )
    return weight.float()


@torch.no_grad()
def _folded(name: str, weight: torch.Tensor, pair: Pair, beside: torch.Tensor) -> torch.Tensor:
    if weight.shape != (pair.b.shape[0], pair.a.shape[1]) or weight.shape != beside.shape:
        raise StageError(
            told("The adapter is for a model of another size."),
            told(
                "{name} has the shape {shape}, the adapter {wanted}.",
                name=name,
                shape=list(weight.shape),
                wanted=[pair.b.shape[0], pair.a.shape[1]],
            ),
            code="adapter.shape",
        )
    rows, columns = scales_between(weight.float(), beside)
    added = pair.scale * (pair.b @ pair.a) / rows[:, None] / columns
    return (weight.float() + added).to(weight.dtype)


def scales_between(weight: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``r`` and ``c`` with which ``other`` is nearest to ``r_i weight_ij c_j``; 1 where a row or column is empty."""
    rows, columns = torch.ones(weight.shape[0]), torch.ones(weight.shape[1])
    both, square = weight * other, weight.square()
    for turn in range(_ROUNDS):
        if turn % 2 == 0:
            columns = _ratio(rows @ both, rows.square() @ square)
        else:
            rows = _ratio(both @ columns, square @ columns.square())
    return rows, columns


def _ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    found = above / below
    return torch.where(torch.isfinite(found) & (found > 0), found, 1.0)


def distance_to_unmerged(
    quantized: Path,
    finetuned: Path,
    merged: Path,
    rows: Sequence[Sequence[int]],
    report: Reporter,
    trust_remote_code: bool = False,
) -> Quality:
    """How far the merged and rounded model is from the quantized one with its adapter, in PyTorch."""
    from core.finetune.lora_layer import load_lora

    tuned = load_lora(load_reference(quantized, report, trust_remote_code), str(finetuned))
    expected = reference(of_model(tuned), rows, report)
    del tuned
    return compare(expected, of_model(load_reference(merged, report, trust_remote_code)), rows, report)
