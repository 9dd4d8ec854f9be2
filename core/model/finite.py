"""Whether weights are numbers at all: NaN and infinity found by their bits, at the speed of the disk.

A number is not finite if all bits of its exponent are set. Seen as integers, such numbers are the largest of all:
among the signed ones those that are positive, among the unsigned ones those that are negative. So two maxima tell
of millions of weights at once, with no copy of them. So they do of numbers that are too large for the type that
the weights are read as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.files import read_if_whole, write_json
from core.language import told
from core.model.weights import TensorEntry, read_header
from core.user_dirs import cache_dir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_KINDS = {
    "BF16": ("u2", 0x7F80),
    "F16": ("u2", 0x7C00),
    "F32": ("u4", 0x7F800000),
    "F64": ("u8", 0x7FF << 52),
}
"""The bits as unsigned integers, and those of the exponent."""

_INF_AS_FLOAT16 = {"BF16": 0x4780, "F32": 0x477FF000, "F64": 0x40EFFE << 40}
"""The bits of the first number that becomes infinite as float16."""

_AT_ONCE = 32 << 20
_REMEMBERED_FROM = 64 << 20
"""Smaller files are looked at anew: it takes less than a tenth of a second."""


@dataclass(frozen=True)
class NotFinite:
    """A tensor with a number that is none.

    Attributes:
        tensor: its name.
        file: where it lies.
        what: ``NaN`` or ``Inf``; ``too large for float16`` where it is that, and the model is read as float16.
        count: how many of its numbers are not finite.
        place: the index of the first, by dimensions.
    """

    tensor: str
    file: Path
    what: str
    count: int
    place: tuple[int, ...]


def first_not_finite(
    files: Iterable[Path], dtype: str, on_bytes: Callable[[int, int], object] | None = None
) -> NotFinite | None:
    """The first tensor of some safetensors files that holds NaN or infinity, None if every number is finite.

    Files that were found finite before, and have not changed since, are not read again.

    Args:
        dtype: what the model's weights are read as (``ModelFacts.dtype``); all must be finite in it too.
        on_bytes: called now and then with the bytes that were looked at, and all that are to be.

    Raises:
        RequestError: a file is damaged.
    """
    known = _Known(dtype)
    unread = known.without(files)
    seen, whole = 0, sum(file.stat().st_size for file in unread)
    for file in unread:

        def tell(bytes_: int, before: int = seen) -> None:
            if on_bytes is not None:
                on_bytes(before + bytes_, whole)

        found = _look(file, dtype, tell)
        if found is not None:
            return found
        known.add(file)
        seen += file.stat().st_size
    return None


def bytes_to_look_at(files: Iterable[Path], dtype: str) -> int:
    """How much :func:`first_not_finite` would have to read of some files."""
    return sum(file.stat().st_size for file in _Known(dtype).without(files))


def _look(file: Path, dtype: str, tell: Callable[[int], object]) -> NotFinite | None:
    entries = {name: entry for name, entry in read_header(file).items() if entry.dtype in _KINDS}
    if not any(entry.end > entry.start for entry in entries.values()):
        return None
    import numpy as np

    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        tell(entry.start)
        limit = _INF_AS_FLOAT16.get(entry.dtype) if dtype == "float16" else None
        limit = limit or _KINDS[entry.dtype][1]
        if (bad := _first(mapped, entry, limit, tell)) is not None:
            return _told(name, entry, mapped, limit, bad)
    return None


def _numbers(mapped: Bytes, entry: TensorEntry, start: int, end: int) -> NDArray[np.unsignedinteger[Any]]:
    numbers: NDArray[np.unsignedinteger[Any]] = mapped[start:end].view("<" + _KINDS[entry.dtype][0])
    return numbers


def _first(mapped: Bytes, entry: TensorEntry, limit: int, tell: Callable[[int], object]) -> int | None:
    """The byte where the first piece begins that has a number with bits of ``limit`` or more, without the sign."""
    kind, _ = _KINDS[entry.dtype]
    sign = 1 << (int(kind[1]) * 8 - 1)
    for start in range(entry.start, entry.end, _AT_ONCE):
        numbers = _numbers(mapped, entry, start, min(entry.end, start + _AT_ONCE))
        if int(numbers.max()) >= sign + limit or int(numbers.view("<i" + kind[1]).max()) >= limit:
            return start
        tell(start)
    return None


def _told(name: str, entry: TensorEntry, mapped: Bytes, limit: int, start: int) -> NotFinite:
    import numpy as np

    kind, exponent = _KINDS[entry.dtype]
    numbers = _numbers(mapped, entry, start, entry.end)
    bits = numbers & ((1 << (int(kind[1]) * 8 - 1)) - 1)
    bad = np.flatnonzero(bits >= limit)
    mantissa = exponent & -exponent
    first = int(bad[0])
    what = "NaN" if int(numbers[first]) & (mantissa - 1) else "Inf"
    if int(bits[first]) < exponent:
        what = told("too large for float16")
    whole = (start - entry.start) // int(kind[1]) + first
    place = tuple(int(each) for each in np.unravel_index(whole, entry.shape)) if entry.shape else ()
    return NotFinite(name, entry.file, what, int(bad.size), place)


class _Known:
    """The files that were found finite, by path, size, time and what they are read as, in the user's cache."""

    def __init__(self, dtype: str) -> None:
        self._as = ":float16" if dtype == "float16" else ""
        self._file = cache_dir() / "finite.json"
        found = read_if_whole(self._file)
        self._stamps: dict[str, list[int]] = found if isinstance(found, dict) else {}

    @staticmethod
    def _stamp(file: Path) -> list[int]:
        stat = file.stat()
        return [stat.st_size, stat.st_mtime_ns]

    def _key(self, file: Path) -> str:
        return f"{file.resolve()}{self._as}"

    def without(self, files: Iterable[Path]) -> list[Path]:
        """Those of some files that are safetensors and not known."""
        return [
            file
            for file in files
            if file.suffix == ".safetensors" and self._stamps.get(self._key(file)) != self._stamp(file)
        ]

    def add(self, file: Path) -> None:
        from core.errors import LabError

        if file.stat().st_size < _REMEMBERED_FROM:
            return
        self._stamps.pop(self._key(file), None)
        self._stamps[self._key(file)] = self._stamp(file)
        self._stamps = dict(list(self._stamps.items())[-200:])
        try:
            write_json(self._file, self._stamps)
        except (LabError, OSError):
            return  # it is looked at again next time
