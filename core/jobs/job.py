"""One job, seen through its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import LabError, RequestError, StageError, error_from
from core.events import LOG_NAME, VERSION, Event, now, read_events
from core.files import read_json
from core.jobs.alive import is_held
from core.jobs.reserve import disk_full
from core.text import clean_line

ACTIVE = ("queued", "running", "cancelling")
"""The states in which a job still has a process."""

FINAL = ("succeeded", "failed", "cancelled", "crashed")
"""The states that never change again."""

_TAIL_LINES = 20


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
    error: dict[str, str] | None

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
        """What was asked for: the recipe at that time, options, versions.

        Raises:
            RequestError: the file is damaged.
        """
        return read_json(self.folder / "spec.json") or {}

    def _done(self) -> dict[str, Any] | None:
        """``done.json``, None while there is none; where it is damaged, a crash that says so."""
        try:
            found: dict[str, Any] | None = read_json(self.folder / "done.json")
        except RequestError as error:
            return {"state": "crashed", "error": error.as_dict(), "exit_status": StageError.exit_status}
        return found

    @property
    def state(self) -> str:
        """The state now."""
        # Liveness is read before the marker: the other way round, a job that ends between the two
        # looks would seem crashed for a moment.
        alive = is_held(self.folder)
        done = self._done()
        if done is not None:
            return str(done.get("state", "crashed"))
        asked = (self.folder / "cancel").exists()
        if alive:
            if asked:
                return "cancelling"
            return "running" if (self.folder / "pid.json").exists() else "queued"
        return "cancelled" if asked else "crashed"

    @property
    def active(self) -> bool:
        """Whether a process of it still lives."""
        return self.state in ACTIVE

    @property
    def result(self) -> dict[str, Any] | None:
        """The result in numbers, once it has succeeded."""
        done = self._done() or {}
        found: dict[str, Any] | None = done.get("result")
        return found

    @property
    def reused(self) -> bool:
        """Whether nothing had changed, so that nothing was done."""
        return bool((self._done() or {}).get("reused"))

    @property
    def peaks(self) -> dict[str, int]:
        """The most memory that the stage held, in bytes: ``ram_bytes``, and ``gpu_bytes`` if it used a GPU."""
        return (self._done() or {}).get("peaks") or {}

    @property
    def seconds(self) -> float | None:
        """How long the stage's work took, without the start of its process; None if it did not succeed."""
        found: float | None = (self._done() or {}).get("seconds")
        return found

    def error(self) -> LabError | None:
        """Why it did not succeed, or None while it runs or when it did."""
        state = self.state
        if state in ACTIVE or state == "succeeded":
            return None
        done = self._done() or {}
        if done.get("error"):
            return error_from(done["error"], int(done.get("exit_status", 3)))
        if state == "cancelled":
            return error_from({"title": f"{self.id} was cancelled."}, 130)
        full = disk_full(self.folder)
        if full is not None:
            return full
        return StageError(
            f"{self.id} crashed: its process is gone and left no result.",
            "\n".join(self.log_tail()) or "Its log is empty.",
            f"Run it again. If it happens again, look for lack of memory. Log: {self.log_path}",
            code="job.crashed",
        )

    def status(self) -> JobStatus:
        """State, times, progress and error in one object."""
        events, _ = read_events(self.events_path)
        progress = next((e for e in reversed(events) if e["type"] == "progress"), {})
        state = self.state
        done = self._done() or {}
        error = self.error()
        started = next((e["t"] for e in events if e["type"] == "state" and e.get("state") == "running"), None)
        return JobStatus(
            id=self.id,
            stage=self.stage,
            state=state,
            started=started,
            ended=done.get("ended") or (events[-1]["t"] if events and state in FINAL else None),
            phase=progress.get("phase"),
            done=progress.get("done"),
            total=progress.get("total"),
            eta_s=progress.get("eta_s") if state in ACTIVE else None,
            error=error.as_dict() if error else None,
        )

    def log_tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """The last lines of the log, cleaned."""
        try:
            with self.log_path.open("rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - 64 * 1024))
                data = stream.read()
        except FileNotFoundError:
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
            events, offset = read_events(self.events_path, offset)
            for event in events:
                if event.get("type") == "state":
                    last_state = event.get("state", "")
                yield event
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
        """Ask the job to stop. Its supervisor sees to it: a request, then SIGTERM, then SIGKILL.

        Raises:
            RequestError: it is over already.
        """
        state = self.state
        if state not in ACTIVE:
            raise RequestError(f"{self.id} is not running.", f"It is {state}.", code="job.not-running")
        (self.folder / "cancel").touch()

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
