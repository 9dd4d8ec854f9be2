"""What a job tells while it runs: states, progress, metrics, artifacts and log lines.

Each event is one JSON object on a line of ``events.jsonl``, with ``v``, ``t`` (ISO 8601, UTC),
``job`` and ``type``. Stages speak to a :class:`Reporter` and know nothing of files.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import Cancelled, LabError, with_told
from core.files import folder_bytes, open_file, read_if_whole, write_json
from core.log_lines import written
from core.text import clean, without_logins

VERSION = 1
LOG_NAME = "log.txt"
"""The file of a job's folder that holds all that its processes print, and its log lines."""

STOP_NAME = "stop.json"
"""The file of a job's folder that says how long a stop takes."""

AT_ONCE = 1 << 20
"""Bytes of events that those who follow a job read at once."""

_LONGEST = 16 << 20
_TAILS = (1 << 16, 1 << 20, 1 << 24)
_NUMBER = (int, float)
_NUMBER_OR_NONE = (int, float, type(None))
_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "state": {"state": str},
    "progress": {"phase": str, "done": _NUMBER, "total": _NUMBER_OR_NONE, "eta_s": _NUMBER_OR_NONE},
    "metric": {"name": str, "value": _NUMBER_OR_NONE, "step": _NUMBER_OR_NONE},
    "artifact": {"path": str, "what": str},
    "log": {"level": str, "text": str},
}

Event = dict[str, Any]


def now() -> str:
    """The time as events carry it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log_line(text: str, level: str) -> str:
    """A log line as people read it: its level in front, unless that is the usual one."""
    return clean(text) if level == "info" else f"{level}: {clean(text)}"


class Reporter:
    """Where a stage sends what it has to tell. This one keeps nothing."""

    def progress(self, phase: str, done: float, total: float | None) -> None:
        """``done`` of ``total`` units of the named phase are finished; ``total`` None while unknown."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """A number measured at a training step (or at none)."""

    def artifact(self, path: Path, what: str) -> None:
        """A file or folder was made."""

    def log(self, text: str, level: str = "info") -> None:
        """A line for people; ``level`` is debug, info, warning or error."""

    def check_cancelled(self) -> None:
        """Raise :class:`~core.errors.Cancelled` if the user asked to stop. Call often in long loops."""

    def stop_takes(self, seconds: float) -> None:
        """Say how long a stop would take now, if it is to lose nothing: whoever asks for one waits so long."""

    def unbroken(self) -> AbstractContextManager[None]:
        """While entered no signal ends the work; the next :meth:`check_cancelled` does."""
        return nullcontext()


@dataclass
class RecordingReporter(Reporter):
    """Keeps every event in memory, for tests and for callers that want them at the end."""

    events: list[Event] = field(default_factory=list)
    cancelled: bool = False

    def progress(self, phase: str, done: float, total: float | None) -> None:
        self.events.append({"type": "progress", "phase": phase, "done": done, "total": total})

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.events.append({"type": "metric", "name": name, "value": value, "step": step})

    def artifact(self, path: Path, what: str) -> None:
        self.events.append({"type": "artifact", "path": str(path), "what": what})

    def log(self, text: str, level: str = "info") -> None:
        self.events.append({"type": "log", "level": level, "text": text})

    def check_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled

    def metrics(self, name: str) -> list[float]:
        """The values of one metric, in order."""
        return [e["value"] for e in self.events if e["type"] == "metric" and e["name"] == name]


class TimeLeft:
    """Estimates the seconds left in a phase from the speed of its recent part."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = ""
        self._marks: list[tuple[float, float]] = []

    def update(self, phase: str, done: float, total: float | None) -> float | None:
        """Seconds left in this phase, or None while there is too little to tell."""
        at = self._clock()
        if phase != self._phase or (self._marks and done < self._marks[-1][1]):
            self._phase, self._marks = phase, []
        self._marks.append((at, done))
        # Half of the marks at most are dropped, so that the speed is that of the recent part.
        if len(self._marks) > 64:
            self._marks = self._marks[::2] if at - self._marks[0][0] < 10 else self._marks[-32:]
        first_at, first_done = self._marks[0]
        if total is None or done <= first_done or at <= first_at:
            return None
        return max(0.0, (total - done) * (at - first_at) / (done - first_done))


