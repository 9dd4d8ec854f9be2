"""Rows of files and folders of any form, one at a time, with the line each stands on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from core.data.csv_rows import CsvReader
from core.data.files import DataFile, Kind, UnreadableFile, data_files, kind_of, open_bytes
from core.data.json_rows import ValueStream, iter_lines
from core.data.types import Noted, Problem, Row
from core.errors import RequestError

_BATCH = 512


class RowReader:
    """Every record of a file, or of all files of a folder, in order.

    Blank lines are passed over; what cannot be read is a row with a problem and no fields. Nothing
    but the present record (for Parquet: some hundreds) is kept in memory.

    Raises:
        RequestError: the folder holds no data files.
    """

    def __init__(self, path: Path) -> None:
        self.files = data_files(path)
        self.total_bytes = sum(path.stat().st_size for path in {each.path for each in self.files})
        self._finished = 0
        self._raw: IO[bytes] | None = None
        self._share = 0.0

    @property
    def done_bytes(self) -> int:
        """How far reading has come, in bytes of the files as they lie on the disk."""
        if self._raw is not None and not self._raw.closed:
            return self._finished + self._raw.tell()
        return self._finished + int(self._share)

    def __iter__(self) -> Iterator[Row]:
        for place, each in enumerate(self.files):
            self._share = 0.0
            try:
                size = each.path.stat().st_size
                yield from self._file(each, size)
            except UnreadableFile as error:
                yield each.row(1, 1, error.problem)
                size = each.path.stat().st_size
            except OSError as error:
                raise RequestError(
                    "The data file cannot be read.",
                    f"{each.path}: {error.strerror or error}.",
                    "Look at its rights.",
                ) from None
            self._raw = None
            self._share = 0.0
            if each.path not in [later.path for later in self.files[place + 1 : place + 2]]:
                self._finished += size  # of a file with several lists only once

    def _file(self, each: DataFile, size: int) -> Iterator[Row]:
        kind = kind_of(each)
        if kind is None:
            return
        number = 0
        if kind.form in ("parquet", "arrow"):
            records = parquet_records if kind.form == "parquet" else arrow_records
            for number, fields, share in records(each.path):
                self._share = share * size
                yield each.row(number, number, fields)
            return
        stream, self._raw = open_bytes(each.path, kind)
        line = 1
        with self._raw, stream:
            try:
                for line, found in text_records(stream, kind):
                    number += 1
                    yield each.row(line, number, found)
            except (EOFError, gzip.BadGzipFile, zlib.error):
                cut = Problem(
                    "unreadable-file",
                    "the gzip file is cut off or damaged behind this line",
                    "make or copy it again",
                )
                yield each.row(line, number + 1, cut)


def text_records(stream: IO[bytes], kind: Kind) -> Iterable[tuple[int, dict[str, Any] | Noted | Problem]]:
    """The records of an opened text file of a known kind, with their lines."""
    if kind.form == "csv":
        return CsvReader(stream, kind.delimiter, spaced=kind.spaced)
    if kind.form == "json":
        stream.seek(kind.start)
        return ValueStream(stream, line=kind.line, offset=kind.start, wrapped=kind.wrapped)
    return iter_lines(stream)


def parquet_records(path: Path) -> Iterator[tuple[int, dict[str, Any], float]]:
    """The records of a Parquet file: row number from 1, fields, and the share that is done.

    Raises:
        UnreadableFile: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            rows = max(1, file.metadata.num_rows)
            batches = file.iter_batches(batch_size=_BATCH, use_threads=False)
            for number, fields in enumerate(table_rows(batches), 1):
                yield number, fields, number / rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"the Parquet file is damaged ({error})", "make or copy the file again"
        ) from None


def arrow_records(path: Path) -> Iterator[tuple[int, dict[str, Any], float]]:
    """The records of an Arrow file (`datasets` saves such, as a stream), as :func:`parquet_records`.

    Raises:
        UnreadableFile: it is damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as mapped:
            size = max(1, mapped.size())
            number = 0
            for batch in arrow_batches(mapped):
                share = min(1.0, mapped.tell() / size)
                for start in range(0, batch.num_rows, _BATCH):
                    for fields in table_rows([batch.slice(start, _BATCH)]):
                        number += 1
                        yield number, fields, share
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"the Arrow file is damaged ({error})", "make or copy the file again") from None


def arrow_batches(mapped: Any) -> Iterator[Any]:
    """The record batches of an opened Arrow file, be it a stream or a file with a footer."""
    import pyarrow as pa

    footer = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    if footer:
        reader = pa.ipc.open_file(mapped)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from pa.ipc.open_stream(mapped)


def table_rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The rows of record batches as a JSON file would have them."""
    import pyarrow as pa

    for batch in batches:
        nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
        for fields in batch.to_pylist():
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


def iter_rows(path: Path) -> Iterator[Row]:
    """Every record of a file or folder; see :class:`RowReader`."""
    return iter(RowReader(path))
