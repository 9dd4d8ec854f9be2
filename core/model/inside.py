"""A model's folder holds the model: nothing in it may lead to a file elsewhere.

A folder that came from somebody else could otherwise have a private file read, and its content copied into
what is made of the model and sent on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from core.errors import RequestError
from core.files import small_bytes
from core.language import told


def leads_out(name: str) -> bool:
    """Whether a file's name as a model writes it is not one below the model's folder, on any system."""
    windows = PureWindowsPath(name)
    return (
        not name
        or "\0" in name
        or PurePosixPath(name).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts
    )


def refuse_name(file: Path, key: str, name: str) -> None:
    """Refuse a name that a file of the model gives, if it is not one below the model's folder.

    Raises:
        RequestError: with the file, the key and the name.
    """
    if leads_out(name):
        raise RequestError(
            told("The model names a file outside its folder."),
            told("{file}: {key} is {name}.", file=file, key=key, name=repr(name)),
            told(
                "Do not use this model if it came from somebody else: it may be meant to read your "
                "files. If it is yours, put that file into the folder and name it by its bare name."
            ),
            code="model.outside",
        )


def refuse_links(folder: Path, below: bool = False) -> None:
    """Refuse a folder in which a link leads out of it.

    The hub's cache is made of links into the ``blobs`` beside it, and those are followed.

    Args:
        below: look into all its folders, not only at what lies in it directly and at its templates.

    Raises:
        RequestError: with the link and where it leads.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        allowed.append(root.parents[1] / "blobs")
    for path in _entries(root, below):
        if not path.is_symlink():
            continue
        target = path.resolve()
        if not any(target.is_relative_to(place) for place in allowed):
            raise RequestError(
                told("A link in the model's folder leads out of it."),
                told("{folder} leads to {target}.", folder=folder / path.relative_to(root), target=target),
                told(
                    "Do not use this model if it came from somebody else: it may be meant to read your "
                    "files. If it is yours, put a copy of the file, or a hard link to it, in the link's "
                    "place."
                ),
                code="model.outside",
            )


def _entries(root: Path, below: bool) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink() and (below or path.name == "additional_chat_templates"):
            yield from _entries(path, below)


def refuse_outside(folder: Path) -> None:
    """Refuse a Hugging Face folder whose links, or whose settings, lead out of it.

    Transformers takes a ``vocab_file`` that ``tokenizer_config.json`` names, and ``transformers_weights`` of
    ``config.json``, before the folder's own. Paths that
    its author's machine had and this one has not do no harm and stand in many models.

    Raises:
        RequestError: with what leads where.
    """
    refuse_links(folder)
    for name in ("config.json", "tokenizer_config.json"):
        for key, value in _settings(folder / name).items():
            names_a_file = key.endswith("_file") or key == "transformers_weights"
            if names_a_file and isinstance(value, str) and leads_out(value) and _exists(value, folder):
                refuse_name(folder / name, key, value)


def _settings(file: Path) -> dict[str, object]:
    try:
        settings = json.loads(small_bytes(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _exists(name: str, folder: Path) -> bool:
    places: Iterable[Path] = (Path(name), folder / name)
    try:
        return any(place.exists() for place in places)
    except (OSError, ValueError):
        return False
