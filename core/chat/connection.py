"""A loaded model in a worker process: its start, its state, its end, and its start again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from core.chat.client import Listener, Worker
from core.chat.errors import ChatError, error_of
from core.chat.protocol import Error, Load, Message, Progress, Ready, Score, SetAdapter
from core.errors import LabError

LoadListener = Callable[[Progress | Ready | Error], None]


class Connection:
    """The model of a chat. It begins to load when this object is made; requests wait for it."""

    def __init__(
        self,
        model_dir: Path,
        context_tokens: int,
        template: str,
        answer: str,
        adapter: str,
        on_load: LoadListener | None,
    ) -> None:
        """The arguments are those of :class:`~core.chat.protocol.Load`; ``on_load`` hears of the loading."""
        self._model_dir = model_dir
        self._context_tokens = context_tokens
        self._template, self._answer = template, answer
        self._on_load = on_load
        self._start(adapter)

    def _start(self, adapter: str) -> None:
        self.ready: Ready | None = None
        self.load_error: LabError | None = None
        self._loaded = loaded = threading.Event()
        self.worker = Worker()
        request = Load(
            self.worker.next_id(),
            str(self._model_dir),
            self._context_tokens,
            self._template,
            adapter,
            self._answer,
        )

        def hear(message: Message) -> None:
            if isinstance(message, Ready):
                self.ready = message
            elif isinstance(message, Error):
                self.load_error = raised(message)
            if isinstance(message, Ready | Error):
                loaded.set()
            if self._on_load is not None and isinstance(message, Progress | Ready | Error):
                self._on_load(message)

        self.worker.watch_loading(request, hear)

    @property
    def alive(self) -> bool:
        """The process is there."""
        return not self.worker.dead.is_set()

    def check(self) -> None:
        """Raise ChatError if the process is gone, or what kept the model from loading."""
        if not self.alive and self.load_error is None:
            raise ChatError(
                "The model's process is gone.",
                "The conversation is kept.",
                "Start the model again to go on.",
                died=True,
            )
        if self.load_error is not None:
            raise self.load_error

    def wait_ready(self, timeout: float | None = None) -> Ready:
        """Wait until the model is loaded. Raises what prevented it, or ChatError at the end of the time."""
        if not self._loaded.wait(timeout):
            raise ChatError("The model is still loading.", f"It took longer than {timeout:g} s.")
        if self.load_error is not None:
            raise self.load_error
        assert self.ready is not None
        return self.ready

    def restart(self, adapter: str) -> None:
        """Start another process in place of this one."""
        self.worker.close()
        self._start(adapter)

    def send(self, request: Message, listener: Listener | None = None) -> None:
        """Send a request; its events go to ``listener``."""
        self.worker.send(request, listener)

    def call(self, request: SetAdapter | Score) -> Message:
        """Send a request and wait for its one answer. Raises the error that comes instead."""
        heard: list[Message] = []
        over = threading.Event()

        def hear(message: Message) -> None:
            heard.append(message)
            over.set()

        self.wait_ready()
        self.worker.send(request, hear)
        over.wait()
        if isinstance(heard[-1], Error):
            raise raised(heard[-1])
        return heard[-1]

    def close(self) -> None:
        """End the process and free its memory."""
        self.worker.close()


def raised(error: Error) -> LabError:
    """The exception for an error event."""
    if error.kind in ("died", "closed"):
        return ChatError(error.title, error.detail, error.hint, code=error.code, died=True)
    return error_of(error.kind, error.title, error.detail, error.hint, error.code)
