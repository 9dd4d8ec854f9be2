"""Where quantizing costs: the divergence from the float model when one layer alone is the quantized one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import StageError
from core.events import Reporter
from core.language import told

if TYPE_CHECKING:
    from torch import nn

PHASE = "Changing one layer at a time"


def kl_by_layer(
    source: Path, quantized: Path, rows: Sequence[Sequence[int]], report: Reporter, *, trust: bool
) -> list[float]:
    """The mean KL divergence in nats for each decoder layer, the first layer's first. Both models are loaded whole.

    Raises:
        StageError: the two have not the same layers.
        LabError: a model cannot be loaded.
    """
    from core.olive.checkpoint import load_model, multiply_quickly
    from core.quantize.quality import compare, of_model, reference
    from core.quantize.verify import measuring_dtype, running_device

    device = running_device()
    dtype = measuring_dtype(device)
    model, other = (
        load_model(folder, device=device, dtype=dtype, trust_remote_code=trust)
        for folder in (source, quantized)
    )
    multiply_quickly(other)
    own, others = _layers(model), _layers(other)
    if own is None or others is None or len(own) != len(others):
        raise StageError(
            told("The quantized model has other layers than the float one."),
            str(quantized),
            code="quantize.verify",
        )
    quiet = Reporter()
    expected = reference(of_model(model), rows, quiet)
    found = []
    for place in range(len(own)):
        report.check_cancelled()
        report.progress(PHASE, place, len(own))
        kept, own[place] = own[place], others[place]
        found.append(compare(expected, of_model(model), rows, quiet).kl)
        own[place] = kept
    report.progress(PHASE, len(own), len(own))
    return found


def _layers(model: nn.Module) -> nn.ModuleList | None:
    """The list of decoder layers: the longest there is."""
    from torch import nn

    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    return max(lists, key=len, default=None)
