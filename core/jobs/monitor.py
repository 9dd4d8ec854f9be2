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
    of the second and so on; ``ram_gib`` and ``cpu_util`` (percent of one core) are of this process and those that it
    started.
    """

    def __init__(self, reporter: Reporter, interval: float = INTERVAL_S) -> None:
        self._reporter = reporter
        self._interval = interval
        self._over = threading.Event()
        self._most_ram = 0
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def peaks(self) -> dict[str, float]:
        """The most that the work held, in bytes: ``ram_bytes``, and ``gpu_bytes`` if this process used a GPU.

        RAM is the kernel's own high-water mark (getrusage(2)), or what was seen of this process and those that it
        started, if that was more. GPU memory is that of torch's allocator: what it took from the GPU, and
        (``gpu_allocated_bytes``) what of that was in use at once.
        """
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found = {"ram_bytes": float(max(own, self._most_ram))}
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
        known: dict[int, psutil.Process] = {}
        nvml = load_nvml()
        while not self._over.wait(self._interval):
            known = {
                each.pid: known.get(each.pid, each) for each in (process, *process.children(recursive=True))
            }
            ram, load = 0, 0.0
            for each in known.values():
                with suppress(psutil.Error):
                    ram += each.memory_info().rss
                    load += each.cpu_percent()
            self._most_ram = max(self._most_ram, ram)
            self._reporter.metric("ram_gib", round(ram / 2**30, 3))
            self._reporter.metric("cpu_util", round(load, 1))
            gpus = read_gpus(nvml) if nvml is not None else []
            # Where none of them is named in a way that is understood, as a MIG slice, the first is told.
            for at, gpu in enumerate(usable_gpus(gpus) or gpus[:1]):
                name = f"gpu{at or ''}"
                self._reporter.metric(f"{name}_mem_gib", round(gpu.memory_used / 2**30, 3))
                if gpu.load is not None:
                    self._reporter.metric(f"{name}_util", gpu.load)
