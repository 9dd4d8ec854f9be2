"""Transcripts: ``chats/*.jsonl``. One record a line, written as things happen, never rewritten.

The first line is a header. What was edited or asked again stays in the file; a ``rewind`` record says
that the conversation went back. A line that a crash cut short is passed over when the file is read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from core.chat.answer import Answer, Turn
from core.errors import RequestError
from core.events import now
from core.files import explained
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


class TranscriptWriter:
    """Appends to one transcript. The file comes into being with the first record."""

    def __init__(self, folder: Path, header: dict[str, Any], path: Path | None = None) -> None:
        """``path``: an existing transcript to go on with; else a new file in ``folder``."""
        self._folder = folder
        self._header = header
        self.path = path

    def write(self, kind: str, **fields: Any) -> None:
        """Append a record and flush it.

        Raises:
            MachineError: the disk is full or the folder cannot be written.
        """
        with explained(self.path or self._folder):
            if self.path is None:
                self.path = self._create()
            line = json.dumps({"type": kind, "t": now(), **fields}, ensure_ascii=True)
            with open(self.path, "r+b") as stream:
                # A line cut short by a crash gets its end here, so that this record stands alone.
                size = stream.seek(0, os.SEEK_END)
                if size:
                    stream.seek(size - 1)
                    if stream.read(1) != b"\n":
                        stream.write(b"\n")
                stream.write(line.encode() + b"\n")

    def _create(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        header = json.dumps(
            {"type": "chat", "v": VERSION, "created": now(), **self._header}, ensure_ascii=True
        )
        for count in range(1, 10_000):
            path = self._folder / (stamp + (f"-{count}" if count > 1 else "") + SUFFIX)
            try:
                with open(path, "xb") as stream:
                    stream.write(header.encode() + b"\n")
            except FileExistsError:
                continue
            return path
        raise RequestError("Too many chats were begun in one second.", f"{self._folder}")


def read_chat(path: Path) -> Chat:
    """Read a transcript back.

    Raises:
        RequestError: there is no such file, or it is no transcript.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RequestError(
            "There is no such chat.", f"{path}: {error.strerror}.", "List them with /list."
        ) from None
    chat = Chat(path)
    known = False
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            known = known or record.get("type") == "chat"
            if known:
                _apply(chat, record)
    if not known:
        raise RequestError("This file is no chat.", f"{path} has no header line of a chat.")
    return chat


def _apply(chat: Chat, record: dict[str, Any]) -> None:
    kind = record.get("type")
    if kind == "chat":
        for name in ("name", "created", "model", "system"):
            setattr(chat, name, str(record.get(name) or ""))
    elif kind == "name":
        chat.name = str(record.get("name") or "")
    elif kind == "adapter":
        chat.adapter = str(record.get("adapter") or "")
    elif kind == "user":
        lanes = tuple(str(lane) for lane in record.get("lanes") or [chat.adapter])
        main = str(record.get("main", lanes[-1]))
        chat.turns.append(
            Turn(str(record.get("text", "")), lanes, main, attempt=int(record.get("attempt", 0)))
        )
    elif kind == "assistant" and chat.turns and isinstance(record.get("answer"), str):
        lane = str(record.get("adapter") or "")
        chat.turns[-1].answers[lane] = Answer.from_dict(record)
    elif kind == "rewind":
        del chat.turns[max(0, int(record.get("to", 0))) :]
        chat.first = min(chat.first, len(chat.turns))
    elif kind == "drop":
        chat.first = min(len(chat.turns), chat.first + int(record.get("turns", 0)))


def list_chats(folder: Path) -> list[Chat]:
    """The transcripts of a folder, the newest first. Files that are no transcripts are passed over."""
    found = []
    for path in sorted(folder.glob("*" + SUFFIX), key=lambda item: item.stat().st_mtime_ns, reverse=True):
        try:
            found.append(read_chat(path))
        except RequestError:
            continue
    return found


def find_chat(folder: Path, wanted: str) -> Chat:
    """The transcript with this file name, name, or number in :func:`list_chats` (from 1).

    Raises:
        RequestError: there is none.
    """
    chats = list_chats(folder)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(chats):
        return chats[int(wanted) - 1]
    for chat in chats:
        if wanted in (chat.path.stem, chat.path.name, chat.name):
            return chat
    raise RequestError(
        f"There is no chat {clean(wanted, keep_newlines=False)!r}.",
        f"{folder} has {len(chats)}.",
        "List them with /list.",
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
        for lane in turn.lanes:
            answer = turn.answers.get(lane)
            who = lane or "base model"
            lines += ["", f"### {who}", ""]
            if answer is None:
                lines.append("(no answer)")
            else:
                lines += [clean(answer.answer).strip(), "", f"*{answer.figures}*"]
    return "\n".join(lines) + "\n"
