"""Step: chat."""

from __future__ import annotations

from tui.screens.base import StepScreen


class ChatScreen(StepScreen):
    """The chat step."""

    NAME = "chat"
