"""Listing what a workspace has of our models, and bringing one back as a lab that can chat."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from core.azure.arm import Rest
from core.azure.find import pick, workspaces
from core.azure.patience import Stop
from core.azure.receiver import Receiver
from core.azure.signin import current
from core.azure.source import Address, locate, prompt_to
from core.azure.workspace import Place, Registered, Workspace
from core.errors import LabError, RequestError
from core.events import Reporter
from core.files import explained, publish, write_atomic
from core.folder import RECIPE_NAME, REPORT_NAME, LabFolder
from core.recipe import OPTIONS, Recipe, parse_recipe, recipe_text
from core.text import clean

WORK = ".fetching"
"""The folder in the target where a fetch keeps what has come, until all of it has."""
TAKEN = ("data", "quantize", "finetune", "optimize", "chat")
"""The tables of a fetched ``lab.toml`` that are taken over."""
NOT_TAKEN = ("data.file", "quantize.calibration_file")
"""What of them is not: files of this machine."""


def list_models(place: Place, name: str, stop: Stop, report: Reporter) -> list[Registered]:
    """The versions of a model, the newest first; with no name those of every model made with OlivePress."""
    identity = current(stop=stop, on_prompt=prompt_to(report))
    workspace = Workspace(place, identity.credential, stop=stop, say=report.log)
    try:
        workspace.check()
        if name:
            return workspace.versions(name)
        found = []
        for known in sorted(workspace.names()):
            found += [model for model in workspace.versions(known) if model.content]
        return found
    finally:
        workspace.close()


def find_place(wanted: str, stop: Stop) -> Place:
    """The workspace that some words name, among all that the user sees."""
    chosen = pick(workspaces(Rest(current(stop=stop).credential, stop)), wanted)
    return Place(chosen.subscription, chosen.resource_group, chosen.name)


def fetch_lab(
    place: Place, name: str, version: str, target: Path, stop: Stop, report: Reporter
) -> dict[str, Any]:
    """Bring a registered model into ``target`` as a lab: ``lab.toml``, ``models/onnx``, ``report.md``.

    Args:
        version: empty for the newest.
        target: a new or an empty folder, or one where an earlier fetch was stopped.

    Raises:
        RequestError: no such model, or something else lies in the folder.
    """
    _check_target(target)
    identity = current(stop=stop, on_prompt=prompt_to(report))
    wanted = Address(place=place, name=name, version=version or "latest")
    address, container, prefix = locate(wanted, identity.credential, stop, report)
    work = target / WORK / f"{address.name}-{address.version}"
    try:
        receiver = Receiver(
            container,
            prefix,
            work,
            stop=stop,
            on_bytes=lambda done, total: report.progress("download", done, total),
            say=report.log,
        )
        sizes = receiver.receive()
    finally:
        container.close()
    left = _put_in_place(work, target, place, address)
    if left:
        shown = ", ".join(
            f"{name} = {clean(repr(value), keep_newlines=False)}" for name, value in left.items()
        )
        report.log(f"Not taken over from the lab.toml that came with the model: {shown}.", "warning")
    return {
        "name": address.name,
        "version": address.version,
        "folder": str(target),
        "files": len(sizes),
        "bytes": sum(sizes.values()),
        "not_taken": left,
    }


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise RequestError(
            "A file is in the way.", f"{target} is not a folder.", "Name another folder.", code="lab.file"
        )
    # A fetch that was stopped while it put things in place has left some of its own.
    ours = {WORK, RECIPE_NAME, REPORT_NAME, "models"} if (target / WORK).is_dir() else set()
    others = [path.name for path in target.iterdir() if path.name not in ours] if target.is_dir() else []
    if others:
        raise RequestError(
            "The folder is not empty.",
            f"{target} has {min(others)}.",
            "Name a new or an empty folder.",
            code="fetch.not-empty",
        )


def _put_in_place(work: Path, target: Path, place: Place, address: Address) -> dict[str, Any]:
    """Make a lab of what has come; returns what of its recipe was not taken over."""
    lab = LabFolder(target)
    recipe, left = Recipe(), dict[str, Any]()
    with explained(target):
        recipe_path, report_path = work / RECIPE_NAME, work / REPORT_NAME
        if recipe_path.is_file():
            recipe, left = recipe_from_elsewhere(recipe_path.read_text(encoding="utf-8", errors="replace"))
            recipe_path.unlink()
        if report_path.is_file():
            os.replace(report_path, lab.report_path)
        publish(work, lab.onnx_dir)
        values = {
            "upload.subscription": place.subscription,
            "upload.resource_group": place.resource_group,
            "upload.workspace": place.workspace,
            "upload.name": address.name,
            "upload.registered": f"{address.name}:{address.version}",
        }
        write_atomic(lab.recipe_path, recipe_text(recipe.with_values(values)))
        shutil.rmtree(target / WORK, ignore_errors=True)
    return left


def recipe_from_elsewhere(text: str) -> tuple[Recipe, dict[str, Any]]:
    """What of a ``lab.toml`` that came with a model is taken over, and by name what it sets and is not.

    :data:`TAKEN` says how the model was made and how it answers. All else names files, models and places: it
    would have this machine read a file, fetch another model or run its code because somebody else wrote so.
    """
    try:
        theirs = parse_recipe(text, Path(RECIPE_NAME))
    except LabError:
        return Recipe(), {}
    fresh = Recipe()
    taken: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for declared in (each for group in OPTIONS.values() for each in group.values()):
        value = getattr(getattr(theirs, declared.section), declared.key)
        if value == getattr(getattr(fresh, declared.section), declared.key):
            continue
        whole = declared.section in TAKEN and declared.name not in NOT_TAKEN
        (taken if whole else left)[declared.name] = value
    return fresh.with_values(taken), left
