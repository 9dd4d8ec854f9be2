"""Where the lab lies: its recipe, whether its folder can be written, on what disk, and who holds it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import Do, Hint, LabError, Use
from core.files import MANIFEST, damage
from core.formats import listed
from core.jobs import list_jobs
from core.language import told
from core.recipe import read_recipe
from core.stages import STAGES, Stage

NETWORK_TYPES = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "fuse.sshfs",
        "fuse.blobfuse",
        "fuse.blobfuse2",
        "lustre",
        "9p",
        "afs",
        "ceph",
        "fuse.s3fs",
        "glusterfs",
        "fuse.glusterfs",
        "virtiofs",
    }
)


def recipe(subject: Subject) -> Iterator[Check]:
    """``lab.toml`` is there and right."""
    path = subject.lab.recipe_path
    if not path.exists():
        yield Check(
            told("recipe"),
            WARN,
            told("No {name} yet; the defaults are looked at.", name=path.name),
            ("", Do.of("new", subject.lab.root)),
        )
        return
    try:
        read = read_recipe(path)
    except LabError as error:
        yield Check.of(told("recipe"), error)
    else:
        yield Check(
            told("recipe"),
            OK,
            told(
                "{path}: {source}, {algorithm}, adapter {adapter}",
                path=path,
                source=read.model.source,
                algorithm=read.quantize.algorithm,
                adapter=read.finetune.adapter,
            ),
        )


def folder(subject: Subject) -> Iterator[Check]:
    """The lab's folder can be written, and lies on a disk that locks and renames as jobs need."""
    root = subject.lab.root
    existing = root
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Check(
            told("folder"),
            FAIL,
            told("{existing} cannot be written: {strerror}.", existing=existing, strerror=error.strerror),
            told("Use another folder."),
        )
        return
    kind = file_system(existing, _mounts())
    if kind in NETWORK_TYPES:
        yield Check(
            told("folder"),
            WARN,
            told(
                "{root} lies on a network disk ({kind}): slow for models, and locks may not hold.",
                root=root,
                kind=kind,
            ),
            told("Put the lab on a local disk."),
        )
    else:
        yield Check(
            told("folder"),
            OK,
            told("{root} can be written ({kind})", root=root, kind=kind)
            if kind
            else told("{root} can be written", root=root),
        )


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds ``path``, from the text of ``/proc/self/mounts``; empty if not told."""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def other_job(subject: Subject) -> Iterator[Check]:
    """No job holds the lab."""
    active = [job for job in list_jobs(subject.lab) if job.active and STAGES[job.stage].computes]
    if not subject.lab.jobs_dir.exists():
        yield Check(told("jobs"), SKIP, told("No job has run here yet."))
    elif active:
        job = active[0]
        yield Check(
            told("jobs"),
            FAIL,
            told("{id} is {state} in this lab.", id=job.id, state=job.state),
            told("Wait for it, or: {cancel}", cancel=Do.of("cancel", subject.lab.root, job.id)),
        )
    else:
        yield Check(told("jobs"), OK, told("No job is running in this lab."))


def results(subject: Subject) -> Iterator[Check]:
    """What the stages made is as they made it."""
    there = [
        (stage, folder)
        for stage in STAGES.values()
        if stage.makes
        for folder in stage.makes.folders(subject.lab)
        if (folder / MANIFEST).is_file()
    ]
    whole = []
    for stage, folder in there:
        name = str(folder.relative_to(subject.lab.root))
        if broken := damage(folder, verify=subject.verify):
            found, again = (
                told("{name} is damaged: {broken}", name=name, broken=listed(broken[:5], " ")),
                _again(subject, stage, folder),
            )
            yield Check(told("results"), FAIL, found, again, "result.damaged")
        else:
            whole.append(name)
    if whole:
        yield Check(told("results"), OK, told("As they were made: {whole}", whole=", ".join(whole)))
    elif not there:
        yield Check(told("results"), SKIP, told("Nothing has been made here yet."))


def _again(subject: Subject, stage: Stage, folder: Path) -> Hint:
    """What makes a stage's result again; where that cannot be done here, what can."""
    source = STAGES[stage.needs].makes if stage.needs else None
    if source and not any(each.is_dir() for each in source.folders(subject.lab)):
        return told("Fetch it again; there is nothing here to make it from.")
    run = Do.of("run", subject.lab.root, stage.name)
    if stage.makes and folder != stage.makes.folder(subject.lab, subject.recipe.finetune.adapter):
        return told(
            "Set {adapter}, then: {run}. Or remove the folder.",
            adapter=Use("finetune.adapter", folder.name),
            run=run,
        )
    return (run,)
