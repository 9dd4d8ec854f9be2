"""The lab at one moment, as screens show it.

Made by :mod:`tui.lab_watch`; light, so that the first screen is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from core.stale import Older

ACTIVE = ("queued", "running", "cancelling")
"""The states in which a job still has a process, as :data:`core.jobs.ACTIVE`."""


class JobView(NamedTuple):
    """A job as screens show it.

    Attributes:
        started, ended: seconds since the epoch, None while it has not.
        phase, done, total, eta_s: the newest progress; the time left is in seconds.
        metrics: the newest value of each metric.
        train, held: training and evaluation loss as (step, loss).
        notes: warnings and errors that the stage told, newest last.
        error: title, detail and hint when it failed, crashed or was cancelled.
        hopeless: whether the request itself was wrong: the same again, with the same files, would fail the same way.
        result: numbers of a job that succeeded; ``reused`` when nothing had changed.
        options: what stands in the job's spec: recipe and options.
    """

    id: str
    stage: str
    state: str
    folder: Path
    started: float | None = None
    ended: float | None = None
    phase: str = ""
    done: float | None = None
    total: float | None = None
    eta_s: float | None = None
    metrics: Mapping[str, float] = MappingProxyType({})
    train: tuple[tuple[float, float], ...] = ()
    held: tuple[tuple[float, float], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    error: Mapping[str, Any] | None = None
    hopeless: bool = False
    result: Mapping[str, Any] | None = None
    reused: bool = False
    spec: Mapping[str, Any] = MappingProxyType({})

    @property
    def active(self) -> bool:
        """Whether a process of it lives."""
        return self.state in ACTIVE

    @property
    def share(self) -> float | None:
        """Done of total, 0 to 1, of the present phase."""
        if self.total and self.done is not None:
            return max(0.0, min(1.0, self.done / self.total))
        return None

    @property
    def log_path(self) -> Path:
        """All that its processes printed, and its log lines."""
        return self.folder / "log.txt"


class Snapshot(NamedTuple):
    """The lab at one moment.

    Attributes:
        jobs: the newest job of each stage.
        made: what stands under ``models/``: ``quantize``, ``finetune``, ``optimize``.
        stale: the stages whose result is older than what it was made from, with the reason.
        older: why the base (``""``) or an adapter would not answer as the lab describes it now.
        active: the job that runs, if one does.
    """

    jobs: Mapping[str, JobView] = MappingProxyType({})
    made: frozenset[str] = frozenset()
    stale: Mapping[str, str] = MappingProxyType({})
    older: Mapping[str, Older] = MappingProxyType({})

    @property
    def outline(self) -> tuple[object, ...]:
        """What is shown at once when it changes: which jobs there are, their states, and what is made."""
        jobs = tuple((view.id, view.state, bool(view.train)) for view in self.jobs.values())
        return (self.made, tuple(self.stale.items()), tuple(self.older.items()), jobs)

    @property
    def active(self) -> JobView | None:
        """The job that runs; uploads last, as they leave the machine free."""
        running = [view for view in self.jobs.values() if view.active]
        return min(running, key=lambda view: view.stage == "upload", default=None)
