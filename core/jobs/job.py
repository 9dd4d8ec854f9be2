"""One job, seen through its folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import Cancelled, LabError, RequestError, StageError, error_from, text_of
from core.events import AT_ONCE, LOG_NAME, VERSION, Event, first_events, last_event, now, read_events
from core.files import open_file, read_json
from core.jobs.alive import is_held, is_stopped, pids
from core.jobs.reserve import why_nothing_is_written
from core.jobs.stopping import ensure_stopped, signal_group
from core.language import told
from core.remote.asked import to_follow
from core.text import clean_line

ACTIVE = ("queued", "running", "cancelling")
"""The states in which a job still has a process."""

FINAL = ("succeeded", "failed", "cancelled", "crashed")
"""The states that never change again."""

_TAIL_LINES = 20
_HEAD = 1 << 13
_SETTLED_S = 10.0


@dataclass(frozen=True)
class JobStatus:
    """What ``olivepress status`` tells of a job.

    Attributes:
        id: ``<stage>-<NNN>``.
        state: queued, running, cancelling, succeeded, failed, cancelled or crashed.
        started, ended: ISO 8601, UTC; None while it has not.
        phase, done, total, eta_s: the newest progress event; the time left is in seconds.
        error: title, detail and hint when it failed, crashed or was cancelled.
    """

    id: str
    stage: str
    state: str
    started: str | None
    ended: str | None
    phase: str | None
    done: float | None
    total: float | None
    eta_s: float | None
    error: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """The object that ``status --json`` gives."""
        return asdict(self)


class Job:
    """A job's folder. Cheap to make; everything is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self.stage = folder.name.rsplit("-", 1)[0]

    def __repr__(self) -> str:
        return f"Job({str(self.folder)!r})"

    @property
    def log_path(self) -> Path:
        """All that the job's processes printed, as raw bytes, and the job's log lines."""
        return self.folder / LOG_NAME

    @property
    def events_path(self) -> Path:
        """What the job tells, one JSON object a line."""
        return self.folder / "events.jsonl"

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked for: the recipe at that time, options, versions."""
        found = read_json(self.folder / "spec.json")
        return found if isinstance(found, dict) else {}

    def _end(self) -> dict[str, Any] | None:
        """``done.json``; None while there is none, or what is there is no job's end."""
        return _as_end(self.folder / "done.json")

    def outcome(self) -> dict[str, Any] | None:
        """What the worker said of its own end, last of all; None while it has not."""
        return _as_end(self.folder / "outcome.json")

    def _state_and_end(self) -> tuple[str, dict[str, Any]]:
        """The state now, and how it ended; empty while it has not, and where that is not known."""
        # Liveness is read before the marker: the other way round, a job that ends between the two
        # looks would seem crashed for a moment.
        alive = is_held(self.folder)
        if (end := self._end()) is not None:
            return end["state"], end
        end = self.outcome()
        there = pids(self.folder) if end is not None or not alive else {}
        alive = alive or bool(there)
        if end is not None and (not alive or self._will_stay_untold(there)):
            return end["state"], end
        asked = (self.folder / "cancel").exists()
        if alive:
            if asked:
                return "cancelling", {}
            return ("running" if (self.folder / "pid.json").exists() else "queued"), {}
        return ("cancelled" if asked else "crashed"), {}

    def _will_stay_untold(self, there: dict[str, int]) -> bool:
        """Whether the worker has ended and said how, and its supervisor, which would write it down, does not."""
        if "worker" in there:
            return False
        if supervisor := there.get("supervisor"):
            return is_stopped(supervisor)
        with suppress(OSError):  # somebody who is not known holds the lock
            return not 0 <= time.time() - (self.folder / "outcome.json").stat().st_mtime < _SETTLED_S
        return False

    @property
    def state(self) -> str:
        """The state now."""
        return self._state_and_end()[0]

    @property
    def active(self) -> bool:
        """Whether a process of it still lives."""
        return self.state in ACTIVE

    @property
    def result(self) -> dict[str, Any] | None:
        """The result in numbers, once it has succeeded."""
        found = self._state_and_end()[1].get("result")
        return found if isinstance(found, dict) else None

    @property
    def reused(self) -> bool:
        """Whether nothing had changed, so that nothing was done."""
        return self._state_and_end()[1].get("reused") is True

    @property
    def peaks(self) -> dict[str, int]:
        """The most memory that the stage held, in bytes: ``ram_bytes``, and ``gpu_bytes`` if it used a GPU."""
        found = self._state_and_end()[1].get("peaks")
        return found if isinstance(found, dict) else {}

    @property
    def seconds(self) -> float | None:
        """How long the stage's work took, without the start of its process; None if it did not succeed."""
        found = self._state_and_end()[1].get("seconds")
        return float(found) if isinstance(found, int | float) else None

    def error(self) -> LabError | None:
        """Why it did not succeed, or None while it runs or when it did."""
        return self._error(*self._state_and_end())

    def _error(self, state: str, end: dict[str, Any]) -> LabError | None:
        if state in ACTIVE or state == "succeeded":
            return None
        noted = end.get("error")
        if isinstance(noted, dict) and noted:
            status = end.get("exit_status")
            return error_from(noted, status if isinstance(status, int) else StageError.exit_status)
        if state == "cancelled":
            return Cancelled(told("{id} was cancelled.", id=self.id))
        why = why_nothing_is_written(self.folder)
        if why is not None:
            return why
        try:
            read_json(self.folder / "done.json")
        except RequestError as damaged:
            return damaged
        return StageError(
            told("{id} crashed: its process is gone and left no result.", id=self.id),
            "\n".join(self.log_tail()) or told("Its log is empty."),
            to_follow(self.folder)
            or told(
                "Run it again. If it happens again, look for lack of memory. Log: {log_path}",
                log_path=self.log_path,
            ),
            code="job.crashed",
        )

    def status(self) -> JobStatus:
        """State, times, progress and error in one object. Reads the ends of the events only, however many."""
        state, end = self._state_and_end()
        first = first_events(self.events_path, _HEAD)
        progress = last_event(self.events_path, "progress") or {}
        last = last_event(self.events_path) or {}
        error = self._error(state, end)
        started = next((e["t"] for e in first if e["type"] == "state" and e["state"] == "running"), None)
        ended = end.get("ended")
        return JobStatus(
            id=self.id,
            stage=self.stage,
            state=state,
            started=started,
            ended=ended if isinstance(ended, str) else (last.get("t") if state in FINAL else None),
            phase=text_of(progress, "phase") or None,
            done=progress.get("done"),
            total=progress.get("total"),
            eta_s=progress.get("eta_s") if state in ACTIVE else None,
            error=error.as_dict() if error else None,
        )

    def log_tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """The last lines of the log, cleaned."""
        try:
            with open_file(self.log_path) as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - 64 * 1024))
                data = stream.read()
        except OSError:
            return []
        text = data.decode("utf-8", "replace")
        return [clean_line(line) for line in text.split("\n") if line.strip()][-lines:]

    def follow(self, poll: float = 0.1) -> Iterator[Event]:
        """Every event from the first on, as they come, until the job is over.

        The last one is always a ``state`` event with a final state.
        """
        offset, last_state = 0, ""
        while True:
            over = not self.active
            while True:
                before = offset
                events, offset = read_events(self.events_path, offset, AT_ONCE)
                for event in events:
                    if event["type"] == "state":
                        last_state = event["state"]
                    yield event
                if offset == before:
                    break
            if over:
                if last_state not in FINAL:
                    error = self.error()
                    yield {
                        "v": VERSION,
                        "t": now(),
                        "job": self.id,
                        "type": "state",
                        "state": self.state,
                        **({"error": error.as_dict()} if error else {}),
                    }
                return
            time.sleep(poll)

    def cancel(self) -> None:
        """Ask the job to stop, and return at once.

        Its supervisor sees to it: a request, then SIGTERM, then SIGKILL, each after the time that the work needs to
        stop without losing anything. If the supervisor is gone or does not answer, a thread of this process does.

        Raises:
            RequestError: it is over already.
        """
        state = self.state
        if state not in ACTIVE:
            raise RequestError(
                told("{id} is not running.", id=self.id),
                told("It is {state}.", state=state),
                code="job.not-running",
            )
        try:
            (self.folder / "cancel").touch()
        except OSError:  # a full or read-only disk: SIGTERM says the same
            if supervisor := pids(self.folder).get("supervisor"):
                signal_group(supervisor, signal.SIGTERM)
        threading.Thread(
            target=ensure_stopped, args=(self.folder,), name=f"cancel {self.id}", daemon=True
        ).start()

    def wait(self, timeout: float | None = None, poll: float = 0.05) -> str:
        """Wait until the job is over; return its state.

        Raises:
            TimeoutError: it still ran after ``timeout`` seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self.active:
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"{self.id} still runs after {timeout} s")
            time.sleep(poll)
        return self.state


def _as_end(path: Path) -> dict[str, Any] | None:
    """A job's end as a file tells it; None where the file is absent, damaged, or tells no end."""
    try:
        found = read_json(path)
    except RequestError:
        return None
    return found if isinstance(found, dict) and found.get("state") in FINAL else None