class JobReporter(Reporter):
    """Writes events to a job's ``events.jsonl`` and sees the job's ``cancel`` flag file.

    Progress is written at most ten times a second, save the first and last of a phase: a bar that
    moves faster tells nobody more and makes the file grow.

    Log lines are also appended to the job's ``log.txt``, which is what people read, with the time and the level
    in front; those of level debug are left out there.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self._job = job
        self._log = folder / LOG_NAME
        self._cancel = folder / "cancel"
        self._events = folder / "events.jsonl"
        self._lock = threading.Lock()
        self._left = TimeLeft()
        self._last = ("", 0.0)
        self._asked = False
        self._unbroken = 0
        self._stop = folder / STOP_NAME
        self._stop_takes = 0.0

    def emit(self, kind: str, **fields: Any) -> None:
        """Append one event, whole."""
        event = {"v": VERSION, "t": now(), "job": self._job, "type": kind, **with_told(fields)}
        with self._lock, self._events.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(event, ensure_ascii=False) + "\n")

    def progress(self, phase: str, done: float, total: float | None) -> None:
        eta = self._left.update(phase, done, total)
        at = time.monotonic()
        if phase == self._last[0] and at - self._last[1] < 0.1 and done != total:
            return
        self._last = (phase, at)
        self.emit(
            "progress", phase=phase, done=done, total=total, eta_s=None if eta is None else round(eta, 1)
        )

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        # JSON knows no NaN; null says that there was no number.
        self.emit("metric", name=name, step=step, value=value if math.isfinite(value) else None)

    def artifact(self, path: Path, what: str) -> None:
        size = folder_bytes(path) if path.is_dir() else path.stat().st_size
        self.emit("artifact", path=str(path), bytes=size, what=what)

    def log(self, text: str, level: str = "info") -> None:
        text = without_logins(text)
        self.emit("log", level=level, text=text)
        if level != "debug":
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(written(text, level) + "\n")

    def check_cancelled(self) -> None:
        if self._asked or os.path.exists(self._cancel):
            raise Cancelled

    def stop_takes(self, seconds: float) -> None:
        if 0.8 * self._stop_takes <= seconds <= 1.2 * self._stop_takes:
            return
        self._stop_takes = seconds
        with suppress(LabError, OSError):  # a full disk is told by who writes what matters
            write_json(self._stop, {"seconds": round(seconds, 3)})

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        self._unbroken += 1
        try:
            yield
        finally:
            self._unbroken -= 1

    def interrupt(self) -> None:
        """Ask the work to stop, for a signal's handler: now, by KeyboardInterrupt, or where it is safe.

        A KeyboardInterrupt, since libraries catch every Exception here and there.
        """
        self._asked = True
        if not self._unbroken:
            raise KeyboardInterrupt


def stop_takes(folder: Path) -> float:
    """How many seconds a stop of the job in ``folder`` takes, as its worker said; 0 if it said nothing."""
    told = read_if_whole(folder / STOP_NAME)
    seconds = told.get("seconds") if isinstance(told, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 86_400 else 0.0


def read_events(path: Path, offset: int = 0, at_most: int | None = None) -> tuple[list[Event], int]:
    """The whole events from byte ``offset`` on, and the offset after them.

    A last line that is still being written is left for the next call. A line that is no event, as after a
    crash in the middle of a write, is passed over.

    Args:
        at_most: bytes to read, so that memory stays bounded; the offset stays the same when nothing is left.
    """
    try:
        with open_file(path) as stream:
            stream.seek(offset)
            data = stream.read(-1 if at_most is None else at_most)
            while at_most is not None and b"\n" not in data and (more := stream.read(at_most)):
                data += more
                if len(data) > _LONGEST:
                    return [], offset + len(data)
    except OSError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return list(_parse(data[:end])), offset + end


def first_events(path: Path, at_most: int) -> Iterator[Event]:
    """The whole events in the first bytes of the file, each read when it is asked for."""
    try:
        with open_file(path) as stream:
            data = stream.read(at_most)
    except OSError:
        return
    yield from _parse(data[: data.rfind(b"\n") + 1])


def last_event(path: Path, kind: str = "") -> Event | None:
    """The newest whole event of a type, or of any; None where the last 16 MiB hold none. Reads no more than it must."""
    marker = f'"{kind}"'.encode() if kind else b""
    for size in _TAILS:
        try:
            with open_file(path) as stream:
                start = max(0, stream.seek(0, os.SEEK_END) - size)
                stream.seek(start)
                data = stream.read(size)
        except OSError:
            return None
        lines = data[: data.rfind(b"\n") + 1].split(b"\n")
        for line in reversed(lines[1:] if start else lines):
            if marker in line:
                for event in _parse(line):
                    if kind in ("", event["type"]):
                        return event
        if not start:
            return None
    return None


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.split(b"\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _is_event(event):
            yield event


def _is_event(event: Event) -> bool:
    """Whether it has what those of its type have (None where that may be); one of an unknown type has the type."""
    kind = event.get("type")
    if not isinstance(kind, str):
        return False
    for name in ("t", "job"):
        event.setdefault(name, "")
    wanted = _FIELDS.get(kind, {})
    return all(isinstance(event.setdefault(name, None), types) for name, types in wanted.items())
