"""JSON records: one a line, or values one after another (an array, or objects over several lines).

Both read as a stream and go on behind a broken record, so that one call finds all that is broken.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

from core.data.types import BEFORE, BEHIND, Noted, Problem, quote
from core.language import told

LONGEST_RECORD = 1 << 24
"""Bytes (or characters) after which a record is refused rather than kept in memory: no model reads as much."""

DEEPEST = 200
"""Levels of nesting that are accepted: what can just be read could not be written again."""

CORRECT = told("correct the record or remove it")
Found = dict[str, Any] | Noted | Problem
TOO_LONG = Problem(
    "broken-json",
    told("the record is longer than {longest_record} MiB", longest_record=LONGEST_RECORD >> 20),
    CORRECT,
)
MOST_BRACKETS = 500_000
"""Lists and objects (brackets in its texts too) in a record: each costs a hundred times its two bytes."""
TOO_MANY = Problem(
    "broken-json",
    told("the record has more than {most_brackets:,} brackets", most_brackets=MOST_BRACKETS),
    CORRECT,
)
_CHUNK = 1 << 18
_BLANK = b" \t\r\n"
_DECODER = json.JSONDecoder()
_SPACED_COLON = re.compile(r'"\s+:')
_GAP = re.compile(r"[\s,]*")
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:')


def as_record(value: Any, text: str) -> Found:
    """A decoded value as a record, or what is wrong with it. `text` is what it was decoded from."""
    if isinstance(value, dict):
        if _too_deep(value):
            return Problem("broken-json", told("it is nested too deeply"), CORRECT)
        twice = _key_twice(text, value)
        if not twice:
            return value
        message = told(
            "the key {twice} stands twice in an object, and the first one is not used", twice=repr(twice)
        )
        return Noted(value, Problem("key-twice", message, told("remove one of the two")))
    name = {list: told("a list"), str: told("text"), bool: told("true or false"), type(None): "null"}.get(
        type(value), "a number"
    )
    return Problem(
        "wrong-type",
        told("it holds {name}, not an object with fields", name=name),
        told('write it as {"field": "text"}'),
    )


def _too_many(text: str, start: int = 0, end: int | None = None) -> bool:
    """Whether a record's text has more brackets than any record has."""
    if (len(text) if end is None else end) - start < MOST_BRACKETS:
        return False
    return text.count("[", start, end) + text.count("{", start, end) > MOST_BRACKETS


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _keys(value: Any) -> int:
    """How many keys a value has, at all levels."""
    count, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            count += len(each)
            waiting += [inner for inner in each.values() if isinstance(inner, dict | list)]
        else:
            waiting += [inner for inner in each if isinstance(inner, dict | list)]
    return count


def _key_twice(text: str, value: dict[str, Any]) -> str:
    """A key that an object in the text has twice; "" where there is none.

    Every key ends in a quote and a colon. Where there are no more of these than keys, there is none.
    """
    if text.count('":') + len(_SPACED_COLON.findall(text)) <= _keys(value):
        return ""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            found.append(next(name for name in names if names.count(name) > 1))
        return result

    json.loads(text, object_pairs_hook=look)
    return found[-1] if found else ""


def has_lone_surrogate(value: Any) -> bool:
    """Whether text in a value has half of a surrogate pair, which no encoder takes."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            try:
                each.encode()
            except UnicodeEncodeError:
                return True
        elif isinstance(each, dict):
            waiting += each.keys()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return False


def parse_line(raw: bytes) -> Found | None:
    """The record on one line of JSON Lines; None for a blank line."""
    raw = raw.strip(_BLANK)
    if not raw:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return not_utf8(raw, error.start, told("byte {start} of the line", start=error.start + 1))
    if _too_many(text):
        return TOO_MANY
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.endswith(","):  # as lines cut out of an array have
            return parse_line(raw[:-1])
        if text.startswith(("//", "#", "/*")):
            return Problem(
                "broken-json",
                told("it is a comment, which JSON does not have"),
                told("remove the line"),
                quote(text, 0),
            )
        message = told("{plain}, at column {colno}", plain=_plain(error.msg), colno=error.colno)
        return Problem("broken-json", message, CORRECT, quote(text, error.pos))
    except (ValueError, RecursionError) as error:
        return Problem("broken-json", _odd(error), CORRECT)
    if "\\u" in text and has_lone_surrogate(value):
        return Problem("invalid-utf8", told("it has half of a surrogate pair (\\ud800 to \\udfff)"), CORRECT)
    return as_record(value, text)


class JsonLines:
    """The records of JSON Lines, blank lines left out.

    Iterating gives `(line, record or problem)`. `place` is the line and the byte from which a read can go on.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.place = (1, 0)

    def restart(self, line: int, offset: int) -> None:
        """Go on with this line, which begins at this byte."""
        self._stream.seek(offset)
        self.place = (line, offset)

    def _read(self) -> bytes:
        """The next line with something on it, a longer one than any record as far as that; b"" at the end."""
        while raw := self._stream.readline(LONGEST_RECORD):
            line, offset = self.place
            size, piece = len(raw), raw
            while len(piece) == LONGEST_RECORD and not piece.endswith(b"\n"):
                piece = self._stream.readline(LONGEST_RECORD)
                size += len(piece)
            self.place = (line + 1, offset + size)
            if line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw.strip(_BLANK):
                return raw
        return b""

    def skip(self) -> bool:
        """Pass over a record; False at the end."""
        return bool(self._read())

    def __iter__(self) -> Iterator[tuple[int, Found]]:
        while raw := self._read():
            line = self.place[0] - 1
            if len(raw) == LONGEST_RECORD and not raw.endswith(b"\n"):
                yield line, TOO_LONG
                continue
            found = parse_line(raw)
            if found is not None:
                yield line, found


