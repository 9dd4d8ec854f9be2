"""The two entries."""

from __future__ import annotations

from core.algorithms import Algorithm
from core.results import Figure
from core.stages import Makes, Stage

STAGE = Stage(
    "shrink",
    "Shrink",
    "Makes the model smaller. It is there for a test.",
    run="tests.added.stage",
    needs="quantize",
    makes=Makes("Shrunk model", lambda lab, adapter: lab.models_dir / "shrunk", "made.txt"),
    form=("chat",),
    figures=(Figure("words", "Words written", main=True),),
)

ALGORITHM = Algorithm("Half - for a test", "It needs nothing.", {"type": "rtn"}, search=2.0)
