"""Rows of files and folders of any form, one at a time, with the line each stands on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from core.data.csv_rows import CsvReader
from core.data.files import DataFile, Kind, UnreadableFile, data_files, open_bytes, sniff
from core.data.json_rows import ValueStream, iter_lines
from core.data.types import Problem, Row
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
        self.total_bytes = sum(each.path.stat().st_size for each in self.files)
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
        for each in self.files:
            self._share = 0.0
            try:
                size = each.path.stat().st_size
                yield from self._file(each, size)
            except UnreadableFile as error:
                yield Row(each.name, 1, None, error.problem, each.held_out)
                size = each.path.stat().st_size
            except OSError as error:
                raise RequestError(
                    "The data file cannot be read.",
                    f"{each.path}: {error.strerror or error}.",
                    "Look at its rights.",
                ) from None
            self._raw = None
            self._share = 0.0
            self._finished += size

    def _file(self, each: DataFile, size: int) -> Iterator[Row]:
        kind = sniff(each.path)
        if kind is None:
            return
        if kind.form == "parquet":
            for number, fields, share in parquet_records(each.path):
                self._share = share * size
                yield Row(each.name, number, fields, None, each.held_out)
            return
        stream, self._raw = open_bytes(each.path)
        line = 1
        with self._raw, stream:
            try:
                for line, found in text_records(stream, kind):
                    if isinstance(found, Problem):
                        yield Row(each.name, line, None, found, each.held_out)
                    else:
                        yield Row(each.name, line, found, None, each.held_out)
            except (EOFError, gzip.BadGzipFile, zlib.error):
                cut = Problem(
                    "unreadable-file",
                    "the gzip file is cut off or damaged behind this line",
                    "make or copy it again",
                )
                yield Row(each.name, line, None, cut, each.held_out)


def text_records(stream: IO[bytes], kind: Kind) -> Iterable[tuple[int, dict[str, Any] | Problem]]:
    """The records of an opened text file of a known kind, with their lines."""
    if kind.form == "csv":
        return CsvReader(stream, kind.delimiter)
    if kind.form == "json":
        skipped = stream.read(kind.start)
        return ValueStream(stream, line=1 + skipped.count(b"\n"), offset=kind.start, wrapped=kind.start > 0)
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
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
                for fields in batch.to_pylist():
                    number += 1
                    yield number, fields, number / rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"the Parquet file is damaged ({error})", "make or copy the file again"
        ) from None


def iter_rows(path: Path) -> Iterator[Row]:
    """Every record of a file or folder; see :class:`RowReader`."""
    return iter(RowReader(path))
