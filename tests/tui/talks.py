"""A chat without a model: a lab that has its files, and a stand-in for the model's process.

All but the process is the real thing: session, history, transcript, events. The stand-in says what a test
tells it to, at once, with figures that are the same each time.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from core.chat.protocol import (
    Adapted,
    Ask,
    Done,
    Dropped,
    Load,
    Progress,
    ProtocolMessage,
    Ready,
    Score,
    Scored,
    SetAdapter,
    Token,
    from_wire,
    to_wire,
)
from core.errors import Do, LabError, RequestError, StageError
from core.lab import Lab
from tests.tui.labs import made

READY = Ready("llama", 4096, 131072, ["formal", "travel"], {}, 2.0)
GONE = (
    "The model's process is gone.",
    "It was ended by the signal SIGKILL, which is what Linux does when memory runs out.",
    "The conversation is kept. Start the model again to go on.",
)


class PuppetCall:
    """A request that waits for its answer."""

    def __init__(
        self, number: int, ask: ProtocolMessage, listener: Callable[[dict[str, Any]], object] | None
    ) -> None:
        self.id = number
        self.ask = ask
        self.listener = listener
        self.future: Future[dict[str, Any]] = Future()
        self.cancel: Callable[[], None] = lambda: None
        self.so_far: dict[str, str] = {}

    def result(self) -> dict[str, Any]:
        return self.future.result()


class Puppet:
    """Stands where :class:`core.process.Child` would.

    Attributes:
        ready: what loading ends with; None while it goes on.
        losses: the loss of each adapter, "" for the base.
    """

    pid = 4321

    def __init__(self, ready: Ready | LabError | None = READY) -> None:
        self.ready = ready
        self.losses = {"": 2.584, "travel": 0.612}
        self.dead = threading.Event()
        self._ids = itertools.count(1)
        self._replies: deque[tuple[Sequence[str], dict[str, Any]]] = deque()
        self._asked: PuppetCall | None = None
        self._load: PuppetCall | None = None

    def begin(self, *_: object, **__: object) -> Puppet:
        """In place of the class: a new process is this one again."""
        self.dead.clear()
        return self

    @property
    def asked(self) -> bool:
        """A question waits for its answer."""
        return self._asked is not None

    # What the chat asks of a child

    def start(
        self, ask: dict[str, Any], on_event: Callable[[dict[str, Any]], object] | None = None
    ) -> PuppetCall:
        message = from_wire(ask)
        call = PuppetCall(next(self._ids), message, on_event)
        if isinstance(message, Load):
            self._load = call
            self._settle(call, self.ready)
        elif isinstance(message, Ask):
            self._asked = call
            call.cancel = lambda: self.end(stop="cancelled")
            if self._replies:
                texts, figures = self._replies.popleft()
                self.answer(*texts, **figures)
        elif isinstance(message, SetAdapter):
            why = self.ready.refused.get(message.adapter) if isinstance(self.ready, Ready) else None
            title = f"The adapter {message.adapter} does not fit the model."
            refused = RequestError(title, why or "", ("Make it again: ", Do.of("run", ".", "optimize")))
            self._settle(call, refused if why else Adapted(message.adapter, 0.012))
        elif isinstance(message, Score):
            self._settle(call, Scored(self.losses[message.adapter], 12))
        return call

    def close(self) -> None:
        self.dead.set()
        closed = StageError("The model's process was closed.", code="process.closed")
        for call in (self._load, self._asked):
            if call is not None and not call.future.done():
                self._settle(call, closed)
        self._asked = None

    def _settle(self, call: PuppetCall, end: ProtocolMessage | LabError | None) -> None:
        if isinstance(end, LabError):
            call.future.set_exception(end)
        elif end is not None:
            call.future.set_result(to_wire(end))

    # What a test has it say

    def will_say(self, *texts: str, **figures: Any) -> None:
        """Answer the next question with these texts, one an adapter; ``figures`` are those of :class:`Done`."""
        self._replies.append((texts, figures))

    def answer(self, *texts: str, dropped_turns: int = 0, **figures: Any) -> None:
        """Answer the present question."""
        if dropped_turns:
            for adapter in self._adapters():
                self._tell(Dropped(adapter, dropped_turns, 4096))
        for adapter, text in zip(self._adapters(), texts, strict=True):
            if text:
                self.token(text, adapter)
        self.end(texts, dropped_turns=dropped_turns, **figures)

    def token(self, text: str, adapter: str | None = None) -> None:
        """A piece of an answer."""
        name = self._adapters()[0] if adapter is None else adapter
        call = self._call()
        call.so_far[name] = call.so_far.get(name, "") + text
        self._tell(Token(name, text))

    def reading(self, done: int, total: int) -> None:
        """How much of the question is read."""
        self._tell(Progress("reading", done, total))

    def say(self, event: ProtocolMessage) -> None:
        """Any other event."""
        self._tell(event)

    def end(self, texts: Sequence[str] = (), **figures: Any) -> None:
        """No more comes."""
        call = self._call()
        for place, adapter in enumerate(self._adapters()):
            words = {
                "answer": texts[place] if texts else call.so_far.get(adapter, ""),
                "prompt_tokens": 24,
                "context_tokens": 312,
                "new_tokens": 58,
                "time_to_first_token_s": 0.18,
                "tokens_per_s": 31.5,
                "stop": "end",
            }
            self._tell(Done(adapter, **{**words, **figures}))
        self._asked = None
        call.future.set_result({})

    def refuse(self, title: str, detail: str, hint: str, kind: type[LabError] = RequestError) -> None:
        """The question cannot be answered."""
        call, self._asked = self._call(), None
        call.future.set_exception(kind(title, detail, hint))

    def die(self, *words: str) -> None:
        """The process goes away under the answer, or while nothing is asked."""
        self.dead.set()
        if self._asked is not None:
            call, self._asked = self._asked, None
            call.future.set_exception(StageError(*(words or GONE), code="process.died"))

    def _call(self) -> PuppetCall:
        assert self._asked is not None
        return self._asked

    def _adapters(self) -> list[str]:
        ask = self._call().ask
        assert isinstance(ask, Ask)
        return [str(prompt["adapter"]) for prompt in ask.prompts]

    def _tell(self, message: ProtocolMessage) -> None:
        call = self._call()
        assert call.listener is not None
        call.listener(to_wire(message))


def half_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.43 of 2.29 GB of the model have come into memory."""
    resident = itertools.chain([0], itertools.repeat(1_430_000_000))
    monkeypatch.setattr("core.chat.model_process.weights_bytes", lambda _: 2_290_000_000)
    monkeypatch.setattr("core.chat.model_process.resident_bytes", lambda _: next(resident))


