"""The life of a chat's model: loaded, there, gone, started again, closed."""

from __future__ import annotations

from typing import Self

from core.chat.connection import Connection
from core.chat.protocol import Ready


class ModelLife:
    """What a chat can tell of its model's process, and do with it.

    A class that inherits from it sets ``_model``, ``_adapter`` (its name, "" for the base) and ``_closed``.
    """

    _model: Connection
    _adapter: str
    _closed: bool

    def wait_ready(self, timeout: float | None = None) -> Ready:
        """Wait until the model is loaded.

        Raises:
            ChatError, MachineError, RequestError: it could not be loaded, or the time ran out.
        """
        return self._model.wait_ready(timeout)

    @property
    def ready(self) -> Ready | None:
        """What is known of the loaded model; None while it loads."""
        return self._model.ready

    @property
    def alive(self) -> bool:
        """The model's process is there."""
        return self._model.alive

    @property
    def closed(self) -> bool:
        """:meth:`close` was called and :meth:`restart` not since: the memory is free, the turns are kept."""
        return self._closed

    @property
    def pid(self) -> int:
        """The id of the model's process."""
        return self._model.worker.pid

    def restart(self) -> None:
        """Start the model again after its process has gone. The conversation is kept, and read anew."""
        self._closed = False
        self._model.restart(self._adapter)

    def close(self) -> None:
        """End the model's process and free its memory. The transcript stays."""
        self._closed = True
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
