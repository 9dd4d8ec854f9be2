"""A workshop's folder: the model and the records once, a lab a seat, the reference lab, a page for each seat."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.check.machine import estimates
from core.check.types import Subject
from core.data.reader import RowReader
from core.errors import Do, RequestError
from core.events import Event, Reporter
from core.files import explained, publish, require_disk, write_atomic
from core.folder import WORKSHOP_NAME, LabFolder
from core.formats import human_bytes
from core.hardware import free_ram, usable_cores
from core.jobs.gpu import gpus_here
from core.lab import Lab
from core.language import told
from core.model.sources import kind_of, resolve_model
from core.recipe import SAMPLE_FILE, Recipe, recipe_text
from core.resources import REHEARSAL
from core.stages import default_stages
from core.workshop.folder import MINUTES, Workshop
from core.workshop.handout import write_handouts
from core.workshop.plan import steps_within

SHORT: Mapping[str, Any] = {
    "quantize.calibration_samples": 32,
    "quantize.max_calibration_len": 128,
    "finetune.steps": 40,
}
"""What a rehearsal sets: enough to see every step at work on a machine without a GPU, too little to learn much."""

_SHARED = 0o444


@dataclass(frozen=True)
class Wishes:
    """What a host asks for. None: as it is, or as it is best here.

    Attributes:
        seats: how many labs.
        model, data, settings: as for a new lab.
        steps, records: at most so many training steps, and records to learn from.
        minutes: how long the lab may take.
        at_once: how many jobs may compute at once where there is no GPU.
        rehearsal: short: a small model unless another is named, few steps.
        own_accounts: the attendees have accounts of their own.
    """

    seats: int | None = None
    model: str | None = None
    data: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    records: int | None = None
    minutes: int | None = None
    at_once: int | None = None
    rehearsal: bool = False
    own_accounts: bool = False

    @property
    def of_the_recipe(self) -> bool:
        """Whether anything is asked for that stands in the labs' recipe."""
        given = (self.model, self.data, self.steps, self.records, self.rehearsal or None)
        return bool(self.settings) or any(each is not None for each in given)


def prepare(
    root: str | Path,
    wishes: Wishes,
    report: Reporter | None = None,
    *,
    results: bool = True,
    on_event: Callable[[Event], object] | None = None,
) -> Workshop:
    """Make a workshop, or what of it is not there yet: more seats, results of the reference lab that are missing.

    Args:
        report: told of the model's way here.
        results: run the stages in the reference lab, so that results can be handed out and their times are known.
        on_event: told what the reference lab's jobs tell.

    Raises:
        RequestError: no number of seats, something else is in the folder, a wrong setting, or the recipe of a
            workshop that is there is asked to be another.
        MachineError: the disk, the network or the memory does not suffice.
        StageError: the reference lab failed, as every seat would.
        Cancelled: asked to stop; what is there is kept, and the next call goes on.
    """
    folder = Path(os.path.expanduser(root)).resolve()
    if (folder / WORKSHOP_NAME).is_file():
        workshop = _changed(Workshop.open(folder), wishes)
    else:
        workshop = _new(folder, wishes, report or Reporter())
    with explained(folder):
        made = [_seat(workshop, name) for name in workshop.seat_names()]
        _line(workshop)
    if results:
        lab = Lab(workshop.reference)
        for stage in default_stages():
            lab.run(stage, on_event)
    if any(made) or results:
        write_handouts(workshop)
    return workshop


