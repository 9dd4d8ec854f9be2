"""Records of Parquet and Arrow files: a row each, its number in place of a line."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from core.data.json_records import LONGEST_RECORD, TOO_LONG, Found
from core.data.types import UnreadableFile
from core.data.unpacked import BadHeader, PackedPart, arrow_parts, parquet_pages

_BATCH = 512
_AT_ONCE = 1 << 28
"""Bytes that the rows of one batch may have. A dictionary lets a file of a kilobyte have rows of many gigabytes."""
MOST_ROWS = 100_000_000
_LARGE, _RATIO = 1 << 30, 1_000
"""What unpacks to more bytes than this, and than so many times its packed size, is no data. What is unpacked at once
may not have more either."""
_MOST_PAGES = 500_000
_KEPT = 1 << 28
"""Bytes of the group of rows that was asked for last, up to which it is kept."""


class TableRecords:
    """The rows of a Parquet file, or of an Arrow file (`datasets` saves such, as a stream).

    Iterating gives `(row number from 1, record or problem)`. `place` is the number and the row, from 0, from
    which a read can go on.

    Raises:
        UnreadableFile: it is damaged, or unpacks to more than any data does; told here or while it is read.
    """

    def __init__(self, path: Path, form: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._parquet = form == "parquet"
        self._row = 0
        self._size = path.stat().st_size
        self._unpacked = 0
        self._kept: tuple[int, list[Any]] = (-1, [])
        with self._readable():
            if self._parquet:
                self._file: Any = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
                self._groups = [
                    self._file.metadata.row_group(each) for each in range(self._file.num_row_groups)
                ]
                sizes = [each.num_rows for each in self._groups]
            else:
                self._file = pa.memory_map(str(path))
                _refuse_huge(arrow_parts(memoryview(self._file.read_buffer())))
                sizes = []
                for each in _arrow_batches(self._file):
                    if not sizes:
                        _refuse_views(each.schema)
                    sizes.append(each.num_rows)
        self._ends = list(accumulate(sizes))
        self.rows = self._ends[-1] if self._ends else 0
        if self.rows > MOST_ROWS:
            raise UnreadableFile(
                f"it has {self.rows:,} rows, and {MOST_ROWS:,} are the most that are read",
                "take a part of it",
            )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What pyarrow raises as the fault of the file."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError, BadHeader) as error:
            form = "Parquet" if self._parquet else "Arrow"
            message = f"the {form} file is damaged ({error})"
            raise UnreadableFile(message, "make or copy the file again") from None

    @property
    def place(self) -> tuple[int, int]:
        """Number and row from which a read can go on."""
        return self._row + 1, self._row

    def restart(self, _line: int, offset: int) -> None:
        """Go on with this row, counted from 0."""
        self._row = offset
        self._unpacked = 0

    def skip(self) -> bool:
        """Pass over a row; False at the end."""
        return self.skip_rows(1) == 1

    def skip_rows(self, count: int) -> int:
        """Pass over so many rows at once; returns how many there were."""
        before, self._row = self._row, min(self.rows, self._row + count)
        return self._row - before

    def __iter__(self) -> Iterator[tuple[int, Found]]:
        with self._readable():
            for first, batch in self._batches():
                self._unpacked += batch.nbytes
                if self._unpacked > _LARGE and self._unpacked > _RATIO * self._size:
                    raise UnreadableFile(
                        f"its rows unpack from {self._size:,} bytes to more than {self._unpacked:,}",
                        "take a part of it",
                    )
                for found in table_rows(batch.slice(max(0, self._row - first))):
                    self._row += 1
                    yield self._row, found

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """Batches of the rows from the present one on, each with the number of its first row."""
        group = bisect_right(self._ends, self._row)
        if not self._parquet:
            yield from self._arrow(group)
            return
        for number in range(group, len(self._groups)):
            first = self._ends[number] - self._groups[number].num_rows
            for batch in self._group(number, keep=self._row > first):
                if first + batch.num_rows > self._row:
                    yield first, batch
                first += batch.num_rows

    def _group(self, number: int, *, keep: bool) -> Iterable[Any]:
        """The batches of a group of rows in a Parquet file.

        Args:
            keep: rows in the middle are asked for: others in it are as a rule asked for next.
        """
        if self._kept[0] == number:
            return self._kept[1]
        group = self._groups[number]
        columns = [group.column(each) for each in range(group.num_columns)]
        with self._path.open("rb", buffering=0) as raw:

            def read(at: int, size: int) -> bytes:
                return os.pread(raw.fileno(), size, at)

            every = (page for each in columns for page in parquet_pages(read, each))
            pages = list(islice(every, _MOST_PAGES))
        _refuse_huge(pages)
        size = sum(max(each.total_uncompressed_size, 0) for each in columns)
        size = max(size, sum(page.unpacked for page in pages))
        packed = sum(page.packed for page in pages)
        values = max((each.num_values for each in columns), default=0)
        if (size > _LARGE and size > _RATIO * packed) or values > MOST_ROWS or len(pages) == _MOST_PAGES:
            raise UnreadableFile(
                f"a group of its rows unpacks from {packed:,} to {size:,} bytes, with {values:,} values "
                f"in {len(pages):,} pages",
                "make it again, with smaller groups of rows",
            )
        rows = max(1, min(_BATCH, _AT_ONCE // max(1, size)))
        found = self._file.iter_batches(batch_size=rows, row_groups=[number], use_threads=False)
        if keep and size < _KEPT:
            found = list(found)
            self._kept = (number, found)
        return found  # type: ignore[no-any-return]

    def _arrow(self, group: int) -> Iterator[tuple[int, Any]]:
        first = self._ends[group - 1] if group else 0
        for batch in _arrow_batches(self._file, group):
            shared = sum(_shared(each) for each in batch.columns)
            rows = max(1, min(_BATCH, _AT_ONCE // max(1, shared)))
            for start in range(0, batch.num_rows, rows):
                part = batch.slice(start, rows)
                if first + part.num_rows > self._row:
                    yield first, part
                first += part.num_rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _refuse_huge(parts: Iterable[PackedPart]) -> None:
    """Raise UnreadableFile for a table with a part that takes too much memory, or with too many that are kept."""
    kept = 0
    for part in parts:
        kept += part.unpacked if part.shared and part.compressed else 0
        size = max(kept, part.unpacked if part.compressed else 0)
        if size > _LARGE:
            raise UnreadableFile(
                f"a part of it unpacks from {part.packed:,} to {size:,} bytes, and all of that is needed at once",
                "make it again in smaller parts: pages of a megabyte, or batches of some thousand rows",
            )


def _shared(column: Any) -> int:
    """Bytes that each row of a column may have without the file having them more than once."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return int(column.dictionary.nbytes)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        lengths = np.frombuffer(column.buffers()[1], np.int32)[::4]
        return int(lengths[column.offset : column.offset + len(column)].max(initial=0))
    return 0


