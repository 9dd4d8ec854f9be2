"""Rows of one text file by number, by sparse indexes of lines or records.

Numbers count records from 0, blank lines left out, as the readers give them.
"""

from __future__ import annotations

import bisect
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any, cast

from core.data.csv_rows import CsvReader
from core.data.files import BOM, DataFile, Kind, NewLines
from core.data.json_rows import LONGEST_RECORD, ValueStream, parse_line
from core.data.seekable_gzip import SeekableGzip
from core.data.types import Row

_MAYBE_BLANK = re.compile(rb"\n[ \t\r\n]")

BLOCK = 1 << 20
EVERY = 256
"""Bytes (for lines) and records between two entries of an index."""


class FilePager(ABC):
    """The rows of one file. `known` rows are indexed; with `whole` these are all."""

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.bytes = file.path.stat().st_size if file.part is None else file.part.end - file.part.start
        self.known = 0
        self.whole = False

    @abstractmethod
    def step(self) -> None:
        """Index a little more (some milliseconds)."""

    @abstractmethod
    def rows(self, start: int, count: int) -> list[Row]:
        """At most `count` rows from number `start`; fewer at the end. Indexes up to there if need be."""

    def near(self, start: int, count: int) -> tuple[list[Row], bool]:
        """As `rows`, but at once: where the index does not reach yet, rows from about there, and False.

        Their `line` is 0, as nobody has counted it. No rows and False: it cannot be told yet.
        """
        if self.whole or start + count <= self.known:
            return self.rows(start, count), True
        return [], False

    @property
    @abstractmethod
    def done_bytes(self) -> int:
        """How much of the file is indexed."""

    def estimate(self) -> int:
        """The number of rows, from the share that is indexed."""
        if self.whole or not self.done_bytes:
            return self.known
        return max(self.known, round(self.known * self.bytes / self.done_bytes))

    def close(self) -> None:
        """Close the file."""
        return


class _TextPager(FilePager):
    """A file that is read as bytes, packed or not."""

    def __init__(self, file: DataFile, kind: Kind) -> None:
        super().__init__(file)
        self._kind = kind
        self._raw = SeekableGzip(file.path) if kind.packed else file.path.open("rb", buffering=0)
        below = NewLines(cast(IO[bytes], self._raw)) if kind.old_mac else self._raw
        self._stream = cast(IO[bytes], io.BufferedReader(cast(Any, below), 1 << 16))
        self._next = kind.start  # byte up to which the file is indexed

    @property
    def done_bytes(self) -> int:
        if self.whole:
            return self.bytes
        if isinstance(self._raw, SeekableGzip):
            return min(self._packed, self.bytes)
        return self._next - self._kind.start

    _packed = 0

    def _note_packed(self) -> None:
        if isinstance(self._raw, SeekableGzip):
            self._packed = max(self._packed, self._raw.raw_position)

    def close(self) -> None:
        self._stream.close()


class LinePager(_TextPager):
    """JSON Lines: blocks of about a megabyte, each with the number of its first row and line."""

    def __init__(self, file: DataFile, kind: Kind) -> None:
        super().__init__(file, kind)
        self._starts: list[int] = []  # first row of each block
        self._places: list[tuple[int, int]] = []  # offset and line of each block
        self._line = 1
        self.step()

    def step(self) -> None:
        if self.whole:
            return
        try:
            self._stream.seek(self._next)
            data = self._stream.read(BLOCK)
            if data and not data.endswith(b"\n"):
                data += self._stream.readline(LONGEST_RECORD)
        except (EOFError, OSError, ValueError):
            data = b""
        self._note_packed()
        if not data:
            self.whole = True
            return
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        rows = lines
        if data[:1].isspace() or _MAYBE_BLANK.search(data):
            rows -= sum(not line.strip(b" \t\r") for line in data.removesuffix(b"\n").split(b"\n"))
        self._starts.append(self.known)
        self._places.append((self._next, self._line))
        self.known += rows
        self._line += lines
        self._next += len(data)

    def near(self, start: int, count: int) -> tuple[list[Row], bool]:
        rows, exact = super().near(start, count)
        if exact or self._kind.packed:
            return rows, exact
        offset = int(self.bytes * min(1.0, start / max(1, self.estimate())))
        self._stream.seek(max(self._next, offset))
        if offset > self._next:
            self._stream.readline(LONGEST_RECORD)  # the rest of a line whose beginning is behind us
        while len(rows) < count and (raw := self._stream.readline(LONGEST_RECORD)):
            found = parse_line(raw)
            if found is not None:
                rows.append(self.file.row(0, 0, found))
        return rows, False

    def rows(self, start: int, count: int) -> list[Row]:
        while not self.whole and self.known < start + count:
            self.step()
        if start >= self.known:
            return []
        block = bisect.bisect_right(self._starts, start) - 1
        number = self._starts[block]
        offset, line = self._places[block]
        self._stream.seek(offset)
        result: list[Row] = []
        try:
            while len(result) < count and (raw := self._stream.readline(LONGEST_RECORD)):
                raw = raw.removeprefix(BOM) if line == 1 else raw
                if raw.strip(b" \t\r\n"):
                    if number >= start:
                        found = parse_line(raw)
                        if found is not None:
                            result.append(self.file.row(line, number + 1, found))
                    number += 1
                line += 1
        except (EOFError, OSError):
            return result
        return result