def _changed(workshop: Workshop, wishes: Wishes) -> Workshop:
    """A workshop that is there, with another number of seats, limit or length."""
    if wishes.of_the_recipe:
        raise RequestError(
            told("The workshop is there already, with its recipe."),
            told("{root} exists.", root=workshop.root / WORKSHOP_NAME),
            told(
                "Change {recipe_path}; seats that are reset begin with it. For another model, prepare "
                "another folder.",
                recipe_path=workshop.reference.recipe_path,
            ),
            code="workshop.exists",
        )
    if wishes.seats is not None and wishes.seats < workshop.seats:
        raise RequestError(
            told("A seat is not taken away by a smaller number."),
            told(
                "{root} has {seats} seats, {wanted} are asked for.",
                root=workshop.root,
                seats=workshop.seats,
                wanted=wishes.seats,
            ),
            told("Leave the others empty."),
            code="workshop.exists",
        )
    changed = replace(
        workshop,
        seats=wishes.seats or workshop.seats,
        minutes=wishes.minutes or workshop.minutes,
        at_once=workshop.at_once if wishes.at_once is None else wishes.at_once,
        own_accounts=workshop.own_accounts or wishes.own_accounts,
    )
    if changed != workshop:
        changed.save()
    return changed


def _new(folder: Path, wishes: Wishes, report: Reporter) -> Workshop:
    if wishes.seats is None:
        raise RequestError(
            told("How many seats?"),
            hint=told(
                "Say it: {workshop}", workshop=Do("workshop", ("prepare", str(folder), "--seats", "8"))
            ),
            code="workshop.seats",
        )
    _refuse_other_use(folder)
    recipe = Recipe().with_values({**(SHORT if wishes.rehearsal else {}), **_values(wishes, folder)})
    workshop = Workshop(
        folder, wishes.seats, minutes=wishes.minutes or MINUTES, own_accounts=wishes.own_accounts
    )
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        source = _share_model(workshop, recipe, report)
        recipe = recipe.with_values({"model.source": source, "data.file": _share_data(workshop, wishes)})
        workshop = replace(workshop, at_once=_at_once(workshop, recipe, wishes.at_once))
        if wishes.steps is None and not wishes.rehearsal and wishes.minutes is not None:
            within = steps_within(workshop, recipe)
            recipe = recipe if within is None else recipe.with_values({"finetune.steps": within})
        workshop.reference.root.mkdir(exist_ok=True)
        write_atomic(workshop.reference.recipe_path, recipe_text(recipe))
        workshop.save()  # last: a folder with this file is a workshop
    return workshop


