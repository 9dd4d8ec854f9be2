"""NVIDIA GPUs as NVML tells of them. Light: loads no torch, starts no CUDA context.

Source: NVML API reference, through the package nvidia-ml-py, whose module is ``pynvml``.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment. Sizes in bytes, load in percent (None where it is not told, as under MIG)."""

    index: int
    name: str
    memory_total: int
    memory_used: int
    load: float | None


def load_nvml() -> Any | None:
    """The initialised ``pynvml`` module, or None where there is no NVIDIA driver or library."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML raises its own classes and OSError; no GPU is never an error here
        return None
    return pynvml


def read_gpus(nvml: Any) -> list[GpuReading]:
    """What each GPU holds and does now. GPUs that refuse to answer are left out."""
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            load = None
            with suppress(nvml.NVMLError):
                load = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            name = nvml.nvmlDeviceGetName(handle)
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.append(GpuReading(index, text, int(memory.total), int(memory.used), load))
    return found
