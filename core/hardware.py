"""What this machine has: cores, free memory, NVIDIA GPUs, packages. Light: loads no torch, starts no CUDA context.

Sources: NVML API reference, through the package nvidia-ml-py, whose module is ``pynvml``; the kernel's documentation
of control groups (cgroup v2 and v1).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import MachineError
from core.language import told
from core.text import first_line


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment. Sizes in bytes, load in percent (None where it is not told, as under MIG)."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    load: float | None
    uuid: str = ""


def load_nvml() -> Any | None:
    """The initialised ``pynvml`` module, or None where there is no NVIDIA driver or library."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML raises its own classes and OSError; no GPU is never an error here
        return None
    return pynvml


def read_gpus(nvml: Any) -> list[GpuReading]:
    """What each GPU holds and does now. GPUs that refuse to answer are left out, as all are once the driver is gone."""
    found = []
    count = 0
    with suppress(nvml.NVMLError):
        count = nvml.nvmlDeviceGetCount()
    for index in range(count):
        with suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            load = None
            with suppress(nvml.NVMLError):
                load = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            name, uuid = _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle))
            found.append(GpuReading(index, name, int(memory.total), int(memory.used), load, uuid))
    return found


def gpu_fault(error: BaseException) -> MachineError | None:
    """What torch says of a GPU that fails in the middle of work, as one; None for any other error.

    Nothing of CUDA can be used in that process any more (CUDA Runtime API, cudaError_t).
    """
    # By name: torch need not be loaded here. Its error carries the number that CUDA gave.
    if _is(error, "AcceleratorError") and not is_out_of_memory(error):
        return MachineError(
            told("The GPU failed in the middle of the work."),
            first_line(error),
            told(
                "Look at what nvidia-smi and the system's log (dmesg, Xid) say of it, then run again: a "
                "finetune goes on from its last checkpoint. If it happens again, use another GPU."
            ),
            code="gpu.failed",
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of the machine or of a GPU."""
    # torch raises a RuntimeError without a code for the CPU's memory, and classes of its own for a GPU's.
    return (
        isinstance(error, MemoryError)
        or _is(error, "OutOfMemoryError")
        or (_is(error, "AcceleratorError") and getattr(error, "error_code", None) == _CUDA_NO_MEMORY)
        or "can't allocate memory" in str(error)
    )


_CUDA_NO_MEMORY = 2
"""cudaErrorMemoryAllocation."""


def _is(error: BaseException, name: str) -> bool:
    return any(each.__name__ == name for each in type(error).__mro__)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def usable_gpus(gpus: list[GpuReading]) -> list[GpuReading]:
    """Those GPUs that CUDA programs started from here can use, in their order: as CUDA_VISIBLE_DEVICES says."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return gpus
    found: list[GpuReading] = []
    for word in map(str.strip, wanted.split(",")):
        named = [
            gpu
            for gpu in gpus
            if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if (
            len(named) != 1
        ):  # CUDA stops at the first that it does not know; of a MIG slice nothing is told here
            break
        found += named
    return found


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products of bfloat16, several times as quick as those of float32.

    Another takes bfloat16 too, by conversions that cost more than they save. ``OLIVEPRESS_FLOAT32=1`` says no for all,
    so that two machines compute alike.
    """
    if os.environ.get("OLIVEPRESS_FLOAT32") == "1":
        return False
    with suppress(OSError):
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        return bool({"avx512_bf16", "amx_bf16"} & set(words))
    return False


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, for what it allocates next, where the library can do that.

    A training step frees all that it allocated, and the next one wants as much again. Given back in between, each page
    of it is cleared by the system once more, a twentieth of a step's time. :func:`give_memory_back` gives it back.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another library than glibc
            import ctypes

            libc = ctypes.CDLL(None)
            for option, most in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_THRESHOLD, 32 * 2**20)):
                libc.mallopt(option, most)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The numbers of glibc's options, from its malloc.h; 32 MiB is the largest that the second may be."""


def give_memory_back() -> None:
    """Give what was freed and kept back to the system."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            import ctypes

            ctypes.CDLL(None).malloc_trim(0)


def free_ram() -> int:
    """Bytes of RAM that can be had: what the system says, or less where the control group allows less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    groups = Path("/sys/fs/cgroup")
    for limit_name, used_name, stat_name in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with suppress(OSError, ValueError):
            limit, used = int((groups / limit_name).read_text()), int((groups / used_name).read_text())
            stat = dict(line.split(maxsplit=1) for line in (groups / stat_name).read_text().splitlines())
            # Cached files are given back when memory is wanted.
            cached = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
            free = min(free, max(0, limit - used + cached))
    return free


def package_version(name: str) -> str:
    """The installed version of a package, by its metadata alone; empty where it is not installed."""
    from importlib.metadata import (  # slow to load, and the wizard begins without it
        PackageNotFoundError,
        version,
    )

    try:
        return version(name)
    except PackageNotFoundError:
        return ""
