"""The day before: what of this room will fail, and what to do about it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from core.check import run_checks
from core.check.machine import estimates, machine
from core.check.needs import StageNeed
from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import Do, Hint, LabError
from core.files import MANIFEST, folder_bytes, read_if_whole
from core.folder import LabFolder
from core.formats import counted, human_bytes, rough_duration, some
from core.jobs.gpu import gpus_here
from core.language import told
from core.model.sources import at_hand
from core.recipe import read_recipe
from core.report import what_is_made
from core.stage_context import versions
from core.stages import STAGES, default_stages
from core.workshop.folder import Workshop
from core.workshop.plan import RoomPlan, plan
from core.workshop.watch import seats_status

_OF_ONE = ("python", "packages", "gpu", "gpu driver", "torch build", "onnxruntime build", "terminal")
"""What holds for the room as it does for one lab; of the others, one seat's, only what is wrong is told."""

_ROOMS_OWN = ("memory", "gpu memory", "disk", "time", "jobs", "results", "folder")
"""What is looked at for the whole room in place of one seat."""


def check_room(workshop: Workshop, made: RoomPlan | None = None) -> list[Check]:
    """What one seat would be told, and what holds for all of them at once. It reads the records: seconds.

    Args:
        made: the plan, where it is known already.
    """
    one = [check for check in run_checks(workshop.reference.root) if check.name not in _ROOMS_OWN]
    shown = [check for check in one if check.name in _OF_ONE or check.state in (FAIL, WARN)]
    needs = _needs(workshop)
    return [
        *shown,
        *_model(workshop),
        *_disk(workshop, needs),
        *_memory(workshop, needs),
        *_turns(workshop),
        *_results(workshop),
        *_access(workshop),
        *_time(made or plan(workshop)),
    ]


def _needs(workshop: Workshop) -> list[StageNeed]:
    with suppress(LabError, OSError):
        recipe = read_recipe(workshop.reference.recipe_path)
        every = estimates(Subject(workshop.reference, recipe))
        return [every[name] for name in default_stages() if name in every]
    return []


def _model(workshop: Workshop) -> Iterator[Check]:
    """The model lies here: then nothing of the lab needs the network, but an upload."""
    try:
        source = read_recipe(workshop.reference.recipe_path).model.source
    except LabError:
        return  # told as the recipe's fault
    place = at_hand(source, workshop.reference.root)
    if place is None or not place.exists():
        yield Check(
            told("network"),
            FAIL,
            told("{source} is not on this machine: every seat would fetch it for itself.", source=source),
            told("Prepare a folder anew with this model, and it is fetched once."),
        )
    else:
        yield Check(
            told("network"),
            OK,
            told("The model lies here ({place}): no step but Upload needs the network.", place=place),
        )


def _disk(workshop: Workshop, needs: list[StageNeed]) -> Iterator[Check]:
    if not needs:
        yield Check(told("disk"), SKIP, told("Nothing can be estimated for this model."))
        return
    seat = sum(need.disk for need in needs) + max(need.disk for need in needs)
    labs = [workshop.reference, *(LabFolder(workshop.root / name) for name in workshop.seat_names())]
    # What is made already lies there and need not be found again, but for the half-made one beside it.
    needed = sum(max(*(need.disk for need in needs), seat - _bytes(lab.models_dir)) for lab in labs)
    free = shutil.disk_usage(workshop.root).free
    found = told(
        "{needed} needed for {labs}, {free} free at {root}",
        needed=human_bytes(needed),
        labs=counted(len(labs), "lab"),
        free=human_bytes(free),
        root=workshop.root,
    )
    if needed > free:
        yield Check(
            told("disk"), FAIL, found, told("Free some space, take fewer seats, or prepare on another disk.")
        )
    else:
        yield Check(told("disk"), WARN if needed > 0.85 * free else OK, found)


def _bytes(folder: Path) -> int:
    try:
        return folder_bytes(folder)
    except OSError:
        return 0


