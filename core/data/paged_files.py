"""Rows by number from files of any form, and from several files as one."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

from core.data.file_pagers import FilePager, LinePager, RecordPager
from core.data.files import DataFile, UnreadableFile, kind_of
from core.data.readers import arrow_batches, table_rows
from core.data.types import Problem, Row


class TablePager(FilePager):
    """Parquet and Arrow: the group of rows that was asked for last is kept."""

    def __init__(self, file: DataFile, form: str) -> None:
        super().__init__(file)
        self._group: Callable[[int], Any]
        if form == "parquet":
            import pyarrow.parquet as pq

            parquet: Any = pq.ParquetFile(file.path)
            self._file: Any = parquet
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            self._group = lambda number: parquet.read_row_group(number, use_threads=False)
        else:
            import pyarrow as pa

            self._file = pa.memory_map(str(file.path))
            batches = list(arrow_batches(self._file))  # mapped, not read
            sizes = [batch.num_rows for batch in batches]
            self._group = lambda number: pa.Table.from_batches([batches[number]])
        self._ends = list(accumulate(sizes))
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
                self._kept = (group, self._group(group))
            first = self._ends[group] - self._kept[1].num_rows
            part = table_rows([self._kept[1].slice(number - first, count - len(result))])
            result += [self.file.row(place, place, fields) for place, fields in enumerate(part, number + 1)]
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
        return [self.file.row(1, 1, self._problem)] if start == 0 and count else []


class _Empty(_Broken):
    def __init__(self, file: DataFile) -> None:
        super().__init__(file, Problem("no-rows", "the file has no records", "give it some"))
        self.known = 0

    def rows(self, start: int, count: int) -> list[Row]:
        return []


def open_pager(file: DataFile) -> FilePager:
    """The pager for one file; what cannot be read is a single row with a problem."""
    try:
        kind = kind_of(file)
        if kind is None:
            return _Empty(file)
        if kind.form == "jsonl":
            return LinePager(file, kind)
        if kind.form in ("parquet", "arrow"):
            return TablePager(file, kind.form)
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
