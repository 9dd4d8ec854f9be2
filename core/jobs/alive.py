"""Whether a job's processes live, told by a lock that they hold.

The lock is a ``flock`` on ``alive.lock`` in the job's folder. It is taken before the first process
starts and passed on by inheritance, so there is no moment at which a starting job looks dead, and no
process id that another process could have been given since (flock(2): a lock belongs to the open
file description and goes when its last holder closes it or dies).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

NAME = "alive.lock"


def hold(folder: Path) -> int:
    """Take the lock of a job's folder; return the file descriptor that holds it, inheritable."""
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)
    return handle


def is_held(folder: Path) -> bool:
    """Whether any process holds the lock."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
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
