"""What a running job takes of the machine, as metric events."""

from __future__ import annotations

import resource
import sys
import threading
from contextlib import suppress
from types import TracebackType

from core.events import Reporter
from core.hardware import load_nvml, read_gpus, usable_gpus

INTERVAL_S = 2.0


class Monitor:
    """While entered, reports what the work takes of the machine, every two seconds.

    The metrics are ``gpu_mem_gib`` and ``gpu_util`` (percent) of the first GPU, ``gpu1_mem_gib`` and ``gpu1_util``
    of the second and so on, ``ram_gib`` of this process, and ``cpu_util`` (percent of one core).
    """

    def __init__(self, reporter: Reporter, interval: float = INTERVAL_S) -> None:
        self._reporter = reporter
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def peaks(self) -> dict[str, float]:
        """The most that this process held, in bytes: ``ram_bytes``, and ``gpu_bytes`` if it used one.

        RAM is the kernel's own high-water mark (getrusage(2)), GPU memory that of torch's
        allocator: what it took from the GPU, and (``gpu_allocated_bytes``) what of that was in use at once.
        """
        found = {"ram_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            found["gpu_bytes"] = float(torch.cuda.max_memory_reserved())
            found["gpu_allocated_bytes"] = float(torch.cuda.max_memory_allocated())
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        process.cpu_percent()
        nvml = load_nvml()
        while not self._over.wait(self._interval):
            with suppress(psutil.Error):
                self._reporter.metric("ram_gib", round(process.memory_info().rss / 2**30, 3))
                self._reporter.metric("cpu_util", process.cpu_percent())
            gpus = read_gpus(nvml) if nvml is not None else []
            # Where none of them is named in a way that is understood, as a MIG slice, the first is told.
            for at, gpu in enumerate(usable_gpus(gpus) or gpus[:1]):
                name = f"gpu{at or ''}"
                self._reporter.metric(f"{name}_mem_gib", round(gpu.memory_used / 2**30, 3))
                if gpu.load is not None:
                    self._reporter.metric(f"{name}_util", gpu.load)
