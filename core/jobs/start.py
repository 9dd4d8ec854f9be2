"""Starting and listing jobs."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError
from core.events import LOG_NAME, JobReporter, now
from core.files import explained, remove_half_made, restore, write_json
from core.folder import LabFolder
from core.jobs import alive, reserve, warm
from core.jobs.job import Job
from core.language import VARIABLE, told, wanted
from core.recipe import Recipe
from core.stages import STAGES
from core.telemetry import OFF
from core.version import __version__


def _parts(name: str) -> tuple[str, int] | None:
    """Stage and number of a job's folder; None for what is no job's."""
    match = re.fullmatch(r"(\w+)-(\d{3,})", name)
    return (match[1], int(match[2])) if match and match[1] in STAGES else None


def list_jobs(lab: LabFolder) -> list[Job]:
    """The lab's jobs, oldest first; those of a stage by their numbers, whatever the clock said at their start."""
    found: list[tuple[int, int, Job]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in lab.jobs_dir.iterdir():
            parts = _parts(folder.name)
            at = _started(folder) if parts else None
            if parts and at is not None:
                found.append((at, parts[1], Job(folder)))
    after: dict[str, int] = {}
    jobs = []
    for at, number, job in sorted(found, key=lambda item: item[1], reverse=True):
        after[job.stage] = min(at, after.get(job.stage, at))  # none began after its next
        jobs.append((after[job.stage], number, job))
    return [job for _, _, job in sorted(jobs, key=lambda item: item[:2])]


def _started(folder: Path) -> int | None:
    """When a job was started, for their order: by what is written once. None for a folder in which there is no job."""
    for name in ("spec.json", reserve.NAME, alive.PIDS, "outcome.json", "done.json", LOG_NAME, alive.NAME):
        with suppress(OSError):
            return (folder / name).stat().st_mtime_ns
    return None


def start_job(
    lab: LabFolder,
    recipe: Recipe,
    stage: str,
    *,
    force: bool = False,
    then: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
    after: str | None = None,
) -> Job:
    """Start a stage in a process and a session of its own and return at once.

    Args:
        force: run even if nothing has changed.
        then: stages to start, one after the other, once this one has succeeded.
        options: choices of this run that are not in the recipe.
        after: the id of the job that starts this one and is about to end.

    Raises:
        RequestError: another job of this lab runs.
        MachineError: the folder cannot be written.
    """
    with explained(lab.jobs_dir), _starting(lab):
        _refuse_second(lab, stage, after)
        _tidy(lab)
        job = Job(_next_folder(lab, stage))
        try:
            _launch(job, recipe, stage, force=force, then=then, options=options)
        except BaseException:  # a full disk or Ctrl-C leaves no job that never was
            shutil.rmtree(job.folder, ignore_errors=True)
            raise
    return job


def _launch(
    job: Job,
    recipe: Recipe,
    stage: str,
    *,
    force: bool,
    then: tuple[str, ...],
    options: dict[str, Any] | None,
) -> None:
    """Write what is asked for, and start the supervisor."""
    held = alive.hold(job.folder)  # first of all: a job that is seen lives
    try:
        _write_spec(job, recipe, stage, force=force, then=then, options=options)
        reserve.take(job.folder)
        JobReporter(job.folder, job.id).emit("state", state="queued")
        environment = job_environment()
        with job.log_path.open("ab") as log:
            if warm.fork_supervisor(job.folder, held, log.fileno(), environment):
                return
            supervisor = subprocess.Popen(
                [sys.executable, "-P", "-m", "core.jobs.supervise", str(job.folder), str(held)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(held,),
                env=environment,
            )
        # It outlives this process, and needs nobody; but as long as this one lives, the system keeps what ended.
        threading.Thread(target=supervisor.wait, name=f"end of {job.id}", daemon=True).start()
    finally:
        os.close(held)


def _write_spec(
    job: Job,
    recipe: Recipe,
    stage: str,
    *,
    force: bool,
    then: tuple[str, ...],
    options: dict[str, Any] | None,
) -> None:
    write_json(
        job.folder / "spec.json",
        {
            "v": 1,
            "id": job.id,
            "stage": stage,
            "created": now(),
            "olivepress": __version__,
            "python": sys.version.split()[0],
            "force": force,
            "then": list(then),
            "options": options or {},
            "recipe": dataclasses.asdict(recipe),
        },
    )


def job_environment() -> dict[str, str]:
    """The environment of a job's processes: this one's, where our package is found, and no telemetry."""
    package_root = str(Path(__file__).resolve().parent.parent.parent)
    search = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(search)),
        VARIABLE: wanted(),  # of the reports that jobs write
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUTF8": "1",
        **OFF,
        "TOKENIZERS_PARALLELISM": "false",
        # Waiting threads sleep: spinning ones take the cores from whatever else runs on the machine.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        # Grows its blocks instead of leaving holes; under its old name for torch before 2.9.
        "PYTORCH_ALLOC_CONF": os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
        "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
    }


@contextmanager
def _starting(lab: LabFolder) -> Iterator[None]:
    """Only one process at a time looks for running jobs and starts one."""
    lab.jobs_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(lab.jobs_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _refuse_second(lab: LabFolder, stage: str, after: str | None) -> None:
    for job in list_jobs(lab):
        same_kind = STAGES[job.stage].computes == STAGES[stage].computes
        if same_kind and job.id != after and job.active:
            raise RequestError(
                told("{id} is running in this lab.", id=job.id),
                told(
                    "{root}: one job at a time, so that they do not take each other's memory.", root=lab.root
                ),
                told(
                    "Follow it: {logs}\nStop it:   {cancel}",
                    logs=Do.of("logs", lab.root, job.id, "--follow"),
                    cancel=Do.of("cancel", lab.root, job.id),
                ),
                code="job.running",
            )


def _tidy(lab: LabFolder) -> None:
    """Remove what killed jobs left behind, and put back what stood where a result was just being replaced."""
    running = {job.id for job in list_jobs(lab) if job.active}
    with suppress(OSError):
        for work in lab.models_dir.glob(".*.work"):
            if work.name[1 : -len(".work")] not in running:
                shutil.rmtree(work, ignore_errors=True)
    if not running:
        for folder in (lab.models_dir, lab.finetuned_root):
            restore(folder)
        for half in lab.root.glob("checkpoints/*/.*.half"):
            half.unlink(missing_ok=True)
    for folder in (lab.root, lab.state_dir, *lab.jobs_dir.iterdir()):
        if folder.name not in running:
            remove_half_made(folder)
            reserve.give_back(folder)


def _next_folder(lab: LabFolder, stage: str) -> Path:
    taken = [
        parts[1] for each in lab.jobs_dir.iterdir() if (parts := _parts(each.name)) and parts[0] == stage
    ]
    folder = lab.jobs_dir / f"{stage}-{max(taken, default=0) + 1:03d}"
    folder.mkdir(mode=0o700)  # its log may hold a device code, its events what rows say
    return folder
