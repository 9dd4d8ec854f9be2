"""The process that has the stages' packages loaded and forks: ``python -m core.jobs.loaded FD STAMP``.

It imports them and computes nothing, so that it has a single thread and no GPU is awake: that is looked at before
every fork, and what is otherwise does not fork.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from core.jobs import supervise
from core.jobs.processes import call_oneself, fork, leave
from core.jobs.warm import OURS

MODULES = (
    "olive.workflows",
    "transformers.models.auto.modeling_auto",
    "transformers.integrations.accelerate",
    "core.quantize.awq",
    "core.quantize.calibration",
    "core.quantize.verify",
    "core.finetune.lora",
    "core.optimize.passes",
    "core.optimize.build",
    "core.optimize.trial",
)
"""What stages import while they run, and with it nearly all of what takes time."""


def main(end: socket.socket, stamp: str) -> int:
    """Load, say so, and fork for each job that is asked for, until nobody can ask any more."""
    environment = dict(os.environ)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's, which would start threads when it is loaded
    load()
    os.environ.clear()
    os.environ.update(environment)
    gc.collect()
    gc.freeze()  # what is shared by now stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    end.sendall(b"ready")
    while True:
        request, handles, _, _ = socket.recv_fds(end, 65536, 4)
        if not request:
            return 0
        asked = json.loads(request)
        if len(handles) == 4 and asked["stamp"] == stamp and can_fork():
            fork(partial(_supervise, Path(asked["folder"]), stamp, end, *handles))
        for handle in handles:
            os.close(handle)


def load() -> None:
    """Import what the stages will."""
    from core.olive.run import import_olive

    import_olive()
    for name in MODULES:
        importlib.import_module(name)


_SAFE = ("jemalloc_bg_thd",)
"""Threads that their library stops for a fork: those of the memory allocator that pyarrow brings along."""


def can_fork() -> bool:
    """Whether a fork would be as good as a new process: no other thread, and no GPU awake."""
    for thread in Path("/proc/self/task").iterdir():
        if thread.name != str(os.getpid()) and (thread / "comm").read_text().strip() not in _SAFE:
            return False
    if "/libcuda.so" not in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"):
        return True
    count, asleep = ctypes.c_int(), 3  # CUDA_ERROR_NOT_INITIALIZED
    return bool(ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count)) == asleep)


def _supervise(
    folder: Path, stamp: str, server: socket.socket, held: int, log: int, talk: int, client: int
) -> int:
    """In the child: become the supervisor of the job in ``folder``, and be it."""
    server.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    if not call_oneself([sys.executable, "-P", "-m", "core.jobs.supervise", str(folder), str(held)]):
        return 1
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    with socket.socket(fileno=talk) as starter:
        try:
            starter.sendall(b"!")
            if not starter.recv(1):
                return 1
        except OSError:
            return 1
    OURS.end, OURS.stamp, OURS.ready, OURS.loaded = socket.socket(fileno=client), stamp, True, True
    return supervise.main(folder, held)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as ours:
        leave(main(ours, sys.argv[2]))
