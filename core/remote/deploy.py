"""A registered model behind a managed online endpoint, with our own server in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.azure.endpoints import DEPLOYMENT, NAME, Endpoints
from core.azure.retry import Stop
from core.azure.signin import current, prompt_to
from core.azure.workspace import Place, Registered, Workspace
from core.errors import Do, MachineError, RequestError
from core.events import Reporter
from core.folder import LabFolder
from core.language import told
from core.recipe import Recipe
from core.remote import wheel
from core.remote.jobfile import IMAGES, PYTHON, pinned, text_of
from core.telemetry import OFF
from core.upload.contents import Contents, Item
from core.upload.sender import Sender

DEFAULT_SIZE = "Standard_DS3_v2"
SCRIPT = "score.py"
_SCRIPT = Path(__file__).resolve().parents[1] / "serve" / SCRIPT  # it runs there, and is not imported here
SERVER = "azureml-inference-server-http"
QUESTION = "What should I see in Paris?"
REQUEST_S = 180
"""Seconds that a request may take; Azure allows no more."""


@dataclass(frozen=True)
class DeploymentRequest:
    """A deployment that somebody wants.

    Attributes:
        model: ``NAME``, ``NAME:VERSION``, or empty for what this lab registered last.
        traffic: of a hundred requests, so many go to it.
    """

    endpoint: str
    model: str = ""
    size: str = DEFAULT_SIZE
    count: int = 1
    traffic: int = 100


def _contents() -> Contents:
    """The code of the deployment: the scoring script, and this program."""
    files = {SCRIPT: _SCRIPT.read_bytes(), wheel.NAME: wheel.own_wheel()}
    return Contents(
        tuple(
            Item(name, len(data), hashlib.sha256(data).hexdigest(), data=data)
            for name, data in sorted(files.items())
        ),
        (),
    )


def _environment() -> dict[str, Any]:
    conda = {
        "name": "olivepress",
        "channels": ["conda-forge"],
        "dependencies": [f"python={PYTHON}", "pip", {"pip": [*pinned(), SERVER]}],
    }
    return {"image": IMAGES[False], "condaFile": text_of(conda), "osType": "Linux"}


def _model(workspace: Workspace, recipe: Recipe, wanted: str, lab: LabFolder) -> Registered:
    """The registered model that is meant.

    Raises:
        RequestError: nothing is registered under that name, or it was not made with OlivePress.
    """
    name, _, version = (wanted or recipe.upload.registered or recipe.upload.name).partition(":")
    found = workspace.model(name, version) if version else next(iter(workspace.versions(name)), None)
    if found is None:
        raise RequestError(
            told(
                "There is no model {name} in {subject}.",
                name=f"{name}:{version}" if version else name,
                subject=workspace.subject,
            ),
            told("What is deployed is a registered model."),
            told("Register this lab's: {upload}", upload=Do.of("upload", lab.root)),
            code="azure.model",
        )
    if not found.content:
        raise RequestError(
            told(
                "{name}:{version} was not registered by OlivePress.", name=found.name, version=found.version
            ),
            told("OlivePress's server reads what its own upload sends."),
            told("Register this lab's: {upload}", upload=Do.of("upload", lab.root)),
            code="endpoint.model",
        )
    return found


def deploy(
    lab: LabFolder,
    recipe: Recipe,
    wanted: DeploymentRequest,
    stop: Stop,
    report: Reporter,
    *,
    dry: bool = False,
) -> dict[str, Any]:
    """Make the endpoint and its deployment, see that it answers, and give it its traffic; or say what that would be.

    Every step finds what an earlier try has made, so that one that was stopped goes on.

    Raises:
        RequestError: the name or the model is wrong.
        MachineError: the size is not to be had.
        StageError: it did not come up, or does not answer.
    """
    if not NAME.fullmatch(wanted.endpoint):
        raise RequestError(
            told("That is no name for an endpoint."),
            told("{endpoint!r}.", endpoint=wanted.endpoint),
            told("Use letters, digits and dashes, beginning with a letter, 3 to 32 of them."),
            code="endpoint.name",
        )
    place = Place.of(recipe, lab.root)
    report.progress(told("signing in"), 0, None)
    credential = current(stop=stop, on_prompt=prompt_to(report)).credential
    workspace = Workspace(place, credential, stop=stop, say=report.log)
    endpoints = Endpoints(credential, place, stop, report)
    try:
        workspace.check()
        model = _model(workspace, recipe, wanted.model, lab)
        facts = _facts(endpoints, wanted, model)
        if dry:
            return {"dry_run": True, **facts}
        code = _send_code(workspace, recipe, stop, report)
        endpoints.make(wanted.endpoint)
        properties = {
            "endpointComputeType": "Managed",
            "model": model.id,
            "codeConfiguration": {
                "codeId": endpoints.asset("codes", "olivepress-server", {"codeUri": code}),
                "scoringScript": SCRIPT,
            },
            "environmentId": endpoints.asset("environments", "olivepress-server", _environment()),
            "environmentVariables": dict(OFF),
            "instanceType": facts["size"],
            "requestSettings": {
                "requestTimeout": f"PT{REQUEST_S}S",
                "maxConcurrentRequestsPerInstance": 4,
            },
            "livenessProbe": {"initialDelay": "PT600S", "period": "PT30S", "failureThreshold": 10},
            "readinessProbe": {"initialDelay": "PT30S", "period": "PT10S", "failureThreshold": 90},
        }
        report.log(
            f"Deploying {model.name}:{model.version} to {wanted.endpoint}; this takes about ten minutes."
        )
        endpoints.deploy(wanted.endpoint, properties, wanted.count)
        report.progress(told("a test request"), 0, None)
        answer = endpoints.ask(wanted.endpoint, QUESTION)
        report.progress(told("traffic"), 0, None)
        endpoints.traffic(wanted.endpoint, wanted.traffic)
        said = endpoints.get(wanted.endpoint) or {}
        return {
            **facts,
            "url": str((said.get("properties") or {}).get("scoringUri") or ""),
            "question": QUESTION,
            "answer": str(((answer["choices"][0] or {}).get("message") or {}).get("content") or ""),
        }
    finally:
        endpoints.close()
        workspace.close()


def _facts(endpoints: Endpoints, wanted: DeploymentRequest, model: Registered) -> dict[str, Any]:
    """What it would be and cost."""
    sizes = endpoints.computes.sizes()
    size = sizes.get(wanted.size.lower())
    if size is None and sizes:
        raise MachineError(
            told(
                "There is no size {size!r} in {location}.",
                size=wanted.size,
                location=endpoints.computes.location,
            ),
            told("Sizes there: {names}.", names=", ".join(each.name for each in list(sizes.values())[:8])),
            told("Choose another: --size."),
            code="azure.compute",
        )
    there = endpoints.get(wanted.endpoint)
    before = endpoints.get(wanted.endpoint, DEPLOYMENT) if there else None
    return {
        "endpoint": wanted.endpoint,
        "deployment": DEPLOYMENT,
        "there": there is not None,
        "replaces": str(((before or {}).get("properties") or {}).get("model") or "").rpartition("/models/")[
            2
        ],
        "model": f"{model.name}:{model.version}",
        "size": size.name if size else wanted.size,
        "count": wanted.count,
        "price_an_hour": None if size is None or size.price is None else size.price * wanted.count,
        "currency": size.currency if size else "",
        "traffic": wanted.traffic,
        "workspace": endpoints.place.workspace,
    }


def _send_code(workspace: Workspace, recipe: Recipe, stop: Stop, report: Reporter) -> str:
    """The scoring script and this program in the storage; their address."""
    store = workspace.default_datastore()
    container = workspace.container(store, recipe.upload.concurrency)
    contents = _contents()
    sender = Sender(
        container,
        contents.prefix,
        contents.items,
        concurrency=recipe.upload.concurrency,
        stop=stop,
        on_bytes=lambda done: report.progress(told("sending the server"), done, contents.total),
    )
    try:
        sender.plan()
        sender.send()
        sender.verify()
    finally:
        container.close()
    return f"{store.url}/{contents.prefix}"


def remove(lab: LabFolder, recipe: Recipe, name: str, stop: Stop, report: Reporter) -> dict[str, Any]:
    """Remove an endpoint with all that is deployed to it."""
    place = Place.of(recipe, lab.root)
    credential = current(stop=stop, on_prompt=prompt_to(report)).credential
    endpoints = Endpoints(credential, place, stop, report)
    try:
        return {"endpoint": name, "removed": endpoints.delete(name)}
    finally:
        endpoints.close()
