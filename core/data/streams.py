"""The bytes of a file, unpacked where it is gzip, from any place and without a copy on the disk."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 1 << 16
_SPACING = 1 << 23
_MOST = 256


class SeekableGzip(io.RawIOBase):
    """The unpacked bytes of a gzip file of one or several members.

    The inflater's state is copied every few megabytes on the way (RFC 1951 needs its last 32 KiB of
    output); a later read begins at the copy before it. Some 40 KiB a copy, at most 256 of them.

    Raises:
        EOFError: the file is cut off (when reading gets there).
        zlib.error: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._raw = path.open("rb", buffering=0)
        self._at = 0  # of the next byte that readinto gives
        self._spacing = _SPACING
        self._marks: list[tuple[int, int, bytes, Any]] = []
        self._restore((0, 0, b"", zlib.decompressobj(31)))
        self._marks.append((0, 0, b"", zlib.decompressobj(31)))

    def _restore(self, mark: tuple[int, int, bytes, Any]) -> None:
        self._made, raw_at, self._rest, inflater = mark
        self._inflater = inflater.copy()
        self._ready = b""
        self._raw.seek(raw_at)

    @property
    def raw_position(self) -> int:
        """Bytes of the packed file that are read."""
        return 0 if self._raw.closed else self._raw.tell()

    def _inflate(self) -> bool:
        """Make more bytes ready; False at the end."""
        packed = self._rest or self._raw.read(_CHUNK)
        self._rest = b""
        if self._inflater.eof:
            packed = packed.lstrip(b"\0")
            if not packed:
                packed = (self._raw.read(_CHUNK) or b"").lstrip(b"\0")
                if not packed:
                    return False
            self._inflater = zlib.decompressobj(31)
        if not packed:
            raise EOFError("the gzip file is cut off")
        made = self._inflater.decompress(packed)
        if self._inflater.eof:
            self._rest = self._inflater.unused_data
        self._ready, self._made = made, self._made + len(made)
        if self._made >= self._marks[-1][0] + self._spacing:
            self._marks.append((self._made, self._raw.tell(), self._rest, self._inflater.copy()))
            if len(self._marks) > _MOST:
                self._marks = self._marks[::2]
                self._spacing *= 2
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence != io.SEEK_SET:
            raise io.UnsupportedOperation("the end of a gzip file is not known")
        begin = self._made - len(self._ready)
        nearest = max((mark for mark in self._marks if mark[0] <= offset), key=lambda mark: mark[0])
        if offset < begin or nearest[0] > self._made:
            self._restore(nearest)
        self._at = offset
        return offset

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As :meth:`io.RawIOBase.readinto`."""
        view = memoryview(buffer).cast("B")
        while self._made <= self._at:
            if not self._inflate():
                return 0
        begin = self._made - len(self._ready)
        piece = self._ready[self._at - begin : self._at - begin + len(view)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class NewLines(io.RawIOBase):
    """Bytes of a file whose lines end in CR alone, with LF in their place: as many bytes as there were."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes."""
        data = (self._stream.read(len(buffer)) or b"").replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        return self._stream.seek(offset, whence)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()


class Stream(io.BufferedReader):
    """The opened bytes of a file; `packed` says whether it is gzip."""

    def __init__(self, path: Path, *, packed: bool, old_mac: bool) -> None:
        self.packed = packed
        self._file: Any = SeekableGzip(path) if packed else path.open("rb", buffering=0)
        super().__init__(NewLines(self._file) if old_mac else self._file, 1 << 18)

    @property
    def packed_done(self) -> int:
        """Bytes of the gzip file that are unpacked."""
        return int(self._file.raw_position)
