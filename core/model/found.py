"""Models that could be taken: the bundled one, those used before, and what lies in the hub's cache and near by.

Nothing is fetched and no weights are read. What is listed looks like a model; whether it is a whole one that the lab
can work with is what the checks say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import LabError
from core.files import read_if_whole, write_json
from core.resources import REHEARSAL, rehearsal_model
from core.user_dirs import state_dir

RECENT = 8
"""Models that are remembered."""
_DEPTH = 3
_MOST_FOLDERS = 2000
"""Folders that are looked into near by, in all: a home folder may have millions."""
_USUAL = ("models", "Models", "Downloads", ".lmstudio/models")
"""Folders of a user in which models often lie."""
_NO_MODELS = ("adapter", "mmproj")
"""How GGUF files are called that only go with a model."""
_PASSED_OVER = ("node_modules", "site-packages", "__pycache__", "jobs", "chats")


@dataclass(frozen=True)
class FoundModel:
    """A model that could be taken.

    Attributes:
        source: what ``model.source`` is to be for it.
        place: ``rehearsal``, ``recent``, ``hub cache`` or ``near by``.
        name: as people know it.
        bytes: its weights; None where that is not known without asking someone.
    """

    source: str
    place: str
    name: str
    bytes: int | None


def found_models(lab_root: Path, home: Path | None = None) -> list[FoundModel]:
    """What could be taken in this lab: each model once, under the first of its places.

    Args:
        home: the user's folder; ``Path.home()`` if None.
    """
    found: dict[str, FoundModel] = {}
    for model in (
        FoundModel(REHEARSAL, "rehearsal", REHEARSAL, _weights(rehearsal_model())),
        *_recent(lab_root),
        *_in_hub_cache(),
        *_near(lab_root, home or Path.home()),
    ):
        found.setdefault(model.source, model)
    return list(found.values())


def remember(source: str) -> None:
    """Keep a model among those used last; where that cannot be written, it is not kept."""
    if source == REHEARSAL:
        return
    known = [source, *(each for each in _remembered() if each != source)]
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_json(_path(), {"models": known[:RECENT]})
    except (LabError, OSError):
        return


def _path() -> Path:
    return state_dir() / "models.json"


def _remembered() -> list[str]:
    data = read_if_whole(_path())
    listed = data.get("models") if isinstance(data, dict) else None
    return [each for each in listed if isinstance(each, str) and each] if isinstance(listed, list) else []


def _recent(lab_root: Path) -> Iterator[FoundModel]:
    from core.model.sources import kind_of, local_place

    for source in _remembered():
        if kind_of(source, lab_root) not in ("folder", "gguf"):
            yield FoundModel(source, "recent", source, None)
            continue
        place = local_place(source, lab_root)
        if place.exists():
            yield FoundModel(source, "recent", place.name, _weights(place))


def hub_models() -> Iterator[tuple[str, Path]]:
    """The models in the hub's cache on this machine, as ``owner/name``, each with its folder there."""
    from huggingface_hub import constants

    for folder in _listed(Path(constants.HF_HUB_CACHE)):
        owner, _, name = folder.name.removeprefix("models--").partition("--")
        if folder.name.startswith("models--") and name:
            yield f"{owner}/{name}", folder


def _in_hub_cache() -> Iterator[FoundModel]:
    for name, folder in hub_models():
        sizes = [
            _weights(snapshot)
            for snapshot in _listed(folder / "snapshots")
            if (snapshot / "config.json").exists()
        ]
        if any(sizes):
            yield FoundModel(name, "hub cache", name, max(sizes))


def _near(lab_root: Path, home: Path) -> Iterator[FoundModel]:
    """Folders and GGUF files around the lab, around here, and where models are often kept."""
    left = _MOST_FOLDERS
    seen: set[Path] = set()
    for start in (lab_root, lab_root.parent, Path.cwd(), *(home / each for each in _USUAL)):
        # The folder above may be the user's own: it is not gone through.
        depth = 1 if start in (home, Path("/"), Path(start.anchor)) else _DEPTH
        waiting = [(start, depth)]
        while waiting and left > 0:
            folder, below = waiting.pop(0)
            if folder in seen:
                continue
            seen.add(folder)
            left -= 1
            entries = _listed(folder)
            if is_model(folder):
                yield FoundModel(_named(folder, lab_root), "near by", folder.name, _weights(folder))
                continue
            made_here = (folder / "lab.toml").is_file()
            for entry in entries:
                if (
                    entry.suffix.lower() == ".gguf"
                    and not entry.name.lower().startswith(_NO_MODELS)
                    and entry.is_file()
                ):
                    yield FoundModel(_named(entry, lab_root), "near by", entry.name, entry.stat().st_size)
                elif (
                    below > 0
                    and not entry.name.startswith(".")
                    and entry.name not in _PASSED_OVER
                    and not (
                        made_here and entry.name == "models"
                    )  # what the lab has made is no model to begin with
                    and entry.is_dir()
                    and not entry.is_symlink()
                ):
                    waiting.append((entry, below - 1))


def is_model(folder: Path) -> bool:
    """Whether a folder looks like a model: a config, and weights beside it."""
    return (folder / "config.json").is_file() and bool(_weights(folder))


def _named(path: Path, lab_root: Path) -> str:
    """As ``model.source`` says it: relative inside the lab, else absolute."""
    return f"./{path.relative_to(lab_root)}" if path.is_relative_to(lab_root) else str(path)


def _weights(place: Path) -> int:
    """Bytes of a model's weights, or of a file; 0 where there are none."""
    try:
        if place.is_file():
            return place.stat().st_size
        return sum(each.stat().st_size for each in place.glob("*.safetensors"))
    except OSError:
        return 0


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries)
    except OSError:
        return []
