"""Step: upload."""

from __future__ import annotations

from tui.screens.base import StepScreen


class UploadScreen(StepScreen):
    """The upload step."""

    NAME = "upload"
