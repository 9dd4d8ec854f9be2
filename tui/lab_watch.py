"""A thread that reads the lab's folder ten times a second and tells when something changed.

Screens hold no state of a job: all of it is read from the job's folder, so a wizard that was killed
shows everything again when it is opened, and two wizards on one lab show the same.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError, text_of
from core.events import Event, last_event, read_events
from core.folder import LabFolder
from core.jobs import FINAL, Job, list_jobs
from core.stages import STAGES, made_in
from tui.log_file import LogFile
from tui.snapshot import JobView, Snapshot

if TYPE_CHECKING:
    from core.stale import StaleReader

PERIOD_S = 0.1
AT_MOST_S = 0.3
"""How long one look may read events before what is known so far is shown."""

FIRST_S = 0.03
"""The same for the first look, which the first screen waits for."""

PIECE = 1 << 16
"""Bytes of events that are read at a time: a few milliseconds, as keys wait for them."""

_LISTING_EVERY = 5
_KEPT_POINTS = 20_000

_ELSEWHERE = ("hub.", "azure.", "upload.", "fetch.")
"""How the codes of errors begin that may be mended somewhere else, where nobody here sees it."""


class JobReader:
    """Reads a job's folder a bit at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._offset = 0
        self._metrics: dict[str, float] = {}
        self._series: dict[str, list[tuple[float, float]]] = {"loss": [], "eval_loss": []}
        self._notes: list[tuple[str, str]] = []
        self._progress: Event = {}
        self._started: float | None = None
        self._ended: float | None = None
        self._all_told = False
        self._newest_until = 0
        self._spec: dict[str, Any] = {}
        self._begun = False
        self.view = JobView(job.id, job.stage, "queued", job.folder)

    def poll(self, until: float = math.inf) -> bool:
        """Read what is new; returns whether the view changed. A job that is over is not read again.

        Args:
            until: when to leave off (``time.monotonic()``); the next call goes on there.
        """
        if self._all_told:
            return False
        # The state first: were it read last, events written between the two looks would be lost for good.
        state = self.job.state
        if not self._begun:
            self._begin()
        new = False
        while True:
            before = self._offset
            events, self._offset = read_events(self.job.events_path, before, PIECE)
            for event in events:
                if event["type"] != "progress" or self._offset >= self._newest_until:
                    self._take(event)
            if self._offset == before:
                # A folder that was seen before its job had the lock looks crashed: that is looked at again.
                self._all_told = state in FINAL and state != "crashed"
                break
            new = True
            if time.monotonic() > until:
                break
        if not new and state == self.view.state:
            return False
        over = state in FINAL
        error = self.job.error() if over else None
        self.view = JobView(
            id=self.job.id,
            stage=self.job.stage,
            state=state,
            folder=self.job.folder,
            started=self._started,
            ended=self._ended if over else None,
            phase=text_of(self._progress, "phase"),
            done=_number(self._progress.get("done")),
            total=_number(self._progress.get("total")),
            eta_s=None if over else _number(self._progress.get("eta_s")),
            metrics=dict(self._metrics),
            train=tuple(self._series["loss"]),
            held=tuple(self._series["eval_loss"]),
            notes=tuple(self._notes[-50:]),
            error=error.as_dict() if error else None,
            hopeless=isinstance(error, RequestError) and not error.code.startswith(_ELSEWHERE),
            result=self.job.result if over else None,
            reused=self.job.reused if over else False,
            spec=self._spec,
        )
        return True

    def _begin(self) -> None:
        self._begun = True
        with suppress(RequestError):  # the job is shown all the same
            spec = self.job.spec
            self._spec = {**spec, "recipe": _tables(spec.get("recipe"))}
        # Of many events the newest comes last.
        self._newest_until = _size(self.job.events_path)
        self._progress = last_event(self.job.events_path, "progress") or {}

    def _take(self, event: Event) -> None:
        kind = event.get("type")
        if kind == "progress":
            self._progress = event
        elif kind == "metric":
            self._metric(event)
        elif kind == "log" and event.get("level") in ("warning", "error"):
            self._notes = [*self._notes[-49:], (str(event["level"]), str(event.get("text", "")))]
        elif kind == "state":
            at = seconds(event.get("t"))
            if event.get("state") == "running" and self._started is None:
                self._started = at
            elif event.get("state") in FINAL:
                self._ended = at

    def _metric(self, event: Event) -> None:
        name, value = str(event.get("name")), _number(event.get("value"))
        if value is None:
            return
        self._metrics[name] = value
        step = _number(event.get("step"))
        if name in self._series and step is not None:
            points = self._series[name]
            # A run that went on from a checkpoint does some steps again: the newer value counts.
            while points and points[-1][0] >= step:
                points.pop()
            points.append((step, value))
            if len(points) > _KEPT_POINTS:
                self._series[name] = [*points[:-1:2], points[-1]]


