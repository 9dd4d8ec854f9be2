"""Standard output and standard error that can fail: a full disk, a reader that has gone, a closed stream.

What cannot be written on standard output ends the command, with one sentence and a status of its own.
What cannot be written on standard error is dropped: it is for people, and nobody can be told.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from core.errors import MachineError
from core.language import told

READER_GONE = 141
"""The exit status when whoever read our output has left, as a shell reports it of a program that SIGPIPE ended."""


class OutputLost(BaseException):
    """Standard output cannot be written. No failure of the work, so nothing that handles those may take it.

    Attributes:
        reason: what the system said.
        hint: what goes on all the same, and how to see it.
    """

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.hint = ""


class _Stream(io.FileIO):
    """A file descriptor whose first failure to write is told by :class:`OutputLost`; what comes after is dropped."""

    def __init__(self, descriptor: int, *, tell: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._tell = tell
        self._lost = False

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if self._lost:
            return size
        try:
            return super().write(data)
        except OSError as error:
            self._lost = True
            if self._tell:
                raise OutputLost(error) from None
            return size


class _Closed(io.RawIOBase):
    """Stands for a stream that the caller closed before we began."""

    def __init__(self, *, tell: bool) -> None:
        self._tell = tell

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._tell and len(data):
            self._tell = False
            raise OutputLost(OSError(errno.EBADF, told("it is closed")))
        return len(data)


def guarded(run: Callable[[], int]) -> int:
    """Do the work of a whole process with standard streams that may fail; return its exit status."""
    sys.stdout, sys.stderr = _wrapped(sys.stdout, 1, tell=True), _wrapped(sys.stderr, 2, tell=False)
    _keep_descriptors_taken()
    try:
        try:
            status = run()
        except SystemExit as left:  # argparse, after --help and --version
            status = left.code if isinstance(left.code, int) else 1
        sys.stdout.flush()
    except OutputLost as lost:
        if isinstance(lost.reason, BrokenPipeError):
            return READER_GONE
        from core.cli.show import print_error

        why = lost.reason.strerror or str(lost.reason)
        error = MachineError(
            told("Standard output cannot be written."), told("{why}.", why=why), lost.hint, code="output.lost"
        )
        print_error(error)
        status = MachineError.exit_status
    sys.stderr.flush()
    return status


def _wrapped(stream: TextIO | None, descriptor: int, *, tell: bool) -> TextIO:
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(_Closed(tell=tell)), encoding="utf-8", line_buffering=True)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = _Stream(descriptor, tell=tell)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        # A path need not be UTF-8, nor need the terminal take every sign; in JSON the escape is the sign.
        errors="backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _keep_descriptors_taken() -> None:
    """Open the null device where 0, 1 or 2 is closed: the next file opened would be taken for that stream."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
