"""The form of protocol buffers, in which tokenizers of SentencePiece and graphs of ONNX are written.

Read without the packages that know them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from core.language import told


def fields(data: bytes | mmap.mmap, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """The texts and messages in one message: the number of each field, and where its bytes begin and end.

    Source: https://protobuf.dev/programming-guides/encoding.

    Raises:
        ValueError: it is cut short, or in another form.
    """
    at, end = start, len(data) if end is None else end
    while at < end:
        tag, at = _number(data, at, end)
        form, size = tag & 7, 0
        if form == 0:
            _, at = _number(data, at, end)
        elif form in (1, 5):
            at += 8 if form == 1 else 4
        elif form == 2:
            size, at = _number(data, at, end)
            if at + size > end:
                raise ValueError(told("it is cut short or damaged"))
            yield tag >> 3, at, at + size
            at += size
        else:
            raise ValueError(told("it is not in the form that its name says"))
    if at != end:
        raise ValueError(told("it is cut short or damaged"))


def _number(data: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """The number that begins there (a varint), and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(told("it is cut short or damaged"))
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(told("it is not in the form that its name says"))
