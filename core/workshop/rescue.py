"""Helping one seat: a prepared result in the place of its own, or a new lab."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError
from core.events import Event
from core.files import MANIFEST, damage, explained, read_if_whole, write_atomic
from core.folder import LabFolder
from core.jobs.prepared import OPTION
from core.lab import Lab
from core.language import told
from core.recipe import OPTIONS, Recipe, read_recipe
from core.stages import STAGES, Stage
from core.workshop.folder import Workshop

_STOP_S = 120.0


@dataclass(frozen=True)
class Rescued:
    """What a rescue did.

    Attributes:
        seat: the seat.
        stages: those whose prepared result was put there.
        kept: those before it whose own result is the same and stays.
        settings: what was set in the seat's recipe, by ``section.key``: what it was and what it is.
        stopped: the job that was stopped for it.
        recipe_aside: where a recipe that could not be read was put.
    """

    seat: str
    stages: tuple[str, ...]
    kept: tuple[str, ...]
    settings: dict[str, tuple[Any, Any]]
    stopped: str = ""
    recipe_aside: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it."""
        changed = {name: {"was": was, "is": now} for name, (was, now) in self.settings.items()}
        return {**dataclasses.asdict(self), "settings": changed}


def rescue(
    workshop: Workshop,
    seat: str,
    stage: str,
    on_event: Callable[[Event], object] | None = None,
) -> Rescued:
    """Put the prepared result of a stage into a seat's lab, with those that it was made from.

    What the reference lab lacks it makes first. The seat's settings that such a result depends on become those that
    it was made with, so that its lab is of one piece.

    Args:
        on_event: told what the jobs tell.

    Raises:
        RequestError: no such seat, or no stage that leaves a result.
        MachineError, StageError: the result cannot be made or put there.
    """
    lab, chain = workshop.seat(seat), _chain(stage)
    for each in chain:
        if not _is_whole(each, workshop.reference):
            Lab(workshop.reference).run(each.name, on_event)
    stopped = _stop(lab)
    aside = _readable_recipe(workshop, lab)
    settings = _same_settings(workshop, lab, chain)
    done: list[str] = []
    kept: list[str] = []
    for each in chain:
        result = lab.run(each.name, on_event, options={OPTION: str(workshop.reference.root)})
        (kept if result.reused else done).append(each.name)
    _give_to_owner(lab.root)
    return Rescued(lab.root.name, tuple(done), tuple(kept), settings, stopped, aside)


def reset(workshop: Workshop, seat: str) -> Path | None:
    """Give a seat a new lab; what was there is set aside, and nothing of it is lost.

    Returns:
        Where it was put; None where there was nothing.

    Raises:
        RequestError: no such seat.
        MachineError: it cannot be written.
    """
    lab = workshop.seat(seat)
    aside = None
    with explained(lab.root):
        if lab.root.exists():
            _stop(lab)
            owner = lab.root.stat()
            workshop.aside_dir.mkdir(exist_ok=True)
            aside = _free(workshop.aside_dir / f"{lab.root.name}-{datetime.now():%Y%m%d-%H%M%S}")
            lab.root.rename(aside)
        lab.root.mkdir()
        write_atomic(lab.folder.recipe_path, workshop.reference.recipe_path.read_text(encoding="utf-8"))
        if aside is not None:
            _own(lab.root, owner.st_uid, owner.st_gid)
    return aside


def _free(path: Path) -> Path:
    tried = [path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))]
    return next(each for each in tried if not each.exists())


def _chain(name: str) -> list[Stage]:
    """A stage and those that its result is made from, in their order."""
    found = STAGES.get(name)
    if found is None or found.makes is None:
        names = [each.name for each in STAGES.values() if each.makes]
        raise RequestError(
            told("There is no prepared result of {name!r}.", name=name),
            hint=told("The stages that leave a result are: {names}.", names=", ".join(names)),
            code="stage.unknown",
        )
    earlier = [each for each in STAGES.values() if each.makes]
    return [each for each in earlier[: earlier.index(found) + 1] if each is found or _before(each, found)]


def _before(earlier: Stage, stage: Stage) -> bool:
    return earlier.name == stage.needs or bool(stage.needs and earlier.needs == stage.needs)


def _is_whole(stage: Stage, lab: LabFolder) -> bool:
    assert stage.makes is not None
    folder = stage.makes.folder(lab, read_recipe(lab.recipe_path).finetune.adapter)
    return isinstance(read_if_whole(folder / MANIFEST), dict) and not damage(folder)


def _stop(lab: Lab) -> str:
    """Stop what computes in a seat's lab; its id."""
    active = [job for job in lab.jobs() if job.active and STAGES[job.stage].computes]
    for job in active:
        job.cancel()
        try:
            job.wait(timeout=_STOP_S)
        except TimeoutError:
            raise RequestError(
                told("{id} does not stop.", id=job.id),
                told("{root}", root=lab.root),
                told("Try: {cancel}", cancel=Do.of("cancel", lab.root, job.id)),
                code="job.running",
            ) from None
    return active[0].id if active else ""


def _readable_recipe(workshop: Workshop, lab: Lab) -> str:
    """Where the seat's recipe is gone or wrong, put the workshop's in its place; where the wrong one went."""
    path, aside = lab.folder.recipe_path, ""
    try:
        read_recipe(path)
    except RequestError:
        with explained(lab.root):
            if path.exists():
                aside = str(_free(path.with_name(f"{path.name}.set-aside")))
                path.rename(aside)
            lab.root.mkdir(exist_ok=True)
            write_atomic(path, workshop.reference.recipe_path.read_text(encoding="utf-8"))
    return aside


def _same_settings(workshop: Workshop, lab: Lab, chain: list[Stage]) -> dict[str, tuple[Any, Any]]:
    """Set in the seat what the prepared results depend on as it was when they were made; what was changed."""
    sections = {"model", "data", *(name for stage in chain for name in (*stage.form, *stage.reads))}
    wanted, has = read_recipe(workshop.reference.recipe_path), lab.recipe
    changed = {
        option.name: (_value(has, option.section, option.key), _value(wanted, option.section, option.key))
        for section in OPTIONS
        if section in sections
        for option in OPTIONS[section].values()
    }
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    if changed:
        lab.set({name: now for name, (_, now) in changed.items()})
    return changed


def _value(recipe: Recipe, section: str, key: str) -> Any:
    return getattr(getattr(recipe, section), key)


def _give_to_owner(root: Path) -> None:
    """What root has put into somebody's lab becomes theirs."""
    owner = root.stat()
    _own(root, owner.st_uid, owner.st_gid)


def _own(root: Path, user: int, group: int) -> None:
    if os.geteuid() != 0 or user == 0:
        return
    for path in (root, *root.rglob("*")):
        with suppress(FileNotFoundError):
            os.chown(path, user, group, follow_symlinks=False)
