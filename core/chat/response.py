"""One question under way: its events as they come, for a caller that waits and for one that must not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from core.chat.answer import Answer, Turn
from core.chat.protocol import (
    Done,
    Dropped,
    Error,
    Finished,
    Notice,
    Progress,
    ProtocolMessage,
    Token,
)
from core.errors import LabError

ChatEvent = Progress | Dropped | Notice | Token | Done | Finished | Error
"""What a response tells. Finished or Error is always the last."""

_LOOK_SECONDS = 0.2
"""How often an iteration looks whether there is still something to wait for."""


class Response:
    """A question that is being answered, by one adapter or by two.

    Iterate over it to wait for events; or give ``on_event`` and never wait; or call :meth:`drain` from
    a timer. The events are the same. ``on_event`` is called from another thread and must not block.
    """

    def __init__(
        self,
        turn: Turn,
        record: Callable[[Response, ProtocolMessage], None],
        on_event: Callable[[ChatEvent], None] | None,
        stop: Callable[[], None],
    ) -> None:
        self.turn = turn
        self.error: LabError | None = None
        self._record = record
        self._on_event = on_event
        self._stop = stop
        self._events: queue.SimpleQueue[ChatEvent] = queue.SimpleQueue()
        self._over = threading.Event()
        self._pieces: dict[str, list[str]] = {adapter: [] for adapter in turn.adapters}

    def hear(self, message: ProtocolMessage) -> None:
        """Take an event of the model's process. Called by its reader thread."""
        if not isinstance(message, ChatEvent):
            return
        if isinstance(message, Token):
            self._pieces[message.adapter].append(message.text)
        elif isinstance(message, Notice | Dropped):
            if message.text not in self.turn.notices:
                self.turn.notices.append(message.text)
        elif isinstance(message, Error):
            self.error = message.error
        if isinstance(message, Done | Error | Finished | Dropped):
            try:
                self._record(self, message)
            except LabError as error:  # the transcript cannot be written: tell, and keep the answer
                self.error = self.error or error
        if isinstance(message, Error | Finished):
            self._over.set()
        self._events.put(message)
        if self._on_event is not None:
            self._on_event(message)

    def so_far(self, adapter: str) -> str:
        """The text of an adapter as far as it came."""
        return "".join(self._pieces[adapter])

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self._over.is_set()

    def stop(self) -> None:
        """End the answer after the token in hand. Harmless when it is over."""
        if not self.over:
            self._stop()

    def drain(self) -> list[ChatEvent]:
        """The events since the last call, at once."""
        found: list[ChatEvent] = []
        while True:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                return found

    def __iter__(self) -> Iterator[ChatEvent]:
        """The events that were not handed out yet, until the end. Errors are events here; :meth:`result` raises them.

        An iteration that an exception broke off, such as Ctrl-C, can be followed by another.
        """
        while True:
            try:
                event = self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self.over:
                    return  # the last event was handed out to an iteration that was broken off
                continue
            yield event
            if isinstance(event, Error | Finished):
                return

    def follow(self, show: Callable[[ChatEvent], None]) -> None:
        """Show all events until the end. Ctrl-C stops the answer, which is then shown as far as it came."""
        while True:
            try:
                for event in self:
                    show(event)
                return
            except KeyboardInterrupt:
                self.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False if the time ran out first."""
        return self._over.wait(timeout)

    def result(self) -> dict[str, Answer]:
        """Wait for the end and give each adapter's answer.

        Raises:
            RequestError: the question cannot be asked (too long, wrong adapter).
            MachineError: not enough memory.
            ChatError: the model failed or its process is gone.
        """
        self._over.wait()
        if self.error is not None:
            raise self.error
        return dict(self.turn.answers)