def _memory(workshop: Workshop, needs: list[StageNeed]) -> Iterator[Check]:
    if not needs:
        return
    here, gpus = machine(), gpus_here()
    together = min(workshop.seats, len(gpus) or workshop.at_once or workshop.seats)
    most = max(needs, key=lambda need: need.ram)
    found = told(
        "{together} at once need {needed} in {stage}, {ram_free} free",
        together=together,
        needed=human_bytes(together * most.ram),
        stage=most.stage,
        ram_free=human_bytes(here.ram_free),
    )
    if together * most.ram > here.ram_free:
        fit = int(here.ram_free // most.ram)
        fix: Hint = told("Use a machine with more memory, or a smaller model.")
        if fit and not gpus:
            again = Do("workshop", ("prepare", str(workshop.root)))
            fix = told("Let fewer compute at once: {again} with --at-once {fit}.", again=again, fit=fit)
        yield Check(told("memory"), FAIL, found, fix)
    else:
        yield Check(told("memory"), WARN if together * most.ram > 0.85 * here.ram_free else OK, found)
    if gpus:
        most = max(needs, key=lambda need: need.gpu)
        least = min(gpu.memory_total - gpu.memory_used for gpu in gpus)
        found = told(
            "{stage} needs {gpu}, {least} free on the fullest GPU",
            stage=most.stage,
            gpu=human_bytes(most.gpu),
            least=human_bytes(least),
        )
        yield Check(told("gpu memory"), FAIL if most.gpu > least else OK, found)


def _turns(workshop: Workshop) -> Iterator[Check]:
    gpus = gpus_here()
    if gpus:
        found = told(
            "{seats} take turns on {gpus}, first come, first served",
            seats=counted(workshop.seats, "seat"),
            gpus=counted(len(gpus), "GPU"),
        )
    elif workshop.at_once:
        seats = counted(workshop.seats, "seat")
        found = told(
            "No GPU: {at_once} of {seats} compute at once, first come, first served",
            at_once=workshop.at_once,
            seats=seats,
        )
    else:
        found = told("No GPU, and no limit: all {seats} may compute at once", seats=workshop.seats)
    yield Check(
        told("turns"),
        OK if gpus or workshop.at_once else WARN,
        found,
        "" if gpus or workshop.at_once else told("Set at_once in workshop.toml."),
    )


def _results(workshop: Workshop) -> Iterator[Check]:
    """The prepared results are there, and of the packages that are installed now."""
    there, other = [], []
    for stage, _, folder in what_is_made(workshop.reference):
        manifest = read_if_whole(folder / MANIFEST)
        kept = (manifest.get("fingerprint") or {}).get("versions") if isinstance(manifest, dict) else None
        there.append(stage)
        if isinstance(kept, dict) and kept != versions(*kept):
            other.append(stage)
    missing = [name for name in default_stages() if STAGES[name].makes and name not in there]
    if missing:
        yield Check(
            told("prepared"),
            WARN,
            told("No prepared result of {missing}: a rescue makes it first.", missing=", ".join(missing)),
            ("", Do("workshop", ("prepare", str(workshop.root)))),
        )
    elif other:
        yield Check(
            told("prepared"),
            WARN,
            told("Packages are others than those that {other} was made with.", other=some(other)),
            told("Make it anew: {workshop}", workshop=Do("workshop", ("prepare", str(workshop.root)))),
        )
    else:
        yield Check(
            told("prepared"),
            OK,
            told("Results of {fromkeys} can be handed out.", fromkeys=", ".join(dict.fromkeys(there))),
        )


def _access(workshop: Workshop) -> Iterator[Check]:
    """Whether those who sit there can read the model and write their labs, and the host can look at these."""
    closed = [each.note for each in seats_status(workshop) if each.state == "unreadable"]
    if closed:
        yield Check(
            told("access"),
            WARN,
            told(
                "{seats} cannot be looked at: {closed}.", seats=counted(len(closed), "seat"), closed=closed[0]
            ),
            told("Look, and rescue, as root."),
        )
    if not workshop.own_accounts:
        yield Check(told("access"), OK, told("All seats work under this account."))
        return
    shut = [
        path for path in (*reversed(workshop.root.parents), workshop.root) if not _others(path, stat.S_IXOTH)
    ]
    shared = [path for place in (workshop.model_dir, workshop.data_dir) for path in _below(place)]
    hidden = [path for path in shared if not _others(path, stat.S_IROTH)]
    if shut or hidden:
        first = (shut or hidden)[0]
        what = told("entered") if shut else told("read")
        yield Check(
            told("access"),
            FAIL,
            told(
                "Other accounts cannot get at the labs: {first} cannot be {what} by others.",
                first=first,
                what=what,
            ),
            told("chmod o+x {first}", first=first) if shut else told("chmod -R o+rX {first}", first=first),
        )
    me = os.geteuid()
    mine = [name for name in workshop.seat_names() if _owner_id(workshop.root / name) in (me, 0)]
    if mine:
        yield Check(
            told("access"),
            WARN,
            told("{mine} belong to this account: the attendees cannot write there.", mine=some(mine)),
            told("For each seat: sudo chown -R ACCOUNT {root}/seat-NN", root=workshop.root),
        )
    elif not (shut or hidden):
        yield Check(
            told("access"),
            OK,
            told("Every seat belongs to an account of its own, and all can read the model."),
        )


def _below(place: Path) -> list[Path]:
    return [place, *place.rglob("*")] if place.is_dir() else []


def _others(path: Path, wanted: int) -> bool:
    mode = path.stat().st_mode
    return bool(mode & wanted) and (not stat.S_ISDIR(mode) or bool(mode & stat.S_IXOTH))


def _owner_id(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return 0


def _time(made: RoomPlan) -> Iterator[Check]:
    if made.total_s is None:
        yield Check(
            told("time"), SKIP, told("How long it takes cannot be said before the reference lab has run.")
        )
        return
    found = told(
        "about {total_s} until the last of {seats} is through, of {minutes} min",
        total_s=rough_duration(made.total_s),
        seats=made.seats,
        minutes=made.minutes,
    )
    if made.fits:
        yield Check(told("time"), OK, found)
    else:
        most = max((step for step in made.steps if not step.reading), key=lambda step: step.room_s or 0)
        yield Check(
            told("time"),
            WARN,
            told("{found}; {title} takes most", found=found, title=most.title),
            told("Fewer finetune.steps in the reference lab, a GPU more, fewer seats, or more minutes."),
        )
