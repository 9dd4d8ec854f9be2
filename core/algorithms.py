"""The ways to quantize: the one list that recipe, form, estimates and the quantize stage read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from core.language import N_

CORRECTION = 0.25
"""Share of the earlier layers' errors that GPTQ makes up for. With more, text of another kind suffers (docs/awq.md)."""

LEARN_STEPS = 200
"""Steps in which the rounding of a layer is learnt, as many as AutoRound takes."""


class Algorithm(NamedTuple):
    """A way to quantize.

    Attributes:
        title: its line in the form.
        advice: what it needs and gives, in a sentence or two.
        olive: the Olive pass and the options that are its own; empty where the weights stay as they are.
            Bits, group size and the like are added by the quantize stage.
        calibrated: whether it looks at records.
        seeded: whether the pass takes the recipe's seed.
        search: matrix products over the weights' sizes that it does beside the pass over the records.
        loads_all: whether it loads the whole model at once, and not layer by layer.
    """

    title: str
    advice: str
    olive: Mapping[str, Any] = MappingProxyType({})
    calibrated: bool = False
    seeded: bool = False
    search: float = 0.0
    loads_all: bool = True


ALGORITHMS: dict[str, Algorithm] = {
    "awq+gptq": Algorithm(
        N_("AWQ with GPTQ's rounding - the best start"),
        N_("AWQ and GPTQ read your records. They run on a GPU or, slower, on the CPU."),
        {"type": "OlivePressAwq", "rounding": "gptq", "correction": CORRECTION},
        calibrated=True,
        seeded=True,
        search=30.0,
        loads_all=False,
    ),
    "awq+signround": Algorithm(
        N_("AWQ with learnt rounding - nearer, four times as long"),
        N_(
            "It learns from your records how each layer is best rounded."
            " A real model takes minutes on a GPU, hours on a CPU."
        ),
        {"type": "OlivePressAwq", "rounding": "nearest", "learn": LEARN_STEPS},
        calibrated=True,
        seeded=True,
        search=26.0,
        loads_all=False,
    ),
    "awq": Algorithm(
        N_("AWQ - keeps the weights that matter most; a little faster"),
        N_("AWQ reads your records to see which weights matter. It runs on a GPU or, slower, on the CPU."),
        {"type": "OlivePressAwq", "rounding": "nearest"},
        calibrated=True,
        seeded=True,
        search=26.0,
        loads_all=False,
    ),
    "gptq": Algorithm(
        N_("GPTQ - corrects each rounding with the next"),
        N_("GPTQ reads your records. It runs on a GPU or, slower, on the CPU."),
        {"type": "OlivePressAwq", "rounding": "gptq", "scale": False, "correction": CORRECTION},
        calibrated=True,
        seeded=True,
        search=6.0,
        loads_all=False,
    ),
    "kquant": Algorithm(
        N_("k-quant - better scales without looking at records; fast"),
        N_("It looks at the weights alone: no records, no GPU."),
        {"type": "kquant"},
    ),
    "rtn": Algorithm(
        N_("Rounding - to the nearest value; seconds, a little worse"),
        N_("It looks at the weights alone: no records, no GPU. Good for a first try."),
        {"type": "rtn"},
    ),
    "none": Algorithm(
        N_("None - keep the weights as they are"),
        N_("Nothing gets smaller; later steps work on the full weights and need their memory."),
        loads_all=False,
    ),
}
"""Every algorithm by the name that ``quantize.algorithm`` has for it, in the order of the form."""


def is_calibrated(name: str) -> bool:
    """Whether the algorithm of that name looks at records; false for one that there is not."""
    return name in ALGORITHMS and ALGORITHMS[name].calibrated
