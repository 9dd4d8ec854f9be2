"""Step: check."""

from __future__ import annotations

from tui.screens.base import StepScreen


class CheckScreen(StepScreen):
    """The check step."""

    NAME = "check"
