"""The packages of the stages loaded once for several jobs: a process that has imported them, and forks.

torch, transformers and Olive take seconds to import, and every stage needs them. Where stages follow one another, a
process beside the first gets them ready (:mod:`core.jobs.loaded`). Each later job begins as a fork of it, and has as
always a supervisor and a worker in sessions of their own, with the same lock, log, environment and command line.

Nothing depends on it. Where it is not ready, would have to wait, or is not what a new process would be by now (another
environment, other packages), the job is started as a new process.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.hardware import free_ram, usable_cores
from core.jobs.processes import LONGEST

SWITCH = "OLIVEPRESS_WARM"
"""Environment variable: 0 has every job load the packages itself."""
PROGRAM = ("-P", "-m", "core.jobs.loaded")
"""What the process runs that loads them."""
ROOM = 3 * 2**30
"""Free memory without which nothing is loaded ahead; what is loaded takes about a seventh of that."""
ANSWER_S = 5.0
"""How long a fork may take to say that it is there."""


class _Ours:
    """What this process has of it.

    Attributes:
        end: the end of the socket by which it asks for forks; the other process lives while anybody holds one.
        stamp: what the packages were loaded with, see :func:`stamp`.
        ready: whether the other has said that they are loaded.
        process: the other, where this process started it.
        loaded: whether this process has them itself, as a fork.
    """

    end: socket.socket | None = None
    stamp = ""
    ready = False
    process: subprocess.Popen[bytes] | None = None
    loaded = False


OURS = _Ours()


def stamp(environment: dict[str, str]) -> str:
    """What a job's process is made of: its environment, its folder, the packages that are installed, our own files."""
    ours = Path(__file__).resolve().parent.parent
    places = [*environment.get("PYTHONPATH", "").split(os.pathsep)]
    places += map(sysconfig.get_path, ("purelib", "platlib"))
    told: list[object] = [sorted(environment.items()), sys.executable, sys.version]
    with suppress(OSError):
        told.append(os.getcwd())
        told += [os.stat(place).st_mtime_ns for place in places if os.path.isdir(place)]
        told.append(sorted(file.stat().st_mtime_ns for file in ours.rglob("*.py")))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@contextmanager
def loaded_ahead(environment: dict[str, str]) -> Iterator[None]:
    """Have the packages loaded beside the work, for the jobs that this process starts inside."""
    load_ahead(environment)
    try:
        yield
    finally:
        let_go()


def load_ahead(environment: dict[str, str]) -> None:
    """Begin to load the packages in a process beside this one, if the machine has room for that.

    Args:
        environment: of the jobs that are to come.
    """
    if os.environ.get(SWITCH) == "0" or sys.platform != "linux":
        return
    with _ONE:
        if OURS.end is None and usable_cores() > 1 and free_ram() >= ROOM:
            _start(environment)


_ONE = threading.Lock()
"""Two threads that ask at once get one process."""


def _start(environment: dict[str, str]) -> None:
    OURS.stamp, OURS.ready = stamp(environment), False
    OURS.end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        OURS.process = subprocess.Popen(
            [sys.executable, *PROGRAM, str(other.fileno()), OURS.stamp, " " * LONGEST],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(other.fileno(),),
            env=environment,
        )
    # As with a job: as long as this process lives, the system keeps what ended until somebody has asked for it.
    threading.Thread(target=OURS.process.wait, name="end of what is loaded ahead", daemon=True).start()


def let_go() -> None:
    """Have nothing forked for this process any more."""
    if OURS.end is not None:
        OURS.end.close()
        OURS.end = None
    if OURS.process is not None and not OURS.ready:
        OURS.process.kill()  # it would see only when it has loaded that nobody is there
    OURS.process = None


def fork_supervisor(folder: Path, held: int, log: int, environment: dict[str, str]) -> bool:
    """Start the supervisor of the job in ``folder`` as a fork; False where it has to be a new process.

    Args:
        held: the lock that the job holds while it lives.
        log: where its processes write.
    """
    if OURS.end is None:
        return False
    here, there = socket.socketpair()
    with here, there:
        try:
            if not _ready(OURS.end) or OURS.stamp != stamp(environment):
                return False
            request = json.dumps({"stamp": OURS.stamp, "folder": str(folder)}).encode()
            OURS.end.settimeout(ANSWER_S)
            socket.send_fds(OURS.end, [request], [held, log, there.fileno(), OURS.end.fileno()])
            there.close()
            here.settimeout(ANSWER_S)
            if here.recv(1):
                # Only now it begins. One that comes when a new process has its place finds nobody here.
                here.sendall(b"!")
                return True
        except OSError:
            pass
    OURS.ready = False  # whatever it is that it does, it is of no use
    let_go()
    return False


def _ready(end: socket.socket) -> bool:
    """Whether the packages are loaded; raises OSError where that will never be."""
    if not OURS.ready:
        end.setblocking(False)
        try:
            OURS.ready = bool(end.recv(16))
        except BlockingIOError:
            return False
        if not OURS.ready:
            raise ConnectionError
    return True
