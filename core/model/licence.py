"""The licence of a model, as its folder tells: the card's front matter, and the licence's own text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from core.language import told

_FILES = ("LICENSE*", "LICENCE*", "license*", "licence*", "COPYING*", "NOTICE*", "USE_POLICY*")
_MOST = 200_000
_BAN = re.compile(
    r"[^.;]*\b(?:may|shall|must|can)\s*not\b(?:[\s\w,()'’-]{0,80}?)\b(?:re-?distribut|distribut|sublicens|publish|share)"
    r"\w*[^.;]*",
    re.IGNORECASE,
)
_EXCEPTED = re.compile(r"\b(?:except|unless|without|other than|only if)\b", re.IGNORECASE)
_NO_DERIVATIVES = re.compile(r"^cc-by(?:-nc)?-nd", re.IGNORECASE)


@dataclass(frozen=True)
class Licence:
    """What is known of it.

    Attributes:
        name: as the card names it, or the name of the licence file; empty where nothing tells.
        files: the licence's own texts, with notices.
        ban: the words that seem to forbid passing the model on; empty where none do.
    """

    name: str = ""
    files: tuple[Path, ...] = ()
    ban: str = ""


def read_licence(folder: Path) -> Licence:
    """The licence of the model in a folder. What cannot be read is left out."""
    name = _named(folder)
    files = tuple(
        sorted(
            {path for pattern in _FILES for path in folder.glob(pattern) if _is_text(path)},
            key=lambda p: p.name,
        )
    )
    if _NO_DERIVATIVES.match(name):
        return Licence(name, files, told("{name} allows no changed copies to be passed on", name=name))
    bans = (_ban(path) for path in files)
    return Licence(name or (files[0].name if files else ""), files, next((ban for ban in bans if ban), ""))


def _named(folder: Path) -> str:
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(4000)
    except OSError:
        return ""
    for line in head.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("license", "license_name"):
            return value.strip().strip("'\"")
    return ""


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in ("", ".md", ".txt", ".rst")


def _ban(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            text = " ".join(stream.read(_MOST).split())
    except OSError:
        return ""
    for match in _BAN.finditer(text):
        if not _EXCEPTED.search(match[0]):
            return match[0].strip()[:300]
    return ""