def _refuse_views(schema: Any) -> None:
    """Raise UnreadableFile for columns whose rows may have the same elements any number of times."""
    import pyarrow as pa

    views = (pa.types.is_list_view, pa.types.is_large_list_view, pa.types.is_run_end_encoded)
    inside = (pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_dictionary)
    for field in schema:
        waiting = [(field.type, 0)]
        while waiting:
            kind, depth = waiting.pop()
            if any(is_view(kind) for is_view in (*views, *(inside if depth else ()))):
                raise UnreadableFile(
                    f"its column {field.name!r} is of the type {field.type}, which is not read",
                    "write it with plain lists and texts, or as Parquet",
                )
            inner = [kind.field(number).type for number in range(kind.num_fields)]
            inner += [kind.value_type] if pa.types.is_dictionary(kind) else []
            waiting += [(each, depth + 1) for each in inner]


def _arrow_batches(mapped: Any, start: int = 0) -> Iterator[Any]:
    """The record batches of an opened Arrow file from one on, be it a stream or a file with a footer."""
    import pyarrow as pa

    mapped.seek(0)
    footer = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    if footer:
        reader = pa.ipc.open_file(mapped)
        for number in range(start, reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        for number, batch in enumerate(pa.ipc.open_stream(mapped)):
            if number >= start:
                yield batch


def table_rows(batch: Any) -> Iterator[Found]:
    """The rows of a record batch as a JSON file would have them."""
    import pyarrow as pa

    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    long = batch.nbytes > LONGEST_RECORD
    for number, fields in enumerate(batch.to_pylist()):
        if long and batch.slice(number, 1).nbytes > LONGEST_RECORD:
            yield TOO_LONG
            continue
        for name in nested:
            fields[name] = without_nulls(fields[name])
        yield fields


def without_nulls(value: Any) -> Any:
    """A nested value without the keys that a table had to fill because another row has them."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value
