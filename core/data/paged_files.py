"""Rows by number from files of any form, and from several files as one."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable
from typing import Any

from core.data.file_pagers import FilePager, LinePager, RecordPager
from core.data.files import DataFile, UnreadableFile, sniff
from core.data.types import Problem, Row


class ParquetPager(FilePager):
    """Parquet: the row group that was asked for last is kept."""

    def __init__(self, file: DataFile) -> None:
        import pyarrow.parquet as pq

        super().__init__(file)
        self._file = pq.ParquetFile(file.path)
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._ends = [sum(groups[: i + 1]) for i in range(len(groups))]
        self.known = self._ends[-1] if self._ends else 0
        self.whole = True
        self._kept: tuple[int, Any] = (-1, None)

    @property
    def done_bytes(self) -> int:
        return self.bytes

    def step(self) -> None:
        """Nothing is left to index: the file has its own."""

    def rows(self, start: int, count: int) -> list[Row]:
        result: list[Row] = []
        while count > len(result) and start + len(result) < self.known:
            number = start + len(result)
            group = bisect.bisect_right(self._ends, number)
            if self._kept[0] != group:
                self._kept = (group, self._file.read_row_group(group, use_threads=False))
            first = self._ends[group] - self._kept[1].num_rows
            part = self._kept[1].slice(number - first, count - len(result)).to_pylist()
            result += [self._row(number + i + 1, fields) for i, fields in enumerate(part)]
        return result

    def close(self) -> None:
        self._file.close()


class _Broken(FilePager):
    """A file that cannot be read: one row that says why."""

    def __init__(self, file: DataFile, problem: Problem) -> None:
        super().__init__(file)
        self._problem = problem
        self.known, self.whole = 1, True

    @property
    def done_bytes(self) -> int:
        return self.bytes

    def step(self) -> None:
        """Nothing to index."""

    def rows(self, start: int, count: int) -> list[Row]:
        return [self._row(1, self._problem)] if start == 0 and count else []


class _Empty(_Broken):
    def __init__(self, file: DataFile) -> None:
        super().__init__(file, Problem("no-rows", "the file has no records", "give it some"))
        self.known = 0

    def rows(self, start: int, count: int) -> list[Row]:
        return []


def open_pager(file: DataFile) -> FilePager:
    """The pager for one file; what cannot be read is a single row with a problem."""
    try:
        kind = sniff(file.path)
        if kind is None:
            return _Empty(file)
        if kind.form == "jsonl":
            return LinePager(file, kind)
        if kind.form == "parquet":
            return ParquetPager(file)
        return RecordPager(file, kind)
    except UnreadableFile as error:
        return _Broken(file, error.problem)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        return _Broken(file, Problem("unreadable-file", str(error), "make or copy the file again"))


class Pages:
    """The rows of several files in order, as one."""

    def __init__(self, files: Iterable[DataFile]) -> None:
        self.pagers = [open_pager(file) for file in files]

    @property
    def exact(self) -> bool:
        """Whether every row is counted."""
        return all(pager.whole for pager in self.pagers)

    def estimate(self) -> int:
        """The number of rows, exact or extrapolated."""
        return sum(pager.estimate() for pager in self.pagers)

    def progress(self) -> tuple[int, int]:
        """Bytes indexed, and bytes in all."""
        return sum(pager.done_bytes for pager in self.pagers), sum(pager.bytes for pager in self.pagers)

    def index_for(self, seconds: float) -> bool:
        """Index for a while; True when all is indexed."""
        until = time.monotonic() + seconds
        for pager in self.pagers:
            while not pager.whole:
                if time.monotonic() >= until:
                    return False
                pager.step()
        return True

    def rows(self, start: int, count: int) -> list[Row]:
        """At most `count` rows from number `start` (from 0)."""
        result: list[Row] = []
        for pager in self.pagers:
            if start < pager.known or not pager.whole:
                result += pager.rows(start, count - len(result))
            if len(result) >= count:
                break
            start = max(0, start - pager.known)
        return result

    def near(self, start: int, count: int) -> tuple[list[Row], bool]:
        """Rows from about number `start` without waiting for the index, and whether they are just those."""
        result: list[Row] = []
        exact = True
        for pager in self.pagers:
            if start < pager.estimate() or pager is self.pagers[-1]:
                rows, sure = pager.near(start, count - len(result))
                result += rows
                exact = exact and sure
                if len(result) >= count or not sure:
                    break
            exact = exact and pager.whole
            start = max(0, start - pager.estimate())
        return result, exact

    def close(self) -> None:
        """Close all files."""
        for pager in self.pagers:
            pager.close()
