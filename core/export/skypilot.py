"""The lab's run as a task of SkyPilot, with all that it needs in a folder beside it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError, Use
from core.export.slurm import task_name
from core.export.write import Exported, ExportRequest, free_place
from core.files import explained, write_atomic
from core.language import told
from core.model.sources import kind_of
from core.remote import jobfile, wheel
from core.remote.contents import collect
from core.stages import default_stages
from core.telemetry import OFF

GPU = "A100"
"""What is asked for until the person says otherwise: a training of a model of some billions fits."""
REQUIREMENTS = "requirements.txt"


def run(wanted: ExportRequest) -> Exported:
    """Write the task, and beside it the folder that goes along with it."""
    recipe, root = wanted.lab.recipe, wanted.lab.root
    if kind_of(recipe.model.source, root) == "azureml":
        raise RequestError(
            told("A model of Azure ML cannot go along with this task."),
            told("model.source = {source!r}.", source=recipe.model.source),
            told(
                "Run it there: {run}, or set {source}.",
                run=Do.of("run", root, "--on", "azureml", "--compute", "NAME"),
                source=Use("model.source"),
            ),
            code="export.model",
        )
    target = free_place(wanted)
    beside = target.with_name(f"{target.stem}.inputs")
    stages = default_stages()
    contents = collect(wanted.folder, recipe, stages)
    with explained(beside):
        shutil.rmtree(beside, ignore_errors=True)
        for item in contents.items:
            place = beside / item.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if item.path is None:
                place.write_bytes(item.data)
            else:
                _take_along(item.path, place)
        (beside / REQUIREMENTS).write_text("\n".join(jobfile.pinned()) + "\n", encoding="utf-8")
    gpus = recipe.finetune.gpus
    text = jobfile.text_of(
        task(task_name(root.name), beside.name, gpus if isinstance(gpus, int) else 1, stages)
    )
    jobfile.refuse_secret(text)
    write_atomic(target, text)
    return Exported(
        "skypilot",
        str(target),
        target.stat().st_size,
        files={str(target): told("the task"), str(beside): told("what goes along with it")},
        notes=(
            told("It asks for {gpu}: change resources.accelerators to what you want.", gpu=GPU),
            told("Results are kept in ~/olivepress/kept on its machine, under made/."),
        ),
        next=wanted.form.next.format(out=target, name=target.name),
    )


def task(name: str, inputs: str, gpus: int, stages: tuple[str, ...]) -> dict[str, Any]:
    """The task, as SkyPilot's YAML has it."""
    home = "~/olivepress"
    run = ("venv/bin/olivepress", "run", "--from", "inputs", "--keep", "kept", *stages)
    return {
        "name": name,
        "resources": {"accelerators": f"{GPU}:{gpus}", "disk_size": 256},
        "num_nodes": 1,
        "file_mounts": {f"{home}/inputs": f"./{inputs}"},
        "envs": dict(OFF),
        "setup": f"python3 -m venv {home}/venv\n"
        f"{home}/venv/bin/pip install --quiet -r {home}/inputs/{REQUIREMENTS}\n"
        f"{home}/venv/bin/pip install --quiet --no-deps --force-reinstall {home}/inputs/{wheel.NAME}\n",
        "run": f"cd {home}\nexec {' '.join(run)}\n",
    }


def _take_along(source: Path, place: Path) -> None:
    """The same bytes in another place: by a link where the disk can, as models are large."""
    with suppress(OSError):
        os.link(source.resolve(), place)
        return
    shutil.copyfile(source, place)
