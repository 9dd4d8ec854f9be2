"""How long a stage will take here: the estimate of :mod:`core.check.needs`, corrected by what earlier runs took."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median

from core.check import subject_of
from core.check.machine import estimates
from core.check.types import Subject
from core.errors import LabError
from core.jobs import Job, list_jobs
from core.jobs.worker import folder_and_recipe
from core.model.sources import at_hand
from core.recipe import Recipe
from core.results import PREPARED

RUNS = 3
"""So many of the last runs correct the estimate: what the machine did long ago tells less."""


def expected_seconds(root: Path, stage: str) -> float | None:
    """How long a run of the stage with the lab's recipe will take; None where nobody can say.

    Earlier runs in this lab of the same model correct the estimate by the ratio of what they took to what would
    have been said of them. It reads the records: for a thread. Nothing is fetched.
    """
    subject = subject_of(root, [stage])
    # A finding of "check": a wrong setting, a file that is missing.
    with suppress(LabError, OSError, ValueError):
        if at_hand(subject.recipe.model.source, subject.lab.root) is not None:
            return _expected(subject, stage)
    return None


def _expected(subject: Subject, stage: str) -> float | None:
    seconds = _estimated(subject, stage)
    if seconds is None:
        return None
    ratios: list[float] = []
    for job in reversed(list_jobs(subject.lab)):
        if job.stage != stage or len(ratios) == RUNS:
            continue
        took, recipe = _took(job), _recipe_of(job)
        if took is None or recipe is None or recipe.model != subject.recipe.model:
            continue
        same = recipe == subject.recipe
        said = seconds if same else _estimated(replace(subject, recipe=recipe), stage)
        if said:
            ratios.append(took / said)
    return seconds * median(ratios) if ratios else seconds


def _estimated(subject: Subject, stage: str) -> float | None:
    need = estimates(subject).get(stage)
    return None if need is None else need.seconds


def _took(job: Job) -> float | None:
    """The seconds of a run that did the whole work; None for one that did not, or has not ended."""
    result = job.result
    if result is None or job.reused or result.get("resumed_from") or result.get(PREPARED):
        return None
    status = job.status()
    if status.state != "succeeded":
        return None
    if job.seconds is not None:  # without the wait for its turn
        return job.seconds or None
    try:
        began, ended = (datetime.fromisoformat(str(each)) for each in (status.started, status.ended))
        return max(0.0, (ended - began).total_seconds()) or None
    except (ValueError, TypeError):  # damaged, or one with and one without a time zone
        return None


def _recipe_of(job: Job) -> Recipe | None:
    try:
        return folder_and_recipe(job)[1]
    except (LabError, ValueError):  # of another version, or damaged
        return None
