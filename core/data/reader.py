"""Rows of files and folders of any form: all of them in order, or any page of them by an index."""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from core.data.csv_records import CsvRecords
from core.data.files import DataFile, Kind, data_files, kind_of
from core.data.json_records import Found, JsonLines, JsonValues
from core.data.streams import Stream
from core.data.tables import TableRecords
from core.data.types import Problem, Row, UnreadableFile
from core.errors import RequestError
from core.language import told

EVERY = 256
"""Rows between two entries of an index."""
_OPEN = 8
"""Files that are kept open for pages."""
_DAMAGE = (EOFError, zlib.error)
_CUT = Problem(
    "unreadable-file",
    told("the gzip file is cut off or damaged behind this line"),
    told("make or copy it again"),
)


class Records(Protocol):
    """The records of one opened file. `place` is the line and the byte (or row) from which a read can go on."""

    @property
    def place(self) -> tuple[int, int]:
        """Line and byte."""

    def restart(self, line: int, offset: int, /) -> None:
        """Go on from a place."""

    def skip(self) -> bool:
        """Pass over a record; False at the end."""

    def __iter__(self) -> Iterator[tuple[int, Found]]: ...


class _Problem:
    """In place of the records of a file that cannot be read: one that says why."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.place = (1, 0)

    def restart(self, _line: int, offset: int) -> None:
        self.place = (1, offset)

    def skip(self) -> bool:
        first, self.place = self.place == (1, 0), (1, 1)
        return first

    def __iter__(self) -> Iterator[tuple[int, Found]]:
        if self.skip():
            yield 1, self._problem


class OpenedFile:
    """An opened file and its records.

    Attributes:
        start: the place of its first record.
        plain: whether it is JSON Lines that are not packed: reading can begin at any line.

    Raises:
        RequestError: it cannot be opened.
    """

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.plain = False
        self._stream: Stream | TableRecords | None = None
        try:
            self._size = file.path.stat().st_size
            kind = kind_of(file)
            self.records: Records = self._records(kind) if kind is not None else JsonLines(io.BytesIO())
        except UnreadableFile as error:
            self.records = _Problem(error.problem)
        except _DAMAGE:
            self.records = _Problem(_CUT)
        except OSError as error:
            raise RequestError(
                told("The data file cannot be read."),
                told("{path}: {strerror}.", path=file.path, strerror=error.strerror or error),
                told("Look at its rights."),
                code="data.unreadable",
            ) from None
        self.start = self.records.place

    def _records(self, kind: Kind) -> Records:
        if kind.form in ("parquet", "arrow"):
            self._stream = table = TableRecords(self.file.path, kind.form)
            return table
        self._stream = stream = Stream(self.file.path, packed=kind.packed, old_mac=kind.old_mac)
        if kind.form == "csv":
            return CsvRecords(stream, kind.delimiter, spaced=kind.spaced)
        if kind.form == "json":
            return JsonValues(stream, line=kind.line, offset=kind.start, wrapped=kind.wrapped)
        self.plain = not (kind.packed or kind.old_mac)
        return JsonLines(stream)

    @property
    def done(self) -> int:
        """How far it is read, in bytes of the file as it lies on the disk."""
        if isinstance(self._stream, TableRecords):
            return self._size * self._stream.place[1] // max(1, self._stream.rows)
        if self._stream is None:
            return self._size
        return self._stream.packed_done if self._stream.packed else self.records.place[1]

    def go_to(self, place: tuple[int, int]) -> None:
        """Go on from a place, if reading is not there."""
        if self.records.place != place:
            self.records.restart(*place)

    def rows(self, number: int = 0) -> Iterator[Row]:
        """The rows from the present place on, before which there are `number`."""
        try:
            for line, found in self.records:
                number += 1
                yield self.file.row(line, number, found)
        except (UnreadableFile, *_DAMAGE) as error:
            problem = error.problem if isinstance(error, UnreadableFile) else _CUT
            yield self.file.row(max(1, self.records.place[0] - 1), number + 1, problem)

    def skip(self, count: int) -> int:
        """Pass over so many rows; returns how many there were."""
        if isinstance(self._stream, TableRecords):
            return self._stream.skip_rows(count)
        passed = 0
        try:
            while passed < count and self.records.skip():
                passed += 1
        except (UnreadableFile, *_DAMAGE):
            return passed + 1
        return passed

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()


class RowReader:
    """Every record of a file, or of all files of a folder, in order.

    Blank lines are passed over; what cannot be read is a row with a problem and no fields. Nothing
    but the present record (for Parquet: some hundreds) is kept in memory.

    Raises:
        RequestError: the folder holds no data files.
    """

    def __init__(self, path: Path) -> None:
        self.files = data_files(path)
        self.begins: list[int] = []
        """For each file the bytes of those before it. Of several lists in one file these are the same."""
        total = 0
        for place, each in enumerate(self.files):
            if place and each.path != self.files[place - 1].path:
                total += self.files[place - 1].path.stat().st_size
            self.begins.append(total)
        self.total_bytes = total + self.files[-1].path.stat().st_size
        self._done = 0
        self._opened: OpenedFile | None = None

    @property
    def done_bytes(self) -> int:
        """How far reading has come, in bytes of the files as they lie on the disk."""
        return self._done + (self._opened.done if self._opened is not None else 0)

    def __iter__(self) -> Iterator[Row]:
        for begin, each in zip(self.begins, self.files, strict=True):
            self._done, self._opened = begin, OpenedFile(each)
            try:
                yield from self._opened.rows()
            finally:
                self._opened.close()
                self._opened = None
        self._done = self.total_bytes


class RowIndex:
    """Where every 256th row of a file or folder begins, so that any page is read from the place before it.

    One pass makes it, a step at a time. `known` rows are in it; with `whole` these are all.

    Raises:
        RequestError: the folder holds no data files.
    """

    def __init__(self, path: Path) -> None:
        self._reader = RowReader(path)
        self.files = self._reader.files
        self._starts: list[int] = []  # the first row of each entry, counted over all files
        self._entries: list[tuple[int, int, tuple[int, int]]] = []  # its file, row in it, and place
        self._firsts: list[int] = []  # the first row of each file
        self._next: tuple[int, int, tuple[int, int]] | None = None  # where the pass goes on
        self._open: OrderedDict[int, OpenedFile] = OrderedDict()
        self.known = 0
        self.whole = False
        self.step()

    def _file(self, number: int) -> OpenedFile:
        found = self._open.pop(number, None) or OpenedFile(self.files[number])
        self._open[number] = found
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)[1].close()
        return found

    def step(self) -> None:
        """Go over the next 256 rows, which takes milliseconds at most."""
        if self.whole:
            return
        if self._next is None:
            opened = self._file(len(self._firsts))
            self._firsts.append(self.known)
            self._next = len(self._firsts) - 1, 0, opened.start
        file, number, place = self._next
        opened = self._file(file)
        opened.go_to(place)
        passed = opened.skip(EVERY)
        if passed:
            self._starts.append(self.known)
            self._entries.append(self._next)
            self.known += passed
        self._next = (file, number + passed, opened.records.place) if passed == EVERY else None
        self.whole = self._next is None and len(self._firsts) == len(self.files)

    def progress(self) -> tuple[int, int]:
        """Bytes that are gone over, and bytes in all."""
        total = self._reader.total_bytes
        if self.whole or self._next is None:
            return total if self.whole else 0, total
        return self._reader.begins[self._next[0]] + self._file(self._next[0]).done, total

    def estimate(self) -> int:
        """The number of rows, from the share of the bytes that is gone over."""
        done, total = self.progress()
        return self.known if self.whole or not done else max(self.known, round(self.known * total / done))

    def rows(self, start: int, count: int) -> list[Row]:
        """At most `count` rows from number `start` (from 0); goes over the rows up to there if need be."""
        while self.known < start + count and not self.whole:
            self.step()
        if start >= self.known:
            return []
        entry = bisect_right(self._starts, start) - 1
        (file, number, place), ahead = self._entries[entry], start - self._starts[entry]
        result: list[Row] = []
        for each in range(file, len(self.files)):
            opened = self._file(each)
            opened.go_to(place if each == file else opened.start)
            result += islice(opened.rows(number), ahead, ahead + count - len(result))
            if len(result) >= count:
                break
            number = ahead = 0
        return result

    def near(self, start: int, count: int) -> tuple[list[Row], bool]:
        """As `rows`, but at once: where the index does not reach yet, rows from about there, and False.

        Their `line` is 0, as nobody has counted it. No rows and False: it cannot be told yet.
        """
        if self.whole or start + count <= self.known:
            return self.rows(start, count), True
        at = int(self._reader.total_bytes * min(1.0, start / max(1, self.estimate())))
        file = bisect_right(self._reader.begins, at) - 1
        opened = self._file(file)
        if not opened.plain:
            return [], False
        opened.records.restart(0, at - self._reader.begins[file])
        opened.records.skip()  # as a rule the rest of a line whose beginning is behind us
        return [replace(row, line=0, number=0) for row in islice(opened.rows(), count)], False

    def number_of(self, file: str, row: int) -> int | None:
        """The number, from 0, of a file's row, from 1, or None; goes over the rows up to there if need be."""
        place = next((place for place, each in enumerate(self.files) if each.name == file), -1)
        if place < 0 or row < 1:
            return None
        while (len(self._firsts) <= place or self.known < self._firsts[place] + row) and not self.whole:
            self.step()
        if self._firsts[place] + row > (*self._firsts, self.known)[place + 1]:
            return None
        return self._firsts[place] + row - 1

    def __enter__(self) -> RowIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for opened in self._open.values():
            opened.close()
        self._open.clear()
