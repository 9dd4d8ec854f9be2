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

from core.errors import Cancelled, Hint, LabError, StageError, parts_of
from core.events import JobReporter, now
from core.files import write_json
from core.folder import lab_command
from core.jobs import alive, reserve, warm, worker
from core.jobs.job import Job
from core.jobs.processes import Forked, call_oneself, fork
from core.jobs.start import job_environment, start_job
from core.jobs.stopping import Escalation, signal_group
from core.jobs.worker import folder_and_recipe, less_memory, work_folder
from core.language import told
from core.log_lines import entries
from core.remote.asked import handed_on, on, to_follow
from core.stages import STAGES


def _signal_hint(job: Job, number: int) -> Hint:
    """What most often is behind the end of a process by this signal."""
    check = lab_command(job.folder, "check")
    if number == signal.SIGKILL:
        return told("Most often this is the system's out-of-memory killer. "), *parts_of(
            less_memory(job.stage)
        )
    if number == signal.SIGSEGV:
        return told("Native code crashed. Check that the package versions fit: {check}", check=check)
    if number == signal.SIGBUS:
        return told(
            "A file was cut off while it was read, or the disk could not give it: look at the data file."
        )
    if number == signal.SIGILL:
        return told("A package was built for another processor. Check with: {check}", check=check)
    return ()


def main(folder: Path, held: int) -> int:
    """Run the job in ``folder`` to its end. ``held`` is the inherited lock's file descriptor."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    job = Job(folder)
    reporter = JobReporter(folder, job.id)
    work, rest = work_folder(job), _rest_of_chain(job)
    if not rest:
        warm.let_go()
    process = _start_worker(folder, held)
    waiting = _Waiting(folder, process, held)
    signal.signal(signal.SIGTERM, waiting.ask)
    pids = {"supervisor": os.getpid(), "worker": process.pid, "started": now(), "forked": warm.OURS.loaded}
    try:
        write_json(folder / alive.PIDS, pids)
    except LabError:  # the disk is full: the worker will find out and say so
        reserve.give_back(folder)
        with contextlib.suppress(LabError):
            write_json(folder / alive.PIDS, pids)
    if _computes_here(job, rest):
        warm.load_ahead(job_environment())
    waiting.wait()
    signal_group(process.pid, signal.SIGKILL)  # what the worker may have left behind
    shutil.rmtree(work, ignore_errors=True)  # a worker that was killed could not
    reserve.give_back(folder)
    done = _verdict(job, process.returncode, asked=waiting.asked)
    try:
        error = {"error": done["error"]} if done["error"] else {}
        with contextlib.suppress(OSError):
            reporter.emit("state", state=done["state"], **error)
        write_json(folder / "done.json", done)
    except (LabError, OSError) as reason:  # no room, or the folder is gone: who reads it finds out why
        print(reason, file=sys.stderr)
        warm.let_go()
        return int(done["exit_status"])
    if done["state"] == "succeeded" and rest:
        _start_next(job, rest)
    warm.let_go()
    return int(done["exit_status"])


LEAVING_S = 20.0
"""How long a worker may take to end once its outcome is written: a library may still wait for its own threads or
processes there, such as a tracker's that cannot reach its server, and has nothing more to do for the job."""

_Worker = Forked | subprocess.Popen[bytes]


def _start_worker(folder: Path, held: int) -> _Worker:
    """Start the worker: a fork where this process has the packages loaded, else a new process."""
    words = [sys.executable, "-P", "-m", "core.jobs.worker", str(folder)]
    if not warm.OURS.loaded:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=(held,))

    def run() -> int:
        os.setsid()
        warm.let_go()
        if not call_oneself(words):
            os.set_inheritable(held, True)
            os.execv(words[0], words)
        return worker.main(folder)

    return fork(run)


