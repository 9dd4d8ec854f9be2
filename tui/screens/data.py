"""Step: data."""

from __future__ import annotations

from tui.screens.base import StepScreen


class DataScreen(StepScreen):
    """The data step."""

    NAME = "data"
