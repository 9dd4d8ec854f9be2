"""What lies at the top of a JSON file that is one object: a record, or lists of records.

The file is passed over once, at some hundred megabytes a second, and nothing of it is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from core.data import names
from core.data.json_records import LONGEST_RECORD
from core.data.messages import is_paired, looks_like_messages
from core.data.names import plain_name

HELD_OUT = re.compile(r"(?:^|[^a-z])(?:test|eval|valid|validation|dev|held-?_?out)(?:[^a-z]|$)")
"""Names of files, folders and lists that hold the rows to measure with."""

_LISTS = ("data", "rows", "records", "examples", "items", "instances", "samples", "entries", "dataset")
# Up to the next bracket, over whole texts; and the same that stops at each text.
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{}]', re.DOTALL)
_TOKEN = re.compile(rb'[^"\[\]{}]*+(?:("(?:[^"\\]++|\\.)*+")|[\[\]{}])', re.DOTALL)
_CHUNK = 1 << 20
_MANY = 500_000
_FIRST = 1 << 20
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Part:
    """A list of records in a JSON file.

    Attributes:
        key: its name.
        start, end: the bytes of `[`, and behind `]`.
        line: the line of its `[`.
    """

    key: str
    start: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file that is one object is read.

    Attributes:
        train, held_out: the lists with records; none where the object is a record itself.
        others: the names of further lists of records.
        columns: the names, where the object holds columns (or records by name) in place of a list of records.
    """

    train: tuple[Part, ...] = ()
    held_out: tuple[Part, ...] = ()
    others: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class _Value:
    key: str
    start: int
    line: int
    opening: bytes
    end: int = 0


class _Scanner:
    """The members of the first object in a stream, and whether anything comes behind it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.members: list[_Value] = []
        self.alone = True

    def scan(self) -> bool:
        """False where the object is not closed."""
        buffer, base, line, size = b"", 0, 1, _CHUNK
        depth, key, brackets = 0, "", 0
        while len(buffer) <= LONGEST_RECORD and (raw := self._stream.read(size)):
            buffer += raw
            brackets += raw.count(b"{") + raw.count(b"[")
            if brackets > _MANY and brackets * 16 > base + len(buffer):
                return False  # no records are like this, and each bracket is looked at
            at = 0
            while match := (_TOKEN if depth < 2 else _BRACKET).match(buffer, at):
                token = buffer[match.end() - 1 : match.end()]
                start = match.end() - 1 if match.lastindex is None else match.start(1)
                if depth == 1 and token not in (b"]", b"}"):
                    if buffer[at:start].strip() == b":":
                        where = line + buffer.count(b"\n", at, start)
                        self.members.append(_Value(key, base + start, where, token))
                    elif token == b'"':
                        key = buffer[start + 1 : match.end() - 1].decode("utf-8", "replace")
                if token in (b"[", b"{"):
                    depth += 1
                elif token in (b"]", b"}"):
                    depth -= 1
                    if depth == 1 and self.members:
                        self.members[-1].end = base + match.end()
                    if depth == 0:
                        self.alone = not (buffer[match.end() :].strip() or self._stream.read(_CHUNK).strip())
                        return True
                line += buffer.count(b"\n", at, match.end())
                at = match.end()
            size = _CHUNK if at else size * 2  # a very long text is not gone over again and again
            base += at
            buffer = buffer[at:]
        return False


def _first(stream: IO[bytes], start: int) -> Any:
    """The first element of a list that begins there; None where it is none or very long."""
    stream.seek(start + 1)
    text = stream.read(_FIRST).decode("utf-8", "replace").lstrip()
    try:
        return _DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def layout(stream: IO[bytes], *, named_only: bool = False) -> Layout:
    """Which lists of a file hold its records.

    Args:
        stream: the file from its beginning; it must be seekable.
        named_only: take only lists whose names say that they hold records: what stands there may as
            well be a single record of JSON Lines.
    """
    scanner = _Scanner(stream)
    if not scanner.scan() or not scanner.alone:
        return Layout()
    lists = []
    for member in scanner.members:
        plain = plain_name(member.key)
        value = _first(stream, member.start) if member.opening == b"[" else None
        if member.opening == b'"' or (member.opening == b"[" and not isinstance(value, dict)):
            if member.opening == b'"' and (plain in names.PROMPT or plain in names.RESPONSE):
                return Layout()
        elif member.opening == b"[":
            if looks_like_messages([value]) and not is_paired([value]):
                return Layout()
            lists.append(Part(member.key, member.start, member.end, member.line))
    openings = {member.opening for member in scanner.members}
    if scanner.members and not lists and _is_deeper(scanner.members) and not named_only:
        return Layout(columns=tuple(member.key for member in scanner.members))
    if not lists and len(scanner.members) > 1 and openings in ({b"["}, {b"{"}) and not named_only:
        return Layout(columns=tuple(member.key for member in scanner.members))
    if named_only:
        lists = [part for part in lists if _named(part)]
    return _chosen(lists)


def _is_deeper(members: Sequence[_Value]) -> bool:
    """Whether the object holds nothing but one more object, whose name says that records are in it."""
    return len(members) == 1 and members[0].opening == b"{" and plain_name(members[0].key) in _LISTS


def _named(part: Part) -> bool:
    plain = plain_name(part.key)
    return plain in _LISTS or plain.startswith("train") or bool(HELD_OUT.search(plain))


def _chosen(lists: list[Part]) -> Layout:
    if len(lists) < 2:
        return Layout(tuple(lists))
    held_out = [part for part in lists if HELD_OUT.search(plain_name(part.key))]
    rest = [part for part in lists if part not in held_out]
    train = [part for part in rest if plain_name(part.key).startswith("train")]
    if not train:
        known = [part for part in rest if plain_name(part.key) in _LISTS]
        train = known[:1] or sorted(rest, key=lambda part: part.start - part.end)[:1]
    if not train:
        train, held_out = held_out[:1], held_out[1:]
    taken = [*train, *held_out]
    return Layout(tuple(train), tuple(held_out), tuple(part.key for part in lists if part not in taken))


def parts(found: Layout) -> Iterator[tuple[Part, bool]]:
    """The lists that are read, in order of the file, and whether each is held out."""
    both = [*((part, False) for part in found.train), *((part, True) for part in found.held_out)]
    yield from sorted(both, key=lambda pair: pair[0].start)