class RecordPager(_TextPager):
    """CSV and JSON values: the place of every 256th record."""

    def __init__(self, file: DataFile, kind: Kind) -> None:
        super().__init__(file, kind)
        self._places: list[tuple[int, int]] = []
        self._names: list[str] | None = None
        self._array = False
        self._walk = self._index()
        self.step()

    def _records(self, place: tuple[int, int] | None) -> tuple[Any, Iterator[tuple[int, Any]]]:
        """A reader from a place (offset, line), or from the beginning."""
        if self._kind.form == "csv":
            reader = CsvReader(self._stream, self._kind.delimiter, spaced=self._kind.spaced)
            if place is None:
                self._stream.seek(0)
            else:
                reader.names = self._names
                reader.restart(place[1], place[0])
            return reader, iter(reader)
        offset, line = place or (self._kind.start, self._kind.line)
        self._stream.seek(offset)
        inside = self._array if place is not None else False
        values = ValueStream(
            self._stream, line=line, offset=offset, inside=inside, wrapped=self._kind.wrapped
        )
        return values, iter(values)

    def _index(self) -> Iterator[None]:
        """Walk through the file; each step takes up the place it left, as the stream is used for paging too."""
        place: tuple[int, int] | None = None
        while not self.whole:
            reader, records = self._records(place)
            if isinstance(reader, CsvReader):
                reader.read_header()
                self._names = reader.names
                if reader.header_problem is None:
                    place = self._pass_over(reader)
                    yield
                    continue
            place = self._count(reader, records)
            self._array = getattr(reader, "array", False)
            self._note_packed()
            yield

    def _pass_over(self, reader: CsvReader) -> tuple[int, int]:
        """Count CSV records by their lines alone, which takes a fraction of the time."""
        for _ in range(16):
            line, offset = reader.place
            passed = reader.pass_over(EVERY)
            if passed:
                self._places.append((offset, line))
            self.known += passed
            if passed < EVERY:
                self.whole = True
                break
        line, self._next = reader.place
        self._note_packed()
        return self._next, line

    def _count(self, reader: Any, records: Iterator[tuple[int, Any]]) -> tuple[int, int] | None:
        for number, (line, _) in enumerate(islice(records, EVERY * 4 + 1)):
            if number == EVERY * 4:
                self._next = reader.offset
                return reader.offset, line
            if number % EVERY == 0:
                self._places.append((reader.offset, line))
            self.known += 1
        self.whole = True
        return None

    def step(self) -> None:
        if self.whole:
            return
        try:
            next(self._walk, None)
        except (EOFError, OSError, ValueError):
            self.whole = True

    def rows(self, start: int, count: int) -> list[Row]:
        while not self.whole and self.known < start + count:
            self.step()
        if start >= self.known:
            return []
        block = start // EVERY
        place = self._places[block] if block else None
        _, records = self._records(place)
        result: list[Row] = []
        try:
            skipped = start - block * EVERY
            for number, (line, found) in enumerate(islice(records, skipped, skipped + count), start + 1):
                result.append(self.file.row(line, number, found))
        except (EOFError, OSError):
            return result
        return result
