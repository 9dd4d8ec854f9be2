"""``azureml://`` addresses: what they name, and bringing it into the cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from core.azure.arm import Rest
from core.azure.clouds import cloud, require_service, require_storage, segment
from core.azure.find import ML
from core.azure.patience import Stop, cancellable
from core.azure.receiver import Receiver
from core.azure.storage import Access, Container
from core.azure.workspace import Place, Workspace
from core.errors import RequestError
from core.events import Reporter
from core.files import read_if_whole, write_json
from core.formats import human_bytes

DISCOVERY = "https://{}/registrymanagement/v1.0/registries/{}/discovery"
REGISTRY_API = "2021-10-01-dataplanepreview"
WHOLE = "olivepress.download.json"
"""Stands in a folder of the cache once all of it is there and verified."""

_REGISTRY = re.compile(
    r"azureml://registries/([^/]+)/models/([^/]+)/(versions|labels)/([^/]+)/?", re.IGNORECASE
)
_WORKSPACE = re.compile(
    r"(?:azureml://|/)subscriptions/([^/]+)/resourcegroups/([^/]+)"
    r"/(?:providers/Microsoft\.MachineLearningServices/)?workspaces/([^/]+)/(.+?)/?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Address:
    """What an address names.

    Attributes:
        registry: the registry's name, or empty for a workspace.
        place: the workspace, or None for a registry.
        name, version: of the model; ``latest`` is a version too. Empty for a path.
        datastore, path: of a folder in a datastore, instead of a model.
    """

    registry: str = ""
    place: Place | None = None
    name: str = ""
    version: str = ""
    datastore: str = ""
    path: str = ""


def parse(uri: str) -> Address:
    """What an ``azureml://`` address (or a model's id) names.

    Raises:
        RequestError: it is not one.
    """
    text = unquote(uri.strip())
    match = _REGISTRY.fullmatch(text)
    if match:
        registry, name, _, version = match.groups()
        return Address(registry=registry, name=name, version=version)
    match = _WORKSPACE.fullmatch(text)
    if match:
        place = Place(*match.groups()[:3])
        model = re.fullmatch(r"models/([^/]+)/(?:versions|labels)/([^/]+)", match.group(4), re.IGNORECASE)
        if model:
            return Address(place=place, name=model.group(1), version=model.group(2))
        folder = re.fullmatch(r"datastores/([^/]+)/paths/(.+)", match.group(4), re.IGNORECASE)
        if folder and ".." not in folder.group(2).split("/"):
            return Address(place=place, datastore=folder.group(1), path=folder.group(2))
    raise RequestError(
        "This is not an address of a model in Azure ML.",
        f"{uri!r}.",
        "Write azureml://registries/REGISTRY/models/NAME/versions/VERSION, or "
        "azureml://subscriptions/ID/resourceGroups/GROUP/workspaces/WORKSPACE/models/NAME/versions/VERSION.",
        code="azure.address",
    )


def download_model(uri: str, cache: Path, report: Reporter) -> Path:
    """See :func:`core.azure.download_model`."""
    address = parse(uri)
    folder = _folder(address, cache)
    if address.version != "latest" and read_if_whole(folder / WHOLE):
        return folder

    def work(stop: Stop, relay: Reporter) -> Path:
        from core.azure.signin import current

        identity = current(stop=stop, on_prompt=prompt_to(relay))
        return fetch(address, cache, relay, identity.credential, stop)

    return cancellable(work, report)


def prompt_to(report: Reporter) -> Callable[[Any], None]:
    """Shows a device code as a log line of a job."""

    def show(prompt: Any) -> None:
        report.log(
            f"To sign in to Azure, open {prompt.uri} in any browser and enter {prompt.code} "
            f"before {prompt.expires.astimezone():%H:%M}.",
            "warning",
        )

    return show


def fetch(address: Address, cache: Path, report: Reporter, credential: Any, stop: Stop) -> Path:
    """Bring what an address names into the cache, or find it there. Raises as :func:`download_model`."""
    address, container, prefix = locate(address, credential, stop, report)
    folder = _folder(address, cache)
    if read_if_whole(folder / WHOLE):
        return folder
    try:
        receiver = Receiver(
            container,
            prefix,
            folder,
            stop=stop,
            on_bytes=lambda done, total: report.progress("download", done, total),
            say=report.log,
        )
        sizes = receiver.receive()
    finally:
        container.close()
    write_json(folder / WHOLE, {"files": sizes})
    report.log(f"Downloaded {len(sizes)} files, {human_bytes(sum(sizes.values()))}, to {folder}.")
    return folder


def locate(address: Address, credential: Any, stop: Stop, report: Reporter) -> tuple[Address, Container, str]:
    """The container and the prefix where a model's files lie, and its address with the version found."""
    if address.place is None:
        return _in_registry(address, credential, stop, report)
    workspace = Workspace(address.place, credential, stop=stop, say=report.log)
    if address.datastore:
        store = workspace.datastore(address.datastore)
        return address, workspace.container(store), address.path
    version = address.version
    if version == "latest":
        versions = workspace.versions(address.name)
        version = versions[0].version if versions else version
    model = workspace.model(address.name, version)
    if model is None:
        known = [item.version for item in workspace.versions(address.name)]
        raise RequestError(
            f"There is no model {address.name}:{version} in {workspace.subject}.",
            f"Versions there: {', '.join(known[:10]) or 'none'}.",
            "See what is there: olivepress models DIR --all",
            code="azure.model",
        )
    where = parse(model.uri)
    store = workspace.datastore(where.datastore)
    found = Address(place=address.place, name=address.name, version=version)
    return found, workspace.container(store), where.path


