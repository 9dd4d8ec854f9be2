"""The small process that stands over a job's worker: ``python -m core.jobs.supervise JOBDIR FD``.

It lives in the job's own session, so it can wait for the worker when whoever started the job is
gone, carry out a cancel request, and write ``done.json`` last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.errors import Cancelled, LabError, StageError
from core.events import JobReporter, now
from core.files import read_if_whole, write_json
from core.folder import lab_command
from core.jobs import reserve
from core.jobs.job import Job
from core.jobs.worker import folder_and_recipe, work_folder

GRACE_REQUEST_S = 4.0
"""How long a worker may take to see the cancel flag by itself."""

GRACE_TERM_S = 4.0
"""How long it may take after SIGTERM."""

_SIGNAL_HINTS = {
    signal.SIGKILL: "Most often this is the system's out-of-memory killer: use a smaller batch, rank or "
    "sequence length, or a machine with more memory.",
    signal.SIGSEGV: "Native code crashed. Check that the package versions fit: {check}",
    signal.SIGILL: "A package was built for another processor. Check with: {check}",
}


def main(folder: Path, held: int) -> int:
    """Run the job in ``folder`` to its end. ``held`` is the inherited lock's file descriptor."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    job = Job(folder)
    reporter = JobReporter(folder, job.id)
    worker = subprocess.Popen(
        [sys.executable, "-m", "core.jobs.worker", str(folder)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(held,),
    )
    signal.signal(signal.SIGTERM, lambda *_: (folder / "cancel").touch())
    pids = {"supervisor": os.getpid(), "worker": worker.pid, "started": now()}
    try:
        write_json(folder / "pid.json", pids)
    except LabError:  # the disk is full: the worker will find out and say so
        reserve.give_back(folder)
        with contextlib.suppress(LabError):
            write_json(folder / "pid.json", pids)
    _wait(worker, folder / "cancel")
    _kill_group(worker.pid, signal.SIGKILL)  # what the worker may have left behind
    shutil.rmtree(work_folder(job), ignore_errors=True)  # a worker that was killed could not
    reserve.give_back(folder)
    done = _verdict(job, worker.returncode)
    error = {"error": done["error"]} if done["error"] else {}
    reporter.emit("state", state=done["state"], **error)
    write_json(folder / "done.json", done)
    if done["state"] == "succeeded":
        _start_next(job)
    return int(done["exit_status"])


def _wait(worker: subprocess.Popen[bytes], cancel: Path) -> None:
    """Wait for the worker; when asked to cancel, climb the ladder."""
    asked_at: float | None = None
    termed = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=0.25)
            return
        if asked_at is None and cancel.exists():
            asked_at = time.monotonic()
        if asked_at is None:
            continue
        waited = time.monotonic() - asked_at
        if waited > GRACE_REQUEST_S and not termed:
            _kill_group(worker.pid, signal.SIGTERM)
            termed = True
        if waited > GRACE_REQUEST_S + GRACE_TERM_S:
            _kill_group(worker.pid, signal.SIGKILL)


def _kill_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _verdict(job: Job, code: int) -> dict[str, Any]:
    outcome = read_if_whole(job.folder / "outcome.json")
    if outcome is None and (job.folder / "cancel").exists():
        outcome = {
            "state": "cancelled",
            "exit_status": 130,
            "error": Cancelled(f"{job.id} was cancelled.").as_dict(),
        }
    if outcome is None:
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        hint = _SIGNAL_HINTS.get(signal.Signals(-code), "") if code < 0 else ""
        hint = hint.replace("{check}", lab_command(job.folder, "check"))
        tail = "\n".join(job.log_tail())
        outcome = {
            "state": "crashed",
            "exit_status": 3,
            "error": StageError(
                f"{job.id} crashed ({name}).",
                tail or "Its log is empty.",
                hint or f"Run it again. Log: {job.log_path}",
                code="job.crashed",
            ).as_dict(),
        }
    return {"v": 1, "error": None, "result": None, "reused": False, "ended": now(), **outcome}


def _start_next(job: Job) -> None:
    """Start the next stage of a detached chain."""
    from core.jobs.start import start_job

    spec = job.spec
    rest = tuple(spec.get("then", ()))
    if rest:
        lab, recipe = folder_and_recipe(job)
        try:
            start_job(lab, recipe, rest[0], force=spec["force"], then=rest[1:], after=job.id)
        except LabError as error:
            JobReporter(job.folder, job.id).log(f"{rest[0]} was not started. {error}", "error")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