def with_model(lab: Lab, adapters: Sequence[str] = ("formal", "travel")) -> Lab:
    """The lab with the files of an optimized model; nothing is in them."""
    made(lab, ("quantize", "finetune"))
    folder: Path = lab.folder.onnx_dir
    (folder / "adapters").mkdir(parents=True)
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": "model.onnx"}}}))
    (folder / "model.onnx").write_bytes(b"x")
    for name in adapters:
        (folder / "adapters" / f"{name}.onnx_adapter").write_bytes(b"x")
    lab.set({"finetune.adapter": "travel"})
    return lab


def write_chat(lab: Lab, name: str, title: str, questions: Sequence[str], day: int) -> Path:
    """A transcript of an earlier chat, as :mod:`core.chat.transcript` writes it, with times that do not move."""
    at = f"2026-11-{day:02d}T10:00:00.000Z"
    records: list[dict[str, Any]] = [
        {"type": "chat", "v": 1, "created": at, "name": title, "model": "models/onnx"}
    ]
    for question in questions:
        records.append({"type": "user", "t": at, "text": question, "lanes": ["travel"], "main": "travel"})
        records.append({"type": "assistant", "t": at, "adapter": "travel", "answer": f"About {question}"})
    path = lab.folder.chats_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.utime(path, (day * 86_400, day * 86_400))  # the newest stands first in a list
    return path
