"""How a job that was asked to stop is brought to an end: by itself, then by SIGTERM, then by SIGKILL.

The worker alone decides when it is safe to stop: a training finishes its step and keeps a checkpoint. So the
time that it is given grows with what a stop takes, as it said itself.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from core.events import stop_takes
from core.jobs import alive

GRACE_REQUEST_S = 4.0
"""How long a worker may take to see the request by itself, besides twice what it says that a stop takes."""

GRACE_TERM_S = 4.0
"""How long it may take after SIGTERM, besides the same."""

_LOOK_S = 0.1


class Escalation:
    """SIGTERM and then SIGKILL for one worker, each when its time has come; the time counts from now."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder, self._worker = folder, worker
        self._began = time.monotonic()
        self._termed: float | None = None
        signal_group(worker, signal.SIGCONT)  # one that was stopped could not obey

    def step(self) -> None:
        """Do what is due now."""
        now, allowed = time.monotonic(), 2 * stop_takes(self._folder)
        if self._termed is None:
            if now - self._began > GRACE_REQUEST_S + allowed:
                signal_group(self._worker, signal.SIGTERM)
                self._termed = now
        elif now - self._termed > GRACE_TERM_S + allowed:
            signal_group(self._worker, signal.SIGKILL)


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a process and all that it started in its session; harmless where they are gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def ensure_stopped(folder: Path) -> None:
    """Wait until the job in ``folder``, which was asked to stop, is at its end.

    Its supervisor does the work, woken if it was stopped. Where it is gone, or does nothing in the time that it
    has, this process does it.
    """
    began = time.monotonic()
    escalation: Escalation | None = None
    if supervisor := alive.pids(folder).get("supervisor"):
        signal_group(supervisor, signal.SIGCONT)
    while there := alive.pids(folder):
        worker, supervisor = there.get("worker"), there.get("supervisor")
        late = time.monotonic() - began > 2 * GRACE_REQUEST_S + GRACE_TERM_S + 4 * stop_takes(folder)
        if worker is not None and (supervisor is None or late):
            escalation = escalation or Escalation(folder, worker)
            escalation.step()
        elif worker is None and supervisor is not None and late:
            signal_group(supervisor, signal.SIGKILL)
        time.sleep(_LOOK_S)
