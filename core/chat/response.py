"""Answers and turns; and a question under way: its events, for a caller that waits and for one that must not."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.chat.protocol import (
    BASE,
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
from core.formats import counted, listed
from core.language import told

ChatEvent = Progress | Dropped | Notice | Token | Done | Finished | Error
"""What a response tells. Finished or Error is always the last."""

_LOOK_SECONDS = 0.2
"""How often an iteration looks whether there is still something to wait for."""


FAILED = "failed"
"""How an answer stopped whose model failed or was killed (in transcripts only)."""


@dataclass(frozen=True)
class Answer:
    """One answer with its figures.

    Attributes:
        answer: the text, as the model wrote it (not cleaned for a terminal).
        adapter: the adapter in use, None for the base.
        prompt_tokens: tokens read for it; what the cache still held was not read again.
        new_tokens: tokens of the answer, end-of-turn token not counted.
        time_to_first_token_s: seconds from the request's arrival at the model to the first token.
        tokens_per_s: decoding speed after the first token; 0 where there was nothing to measure.
        stop: ``end`` (the model ended its turn), ``length`` or ``cancelled``.
        context_tokens: tokens of the whole conversation after it.
        context_full: it stopped because the context was full, not at max_new_tokens.
        dropped_turns: oldest turns that had to go to make room for it.
    """

    answer: str
    adapter: str | None
    prompt_tokens: int = 0
    new_tokens: int = 0
    time_to_first_token_s: float = 0.0
    tokens_per_s: float = 0.0
    stop: str = "end"
    context_tokens: int = 0
    context_full: bool = False
    dropped_turns: int = 0

    @classmethod
    def from_done(cls, done: Done) -> Answer:
        """The answer that a worker reports."""
        shared = {item.name for item in dataclasses.fields(cls)} - {"adapter"}
        return cls(adapter=done.adapter or None, **{name: getattr(done, name) for name in shared})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Answer:
        """The answer that :meth:`as_dict` gave. Unknown keys, and values that cannot be right, are left aside.

        Raises:
            ValueError: there is no answer in it.
        """
        if not isinstance(data.get("answer"), str):
            raise ValueError("no answer")
        kinds: dict[str, type] = {"answer": str, "adapter": str, "stop": str, "context_full": bool}
        kinds |= dict.fromkeys(("time_to_first_token_s", "tokens_per_s"), float)
        found: dict[str, Any] = {"adapter": None}
        for item in dataclasses.fields(cls):
            value, kind = data.get(item.name), kinds.get(item.name, int)
            if kind is float and isinstance(value, int) and abs(value) < 1 << 53:
                value = float(value)
            if isinstance(value, kind):
                found[item.name] = value
        return cls(**found)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` and transcripts have it."""
        return dataclasses.asdict(self)

    @property
    def figures(self) -> str:
        """One line for people: how long, how fast, why it ended."""
        if self.stop == FAILED:  # nobody was left to measure
            return told("broke off: the model failed")
        parts = [
            counted(self.new_tokens, "token"),
            told("first after {time:.0f} ms", time=self.time_to_first_token_s * 1000),
        ]
        if self.tokens_per_s:
            parts.append(told("{tokens_per_s:.1f} tokens/s", tokens_per_s=self.tokens_per_s))
        parts.append(told("read {prompt_tokens}", prompt_tokens=self.prompt_tokens))
        ends = {
            "end": told("complete"),
            "length": told("the context is full") if self.context_full else told("cut at the limit"),
            "cancelled": told("stopped"),
        }
        parts.append(ends.get(self.stop, self.stop))
        return listed(parts)


@dataclass
class Turn:
    """A question and its answers, one for each adapter that was asked (an adapter's name, or "" for the base).

    Attributes:
        main: the adapter whose answer the conversation goes on with.
        attempt: how often it was asked again; shifts the seed, so that another answer comes.
        notices: what the user is told of it, such as older turns that had to go. In no transcript.
    """

    question: str
    adapters: tuple[str, ...] = (BASE,)
    main: str = BASE
    answers: dict[str, Answer] = field(default_factory=dict)
    attempt: int = 0
    notices: list[str] = field(default_factory=list, compare=False)

    def answer_for(self, adapter: str) -> Answer | None:
        """What this adapter said; what the main adapter said where it was not asked."""
        return self.answers.get(adapter) or self.answer

    @property
    def answer(self) -> Answer | None:
        """The answer that the conversation goes on with."""
        return self.answers.get(self.main)


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
