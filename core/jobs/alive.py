"""Whether a job's processes live, told by a lock that they hold.

The lock is a ``flock`` on ``alive.lock`` in the job's folder. It is taken before the first process
starts and passed on by inheritance, so there is no moment at which a starting job looks dead, and no
process id that another process could have been given since (flock(2): a lock belongs to the open
file description and goes when its last holder closes it or dies).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from core.files import read_if_whole

NAME = "alive.lock"
PIDS = "pid.json"


def hold(folder: Path) -> int:
    """Take the lock of a job's folder; return the file descriptor that holds it, inheritable."""
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    return handle


def keep(folder: Path, handle: int) -> int:
    """The descriptor that holds the lock: a new one, if somebody has removed the file."""
    with suppress(OSError):
        held = os.fstat(handle)
        with suppress(FileNotFoundError):
            there = os.stat(folder / NAME)
            if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                return handle
        fresh = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody looks at it just now: the next time
            os.close(fresh)
        else:
            return fresh
    return handle


def is_held(folder: Path) -> bool:
    """Whether any process holds the lock."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY | os.O_NONBLOCK)  # whatever lies there in its place
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def pids(folder: Path) -> dict[str, int]:
    """The job's processes that live, ``supervisor`` and ``worker``, by the numbers that it wrote down.

    A number counts only if that process is one of this job: it may belong to somebody else by now.
    """
    import psutil

    told = read_if_whole(folder / PIDS)
    found = {}
    for who in ("supervisor", "worker"):
        number = told.get(who) if isinstance(told, dict) else None
        if isinstance(number, int) and number > 0:
            with suppress(psutil.Error, OSError, OverflowError):
                words = psutil.Process(number).cmdline()
                if f"core.jobs.{_MODULES[who]}" in words and str(folder) in words:
                    found[who] = number
    return found


def is_stopped(number: int) -> bool:
    """Whether a process stands still, by SIGSTOP or in a debugger."""
    import psutil

    with suppress(psutil.Error):
        return psutil.Process(number).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return False


_MODULES = {"supervisor": "supervise", "worker": "worker"}
