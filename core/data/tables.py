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
from core.language import told

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
                metadata = pq.read_metadata(path)
                leaves = [metadata.schema.column(each) for each in range(metadata.num_columns)]
                # How often a row has a text of a nested column is seen from its numbers, before it is made.
                self._file: Any = pq.ParquetFile(
                    path,
                    metadata=metadata,
                    buffer_size=1 << 20,
                    pre_buffer=False,
                    read_dictionary=[each.path for each in leaves if _is_repeated_text(each)],
                )
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
                told(
                    "it has {rows:,} rows, and {most_rows:,} are the most that are read",
                    rows=self.rows,
                    most_rows=MOST_ROWS,
                ),
                told("take a part of it"),
            )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What pyarrow raises as the fault of the file."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError, BadHeader) as error:
            form = "Parquet" if self._parquet else "Arrow"
            message = told("the {form} file is damaged ({error})", form=form, error=error)
            raise UnreadableFile(message, told("make or copy the file again")) from None

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
                self._unpacked += batch.nbytes + int(sum(each.sum() for each in _nested(batch).values()))
                if self._unpacked > _LARGE and self._unpacked > _RATIO * self._size:
                    raise UnreadableFile(
                        told(
                            "its rows unpack from {size:,} bytes to more than {unpacked:,}",
                            size=self._size,
                            unpacked=self._unpacked,
                        ),
                        told("take a part of it"),
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
        size = max(
            size,
            sum(
                _of_fixed_length(self._file.schema.column(n), each.num_values)
                for n, each in enumerate(columns)
            ),
        )
        packed = sum(page.packed for page in pages)
        values = max((each.num_values for each in columns), default=0)
        if (size > _LARGE and size > _RATIO * packed) or values > MOST_ROWS or len(pages) == _MOST_PAGES:
            raise UnreadableFile(
                told(
                    "a group of its rows unpacks from {packed:,} to {size:,} bytes, with {values:,} values "
                    "in {count:,} pages",
                    packed=packed,
                    size=size,
                    values=values,
                    count=len(pages),
                ),
                told("make it again, with smaller groups of rows"),
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
                told(
                    "a part of it unpacks from {packed:,} to {size:,} bytes, and all of that is needed at "
                    "once",
                    packed=part.packed,
                    size=size,
                ),
                told("make it again in smaller parts: pages of a megabyte, or batches of some thousand rows"),
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
                    told(
                        "its column {field} is of the type {type}, which is not read",
                        field=repr(field.name),
                        type=field.type,
                    ),
                    told("write it with plain lists and texts, or as Parquet"),
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
    nested = _nested(batch)
    sizes = sum(nested.values())  # 0 without any
    flat = batch.select([name for name in batch.schema.names if name not in nested])
    long = flat.nbytes > LONGEST_RECORD
    at_once = not nested or (sizes.max(initial=0) <= LONGEST_RECORD and sizes.sum() <= _AT_ONCE)
    rows = batch.to_pylist() if at_once else ()
    for number in range(batch.num_rows):
        size = 0 if at_once else int(sizes[number])
        if long:
            size += flat.slice(number, 1).nbytes
        if size > LONGEST_RECORD:
            yield TOO_LONG
            continue
        fields = rows[number] if at_once else batch.slice(number, 1).to_pylist()[0]
        for name in nested:
            fields[name] = without_nulls(fields[name])
        yield fields


def _is_repeated_text(column: Any) -> bool:
    """Whether a column of a Parquet file is of texts or bytes within lists."""
    plain = column.logical_type.type in ("STRING", "JSON", "BSON", "ENUM", "NONE")
    return plain and column.max_repetition_level > 0 and column.physical_type == "BYTE_ARRAY"


def _of_fixed_length(column: Any, values: int) -> int:
    """Bytes that a column of texts of one length within lists unpacks to, however few it has of them."""
    fixed = column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.max_repetition_level > 0
    return max(column.length, 0) * values if fixed else 0


def _nested(batch: Any) -> dict[str, Any]:
    """For each column of lists or of fields within fields, the bytes that each row will have."""
    import pyarrow as pa

    return {
        field.name: _sizes(column)
        for field, column in zip(batch.schema, batch.columns, strict=True)
        if pa.types.is_nested(field.type)
    }


def _sizes(array: Any) -> Any:
    """The bytes that each element will have when it is made, at least: a number more or less."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_struct(kind):
        return sum((_sizes(each) for each in array.flatten()), np.full(len(array), 8, np.int64))
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy().astype(np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        parts = (array.keys, array.items) if pa.types.is_map(kind) else (array.values,)
        inner = sum(_sizes(each.slice(first, last - first)) for each in parts)
        return 8 + np.diff(np.concatenate(([0], np.cumsum(inner)))[offsets - first])
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        inner = _sizes(array.values.slice(array.offset * size, len(array) * size))
        return 8 + inner.reshape(len(array), size).sum(axis=1)
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).fill_null(0).take(array.indices)
        return 8 + lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        lengths = pc.binary_length(array).fill_null(0)
        return 8 + lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(len(array), 8, np.int64)


def without_nulls(value: Any) -> Any:
    """A nested value without the keys that a table had to fill because another row has them."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value