def _plain(message: str) -> str:
    """The decoder's words, with the first letter small and the cause named where it is a common one."""
    # Only the words that people read hang on this: the json module gives its errors no code.
    if message.startswith("Extra data"):
        return told("there is more text behind the record")
    if message.startswith("Unterminated string"):
        return told("a text has no closing quote")
    if message.startswith("Invalid control character"):
        return told("a text has a raw control character (write \\n for a line break)")
    return message[:1].lower() + message[1:]


def _odd(error: Exception) -> str:
    return (
        told("it is nested too deeply")
        if isinstance(error, RecursionError)
        else told("it has a number that is too long")
    )


def not_utf8(raw: bytes, place: int, where: str) -> Problem:
    """A byte that is not UTF-8, with the letter that it most likely is.

    Args:
        raw: the line, or as much of it as there is.
        place: of the byte in it.
        where: the same in words.
    """
    byte = raw[place]
    letter = ""
    with suppress(UnicodeDecodeError):
        letter = told(", {bytes} in Windows' and Latin-1 files", bytes=repr(bytes([byte]).decode("cp1252")))
    fix = told("save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 does, if that is what it is)")
    line = raw.decode("utf-8", "surrogateescape")
    before = raw[:place].decode("utf-8", "surrogateescape")
    message = told("{where} (0x{byte:02x}{letter}) is not UTF-8", where=where, byte=byte, letter=letter)
    return Problem("invalid-utf8", message, fix, quote(line, len(before)))


def _judged(value: Any, piece: str) -> Found:
    """A decoded value as a record, or what is wrong with it or with its text, in which bad bytes are escaped."""
    if len(piece) > LONGEST_RECORD:
        return TOO_LONG
    if _too_many(piece):
        return TOO_MANY
    if not piece.isascii() or "\\u" in piece:
        bad = next((at for at, char in enumerate(piece) if "\udc80" <= char <= "\udcff"), -1)
        if bad >= 0:
            near = piece[max(0, bad - 2 * BEFORE) : bad + 2 * BEHIND]
            place = len(piece[max(0, bad - 2 * BEFORE) : bad].encode("utf-8", "surrogateescape"))
            return not_utf8(near.encode("utf-8", "surrogateescape"), place, told("a byte of the record"))
        if has_lone_surrogate(value):
            return Problem(
                "invalid-utf8", told("it has half of a surrogate pair (\\ud800 to \\udfff)"), CORRECT
            )
    return as_record(value, piece)