class _Waiting:
    """Waits for the worker; brings it to its end once somebody has asked for it, or where it does not end by itself.

    Attributes:
        asked: whether somebody has asked, by the flag, by SIGTERM, or by removing the job's folder.
    """

    def __init__(self, folder: Path, worker: _Worker, held: int) -> None:
        self._folder, self._worker, self._held = folder, worker, held
        self.asked = False

    def ask(self, *_: object) -> None:
        """SIGTERM: as a cancel."""
        self.asked = True
        with contextlib.suppress(OSError):
            (self._folder / "cancel").touch()

    def wait(self) -> None:
        escalation: Escalation | None = None
        over: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._worker.wait(timeout=0.25)
                return
            if over is None and (self._folder / "outcome.json").exists():
                over = time.monotonic()
            if over is not None and time.monotonic() - over > LEAVING_S:
                signal_group(self._worker.pid, signal.SIGKILL)
            self._held = alive.keep(self._folder, self._held)
            # Nobody can see or stop a job whose folder is gone; nobody wants it.
            self.asked = self.asked or (self._folder / "cancel").exists() or not self._folder.exists()
            if self.asked:
                escalation = escalation or Escalation(self._folder, self._worker.pid)
                escalation.step()


_SIGNALS = {
    signal.SIGKILL: told("it was killed"),
    signal.SIGSEGV: told("native code went wrong"),
    signal.SIGABRT: told("native code gave up"),
    signal.SIGBUS: told("a file could not be read any more"),
    signal.SIGILL: told("the processor does not know an instruction"),
}


def _reason(job: Job, code: int) -> str:
    """Why the worker ended so, as far as its end and its log tell."""
    if code < 0:
        number = signal.Signals(-code)
        how = _SIGNALS.get(number) or told("a signal ended it")
        return told("{signal} ({name})", signal=how, name=number.name)
    last = [entry for entry in entries(job.log_tail(400)) if entry.traceback][-1:]
    return last[0].reason.rstrip(".") if last else told("exit status {code}", code=code)


def _verdict(job: Job, code: int, *, asked: bool) -> dict[str, Any]:
    outcome = job.outcome()
    if outcome is None and (asked or (job.folder / "cancel").exists()):
        outcome = {
            "state": "cancelled",
            "exit_status": 130,
            "error": Cancelled(told("{id} was cancelled.", id=job.id)).as_dict(),
        }
    if outcome is None:
        hint = _signal_hint(job, -code) if code < 0 else ()
        tail = "\n".join(job.log_tail())
        outcome = {
            "state": "crashed",
            "exit_status": 3,
            "error": StageError(
                told("{id} crashed: {reason}.", id=job.id, reason=_reason(job, code)),
                tail or told("Its log is empty."),
                to_follow(job.folder) or hint or told("Run it again. Log: {log_path}", log_path=job.log_path),
                code="job.crashed",
            ).as_dict(),
        }
    return {"v": 1, "error": None, "result": None, "reused": False, "ended": now(), **outcome}


def _rest_of_chain(job: Job) -> tuple[str, ...]:
    """The stages that follow; read at the start, for the file may be gone at the end."""
    with contextlib.suppress(LabError):
        return tuple(map(str, job.spec.get("then", ())))
    return ()


def _computes_here(job: Job, stages: tuple[str, ...]) -> bool:
    """Whether any of the stages that follow will compute on this machine."""
    with contextlib.suppress(LabError):
        asked = job.spec.get("options")
        if isinstance(asked, dict) and on(asked) is not None:
            return False
    return any(STAGES[stage].computes for stage in stages if stage in STAGES)


def _start_next(job: Job, rest: tuple[str, ...]) -> None:
    """Start the next stage of a detached chain."""
    try:
        lab, recipe = folder_and_recipe(job)
        asked = job.spec.get("options")
        asked = asked if isinstance(asked, dict) else {}
        kept = {"verify": True} if asked.get("verify") else {}
        kept |= handed_on(asked, job.folder)
        force = bool(job.spec.get("force"))
        start_job(lab, recipe, rest[0], force=force, then=rest[1:], options=kept, after=job.id)
    except LabError as error:
        JobReporter(job.folder, job.id).log(
            f"{rest[0]} was not started. {error.title} {error.detail}", "error"
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
