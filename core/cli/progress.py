"""A reporter for work that runs in the command's own process: shows itself on standard error."""

from __future__ import annotations

from core.cli.show import EventPrinter
from core.events import Reporter, TimeLeft


class StderrReporter(Reporter):
    """Progress and log lines for people."""

    def __init__(self) -> None:
        self._printer = EventPrinter()
        self._left = TimeLeft()

    def progress(self, phase: str, done: float, total: float | None) -> None:
        eta = self._left.update(phase, done, total)
        self._printer({"type": "progress", "phase": phase, "done": done, "total": total, "eta_s": eta})

    def log(self, text: str, level: str = "info") -> None:
        self._printer({"type": "log", "level": level, "text": text})
