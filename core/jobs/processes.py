"""A job's processes made by forking: what :mod:`subprocess` does for new ones."""

from __future__ import annotations

import atexit
import ctypes
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

LONGEST = 8192
"""Bytes of the command line from which a process that forks is started: two paths of full length have room there."""


class Forked:
    """A process that was forked, with what a supervisor needs of :class:`subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode = 0

    def wait(self, timeout: float) -> int:
        """Wait for its end; returns and raises what :class:`subprocess.Popen` does."""
        end = time.monotonic() + timeout
        pause = 0.001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                return self.returncode
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            pause = min(2 * pause, left, 0.05)
            time.sleep(pause)


def fork(run: Callable[[], int]) -> Forked:
    """Fork; the child does what it is to do, and ends with the status that this returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    status = 1
    try:
        status = run()
    except BaseException:  # whatever it is, the child must not go on in its parent's code
        with suppress(OSError):
            traceback.print_exc()
    finally:
        leave(status)


def leave(status: int) -> NoReturn:
    """End this process now, after what is registered for its end.

    Python would take thousands of modules apart first, for more than a second where torch is among them.
    """
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def call_oneself(words: Sequence[str]) -> bool:
    """Have the system show other words as this process's command line; False where that cannot be."""
    wanted = b"".join(os.fsencode(word) + b"\0" for word in words)
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        first, last = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc(5)
        if not 0 < len(wanted) <= last - first:
            return False
        ctypes.memset(first, 0, last - first)
        ctypes.memmove(first, wanted, len(wanted))
        return Path("/proc/self/cmdline").read_bytes().startswith(wanted)
    except (OSError, ValueError, IndexError):
        return False
