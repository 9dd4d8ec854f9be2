"""The job as a file: Azure ML's YAML of a command job, as people read it and as azure-ai-ml sends it.

Nothing secret can stand in it: it is made of names, versions and places, and the job reads its storage by its
workspace's own right.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from core.azure.compute import Compute
from core.errors import MachineError, RequestError, StageError
from core.language import told
from core.recipe import Recipe
from core.remote import wheel
from core.telemetry import OFF
from core.version import __version__

FILE = "job.yml"
SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
IMAGES = {
    True: "mcr.microsoft.com/azureml/openmpi5.0-cuda12.6-ubuntu24.04",
    False: "mcr.microsoft.com/azureml/openmpi5.0-ubuntu24.04",
}
"""Azure ML's base images, for machines with GPUs and without. torch brings its own CUDA along."""
PYTHON = "3.11"
_REFERENCE = re.compile(r"\$\{\{(inputs|outputs)\.([A-Za-z_]\w*)\}\}")


@dataclass(frozen=True)
class JobFile:
    """What the file is made from.

    Attributes:
        name: of the job in the workspace.
        lab: the lab folder's name, for people.
        inputs, outputs: where they lie, as ``azureml://`` paths.
        model: the address of a model that Azure ML gives to the job; empty: it is among the inputs, or fetched there.
    """

    name: str
    lab: str
    stages: tuple[str, ...]
    compute: Compute
    inputs: str
    outputs: str
    hours: float
    gpus: int | str
    model: str = ""

    def document(self) -> dict[str, Any]:
        """The file's content."""
        words = ["olivepress", "run", "--from", "${{inputs.lab}}", "--keep", "${{outputs.lab}}"]
        inputs: dict[str, Any] = {"lab": {"type": "uri_folder", "path": self.inputs, "mode": "ro_mount"}}
        if self.model:
            inputs["model"] = {"type": "custom_model", "path": self.model, "mode": "download"}
            words += ["--model", "${{inputs.model}}"]
        words += [*self.stages, "--json"]
        several = self.gpus not in (1, "1") and (self.compute.gpus is None or self.compute.gpus > 1)
        # Our own launcher starts a process a GPU on the machine: Azure ML starts the command once.
        spread = {"distribution": {"type": "pytorch", "process_count_per_instance": 1}} if several else {}
        return {
            "$schema": SCHEMA,
            "type": "command",
            "name": self.name,
            "display_name": f"{' '.join(self.stages)} of {self.lab}",
            "experiment_name": "olivepress",
            "command": "python -m pip install --quiet --no-index --no-deps --force-reinstall "
            f"${{{{inputs.lab}}}}/{wheel.NAME} && {' '.join(words)}",
            "inputs": inputs,
            "outputs": {"lab": {"type": "uri_folder", "path": self.outputs, "mode": "rw_mount"}},
            "environment": {
                "image": IMAGES[self.compute.gpus != 0],
                "conda_file": {
                    "name": "olivepress",
                    "channels": ["conda-forge"],
                    "dependencies": [f"python={PYTHON}", "pip", {"pip": pinned()}],
                },
            },
            "environment_variables": {**OFF, "PYTHONUNBUFFERED": "1"},
            "compute": f"azureml:{self.compute.name}",
            "resources": {"instance_count": 1, **({"shm_size": "16g"} if several else {})},
            **spread,
            "limits": {"timeout": round(self.hours * 3600)},
            "tags": {
                "made_with": "olivepress",
                "version": __version__,
                "stages": " ".join(self.stages),
                "lab": self.lab[:256],
            },
        }


def text_of(document: Mapping[str, Any]) -> str:
    """The file's text."""
    import yaml

    return yaml.safe_dump(dict(document), sort_keys=False, width=110, allow_unicode=True)  # type: ignore[no-any-return]


