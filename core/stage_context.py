"""What a running stage is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.events import Reporter
from core.folder import LabFolder
from core.model.auto import Settled


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given.

    Attributes:
        lab: where things lie in the lab.
        recipe: the recipe as it was when the job was made, with every "auto" resolved.
        report: where progress, metrics, artifacts and log lines go.
        work: an empty folder on the lab's own disk for what is half made; removed afterwards. A
            finished result is renamed from here into place with :func:`core.files.publish`.
        manifest: what stands in ``olivepress.json`` beside the result; the stage adds its ``result``
            and hands it to :func:`~core.files.publish`.
        options: choices that are of this run only and not in the recipe.
    """

    lab: LabFolder
    recipe: Settled
    report: Reporter
    work: Path
    manifest: dict[str, Any]
    options: dict[str, Any]


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of some packages, read from their metadata."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found
