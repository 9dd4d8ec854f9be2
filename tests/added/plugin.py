"""Puts the entries into the lists, in the processes of a lab; named by ``OLIVEPRESS_PLUGIN``."""

from __future__ import annotations

from core.algorithms import ALGORITHMS
from core.stages import STAGES
from tests.added.entries import ALGORITHM, STAGE

STAGES["shrink"] = STAGE
ALGORITHMS["half"] = ALGORITHM
