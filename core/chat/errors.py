"""How a chat fails."""

from __future__ import annotations

from core.errors import LabError, MachineError, RequestError, StageError


class ChatError(StageError):
    """The model could not answer: it did not load, it failed, or its process is gone.

    Attributes:
        died: the worker process is gone; the chat can be started again and has lost nothing.
    """

    def __init__(
        self, title: str, detail: str = "", hint: str = "", *, code: str = "", died: bool = False
    ) -> None:
        super().__init__(title, detail, hint, code=code)
        self.died = died


def error_of(kind: str, title: str, detail: str, hint: str, code: str = "") -> LabError:
    """The exception for a worker's error event."""
    if kind == "request":
        return RequestError(title, detail, hint, code=code)
    if kind == "machine":
        return MachineError(title, detail, hint, code=code)
    return ChatError(title, detail, hint, code=code)
