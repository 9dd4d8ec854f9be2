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
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.chat.protocol import (
    Adapted,
    Ask,
    Done,
    Dropped,
    Error,
    Finished,
    Load,
    Message,
    Progress,
    Ready,
    Score,
    Scored,
    SetAdapter,
    Stop,
    Token,
)
from core.lab import Lab
from tests.tui.labs import made

Listener = Callable[[Message], None]

READY = Ready(0, "llama", 4096, 131072, ["formal", "travel"], {}, 2.0)
GONE = (
    "The model's process is gone.",
    "It was ended by the signal SIGKILL, which is what Linux does when memory runs out.",
    "The conversation is kept. Start the model again to go on.",
)


class Puppet:
    """Stands where :class:`core.chat.client.Worker` would.

    Attributes:
        ready: what loading ends with; None while it goes on.
        loading: how far loading is, in bytes of bytes.
        losses: the loss of each adapter, "" for the base.
    """

    pid = 4321

    def __init__(self, ready: Ready | Error | None = READY) -> None:
        self.ready = ready
        self.loading: tuple[float, float] | None = None
        self.losses = {"": 2.584, "travel": 0.612}
        self.dead = threading.Event()
        self._ids = itertools.count(1)
        self._replies: deque[tuple[Sequence[str], dict[str, Any]]] = deque()
        self._asked: tuple[Ask, Listener] | None = None
        self._awaits: Callable[[], None] | None = None

    def start(self) -> Puppet:
        """In place of the class: a new process is this one again."""
        self.dead.clear()
        return self

    @property
    def asked(self) -> bool:
        """A question waits for its answer."""
        return self._asked is not None

    # What the session asks of a worker

    def next_id(self) -> int:
        return next(self._ids)

    def watch_loading(self, request: Load, listener: Listener) -> None:
        if self.loading is not None:
            listener(Progress(request.id, "loading", *self.loading))
        if self.ready is not None:
            listener(replace(self.ready, id=request.id))
        else:
            self._awaits = lambda: listener(Error(request.id, "closed", "The chat was closed.", fatal=True))

    def send(self, message: Message, listener: Listener | None = None) -> None:
        if isinstance(message, Stop):
            self.end(stop="cancelled")
        if listener is None:
            return
        if isinstance(message, Ask):
            self._asked = (message, listener)
            if self._replies:
                texts, figures = self._replies.popleft()
                self.answer(*texts, **figures)
        elif isinstance(message, SetAdapter):
            why = self.ready.refused.get(message.adapter) if isinstance(self.ready, Ready) else None
            if why is None:
                listener(Adapted(message.id, message.adapter, 0.012))
            else:
                title = f"The adapter {message.adapter} does not fit the model."
                listener(Error(message.id, "request", title, why, "Make it again: olivepress run optimize"))
        elif isinstance(message, Score):
            listener(Scored(message.id, self.losses[message.adapter], 12))

    def close(self) -> None:
        self.dead.set()
        if self._awaits is not None:
            self._awaits()
        if self._asked is not None:
            self._tell(Error(self._id(), "closed", "The chat was closed.", fatal=True))

    # What a test has it say

    def will_say(self, *texts: str, **figures: Any) -> None:
        """Answer the next question with these texts, one a lane; ``figures`` are those of :class:`Done`."""
        self._replies.append((texts, figures))

    def answer(self, *texts: str, dropped_turns: int = 0, **figures: Any) -> None:
        """Answer the present question."""
        if dropped_turns:
            for lane in self._lanes():
                self._tell(Dropped(self._id(), lane, dropped_turns, 4096))
        for lane, text in zip(self._lanes(), texts, strict=True):
            if text:
                self.token(text, lane)
        self.end(texts, dropped_turns=dropped_turns, **figures)

    def token(self, text: str, lane: str | None = None) -> None:
        """A piece of an answer."""
        self._tell(Token(self._id(), self._lanes()[0] if lane is None else lane, text))

    def reading(self, done: int, total: int) -> None:
        """How much of the question is read."""
        self._tell(Progress(self._id(), "reading", done, total))

    def end(self, texts: Sequence[str] = (), **figures: Any) -> None:
        """No more comes."""
        number = self._id()
        for place, lane in enumerate(self._lanes()):
            words = {
                "answer": texts[place] if texts else self._so_far(lane),
                "prompt_tokens": 24,
                "context_tokens": 312,
                "new_tokens": 58,
                "time_to_first_token_s": 0.18,
                "tokens_per_s": 31.5,
                "stop": "end",
            }
            self._tell(Done(number, lane, **{**words, **figures}))
        self._tell(Finished(number))

    def refuse(self, title: str, detail: str, hint: str, kind: str = "request") -> None:
        """The question cannot be answered."""
        self._tell(Error(self._id(), kind, title, detail, hint))

    def die(self) -> None:
        """The process goes away under the answer, or while nothing is asked."""
        self.dead.set()
        if self._asked is not None:
            title, detail, hint = GONE
            self._tell(Error(self._id(), "died", title, detail, hint, fatal=True))

    def _id(self) -> int:
        assert self._asked is not None
        return self._asked[0].id

    def _lanes(self) -> list[str]:
        assert self._asked is not None
        return [str(lane["adapter"]) for lane in self._asked[0].lanes]

    def _so_far(self, lane: str) -> str:
        assert self._asked is not None
        heard = getattr(self._asked[1], "__self__", None)  # the exchange whose method listens
        return str(heard.so_far(lane)) if heard is not None else ""

    def _tell(self, message: Message) -> None:
        assert self._asked is not None
        listener = self._asked[1]
        if isinstance(message, Finished | Error):
            self._asked = None
        listener(message)


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
