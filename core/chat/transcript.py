"""What was said: the turns of a conversation, kept in memory and in its transcript alike.

A transcript is ``chats/*.jsonl``: one record a line, written as things happen, never rewritten. The first line is a
header. What was edited or asked again stays in the file; a ``rewind`` record says that the conversation went back.
A line that a crash cut short, and whatever else in a file is no record, is passed over when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from core.chat.protocol import Done, Dropped, Error, ProtocolMessage
from core.chat.response import FAILED, Answer, Turn
from core.errors import MachineError, RequestError
from core.events import now
from core.files import explained, open_file
from core.language import told
from core.text import clean

VERSION = 1
SUFFIX = ".jsonl"


@dataclass
class Chat:
    """What a transcript says: the conversation as it stands, and how it was held."""

    path: Path
    name: str = ""
    created: str = ""
    model: str = ""
    system: str = ""
    adapter: str = ""
    turns: list[Turn] = field(default_factory=list)
    first: int = 0

    @property
    def title(self) -> str:
        """Its name, or else the first question, on one line of at most 60 characters."""
        text = self.name or (self.turns[0].question if self.turns else "") or self.path.stem
        line = " ".join(clean(text).split())
        return line if len(line) <= 60 else line[:59] + "…"


class History:
    """The turns of one conversation. Not thread-safe by itself: its session holds the lock.

    Attributes:
        turns: all of them, also those no longer read.
        dropped: how many of the first are no longer read, because the context was full.
        last: the answer that came last.
        name: what the user called the conversation.
        system: the system message.
        path: the transcript's file; None before the first question.
    """

    def __init__(self, model: str, system: str, folder: Path | None) -> None:
        """``folder``: where transcripts go; None keeps none."""
        self.turns: list[Turn] = []
        self.dropped = 0
        self.last: Answer | None = None
        self.name = ""
        self.system = system
        self.path: Path | None = None
        self._model = model
        self._folder = folder

    def messages(self, adapter: str, question: str) -> list[dict[str, str]]:
        """What an adapter reads for a question: the turns that were answered, with its own answers."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[self.dropped :]:
            answer = turn.answer_for(adapter)
            if answer is not None and answer.answer:
                messages.append({"role": "user", "content": turn.question})
                messages.append({"role": "assistant", "content": answer.answer})
        messages.append({"role": "user", "content": question})
        return messages

    def add(self, turn: Turn) -> None:
        """A question is asked. Raises MachineError, and keeps nothing, if it cannot be written down."""
        self._write_question(turn)
        self.turns.append(turn)

    def rewind(self, kept: int) -> list[Turn]:
        """Go back to the first ``kept`` turns; returns those taken away."""
        removed = self.turns[kept:]
        self.write("rewind", to=kept)
        del self.turns[kept:]
        self.dropped = min(self.dropped, kept)
        return removed

    def hear(self, turn: Turn, message: ProtocolMessage, so_far: dict[str, str], removed: list[Turn]) -> None:
        """Keep what the worker tells of a turn.

        Args:
            so_far: the text of each adapter as far as it came, kept where the model failed.
            removed: the turns that this one replaced; they come back if the question is refused.
        """
        if isinstance(message, Dropped):
            new = self._dropped_until(message.turns) - self.dropped
            if message.adapter == turn.main and new > 0:
                self.dropped += new
                self.write("drop", turns=new)
        elif isinstance(message, Done):
            self._answered(turn, message.adapter, Answer.from_done(message))
        elif isinstance(message, Error) and isinstance(message.error, RequestError):
            self.put_back(turn, removed)
        elif isinstance(message, Error):
            for adapter, text in so_far.items():
                if adapter not in turn.answers and text:
                    self._answered(turn, adapter, Answer(text, adapter or None, stop=FAILED))

    def put_back(self, turn: Turn, removed: list[Turn]) -> None:
        """A question was not asked after all: the turns that it replaced stand there again.

        Raises:
            MachineError: that cannot be written down; in memory it is so.
        """
        place = next((n for n, other in enumerate(self.turns) if other is turn), len(self.turns))
        self.turns[place:] = removed
        self.write("rewind", to=place)
        for old in removed:
            self._write_question(old)
            for answer in old.answers.values():
                self.write("assistant", **answer.as_dict())

    def _answered(self, turn: Turn, adapter: str, answer: Answer) -> None:
        turn.answers[adapter] = answer
        if adapter == turn.main:
            self.last = answer
        self.write("assistant", **answer.as_dict())

    def _dropped_until(self, count: int) -> int:
        """The index of the first turn left when ``count`` answered turns more are dropped."""
        place = self.dropped
        while count > 0 and place < len(self.turns) - 1:
            answer = self.turns[place].answer
            count -= 1 if answer is not None and answer.answer else 0
            place += 1
        return place

    # Transcript

    def rename(self, name: str) -> None:
        """Name the conversation."""
        self.name = " ".join(name.split())[:100]
        if self.path is not None:
            self.write("name", name=self.name)

    def switched(self, adapter: str | None) -> None:
        """Another adapter answers from now on."""
        if self.path is not None:
            self.write("adapter", adapter=adapter)

    def reopen(self, wanted: str) -> Chat:
        """Go on with an earlier conversation, by file name, name or number. RequestError if there is none."""
        if self._folder is None:
            raise RequestError(told("This chat keeps no transcripts."), code="chat.transcript")
        chat = find_chat(self._folder, wanted)
        self.turns, self.dropped = chat.turns, chat.first
        self.name, self.system = chat.name, chat.system
        self.last = next((turn.answer for turn in reversed(self.turns) if turn.answer), None)
        self.path = chat.path
        return chat

    def clear(self) -> None:
        """Begin another conversation, in another transcript."""
        self.turns, self.dropped, self.last, self.name, self.path = [], 0, None, "", None

    def markdown(self) -> str:
        """The conversation as a Markdown page."""
        path = self.path or Path(self._model)
        return as_markdown(Chat(path, self.name, model=self._model, system=self.system, turns=self.turns))

    def _write_question(self, turn: Turn) -> None:
        fields = {"lanes": list(turn.adapters), "main": turn.main, "attempt": turn.attempt}
        self.write("user", text=turn.question, **fields)

    def write(self, kind: str, **fields: Any) -> None:
        """Append a record to the transcript, which begins with the first.

        Raises:
            MachineError: the disk is full, or the folder or the file cannot be written.
        """
        if self._folder is None:
            return
        line = json.dumps({"type": kind, "t": now(), **fields}, ensure_ascii=True)
        place = self.path or self._folder
        try:
            with explained(place):
                if self.path is None or not self.path.exists():
                    self.path = self._create(self._folder)
                with open(self.path, "r+b") as stream:
                    # A line cut short by a crash gets its end here, so that this record stands alone.
                    size = stream.seek(0, os.SEEK_END)
                    if size:
                        stream.seek(size - 1)
                        if stream.read(1) != b"\n":
                            stream.write(b"\n")
                    stream.write(line.encode() + b"\n")
        except OSError as error:
            raise MachineError(
                told("The conversation cannot be written down."),
                told("{place}: {strerror}.", place=place, strerror=error.strerror),
                code="chat.transcript",
            ) from error

    def _create(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        facts = {"name": self.name, "model": self._model, "system": self.system}
        header = json.dumps({"type": "chat", "v": VERSION, "created": now(), **facts}, ensure_ascii=True)
        for count in range(1, 10_000):
            path = folder / (stamp + (f"-{count}" if count > 1 else "") + SUFFIX)
            with suppress(FileExistsError), open(path, "xb") as stream:
                stream.write(header.encode() + b"\n")
                return path
        raise RequestError(
            told("Too many chats were begun in one second."),
            told("{folder}", folder=folder),
            code="chat.transcript",
        )


def read_chat(path: Path) -> Chat:
    """Read a transcript back. Of a damaged one comes what can be read.

    Raises:
        RequestError: there is no such file, or it is no transcript.
    """
    chat = Chat(path)
    known = False
    try:
        for record in _records(path):
            known = known or record.get("type") == "chat"
            if known:
                _apply(chat, record)
    except OSError as error:
        raise RequestError(
            told("There is no such chat."),
            told("{path}: {strerror}.", path=path, strerror=error.strerror),
            told("List them with /chats."),
            code="chat.missing",
        ) from None
    if not known:
        raise RequestError(
            told("This file is no chat."),
            told("{path} has no header line of a chat.", path=path),
            code="chat.missing",
        )
    return chat


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with open_file(path) as stream:
        for line in stream:
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def _apply(chat: Chat, record: dict[str, Any]) -> None:
    kind = record.get("type")
    if kind == "chat":
        for name in ("name", "created", "model", "system"):
            setattr(chat, name, _text(record.get(name)))
    elif kind == "name":
        chat.name = _text(record.get("name"))
    elif kind == "adapter":
        chat.adapter = _text(record.get("adapter"))
    elif kind == "user":
        found = record.get("lanes")
        adapters = tuple(map(_text, found)) if isinstance(found, list) and found else (chat.adapter,)
        main = record.get("main")
        chat.turns.append(
            Turn(
                _text(record.get("text")),
                adapters,
                main if isinstance(main, str) else adapters[-1],
                attempt=_count(record.get("attempt")),
            )
        )
    elif kind == "assistant" and chat.turns and isinstance(record.get("answer"), str):
        chat.turns[-1].answers[_text(record.get("adapter"))] = Answer.from_dict(record)
    elif kind == "rewind":
        del chat.turns[_count(record.get("to")) :]
        chat.first = min(chat.first, len(chat.turns))
    elif kind == "drop":
        chat.first = min(len(chat.turns), chat.first + _count(record.get("turns")))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return max(0, value) if isinstance(value, int) else 0


def list_chats(folder: Path) -> list[Chat]:
    """The transcripts of a folder, the newest first. Files that are no transcripts are passed over."""
    found = []
    for path in folder.glob("*" + SUFFIX):
        with suppress(RequestError, OSError):
            found.append((path.stat().st_mtime_ns, path.name, read_chat(path)))
    return [chat for _, _, chat in sorted(found, key=lambda item: item[:2], reverse=True)]


def find_chat(folder: Path, wanted: str) -> Chat:
    """The transcript with this file name, name, or number in :func:`list_chats` (from 1).

    Raises:
        RequestError: there is none.
    """
    chats = list_chats(folder)
    for number, chat in enumerate(chats, 1):
        if wanted == str(number):
            return chat
    for chat in chats:
        if wanted in (chat.path.stem, chat.path.name, chat.name):
            return chat
    raise RequestError(
        told("There is no chat {wanted!r}.", wanted=clean(wanted, keep_newlines=False)[:100]),
        told("{folder} has {count}.", folder=folder, count=len(chats)),
        told("List them with /chats."),
        code="chat.missing",
    )


def as_markdown(chat: Chat) -> str:
    """The conversation as a Markdown page."""
    lines = [f"# {chat.title}", ""]
    facts = [
        ("Begun", chat.created),
        ("Model", chat.model),
        ("System message", " ".join(chat.system.split())),
    ]
    lines += [f"- {name}: {value}" for name, value in facts if value]
    for number, turn in enumerate(chat.turns, 1):
        lines += ["", f"## {number}. Question", "", clean(turn.question).strip()]
        for adapter in turn.adapters:
            answer = turn.answers.get(adapter)
            who = adapter or "base model"
            lines += ["", f"### {who}", ""]
            if answer is None:
                lines.append("(no answer)")
            else:
                lines += [clean(answer.answer).strip(), "", f"*{answer.figures}*"]
    return (
        ("\n".join(lines) + "\n").encode("utf-8", "replace").decode()
    )  # a model may write half a surrogate pair
