"""What Arrow and Parquet files unpack to, as the headers of their parts say, before anything is unpacked.

A part of a few kilobytes may unpack to gigabytes, and pyarrow takes them at once. What a header says is what the
decompressor is given room for: a part with more in it is damaged. The sizes in the footer of a Parquet file are not
held to by anybody. Sources: the Arrow columnar format (Schema.fbs, Message.fbs, File.fbs), the FlatBuffers internals,
the Parquet format (parquet.thrift), and the Thrift compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from core.language import told

_PREFIX = b"\xff\xff\xff\xff"
_DICTIONARY, _RECORDS = 2, 3
_DEEPEST = 8


class BadHeader(ValueError):
    """A part that cannot be found or understood."""


@dataclass(frozen=True, slots=True)
class PackedPart:
    """A part of a table that is unpacked at once.

    Attributes:
        packed, unpacked: bytes.
        shared: whether it is kept for all rows, as a dictionary is.
        compressed: whether it must be unpacked at all.
    """

    packed: int
    unpacked: int
    shared: bool = False
    compressed: bool = True


def _number(data: memoryview, form: str, at: int) -> int:
    if at < 0:
        raise BadHeader(told("a part lies before the file"))
    try:
        found: int = struct.unpack_from("<" + form, data, at)[0]
    except struct.error:
        raise BadHeader(told("a part lies behind the file's end")) from None
    return found


class _Table:
    """A table of FlatBuffers: where each of its fields is."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self._at = data, at
        self._fields = at - _number(data, "i", at)
        self._size = _number(data, "H", self._fields)

    def place(self, field: int) -> int:
        """Where a field is; 0 where it is left out."""
        entry = 4 + 2 * field
        offset = _number(self.data, "H", self._fields + entry) if entry < self._size else 0
        return self._at + offset if offset else 0

    def inner(self, field: int) -> _Table | None:
        """A field that is a table."""
        at = self.place(field)
        return _Table(self.data, at + _number(self.data, "I", at)) if at else None

    def structs(self, field: int, size: int) -> Iterator[int]:
        """Where each of a list of structs is."""
        at = self.place(field)
        if at:
            at += _number(self.data, "I", at)
            count = _number(self.data, "I", at)
            if count * size > len(self.data):
                raise BadHeader(told("a list is longer than the file"))
            yield from range(at + 4, at + 4 + count * size, size)


def arrow_parts(data: memoryview) -> Iterator[PackedPart]:
    """The dictionaries and the batches of rows of an Arrow file, be it a stream or a file with a footer.

    Raises:
        BadHeader: it is damaged.
    """
    if bytes(data[:6]) != b"ARROW1":
        yield from _stream_parts(data)
        return
    size = _number(data, "i", len(data) - 10)
    at = len(data) - 10 - size
    footer = _Table(data, at + _number(data, "I", at))
    for field in (2, 3):
        for block in footer.structs(field, 24):
            begin, head = _number(data, "q", block), _number(data, "i", block + 8)
            yield from _message(data, begin, begin + head)


def _stream_parts(data: memoryview) -> Iterator[PackedPart]:
    at = 0
    while at + 4 <= len(data):
        head = _head(data, at)
        size = _number(data, "i", head - 4)
        if size == 0:
            return
        if size < 0:
            raise BadHeader(told("a header has no length"))
        yield from _message(data, at, head + size)
        message = _Table(data, head + _number(data, "I", head))
        body = message.place(3)
        length = _number(data, "q", body) if body else 0
        if length < 0:
            raise BadHeader(told("a part has no length"))
        at = head + size + length


def _head(data: memoryview, at: int) -> int:
    """Where the header of a message begins; before it stands its length."""
    return at + 8 if bytes(data[at : at + 4]) == _PREFIX else at + 4


def _message(data: memoryview, at: int, body: int) -> Iterator[PackedPart]:
    """A message whose body begins there, if it has rows or a dictionary."""
    head = _head(data, at)
    message = _Table(data, head + _number(data, "I", head))
    kind = message.place(1)
    kind = _number(data, "B", kind) if kind else 0
    batch = message.inner(2)
    if kind == _DICTIONARY and batch is not None:
        batch = batch.inner(1)
    if kind not in (_DICTIONARY, _RECORDS) or batch is None:
        return
    compressed = bool(batch.place(3))
    packed = unpacked = 0
    for buffer in batch.structs(2, 16):
        offset, length = _number(data, "q", buffer), _number(data, "q", buffer + 8)
        if offset < 0 or length < 0 or body + offset + length > len(data):
            raise BadHeader(told("a part lies behind the file's end"))
        packed += length
        said = _number(data, "q", body + offset) if compressed and length >= 8 else length
        unpacked += length if said < 0 else said  # -1: left as it is
    yield PackedPart(packed, unpacked, kind == _DICTIONARY, compressed)


def parquet_pages(read: Callable[[int, int], bytes], column: Any) -> Iterator[PackedPart]:
    """The pages of a column in a group of rows.

    Args:
        read: gives so many bytes of the file from a place on, or fewer at its end.
        column: its ``ColumnChunkMetaData``.

    Raises:
        BadHeader: it is damaged.
    """
    at = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < at:
        at = column.dictionary_page_offset
    end = at + column.total_compressed_size
    while at < end:
        fields, size = _page_head(read, at)
        unpacked, packed = fields.get(2, -1), fields.get(3, -1)
        if unpacked < 0 or packed < 0:
            raise BadHeader(told("a page has no size"))
        yield PackedPart(packed, unpacked)
        at += size + packed


def _page_head(read: Callable[[int, int], bytes], at: int) -> tuple[dict[int, int], int]:
    """The sizes that a page's header tells, and its own: a hundred bytes, unless it has long statistics."""
    for size in (1 << 10, 1 << 24):
        data = memoryview(read(at, size))
        try:
            return _thrift(data, 0, 0)
        except BadHeader:
            if len(data) < size or size > 1 << 10:
                raise
    raise AssertionError


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = _number(data, "B", at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BadHeader(told("a number is too long"))


def _thrift(data: memoryview, at: int, depth: int) -> tuple[dict[int, int], int]:
    """The whole numbers of a struct by field, and the place behind it."""
    if depth > _DEEPEST:
        raise BadHeader(told("a header is nested too deeply"))
    found: dict[int, int] = {}
    field = 0
    while head := _number(data, "B", at):
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            number, at = _varint(data, at)
            field = (number >> 1) ^ -(number & 1)
        if head & 15 in (4, 5, 6):
            number, at = _varint(data, at)
            found[field] = (number >> 1) ^ -(number & 1)
        elif head & 15 not in (1, 2):  # true and false have no bytes of their own here
            at = _passed(data, at, head & 15, depth)
    return found, at + 1


def _passed(data: memoryview, at: int, kind: int, depth: int) -> int:
    """The place behind a value."""
    if kind in (1, 2, 3):
        return at + 1
    if kind in (4, 5, 6):
        return _varint(data, at)[1]
    if kind == 7:
        return at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return at + size
    if kind in (9, 10):
        head, at = _number(data, "B", at), at + 1
        size = head >> 4
        if size == 15:
            size, at = _varint(data, at)
        if size > len(data):
            raise BadHeader(told("a list is longer than the file"))
        for _ in range(size):
            at = _passed(data, at, head & 15, depth)
        return at
    if kind == 12:
        return _thrift(data, at, depth + 1)[1]
    raise BadHeader(told("a header has a part that no page has"))
