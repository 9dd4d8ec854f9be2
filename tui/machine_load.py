"""What the machine is doing, read in a thread: GPU memory and load (NVML), else CPU and memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from core.language import _

GIB = 2**30

EACH = 4
"""Of up to so many GPUs each has its own figures; of more there is no room for them."""


class MachineLoad:
    """Calls ``show(text)`` about once a second while it is switched on, and with nothing when it is off.

    NVML and psutil are asked in a thread of its own: a driver that hangs must not hold a key up.
    """

    def __init__(self, show: Callable[[str], None], period: float = 1.0) -> None:
        self._show = show
        self._period = period
        self._on = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def switch(self, on: bool) -> None:
        """Start or stop showing."""
        if on and not self._on.is_set():
            self._on.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="machine-load", daemon=True)
                self._thread.start()
        elif not on and self._on.is_set():
            self._on.clear()
            self._show("")

    def close(self) -> None:
        """Let the thread end; it is not waited for."""
        self._closed.set()
        self._on.set()

    def _work(self) -> None:
        while not self._closed.is_set():
            self._on.wait()
            if self._closed.is_set():
                return
            text = read()
            if self._on.is_set() and not self._closed.is_set():
                self._show(text)
            self._closed.wait(self._period)


def read() -> str:
    """What the GPUs do, or where there are none what the machine does, in a few words."""
    return gpu_text() or machine_text()


@cache
def _nvml() -> Any | None:
    from core.hardware import load_nvml

    return load_nvml()


def gpu_text() -> str:
    """Memory and load of every GPU, or nothing when there is none or the driver does not answer."""
    nvml = _nvml()
    if nvml is None:
        return ""
    from core.hardware import read_gpus

    gpus = read_gpus(nvml)
    if not gpus:
        return ""
    if len(gpus) > EACH:
        used, total = sum(gpu.memory_used for gpu in gpus), sum(gpu.memory_total for gpu in gpus)
        loads = [gpu.load for gpu in gpus if gpu.load is not None]
        load = f" {min(loads):.0f}-{max(loads):.0f}%" if loads else ""
        return f"{len(gpus)} GPUs {used / GIB:.0f}/{total / GIB:.0f} GiB{load}"
    each = "+".join(f"{gpu.memory_used / GIB:.{1 if len(gpus) == 1 else 0}f}" for gpu in gpus)
    total = sum(gpu.memory_total for gpu in gpus)
    load = "+".join(f"{gpu.load:.0f}" for gpu in gpus if gpu.load is not None)
    return f"GPU {each}/{total / GIB:.0f} GiB{f' {load}%' if load else ''}"


def machine_text() -> str:
    """CPU load since the last call, and memory in use."""
    import psutil

    memory = psutil.virtual_memory()
    load = psutil.cpu_percent(interval=None)
    return _(
        "CPU {load:.0f}%  memory {used:.1f}/{total:.0f} GiB",
        load=load,
        used=(memory.total - memory.available) / GIB,
        total=memory.total / GIB,
    )
