"""A real pseudo-terminal with a program in it, read through a terminal emulator."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "tab": "\t",
    "up": "\x1b[A",
    "down": "\x1b[B",
    "end": "\x1b[F",
    "f2": "\x1bOQ",
    "f3": "\x1bOR",
    "f4": "\x1bOS",
    "f7": "\x1b[18~",
    "f8": "\x1b[19~",
    "f9": "\x1b[20~",
    "ctrl+u": "\x15",
    "ctrl+c": "\x03",
}


class Terminal:
    """A program in a pseudo-terminal.

    Args:
        argv: the program and its arguments.
        cwd: where it starts.
        env: added to this process's environment.
        size: columns and lines.
    """

    def __init__(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        size: tuple[int, int] = (80, 24),
    ) -> None:
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self.bytes = 0
        self.raw = bytearray()
        self.status: int | None = None
        columns, lines = size
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            # The size is set before the program can ask for it.
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.chdir(cwd)
            own = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "OLIVEPRESS_GUIDE": "off"}
            given = {**os.environ, **own, **(env or {})}
            # readline, which pytest loads, sets COLUMNS and LINES past os.environ: the environment is handed on whole.
            for name in {"COLUMNS", "LINES"} - set(env or {}):
                given.pop(name, None)
            os.execve(argv[0], list(argv), given)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(self.screen.display)

    def pump(self, seconds: float) -> int:
        """Read what the program draws for so long; return how many bytes came."""
        before, end = self.bytes, time.monotonic() + seconds
        while self.status is None:
            left = end - time.monotonic()
            if left <= 0:
                break
            self._read(left)
        return self.bytes - before

    def _read(self, seconds: float) -> None:
        if not select.select([self._master], [], [], seconds)[0]:
            return
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the program has gone
            data = b""
        if not data:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            return
        self.bytes += len(data)
        self.raw += data
        # pyte knows no private modes with a question mark in the middle; none matters for the text.
        with contextlib.suppress(Exception):
            self._stream.feed(data)

    def until(self, what: str | Callable[[str], object], timeout: float = 30.0) -> None:
        """Read until these words (or this condition) are on the screen."""
        end = time.monotonic() + timeout
        while not (what in self.text if isinstance(what, str) else what(self.text)):
            if self.status is not None or time.monotonic() > end:
                raise AssertionError(f"{what!r} did not come (exit status {self.status}):\n{self.text}")
            self._read(0.1)

    def press_until(self, key: str, words: str, timeout: float = 60.0) -> None:
        """Press a key until these words are on the screen, again where it was not heard for ten seconds."""
        end = time.monotonic() + timeout
        while words not in self.text:
            if time.monotonic() > end:
                raise AssertionError(f"{words!r} did not come:\n{self.text}")
            self.send(key)
            with contextlib.suppress(AssertionError):
                self.until(words, 10)

    def marked(self, words: str) -> bool:
        """Whether the first letter of these words on the screen looks unlike the second: a cursor stands on it."""
        for y, line in enumerate(self.screen.display):
            x = line.find(words)
            if x >= 0:
                first, second = self.screen.buffer[y][x], self.screen.buffer[y][x + 1]
                return (first.bg, first.reverse) != (second.bg, second.reverse)
        return False

    def until_over(self, timeout: float = 30.0) -> int:
        """Read until the program has ended; return its exit status."""
        end = time.monotonic() + timeout
        while self.status is None:
            if time.monotonic() > end:
                raise AssertionError(f"it did not end:\n{self.text}")
            self._read(0.1)
        return self.status

    def send(self, *keys: str) -> None:
        """Press keys: names of :data:`KEYS`, or text to type."""
        for key in keys:
            os.write(self._master, KEYS.get(key, key).encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def kill(self) -> None:
        """SIGKILL to the program, as the kernel or an impatient user would."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.status = -signal.SIGKILL
        with contextlib.suppress(OSError):
            os.close(self._master)