def pinned() -> list[str]:
    """What this program needs, each package in the version that works here, for another machine of any build."""
    try:
        needs = requires("olivepress") or []
    except PackageNotFoundError:
        raise MachineError(
            told("What this program needs is not known here."),
            told("It runs from a folder of source that was not installed."),
            told("Install it: pip install -e FOLDER."),
            code="remote.program",
        ) from None
    from packaging.requirements import Requirement

    found = []
    for need in map(Requirement, needs):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            name = need.name
            try:
                # A build's own part, as in 2.13.0+cpu, is this machine's and not that one's.
                found.append(f"{name}=={version(name).split('+')[0]}")
            except PackageNotFoundError:
                found.append(str(need))
    return sorted(found, key=str.lower)


def check_compute(compute: Compute, recipe: Recipe, stages: Sequence[str]) -> None:
    """Refuse a compute on which the job could not run.

    Raises:
        MachineError: with the reason.
    """
    if why := compute.why_not():
        quota = "quota" in why.lower()
        raise MachineError(
            told("No job can run on {name}.", name=compute.name),
            told("{first}{rest}.", first=why[0].upper(), rest=why[1:]),
            told("Ask for more quota in the Azure portal, or choose another compute.")
            if quota
            else told("Choose another compute, or have it mended."),
            code="azure.quota" if quota else "azure.compute",
        )
    gpus = recipe.finetune.gpus
    if (
        "finetune" in stages
        and isinstance(gpus, int)
        and compute.gpus is not None
        and gpus > max(1, compute.gpus)
    ):
        raise MachineError(
            told("A machine of {name} has not {gpus} GPUs.", name=compute.name, gpus=gpus),
            told(
                "finetune.gpus = {gpus}; {size} has {there}.",
                gpus=gpus,
                size=compute.size,
                there=compute.gpus,
            ),
            told("Choose a larger machine, or fewer GPUs: --gpus N."),
            code="gpu.count",
        )


def check_file(path: Path, document: Mapping[str, Any]) -> None:
    """Have azure-ai-ml read the file, and see that it names nothing that it does not have.

    Raises:
        StageError: it is not a job that Azure ML takes, which is a fault of ours.
    """
    unknown = sorted(
        f"{kind}.{name}"
        for kind, name in _REFERENCE.findall(str(document["command"]))
        if name not in document[kind]
    )
    problem = told("the command names {unknown}", unknown=", ".join(unknown)) if unknown else _problem(path)
    if problem:
        raise StageError(
            told("The job's file is not one that Azure ML takes."),
            told("{path}: {problem}.", path=path, problem=problem),
            told("Please report this."),
            code="remote.file",
        )


def _problem(path: Path) -> str:
    from azure.ai.ml import load_job
    from azure.ai.ml.entities import Command, Job

    try:
        with sdk_unheard():
            job: Job = load_job(str(path))
    except Exception as error:  # marshmallow's, yaml's and the SDK's own have no common base
        return " ".join(str(error).split())[:400]
    return "" if isinstance(job, Command) else f"it was read as a {type(job).__name__}"


@contextmanager
def sdk_unheard() -> Iterator[None]:
    """While entered, what azure-ai-ml prints is dropped: which of its own classes are experimental is no news here."""
    with redirect_stderr(io.StringIO()):
        yield


def facts(compute: Compute, hours: float, stages: Iterable[str]) -> dict[str, Any]:
    """What decides the cost, for ``--dry-run``."""
    worst = None if compute.price is None else round(compute.price * hours, 2)
    return {
        "compute": compute.name,
        "size": compute.size,
        "gpus": compute.gpus,
        "nodes": 1,
        "priority": "low" if compute.low_priority else "dedicated",
        "hours_at_most": hours,
        "price_an_hour": compute.price,
        "cost_at_most": worst,
        "currency": compute.currency,
        "idle_s": compute.idle_s,
        "quota_used": compute.quota_used,
        "quota_limit": compute.quota_limit,
        "stages": list(stages),
    }


def refuse_secret(text: str) -> None:
    """Refuse a file in which something looks like a secret.

    Raises:
        RequestError: a setting holds one.
    """
    from core.azure.errors import redact

    if redact(text) != text:
        raise RequestError(
            told("A setting looks like a secret."),
            told("The job's file would hold it, and everybody who sees the workspace could read it."),
            told("Take it out of lab.toml."),
            code="remote.secret",
        )
