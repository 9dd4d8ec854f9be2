"""What a running job takes of the machine, as metric events."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

from core.events import Reporter

INTERVAL_S = 2.0


class Monitor:
    """While entered, reports every two seconds: ``gpu_mem_gib`` and ``gpu_util`` (percent) for each
    GPU that this process uses or could use, ``ram_gib`` of this process, and ``cpu_util`` (percent of one core).
    """

    def __init__(self, reporter: Reporter, interval: float = INTERVAL_S) -> None:
        self._reporter = reporter
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        process.cpu_percent()
        gpu = _first_gpu()
        while not self._over.wait(self._interval):
            with suppress(psutil.Error):
                self._reporter.metric("ram_gib", round(process.memory_info().rss / 2**30, 3))
                self._reporter.metric("cpu_util", process.cpu_percent())
            if gpu is not None:
                for name, value in gpu():
                    self._reporter.metric(name, value)


def _first_gpu() -> Any:
    """A function that reads the first visible NVIDIA GPU's memory and load, or None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # NVML raises its own classes and OSError; none of them may harm the job
        return None

    def read() -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        with suppress(pynvml.NVMLError):
            found.append(("gpu_mem_gib", round(pynvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30, 3)))
            found.append(("gpu_util", float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)))
        return found

    return read