class LabWatch:
    """The thread. It calls ``tell(snapshot)`` when something changed, ``tell_logs()`` when a log grew."""

    def __init__(
        self, lab: LabFolder, tell: Callable[[Snapshot], None], tell_logs: Callable[[], None]
    ) -> None:
        self.lab = lab
        self._tell = tell
        self._tell_logs = tell_logs
        self._jobs: list[Job] = []
        self._readers: dict[str, JobReader] = {}
        self._closed = threading.Event()
        self._poke = threading.Event()
        self._thread: threading.Thread | None = None
        self._made: frozenset[str] = frozenset()
        self._recipe: tuple[int, int] | None = None
        self._first = True
        self._stale: StaleReader | None = None
        self.log: LogFile | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._work, name="lab-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let the thread end; it is not waited for."""
        self._closed.set()
        self._poke.set()

    def poke(self) -> None:
        """Look now."""
        self._poke.set()

    def _work(self) -> None:
        turn = 0
        while not self._closed.is_set():
            changed = self.look(listing=turn % _LISTING_EVERY == 0 or self._poke.is_set())
            self._poke.clear()
            if self._closed.is_set():
                return
            if changed:
                self._tell(self.snapshot())
            log = self.log
            if log is not None and log.refresh():
                self._tell_logs()
            turn += 1
            self._poke.wait(PERIOD_S)

    def look(self, listing: bool = True) -> bool:
        """Read what is new in the lab; returns whether anything is."""
        # Not with the first look, which the first screen waits for.
        changed = self._first or (listing and self._look_for_stale())
        until = time.monotonic() + (FIRST_S if self._first else AT_MOST_S)
        self._first = False
        if listing:
            try:
                jobs = list_jobs(self.lab)
            except OSError:  # the lab's folder went away, or a disk is gone for a moment
                jobs = []
            if (here := {job.id for job in jobs}) != {job.id for job in self._jobs}:
                changed = True
                self._readers = {name: reader for name, reader in self._readers.items() if name in here}
            self._jobs = jobs
            made, recipe = made_in(self.lab), _stamp(self.lab.recipe_path)
            changed = changed or made != self._made or recipe != self._recipe
            self._made, self._recipe = made, recipe
        told = False
        for stage in STAGES:
            for reader in self._runs(stage):
                told = reader.poll(until) or told
        if told:
            self._made = made_in(self.lab)
        return changed or told

    def _runs(self, stage: str) -> Iterator[JobReader]:
        """The newest run of a stage, then those that it went on from: the others are never shown, and not read.

        A run is given before it is known whether the newest went on from it, which is known once it was read:
        the last may be none of them.
        """
        newest: JobReader | None = None
        first = math.inf
        for job in reversed(self._jobs):
            if job.stage != stage:
                continue
            reader = self._readers.setdefault(job.id, JobReader(job))
            yield reader
            newest = newest or reader
            if points := reader.view.train:
                first = min(first, points[0][0])
            if not (_is_part(reader, newest) and 1 < first < math.inf):
                return

    def _look_for_stale(self) -> bool:
        """See whether what was made is as the lab describes it now; a lab in which nothing was made loads nothing."""
        if self._stale is None:
            if not self._made:
                return False
            from core.stale import StaleReader

            self._stale = StaleReader(self.lab)
        return self._stale.look()

    def snapshot(self) -> Snapshot:
        """The lab as it was last read."""
        jobs = {stage: view for stage in STAGES if (view := self._view(stage)) is not None}
        old = self._stale
        return Snapshot(jobs, self._made, old.stages if old else {}, old.answers if old else {})

    def _view(self, stage: str) -> JobView | None:
        """The newest run of a stage. One that went on from a checkpoint gets the points of those before it in front."""
        runs = list(self._runs(stage))
        if not runs:
            return None
        view = runs[0].view
        train, held = list(view.train), list(view.held)
        for other in runs[1:]:
            if train and _is_part(other, runs[0]):
                first = train[0][0]
                train = [p for p in other.view.train if p[0] < first] + train
                held = [p for p in other.view.held if p[0] < first] + held
        return view if len(train) == len(view.train) else view._replace(train=tuple(train), held=tuple(held))


def _is_part(run: JobReader, newest: JobReader) -> bool:
    """Whether the newest run may have gone on from this one: it did not end well, and made the same adapter."""
    return run is newest or (run.view.state != "succeeded" and _adapter(run.view) == _adapter(newest.view))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _size(path: Path) -> int:
    stamp = _stamp(path)
    return stamp[1] if stamp else 0


def seconds(text: object) -> float | None:
    """An event's time as seconds since the epoch."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _adapter(view: JobView) -> str:
    return str(view.spec.get("recipe", {}).get("finetune", {}).get("adapter", ""))


def _tables(recipe: object) -> dict[str, dict[str, Any]]:
    """Those parts of a recipe that are tables, as all are unless somebody has been at the file."""
    found = recipe if isinstance(recipe, dict) else {}
    return {name: table for name, table in found.items() if isinstance(table, dict)}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
