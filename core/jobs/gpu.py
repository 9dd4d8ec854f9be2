"""One computing job at a time on a GPU, over all labs of a user: who comes second waits, and is told for whom.

Two jobs on one GPU take each other's memory, and the first to ask for too much fails. The lock is a ``flock`` on a
file named by the GPU's UUID, in the user's folder for state: the system removes the one for what runs when the
user logs out, and a job outlives that. It holds for this program alone: other programs are told by ``check``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from core.events import Reporter, now
from core.files import PRIVATE, read_if_whole
from core.hardware import GpuReading, load_nvml, package_version, read_gpus, usable_gpus
from core.jobs.job import Job
from core.recipe import Recipe
from core.user_dirs import state_dir

_LOOK_S = 0.2


def gpus_of(stage: str, recipe: Recipe) -> list[GpuReading]:
    """The GPUs that a computing stage uses: the first that it can see, or as many as it is told to."""
    nvml = None if package_version("torch").endswith("+cpu") else load_nvml()
    if nvml is None:
        return []
    there = usable_gpus(read_gpus(nvml))
    wanted = recipe.finetune.gpus if stage == "finetune" else 1
    return there[:wanted] if isinstance(wanted, int) else there


@contextmanager
def held(gpus: Sequence[GpuReading], job: Job, report: Reporter) -> Iterator[None]:
    """While entered, no other job of this user that asks for it has one of these GPUs. Waits until they are free.

    Raises:
        Cancelled: somebody asked to stop while it waited.
    """
    with ExitStack() as stack:
        for gpu in sorted(
            gpus, key=lambda each: each.uuid
        ):  # in one order, so that two never wait for each other
            handle = _open(gpu)
            if handle is not None:
                stack.callback(os.close, handle)
                _wait(handle, gpu, job, report)
        yield


def _open(gpu: GpuReading) -> int | None:
    """The file of a GPU's lock; None where there can be none."""
    place = state_dir() / "gpus"
    name = "".join(char if char.isalnum() or char == "-" else "_" for char in gpu.uuid or str(gpu.index))
    with suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(place / f"{name}.lock", os.O_RDWR | os.O_CREAT, PRIVATE)
    return None


def _wait(handle: int, gpu: GpuReading, job: Job, report: Reporter) -> None:
    told = ""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            who = _holder(handle)
            if who != told:
                told = who
                report.log(f"{gpu.name} is in use by {who}. This job begins when it is free.", "warning")
                report.progress(f"waiting for the GPU: {who}", 0, None)
        report.check_cancelled()
        time.sleep(_LOOK_S)
    lab = str(job.folder.parent.parent)
    with suppress(OSError):  # who waits is not told for whom
        os.ftruncate(handle, 0)
        os.pwrite(
            handle, json.dumps({"lab": lab, "job": job.id, "pid": os.getpid(), "since": now()}).encode(), 0
        )


def _holder(handle: int) -> str:
    """Who has the GPU, in words."""
    told = read_if_whole(Path(f"/proc/self/fd/{handle}"))
    if not isinstance(told, dict):
        return "another job"
    return f"{told.get('job', 'a job')} of {told.get('lab', 'another lab')}"
