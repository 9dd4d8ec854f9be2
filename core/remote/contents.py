"""What goes up with a job: the recipe, the records, a model that lies here, results to start from, and this program.

It becomes a lab there: ``lab.toml`` names the records and the model where they lie in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from core.azure.download import check_names
from core.data import resolve_data_file
from core.errors import Do, LabError, RequestError
from core.folder import RECIPE_NAME, LabFolder, adapter_names
from core.language import told
from core.model.inside import refuse_links
from core.model.sources import kind_of, local_place, model_stamp
from core.recipe import Recipe, UploadSection, recipe_text
from core.remote import wheel
from core.upload.contents import Contents, Item, digested
from core.version import __version__

LAB = "lab"
MODEL = "model"
"""The folders of what is sent: what becomes the lab there, and the model that it starts from."""


def collect(lab: LabFolder, recipe: Recipe, stages: Sequence[str]) -> Contents:
    """The files that a job of these stages needs. Nothing is read but their sizes, and the program.

    Raises:
        RequestError: the records, the model or an earlier result is missing.
    """
    items, values = _own(lab, recipe)
    left_out: list[tuple[str, str]] = []
    if "quantize" in stages:
        kind = kind_of(recipe.model.source, lab.root)
        if kind in ("folder", "gguf"):
            where = _add(items, local_place(recipe.model.source, lab.root), MODEL)
            values["model.source"] = f"../{where}"
        elif kind == "hub":
            left_out.append((recipe.model.source, told("fetched there, from the hub")))
        elif kind == "azureml":
            left_out.append((recipe.model.source, told("given to the job by Azure ML")))
    else:
        _add_result(items, lab, lab.quantized_dir, "quantize")
    if "optimize" in stages:
        _add_for_optimize(items, lab, recipe, stages)
    # Neither where results are registered nor how many connections an upload has concerns the job.
    # A tracker is a program of this machine, with an account of this machine's user.
    there = dataclasses.replace(recipe, upload=UploadSection()).with_values({**values, "finetune.track": ""})
    items.append(_made(f"{LAB}/{RECIPE_NAME}", recipe_text(there).encode()))
    check_names(item.name for item in items)
    return Contents(tuple(sorted(items, key=lambda item: item.name)), tuple(left_out))


def _own(lab: LabFolder, recipe: Recipe) -> tuple[list[Item], dict[str, str]]:
    """What every stage needs, and the settings that name it there: the records, and this program."""
    items: list[Item] = []
    values = {"data.file": _add(items, resolve_data_file(recipe, lab.root), f"{LAB}/data")}
    if recipe.quantize.calibration_file:
        calibration = local_place(recipe.quantize.calibration_file, lab.root)
        values["quantize.calibration_file"] = _add(items, calibration, f"{LAB}/calibration")
    items.append(_made(wheel.NAME, wheel.own_wheel()))
    return items, values


def key(lab: LabFolder, recipe: Recipe, check: Callable[[], object]) -> str:
    """What tells one piece of work from another, whichever of its stages are still to be done.

    Args:
        check: called often while records are read; raises to stop.

    Raises:
        RequestError: the records are missing.
    """
    # Not by its bytes: a job that was sent is followed by a program that was mended since.
    own = Contents(tuple(item for item in _own(lab, recipe)[0] if item.name != wheel.NAME), ())
    own = digested(own, lab.state_dir / "records-digests.json", lambda done: None, check)
    model: dict[str, str] = {}
    with suppress(LabError, OSError):  # a model that was moved since is not needed any more
        model = model_stamp(recipe.model.source, lab.root)
    settings = dataclasses.asdict(dataclasses.replace(recipe, upload=UploadSection()))
    noted = json.dumps([__version__, own.digest, model, settings], sort_keys=True, default=str)
    return hashlib.sha256(noted.encode()).hexdigest()[:32]


def _add_for_optimize(items: list[Item], lab: LabFolder, recipe: Recipe, stages: Sequence[str]) -> None:
    """The adapters that stand beside the base: the recipe's, unless it is trained there, and the model's others."""
    own = recipe.finetune.adapter
    others = [name for name in adapter_names(lab.onnx_dir) if name != own]
    if "finetune" not in stages and (lab.finetuned_dir(own) / "adapter_config.json").is_file():
        _add_result(items, lab, lab.finetuned_dir(own), "finetune")
    for name in others:
        if lab.finetuned_dir(name).is_dir():
            _add_result(items, lab, lab.finetuned_dir(name), "finetune")
    if others:
        _add_result(items, lab, lab.onnx_dir, "optimize")


def _add_result(items: list[Item], lab: LabFolder, folder: Path, stage: str) -> None:
    if not folder.is_dir():
        raise RequestError(
            told("There is nothing to start from."),
            told("{folder} is not there.", folder=folder),
            told("Make it first: {run}", run=Do.of("run", lab.root, stage)),
            code="remote.input",
        )
    _add(items, folder, f"{LAB}/{folder.parent.relative_to(lab.root).as_posix()}")


def _add(items: list[Item], path: Path, below: str) -> str:
    """Add a file, or all of a folder, below a folder of what is sent; its place there, as seen from the lab."""
    name = path.name
    if path.is_dir():
        refuse_links(path, below=True)
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    for each in found:
        try:
            state = each.stat()
        except OSError as error:
            raise RequestError(
                told("A file that the job needs cannot be read."),
                told("{each}: {strerror}.", each=each, strerror=error.strerror),
                told("Mend the link or make it again."),
                code="upload.file",
            ) from None
        if stat.S_ISREG(state.st_mode):
            inside = f"/{each.relative_to(path).as_posix()}" if path.is_dir() else ""
            items.append(Item(f"{below}/{name}{inside}", state.st_size, path=each, stamp=state.st_mtime_ns))
    return f"{below}/{name}".removeprefix(f"{LAB}/")


def _made(name: str, data: bytes) -> Item:
    return Item(name, len(data), hashlib.sha256(data).hexdigest(), data=data)
