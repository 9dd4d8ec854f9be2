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
from core.errors import Do, LabError
from core.files import MANIFEST, folder_bytes, read_if_whole
from core.folder import LabFolder
from core.formats import counted, human_bytes, rough_duration, some
from core.jobs.gpu import gpus_here
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
        yield Check("network", FAIL, f"{source} is not on this machine: every seat would fetch it for itself.",
                    "Prepare a folder anew with this model, and it is fetched once.")  # fmt: skip
    else:
        yield Check("network", OK, f"The model lies here ({place}): no step but Upload needs the network.")


def _disk(workshop: Workshop, needs: list[StageNeed]) -> Iterator[Check]:
    if not needs:
        yield Check("disk", SKIP, "Nothing can be estimated for this model.")
        return
    seat = sum(need.disk for need in needs) + max(need.disk for need in needs)
    labs = [workshop.reference, *(LabFolder(workshop.root / name) for name in workshop.seat_names())]
    # What is made already lies there and need not be found again, but for the half-made one beside it.
    needed = sum(max(*(need.disk for need in needs), seat - _bytes(lab.models_dir)) for lab in labs)
    free = shutil.disk_usage(workshop.root).free
    found = f"{human_bytes(needed)} needed for {counted(len(labs), 'lab')}, {human_bytes(free)} free at {workshop.root}"
    if needed > free:
        yield Check("disk", FAIL, found, "Free some space, take fewer seats, or prepare on another disk.")
    else:
        yield Check("disk", WARN if needed > 0.85 * free else OK, found)


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
    found = (
        f"{together} at once need {human_bytes(together * most.ram)} in {most.stage}, "
        f"{human_bytes(here.ram_free)} free"
    )
    if together * most.ram > here.ram_free:
        fit = int(here.ram_free // most.ram)
        fix: tuple[str | Do, ...] = ("Use a machine with more memory, or a smaller model.",)
        if fit and not gpus:
            again = Do("workshop", ("prepare", str(workshop.root)))
            fix = ("Let fewer compute at once: ", again, f" with --at-once {fit}.")
        yield Check("memory", FAIL, found, fix)
    else:
        yield Check("memory", WARN if together * most.ram > 0.85 * here.ram_free else OK, found)
    if gpus:
        most = max(needs, key=lambda need: need.gpu)
        least = min(gpu.memory_total - gpu.memory_used for gpu in gpus)
        found = f"{most.stage} needs {human_bytes(most.gpu)}, {human_bytes(least)} free on the fullest GPU"
        yield Check("gpu memory", FAIL if most.gpu > least else OK, found)


def _turns(workshop: Workshop) -> Iterator[Check]:
    gpus = gpus_here()
    if gpus:
        found = f"{counted(workshop.seats, 'seat')} take turns on {counted(len(gpus), 'GPU')}, first come, first served"
    elif workshop.at_once:
        seats = counted(workshop.seats, "seat")
        found = f"No GPU: {workshop.at_once} of {seats} compute at once, first come, first served"
    else:
        found = f"No GPU, and no limit: all {workshop.seats} may compute at once"
    yield Check("turns", OK if gpus or workshop.at_once else WARN, found,
                "" if gpus or workshop.at_once else "Set at_once in workshop.toml.")  # fmt: skip


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
        yield Check("prepared", WARN, f"No prepared result of {', '.join(missing)}: a rescue makes it first.",
                    ("", Do("workshop", ("prepare", str(workshop.root)))))  # fmt: skip
    elif other:
        yield Check("prepared", WARN, f"Packages are others than those that {some(other)} was made with.",
                    ("Make it anew: ", Do("workshop", ("prepare", str(workshop.root)))))  # fmt: skip
    else:
        yield Check("prepared", OK, f"Results of {', '.join(dict.fromkeys(there))} can be handed out.")


def _access(workshop: Workshop) -> Iterator[Check]:
    """Whether those who sit there can read the model and write their labs, and the host can look at these."""
    closed = [each.note for each in seats_status(workshop) if each.state == "unreadable"]
    if closed:
        yield Check("access", WARN, f"{counted(len(closed), 'seat')} cannot be looked at: {closed[0]}.",
                    "Look, and rescue, as root.")  # fmt: skip
    if not workshop.own_accounts:
        yield Check("access", OK, "All seats work under this account.")
        return
    shut = [
        path for path in (*reversed(workshop.root.parents), workshop.root) if not _others(path, stat.S_IXOTH)
    ]
    shared = [path for place in (workshop.model_dir, workshop.data_dir) for path in _below(place)]
    hidden = [path for path in shared if not _others(path, stat.S_IROTH)]
    if shut or hidden:
        first = (shut or hidden)[0]
        what = "entered" if shut else "read"
        yield Check("access", FAIL, f"Other accounts cannot get at the labs: {first} cannot be {what} by others.",
                    f"chmod o+x {first}" if shut else f"chmod -R o+rX {first}")  # fmt: skip
    me = os.geteuid()
    mine = [name for name in workshop.seat_names() if _owner_id(workshop.root / name) in (me, 0)]
    if mine:
        yield Check("access", WARN, f"{some(mine)} belong to this account: the attendees cannot write there.",
                    f"For each seat: sudo chown -R ACCOUNT {workshop.root}/seat-NN")  # fmt: skip
    elif not (shut or hidden):
        yield Check("access", OK, "Every seat belongs to an account of its own, and all can read the model.")


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
        yield Check("time", SKIP, "How long it takes cannot be said before the reference lab has run.")
        return
    found = f"about {rough_duration(made.total_s)} until the last of {made.seats} is through, of {made.minutes} min"
    if made.fits:
        yield Check("time", OK, found)
    else:
        most = max((step for step in made.steps if not step.reading), key=lambda step: step.room_s or 0)
        yield Check("time", WARN, f"{found}; {most.title} takes most",
                    "Fewer finetune.steps in the reference lab, a GPU more, fewer seats, or more minutes.")  # fmt: skip
