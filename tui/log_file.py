"""A log of any size on disk, of which only the lines that are looked at are read.

What is kept in memory is one number for each 64 KiB of the file: how many lines begin before it.
100 MB of log cost 13 kB. Reading is by line number, so the whole log can be scrolled and searched while it
grows.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from pathlib import Path

from core.files import open_file
from core.language import _
from core.text import clean_line

BLOCK = 64 * 1024
"""Bytes between two entries of the index."""

AT_ONCE = 4 * 1024 * 1024
"""Bytes indexed by one call of :meth:`LogFile.refresh`."""

LONG = 32 * 1024
"""Bytes of one line that are looked at."""

ERROR = re.compile(
    rb"\b(?:error|exception|traceback|fatal|failed|failure|critical|killed)\b"
    rb"|segmentation fault|out of memory"
    rb"|[A-Za-z]+(?:Error|Exception)\b",
    re.IGNORECASE,
)
"""What counts as an error for "first error"."""


class LogFile:
    """A growing file of lines. ``refresh`` may be called in one thread and the rest in another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()

    def _reset(self) -> None:
        # Entry b: newlines in the file before byte b * BLOCK. Only complete blocks have a successor.
        self._before = array("Q", [0])
        self._in_last = 0
        self._ends_with_newline = True
        self.size = 0

    @property
    def count(self) -> int:
        """Lines there are, an unfinished last one included."""
        newlines = self._before[-1] + self._in_last
        return int(newlines) + (0 if self._ends_with_newline else 1)

    def refresh(self) -> bool:
        """Index what was appended since; at most 4 MiB a call. Returns whether anything was new."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return False
        if size < self.size:
            self._reset()
        if size == self.size:
            return False
        with open_file(self.path) as stream:
            stream.seek(self.size)
            left = min(AT_ONCE, size - self.size)
            while left > 0:
                room = BLOCK - self.size % BLOCK
                data = stream.read(min(room, left))
                if not data:
                    break
                left -= len(data)
                newlines = self._in_last + data.count(b"\n")
                self._ends_with_newline = data.endswith(b"\n")
                if len(data) == room:
                    self._in_last = 0
                    self._before.append(self._before[-1] + newlines)
                else:
                    self._in_last = newlines
                self.size += len(data)
        return True

    def lines(self, first: int, count: int) -> list[str]:
        """Lines ``first`` to ``first + count - 1``, cleaned and cut as a terminal would have left them."""
        first = max(0, first)
        count = min(count, self.count - first)
        if count <= 0:
            return []
        try:
            with open_file(self.path) as stream:
                start = self._offset(stream, first)
                stream.seek(start)
                data = stream.read(min(256 * 1024, max(0, self.size - start)))
                raw = data.split(b"\n")
                whole = raw[:-1] if start + len(data) < self.size else raw
                if len(whole) < count:
                    whole = [self._one(stream, first + i) for i in range(count)]
        except OSError as error:
            return [_("{path} cannot be read: {strerror}", path=self.path, strerror=error.strerror)]
        return [_shown(line) for line in whole[:count]]

    def _offset(self, stream: object, line: int) -> int:
        """The byte at which a line starts."""
        if line <= 0:
            return 0
        block = bisect_left(self._before, line) - 1
        missing = line - self._before[block]
        stream.seek(block * BLOCK)  # type: ignore[attr-defined]
        data: bytes = stream.read(BLOCK)  # type: ignore[attr-defined]
        at = -1
        for _each in range(missing):
            at = data.find(b"\n", at + 1)
            if at < 0:
                return self.size
        return block * BLOCK + at + 1

    def _one(self, stream: object, line: int) -> bytes:
        start, end = (
            self._offset(stream, line),
            self._offset(stream, line + 1) if line + 1 < self.count else self.size,
        )
        stream.seek(max(start, end - LONG))  # type: ignore[attr-defined]
        tail: bytes = stream.read(min(LONG, end - start)).rstrip(b"\n")  # type: ignore[attr-defined]
        if end - start <= LONG or b"\r" in tail:
            return tail
        stream.seek(start)  # type: ignore[attr-defined]
        head: bytes = stream.read(LONG)  # type: ignore[attr-defined]
        return head

    def find(self, what: re.Pattern[bytes], line: int, *, backwards: bool = False) -> int | None:
        """The first line from ``line`` on (or the last up to it) that matches; reads the file as it needs."""
        found: int | None = None
        with open_file(self.path) as stream:
            number = 0 if backwards else max(0, line)
            stream.seek(0 if backwards else self._offset(stream, number))
            rest = b""
            while True:
                data = stream.read(1024 * 1024)
                whole = rest + data
                if not whole:
                    return found
                end = whole.rfind(b"\n") + 1 if data else len(whole)
                if end == 0 and len(whole) < 16 * 1024 * 1024:
                    rest = whole
                    continue
                part, rest = whole[: end or len(whole)], whole[end or len(whole) :]
                for match in what.finditer(part):
                    at = number + part.count(b"\n", 0, match.start())
                    if not backwards:
                        return at
                    if at > line:
                        return found
                    found = at
                number += part.count(b"\n")
                if not data:
                    return found


def _shown(line: bytes) -> str:
    line = line.removesuffix(b"\r")
    line = line.rsplit(b"\r", 1)[-1] if b"\r" in line else line
    return clean_line(line[:LONG].decode("utf-8", "replace"))
