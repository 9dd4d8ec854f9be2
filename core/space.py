"""Room on the disk: what of a lab, and of this user's caches, can be removed, and what it would cost to have it again.

Nothing is removed by itself, but for what killed jobs have left behind, which the next job sweeps away.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import Do, LabError, RequestError
from core.files import explained
from core.folder import LabFolder
from core.jobs.start import list_jobs
from core.language import _, told
from core.model.found import hub_models
from core.model.gguf import check_gguf, is_unpacked, unpacked_place
from core.model.sources import kind_of, local_place
from core.recipe import read_recipe
from core.user_dirs import cache_dir

LOST, SPARE, CACHE, SHARED = "left behind", "spare", "cache", "shared"


@dataclass(frozen=True)
class Removable:
    """Something that takes room and could go.

    Attributes:
        name: what it is called on the command line.
        kind: ``left behind`` by a job that was killed; ``spare`` in the lab; ``cache`` of this user, for all labs;
            ``shared`` with other programs, which is shown and never removed here.
        what: what it is, for people.
        cost: what it takes to have it again; empty where it is needed for nothing.
        path: where it lies.
        bytes: its size.
        used: whether this lab works with it.
    """

    name: str
    kind: str
    what: str
    cost: str
    path: Path
    bytes: int
    used: bool = False

    @property
    def free_of_cost(self) -> bool:
        """Whether nobody would miss it."""
        return not self.cost and self.kind != SHARED

    def as_dict(self) -> dict[str, Any]:
        """The same in JSON form."""
        return {**asdict(self), "path": str(self.path)}


def removable(lab: LabFolder) -> list[Removable]:
    """What could go, the largest first. Nothing is changed; sizes are looked up, which takes a moment.

    What a running job of this lab works with is not in it.
    """
    found = [
        *_left_behind(lab),
        *_checkpoints(lab),
        *_olive(lab),
        *_old_jobs(lab),
        *_unpacked(lab),
        *_fetched(lab),
        *_hub(lab),
    ]
    return sorted(found, key=lambda each: -each.bytes)


def remove(lab: LabFolder, names: Sequence[str]) -> list[Removable]:
    """Remove what is named, of what :func:`removable` gives; return it.

    Raises:
        RequestError: there is no such thing, or it is not ours to remove. Then nothing is removed.
        MachineError: the system does not let it go.
    """
    there = {each.name: each for each in removable(lab)}
    for name in names:
        if name not in there:
            raise RequestError(
                told("There is no {name} to remove.", name=name),
                told("There is: {names}.", names=", ".join(there) or told("nothing")),
                told("See what there is: {command}", command=Do.of("clean", lab.root)),
                code="clean.unknown",
            )
        if there[name].kind == SHARED:
            raise RequestError(
                told("That is shared with other programs."),
                told("{path} is in the cache of the Hugging Face hub.", path=there[name].path),
                told("Remove it with the hub's own program, if nothing else needs it: hf cache rm"),
                code="clean.shared",
            )
    gone = [there[name] for name in dict.fromkeys(names)]
    for each in gone:
        with explained(each.path):
            shutil.rmtree(each.path)
    return gone


def _left_behind(lab: LabFolder) -> Iterator[Removable]:
    running = _running(lab)
    for work in _folders(lab.models_dir, ".*.work"):
        job = work.name[1 : -len(".work")]
        if job not in running:
            yield Removable(
                f"work/{job}",
                LOST,
                _("half made by {job}, which was killed", job=job),
                "",
                work,
                size_of(work),
            )


def _checkpoints(lab: LabFolder) -> Iterator[Removable]:
    if any(name.startswith("finetune-") for name in _running(lab)):
        return
    for folder in _folders(lab.root / "checkpoints", "*"):
        yield Removable(
            f"checkpoints/{folder.name}",
            SPARE,
            _("where the stopped training of adapter {name} would go on", name=folder.name),
            _("the next finetune of it begins at step 1"),
            folder,
            size_of(folder),
        )


def _old_jobs(lab: LabFolder) -> Iterator[Removable]:
    newest = {job.stage: job.id for job in list_jobs(lab)}
    running = _running(lab)
    for job in list_jobs(lab):
        if job.id != newest[job.stage] and job.id not in running:
            yield Removable(
                f"jobs/{job.id}",
                SPARE,
                _("log and figures of {id}, an earlier run", id=job.id),
                _("they are gone; the result stays"),
                job.folder,
                size_of(job.folder),
            )


def _unpacked(lab: LabFolder) -> Iterator[Removable]:
    mine = None
    with suppress(LabError, OSError, ValueError):
        source = read_recipe(lab.recipe_path).model.source
        if kind_of(source, lab.root) == "gguf":
            header = check_gguf(local_place(source, lab.root))
            mine = unpacked_place(header) if is_unpacked(header) else None
    for folder in _folders(cache_dir() / "gguf", "*"):
        used = folder == mine
        if used and _running(lab):
            continue
        yield Removable(
            f"gguf/{folder.name}",
            CACHE,
            _("a GGUF file as it was unpacked, this lab's") if used else _("a GGUF file as it was unpacked"),
            _("unpacked again where a lab wants it"),
            folder,
            size_of(folder),
            used,
        )


def _fetched(lab: LabFolder) -> Iterator[Removable]:
    used = _source(lab).startswith("azureml://")
    if used and _running(lab):
        return
    root = cache_dir() / "registry"
    whole = sorted({path.parent for path in root.rglob("config.json")}) if root.is_dir() else []
    for folder in (each for each in whole if not set(each.parents) & set(whole)):
        yield Removable(
            f"registry/{folder.relative_to(root).as_posix()}",
            CACHE,
            _("a model that was fetched from Azure"),
            _("fetched again where a lab wants it"),
            folder,
            size_of(folder),
            used,
        )


def _olive(lab: LabFolder) -> Iterator[Removable]:
    """What Olive leaves where it is run by hand in the lab's folder."""
    for folder in _folders(lab.root, ".olive-cache"):
        yield Removable("olive-cache", LOST, _("Olive's own cache"), "", folder, size_of(folder))


def _hub(lab: LabFolder) -> Iterator[Removable]:
    source = _source(lab).partition("@")[0]
    for name, folder in hub_models():
        if name != source:
            yield Removable(
                f"hub/{name}",
                SHARED,
                _("a model of the hub that this lab does not use; other programs may"),
                _("fetched again"),
                folder,
                size_of(folder),
            )


def _source(lab: LabFolder) -> str:
    with suppress(LabError, OSError):
        return read_recipe(lab.recipe_path).model.source
    return ""


def _running(lab: LabFolder) -> set[str]:
    return {job.id for job in list_jobs(lab) if job.active}


def _folders(parent: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in parent.glob(pattern) if path.is_dir() and not path.is_symlink())
    return []


def size_of(folder: Path) -> int:
    """Bytes that would be free without a folder: what it links to stays, and a file with two names is one."""
    total, seen = 0, set()
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total