class JsonValues:
    """JSON values one after another: the elements of an array, or objects without one.

    Iterating gives `(line, record or problem)`. `place` is the line and the byte from which a read can go on.
    What follows a `wrapped` array (`{"data": [...], ...}`) is of no interest.
    """

    def __init__(self, stream: IO[bytes], *, line: int = 1, offset: int = 0, wrapped: bool = False) -> None:
        self._stream = stream
        self._wrapped = wrapped
        self._key = ""
        self.restart(line, offset)
        if self._skip() and self._text[self._at] == "\ufeff":
            self._at += 1
        self._array = self._skip() and self._text[self._at] == "["
        self._at += self._array

    def restart(self, line: int, offset: int) -> None:
        """Go on with the value that begins behind this byte, on this line."""
        self._stream.seek(offset)
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text = ""
        self._at = 0  # place in _text
        self._counted = 0  # newlines in _text before here are in _line
        self._line = line
        self._base = offset  # byte offset of _text[_measured]
        self._measured = 0
        self._ended = False
        self._records: Iterator[tuple[int, Found]] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Line and byte from which a read can go on."""
        self._mark()
        return self._line, self._base

    def skip(self) -> bool:
        """Pass over a value; False at the end."""
        if self._records is None:
            self._records = iter(self)
        return next(self._records, None) is not None

    def _more(self, size: int = _CHUNK) -> bool:
        """Read on, forgetting what is behind; False at the end of the file."""
        if self._ended:
            return False
        self._mark()
        self._text, self._at, self._counted, self._measured = self._text[self._at :], 0, 0, 0
        raw = self._stream.read1(size)  # type: ignore[attr-defined] # at damage `read` would lose what is before
        self._ended = not raw
        more = self._decode(raw, self._ended)  # at the end there may be a letter that was begun
        self._text += more
        return bool(raw or more)

    def _mark(self) -> None:
        """Bring line and byte offset up to the present place."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self._base += len(self._text[self._measured : self._at].encode("utf-8", "surrogateescape"))
        self._measured = self._at

    def _skip(self) -> bool:
        """Go to the next sign that is neither space nor comma; False at the end of the file."""
        while True:
            match = _GAP.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return True
            if not self._more():
                return False

    def __iter__(self) -> Iterator[tuple[int, Found]]:
        while self._skip():
            self._mark()
            line = self._line
            if self._text[self._at] == "]" and self._array:
                self._at += 1
                if not self._wrapped and self._skip():
                    self._mark()
                    yield (
                        self._line,
                        Problem("broken-json", told("there is more text behind the array"), CORRECT),
                    )
                return
            found, behind = self._value()
            ended = not behind and not self._resume()
            yield line, found
            if ended:
                return
        if self._array:
            self._mark()
            message = told("the file ends before the array is closed with ]")
            yield (
                self._line,
                Problem("broken-json", message, told("add the missing end, or make the file again")),
            )

    def _value(self) -> tuple[Found, bool]:
        """The value at the present place, and whether the place is behind it: not so where it is broken."""
        size = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                break
            except json.JSONDecodeError as error:
                # A value that the buffer cuts fails near the buffer's end, or in a text that it leaves open.
                cut = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated")
                small = len(self._text) - self._at < LONGEST_RECORD
                if cut and _too_many(self._text, self._at):
                    return TOO_MANY, False
                if cut and small and not self._ended:
                    self._more(size)
                    size = min(size * 2, 1 << 24)
                    continue
                return self._broken(error), False
            except (ValueError, RecursionError) as error:
                return Problem("broken-json", _odd(error), CORRECT), False
        start, self._at = self._at, end
        piece = self._text[start:end]
        key = _FIRST_KEY.match(piece)
        self._key = key.group(1) if key else self._key
        return _judged(value, piece), True

    def _broken(self, error: json.JSONDecodeError) -> Problem:
        self._mark()
        down = self._text.count("\n", self._at, error.pos)
        before = self._text.rfind("\n", 0, error.pos)
        inside = self._ended and error.pos >= len(self._text.rstrip())
        where = (
            told("line {line}, column {pos}", line=self._line + down, pos=error.pos - before)
            if before >= 0 or down == 0
            else "it"
        )
        # Only what is sure to be there whatever was read at once: from the record's beginning on.
        into = error.pos - self._at
        while len(self._text) - self._at - into <= BEHIND and self._more():
            pass
        place = quote(self._text[self._at : self._at + into + BEHIND + 1], into)
        if inside:
            return Problem("broken-json", told("the file ends inside this record"), CORRECT, place)
        if self._text.startswith(("//", "#", "/*"), self._at):
            return Problem(
                "broken-json", told("there is a comment, which JSON does not have"), told("remove it"), place
            )
        if down == 0 and before < 0:
            return Problem("broken-json", _plain(error.msg), CORRECT, place)
        return Problem(
            "broken-json", told("{plain}, at {where}", plain=_plain(error.msg), where=where), CORRECT, place
        )

    def _resume(self) -> bool:
        """Go behind a broken record, to where the next seems to begin; False if none does."""
        line_start = self._text.rfind("\n", 0, self._at) + 1
        indent = self._text[line_start : self._at]
        indent = indent if not indent.strip() else ""
        own = _FIRST_KEY.match(self._text, self._at)
        key = self._key or (own.group(1) if own else "")
        starts = rf'\n{indent}(?=\{{)|\}}\s*,?\s*(?=\{{\s*"{re.escape(key)}"\s*:)'
        pattern = re.compile(starts)
        search = self._at + 1
        while True:
            match = pattern.search(self._text, search)
            if match:
                self._at = match.end()
                return True
            self._at = max(self._at, len(self._text) - 4096)
            if not self._more():
                return False
            search = 0