def _in_registry(
    address: Address, credential: Any, stop: Stop, report: Reporter
) -> tuple[Address, Container, str]:
    rest = Rest(credential, stop, report.log)
    subject = f"registry {address.registry}"
    try:
        where = rest.call("GET", DISCOVERY.format(cloud().discovery, segment(address.registry)), subject)
    except RequestError as error:
        raise RequestError(
            f"There is no registry {address.registry}, or you cannot see it.",
            error.detail,
            "Check model.source.",
            code="azure.registry",
        ) from None
    base = str(where.get("primaryRegionResourceProviderUri") or "").rstrip("/")
    if not base.startswith("https://"):
        raise RequestError(
            "The registry has no address.", f"{subject}.", "Check model.source.", code="azure.registry"
        )
    require_service(base, subject)
    root = (
        f"{base}/mferp/managementfrontend/subscriptions/{segment(str(where.get('subscriptionId') or ''))}"
        f"/resourceGroups/{segment(str(where.get('resourceGroup') or ''))}"
        f"/providers/{ML}/registries/{segment(address.registry)}"
    )
    name, version = segment(address.name), address.version
    if version == "latest":
        pages = rest.pages(
            f"{root}/models/{name}/versions", f"model {address.name}", api_version=REGISTRY_API
        )
        versions = [str(item.get("name", "")) for item in pages]
        version = max(
            versions, key=lambda text: (int(text) if text.isdigit() else -1, text), default="latest"
        )
    subject = f"model {address.name}:{version} of {subject}"
    try:
        model = rest.call(
            "GET", f"{root}/models/{name}/versions/{segment(version)}", subject, api_version=REGISTRY_API
        )
    except RequestError as error:
        raise RequestError(
            f"There is no model {address.name}:{version} in registry {address.registry}.",
            error.detail,
            "Check model.source.",
            code="azure.model",
        ) from None
    uri = str((model.get("properties") or {}).get("modelUri") or "")
    container_url, prefix = _split(uri, subject)
    asset = f"azureml://registries/{address.registry}/models/{address.name}/versions/{version}"

    def ask() -> Access:
        body = {"assetId": asset, "blobUri": uri}
        url = f"{root}/datarefs/{name}/versions/{segment(version)}"
        answer = rest.call("POST", url, subject, body=body, api_version=REGISTRY_API)
        credentials = (answer.get("blobReferenceForConsumption") or {}).get("credential") or {}
        signature = urlsplit(str(credentials.get("sasUri") or "")).query
        return Access("sas", signature) if signature else Access("none")

    container = Container(container_url, ask, None, subject=subject, stop=stop, say=report.log)
    return Address(registry=address.registry, name=address.name, version=version), container, prefix


def _split(uri: str, subject: str) -> tuple[str, str]:
    """A blob folder's address as its container's and the path in it."""
    parts = urlsplit(uri)
    container, _, prefix = parts.path.lstrip("/").partition("/")
    if parts.scheme != "https" or not container:
        raise RequestError(
            "The registry gives no place for this model's files.",
            f"{subject}.",
            "Take another version.",
            code="azure.registry",
        )
    return require_storage(f"https://{parts.netloc}/{container}", subject), unquote(prefix)


def _folder(address: Address, cache: Path) -> Path:
    """Where an address is kept below the cache; different things never share a folder."""
    if address.registry:
        parts = ["registries", address.registry, address.name, address.version]
    else:
        assert address.place is not None
        place = address.place
        parts = ["workspaces", place.subscription, place.resource_group.lower(), place.workspace.lower()]
        if address.datastore:
            parts += ["paths", address.datastore, *address.path.split("/")]
        else:
            parts += ["models", address.name, address.version]
    return cache.joinpath(
        "azureml", *(quote(part, safe=" ") if part not in (".", "..") else "_" for part in parts)
    )
