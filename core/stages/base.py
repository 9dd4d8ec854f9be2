"""What every stage module offers, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from core.auto import Settled
from core.errors import RequestError
from core.events import Reporter
from core.folder import LabFolder
from core.stages import STAGES


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


class Stage(Protocol):
    """A stage module."""

    def fingerprint(self, lab: LabFolder, recipe: Settled) -> dict[str, Any]:
        """All that the output depends on: recipe fields it reads, input files, package versions.

        Raises :class:`RequestError` when an input is missing, with the step that makes it.
        """

    def output(self, lab: LabFolder, recipe: Settled) -> Path | None:
        """The folder whose manifest tells whether there is anything to do; None: always run."""

    def run(self, context: StageContext) -> dict[str, Any]:
        """Do the work, verify it, publish it; return the result in numbers, JSON-able."""


def load_stage(name: str) -> Stage:
    """The module of a stage.

    The environment variable ``OLIVEPRESS_STAGES`` names another package to take stages from; tests
    use it to run jobs that do something quick or strange.

    Raises:
        RequestError: there is no such stage.
    """
    import importlib
    import os

    if name not in STAGES:
        raise RequestError(
            f"There is no stage {name!r}.",
            hint="The stages are: " + ", ".join(STAGES) + ".",
            code="stage.unknown",
        )
    package = os.environ.get("OLIVEPRESS_STAGES", "core.stages")
    return cast(Stage, importlib.import_module(f"{package}.{name}"))


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