def _refuse_other_use(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RequestError(
            told("A file is in the way."), told("{folder} is not a folder.", folder=folder), code="lab.file"
        )
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    # What a prepare that broke off has left is gone on with.
    others = [name for name in there if name not in ("model", "data", "reference")]
    if others:
        raise RequestError(
            told("The folder is used for something else."),
            told("{folder} holds {others}.", folder=folder, others=", ".join(others[:3])),
            told("Name a new or an empty folder."),
            code="workshop.folder",
        )


def _values(wishes: Wishes, folder: Path) -> dict[str, Any]:
    """What the recipe has of the host's wishes; the model's place and the data's are said later."""
    values = dict(wishes.settings)
    source = wishes.model or str(values.get("model.source", REHEARSAL))
    if source != REHEARSAL and "://" not in source and Path(source).expanduser().exists():
        source = str(Path(source).expanduser().resolve())
    values["model.source"] = source
    if wishes.steps is not None:
        values["finetune.steps"] = wishes.steps
    return values


def _share_model(workshop: Workshop, recipe: Recipe, report: Reporter) -> str:
    """Fetch the model, and put it where every seat can read it and none can change it; what the recipe says of it."""
    source = recipe.model.source
    if kind_of(source, workshop.root) == REHEARSAL:
        return REHEARSAL  # it came with the program, which everybody has
    found = resolve_model(source, workshop.root, report, trust_remote_code=recipe.model.trust_remote_code)
    name = (found.name.partition("@")[0].rstrip("/").rpartition("/")[2] or "model").removesuffix(".gguf")
    target = workshop.model_dir / name
    if not target.is_dir():
        files = [path for path in sorted(found.path.rglob("*")) if path.is_file()]
        copied = [path for path in files if not _can_be_linked(path, workshop.root)]
        require_disk(workshop.root, sum(path.stat().st_size for path in copied))
        half = workshop.model_dir / f".{name}.half"
        shutil.rmtree(half, ignore_errors=True)
        for number, path in enumerate(files):
            report.check_cancelled()
            report.progress(told("sharing the model"), number, len(files))
            place = half / path.relative_to(found.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path in copied:
                shutil.copyfile(path, place)
                place.chmod(_SHARED)
            else:
                os.link(path.resolve(), place)
        publish(half, target)
        size = human_bytes(sum(path.stat().st_size for path in files))
        report.log(f"The model is shared by all seats, read-only: {target}, {size}.")
    return f"../model/{name}"


def _can_be_linked(path: Path, root: Path) -> bool:
    """Whether a file can be had without a copy: it is readable for all, and no account but its owner's can write it."""
    found = path.resolve().stat()
    return found.st_dev == root.stat().st_dev and found.st_mode & 0o066 == 0o044


def _share_data(workshop: Workshop, wishes: Wishes) -> str:
    """Put the records, or so many of them as are asked for, where every seat can read them."""
    from core.data.examples import resolve_data_file

    named = wishes.data or wishes.settings.get("data.file")
    if named is None and wishes.records is None:
        return SAMPLE_FILE
    recipe = Recipe().with_values(
        {"data.file": str(Path(named).expanduser().resolve()) if named else SAMPLE_FILE}
    )
    file = resolve_data_file(recipe, workshop.root)
    workshop.data_dir.mkdir(parents=True, exist_ok=True)
    if wishes.records is not None:
        target = workshop.data_dir / f"{file.name.partition('.')[0]}.{wishes.records}.jsonl"
        write_atomic(target, "".join(_drawn(file, wishes.records)))
    elif file.is_dir():
        target = workshop.data_dir / file.name
        shutil.copytree(file, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        target = workshop.data_dir / file.name
        shutil.copyfile(file, target)
    for path in (target, *(target.rglob("*") if target.is_dir() else ())):
        if path.is_file():
            path.chmod(_SHARED)
    return f"../data/{target.name}"


def _drawn(file: Path, count: int) -> list[str]:
    """So many rows of a data file, drawn the same way each time, in their order."""
    kept: list[tuple[int, str]] = []
    draw = random.Random(0)
    readable = (row.fields for row in RowReader(file) if row.fields is not None)
    for number, fields in enumerate(readable):
        line = json.dumps(fields, ensure_ascii=False, default=str) + "\n"
        if number < count:
            kept.append((number, line))
        elif (place := draw.randrange(number + 1)) < count:
            kept[place] = (number, line)
    if not kept:
        raise RequestError(
            told("The data file has no records to learn from."),
            told("{file}.", file=file),
            code="data.no-rows",
        )
    return [line for _, line in sorted(kept)]


def _at_once(workshop: Workshop, recipe: Recipe, asked: int | None) -> int:
    """How many jobs may compute at once on the CPU: as many as the cores and the memory allow."""
    if asked is not None or gpus_here():
        return asked or 0
    cores = max(1, usable_cores() // 2)
    every = estimates(Subject(workshop.reference, recipe))
    most = max((need.ram for need in every.values()), default=0)
    by_memory = int(free_ram() * 0.85 // most) if most else cores
    return max(1, min(cores, by_memory, workshop.seats))


def _seat(workshop: Workshop, name: str) -> bool:
    """Make a seat's lab, if there is none; whether it was made now."""
    lab = LabFolder(workshop.root / name)
    if lab.recipe_path.exists() or lab.jobs_dir.exists():
        return False
    lab.root.mkdir(exist_ok=True)
    write_atomic(lab.recipe_path, workshop.reference.recipe_path.read_text(encoding="utf-8"))
    return True


def _line(workshop: Workshop) -> None:
    """The folder in which jobs wait for their turn. Accounts of their own must be able to write there, as in /tmp."""
    workshop.line_dir.mkdir(exist_ok=True)
    if workshop.own_accounts:
        with suppress(PermissionError):  # of another owner: the check says so
            workshop.line_dir.chmod(0o1777)
