"""Models that come from Azure: ``azureml://`` addresses, what they name, and bringing it into a folder or a lab.

Files come in parts, several at once, go on where they stopped, and are verified. A file grows in a folder beside
the one that it is for, so that no name of a model's own can be in the way, with a journal of the ranges that are on
the disk and the blob's etag; a blob that has changed since begins anew. A file is whole when its SHA-256 (what
OlivePress wrote into the blob's metadata) or its MD5 (what the service keeps) agrees, and its size in any case.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from core.azure.rest import Rest, cloud, require_service, require_storage, segment
from core.azure.retry import Stop, cancellable, in_parallel
from core.azure.signin import current, prompt_to
from core.azure.storage import Access, Container, Found
from core.azure.workspace import ML, Place, Workspace
from core.errors import Do, LabError, RequestError, StageError
from core.events import Reporter
from core.files import explained, publish, read_if_whole, require_disk, write_atomic, write_json
from core.folder import RECIPE_NAME, REPORT_NAME, REPORT_PAGE_NAME, LabFolder
from core.formats import counted, human_bytes
from core.language import told
from core.recipe import OPTIONS, Recipe, parse_recipe, recipe_text
from core.text import clean

DISCOVERY = "https://{}/registrymanagement/v1.0/registries/{}/discovery"
REGISTRY_API = "2021-10-01-dataplanepreview"
WHOLE = "olivepress.download.json"
"""Stands in a folder of the cache once all of it is there and verified; says its files and their sizes."""
WORK = ".fetching"
"""The folder in the target where a fetch keeps what has come, until all of it has."""
TAKEN = ("data", "quantize", "finetune", "optimize", "chat")
"""The tables of a fetched ``lab.toml`` that are taken over."""
NOT_TAKEN = ("data.file", "quantize.calibration_file")
"""What of them is not: files of this machine."""
CONNECTIONS = 8
LARGEST_PART, SMALLEST_PART = 1 << 20, 1 << 16
"""Bytes that are asked for in one call. All connections together have 8 MiB on their way, which a kill loses."""
PART_S = 1.0
"""Seconds that a part should take."""
READ = 1 << 20

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
        told("This is not an address of a model in Azure ML."),
        told("{uri!r}.", uri=uri),
        told(
            "Write azureml://registries/REGISTRY/models/NAME/versions/VERSION, or "
            "azureml://subscriptions/ID/resourceGroups/GROUP/workspaces/WORKSPACE/models/NAME/versions/VERSION."
        ),
        code="azure.address",
    )


def download_model(uri: str, cache: Path, report: Reporter) -> Path:
    """See :func:`core.azure.download_model`."""
    address = parse(uri)
    folder = _folder(address, cache)
    if address.version != "latest" and _is_whole(folder):
        return folder

    def work(stop: Stop, relay: Reporter) -> Path:
        identity = current(stop=stop, on_prompt=prompt_to(relay))
        found, container, prefix = locate(address, identity.credential, stop, relay)
        folder = _folder(found, cache)
        if not _is_whole(folder):
            sizes = _receive(container, prefix, folder, stop, relay)
            write_json(folder / WHOLE, {"files": sizes})
            relay.log(
                f"Downloaded {counted(len(sizes), 'file')}, {human_bytes(sum(sizes.values()))}, to {folder}."
            )
        return folder

    with _told(folder):
        return cancellable(work, report)


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the cache has all that was brought, by the sizes."""
    said = read_if_whole(folder / WHOLE)
    sizes = said.get("files") if isinstance(said, dict) else None
    if not isinstance(sizes, dict):
        return False
    try:
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _receive(container: Container, prefix: str, folder: Path, stop: Stop, report: Reporter) -> dict[str, int]:
    """Bring all below a prefix into a folder; the sizes of the files."""
    try:
        receiver = Receiver(
            container,
            prefix,
            folder,
            stop=stop,
            on_bytes=lambda done, total: report.progress(told("download"), done, total),
            say=report.log,
        )
        return receiver.receive()
    finally:
        container.close()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the operating system refuses while files come, as an error for people."""
    try:
        with explained(folder):
            yield
    except OSError as error:
        raise StageError(
            told("A file of the model cannot be written here."),
            told(
                "{filename}: {strerror}.", filename=error.filename or folder, strerror=error.strerror or error
            ),
            told("Use a folder on another disk, or nearer to its root; what has come is kept."),
            code="fetch.file",
        ) from None


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
            told(
                "There is no model {name}:{version} in {subject}.",
                name=address.name,
                version=version,
                subject=workspace.subject,
            ),
            told("Versions there: {known}.", known=", ".join(known[:10]) or told("none")),
            told("See what is there: {models}", models=Do.of("models", "DIR", "--all")),
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
    subject = told("registry {registry}", registry=address.registry)
    try:
        where = rest.call("GET", DISCOVERY.format(cloud().discovery, segment(address.registry)), subject)
    except RequestError as error:
        raise RequestError(
            told("There is no registry {registry}, or you cannot see it.", registry=address.registry),
            error.detail,
            told("Check model.source."),
            code="azure.registry",
        ) from None
    base = str(where.get("primaryRegionResourceProviderUri") or "").rstrip("/")
    if not base.startswith("https://"):
        raise RequestError(
            told("The registry has no address."),
            told("{subject}.", subject=subject),
            told("Check model.source."),
            code="azure.registry",
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
            f"{root}/models/{name}/versions",
            told("model {name}", name=address.name),
            api_version=REGISTRY_API,
        )
        versions = [str(item.get("name", "")) for item in pages]
        version = max(
            versions, key=lambda text: (int(text) if text.isdigit() else -1, text), default="latest"
        )
    subject = told("model {name}:{version} of {subject}", name=address.name, version=version, subject=subject)
    try:
        model = rest.call(
            "GET", f"{root}/models/{name}/versions/{segment(version)}", subject, api_version=REGISTRY_API
        )
    except RequestError as error:
        raise RequestError(
            told(
                "There is no model {name}:{version} in registry {registry}.",
                name=address.name,
                version=version,
                registry=address.registry,
            ),
            error.detail,
            told("Check model.source."),
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
            told("The registry gives no place for this model's files."),
            told("{subject}.", subject=subject),
            told("Take another version."),
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


@dataclass
class _File:
    """A file that comes: ``missing`` are the ranges that nobody fetches yet, ``left`` the bytes not on the disk."""

    blob: Found
    target: Path
    part: Path
    missing: deque[tuple[int, int]]
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def journal(self) -> Path:
        return self.part.with_suffix(".ranges")


class Receiver:
    """Downloads the blobs below a prefix into a folder."""

    def __init__(
        self,
        container: Container,
        prefix: str,
        folder: Path,
        *,
        stop: Stop,
        on_bytes: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> None:
        """Receive what lies below a prefix.

        Args:
            prefix: of the blobs' names; what follows it is the path in the folder.
            on_bytes: gets the bytes that are there and their total.
            say: gets lines for people.
        """
        self._container, self._folder, self._stop = container, folder, stop
        self._parts = folder.with_name(f".{folder.name}.parts")
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._on_bytes, self._say = on_bytes, say
        self._lock = threading.Lock()
        self._files: list[_File] = []
        self._part_size = LARGEST_PART // 4
        self._done = 0
        self._total = 0

    def receive(self) -> dict[str, int]:
        """Bring everything; return the sizes of the files by their names.

        Raises:
            RequestError: there is nothing below the prefix, or a name would leave the folder or cannot be held.
            StageError: a file arrived damaged twice, or Azure failed.
        """
        found = self._container.listing(self._prefix)
        if not found:
            alone = self._prefix.rstrip("/")
            single = self._container.head(alone)
            if single is None:
                raise RequestError(
                    told("The model's files are gone from the storage."),
                    told("Nothing lies at {alone}.", alone=alone),
                    told("Take another version, or upload it again."),
                    code="fetch.gone",
                )
            found = {single.name: single}
            self._prefix = alone.rsplit("/", 1)[0] + "/" if "/" in alone else ""
        names = (name for name, blob in found.items() if blob.size or not name.endswith("/"))
        blobs = {safe_name(name.removeprefix(self._prefix)): found[name] for name in names}
        check_names(blobs, everywhere=False)
        self._total = sum(blob.size for blob in blobs.values())
        hint = told("Free some space, or use a folder on another disk.")
        require_disk(self._folder, self._total, hint)
        self._parts.mkdir(parents=True, exist_ok=True)
        for name, blob in sorted(blobs.items()):
            self._prepare(name, blob)
        in_parallel(
            self._step, CONNECTIONS, stop=self._stop, tick=lambda: self._on_bytes(self._done, self._total)
        )
        shutil.rmtree(self._parts, ignore_errors=True)
        return {name: blob.size for name, blob in blobs.items()}

    def _prepare(self, name: str, blob: Found) -> None:
        """See what of a file is missing."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = self._parts / (hashlib.sha256(name.encode()).hexdigest()[:24] + ".part")
        file = _File(blob, target, part, deque())
        if target.is_file() and target.stat().st_size == blob.size and not file.journal.exists():
            # Put in place only after it was verified, in this or an earlier run.
            self._done += blob.size
            return
        there: list[tuple[int, int]] = []
        with suppress(OSError, ValueError):
            first, *lines = file.journal.read_text().splitlines()
            if first == _stamp(blob) and part.stat().st_size == blob.size:
                there = sorted((int(a), int(b)) for a, b in (line.split() for line in lines))
        if not there:
            self._begin(file)
        else:
            file.missing.extend(_gaps(there, blob.size))
            file.left = sum(end - start for start, end in file.missing)
        self._done += blob.size - file.left
        self._files.append(file)

    def _begin(self, file: _File) -> None:
        size = file.blob.size
        with file.part.open("wb") as stream:
            stream.truncate(size)
        file.journal.write_text(_stamp(file.blob) + "\n")
        file.left = size
        file.missing.extend([(0, size)] if size else [])

    def _step(self) -> bool:
        with self._lock:
            if not self._files:
                return False
            file = self._files[0]
            if file.missing:
                start, end = file.missing.popleft()
                cut = min(end, start + self._part_size)
                if cut < end:
                    file.missing.appendleft((cut, end))
            else:
                start = cut = 0
            if not file.missing:
                self._files.pop(0)
        if cut == start or self._fetch(file, start, cut):
            self._finish(file)
        return True

    def _fetch(self, file: _File, start: int, end: int) -> bool:
        """Bring a range onto the disk, in parts that grow shorter when the line breaks; whether it was the last."""
        last = False
        while start < end:
            data = self._part(file, start, end)
            with file.part.open("r+b", buffering=0) as stream:
                stream.seek(start)
                stream.write(data)
                os.fdatasync(stream.fileno()) if hasattr(os, "fdatasync") else os.fsync(stream.fileno())
            with file.lock:
                with file.journal.open("a") as journal:
                    journal.write(f"{start} {start + len(data)}\n")
                start += len(data)
                file.left -= len(data)
                last = not file.left
            self._count(len(data))
        return last

    def _part(self, file: _File, start: int, end: int) -> bytes:
        from azure.core import MatchConditions
        from azure.core.exceptions import AzureError, ServiceResponseError

        client = self._container.client.get_blob_client(file.blob.name)
        options: dict[str, Any] = {}
        if file.blob.etag:
            options = {"etag": f'"{file.blob.etag}"', "match_condition": MatchConditions.IfNotModified}
        length = end - start

        def get() -> bytes:
            nonlocal length
            began = time.monotonic()
            try:
                data = client.download_blob(
                    offset=start, length=length, max_concurrency=1, **options
                ).readall()
                if len(data) != length:
                    raise ServiceResponseError(f"{len(data)} of {length} bytes of a part came.")
            except AzureError:
                self._part_size = length = (
                    max(SMALLEST_PART, length // 2) if length > SMALLEST_PART else length
                )
                raise
            rate = length / max(1e-3, time.monotonic() - began)
            self._part_size = int(min(LARGEST_PART, max(SMALLEST_PART, rate * PART_S)))
            return bytes(data)

        return self._container.call(get, file.target.name)

    def _finish(self, file: _File) -> None:
        """Verify a file and put it in its place; fetch it once more when it is damaged."""
        if not self._agrees(file):
            self._say(f"{file.target.name} arrived damaged; fetching it again.")
            self._count(-file.blob.size)
            self._begin(file)
            file.missing.clear()
            for start in range(0, file.blob.size, LARGEST_PART):
                self._fetch(file, start, min(start + LARGEST_PART, file.blob.size))
            if not self._agrees(file):
                raise StageError(
                    told("A file arrived damaged twice."),
                    told("{name}: its content is not what was uploaded.", name=file.target.name),
                    told("Take another version of the model, or have it uploaded again."),
                    code="fetch.damaged",
                )
        os.replace(file.part, file.target)
        file.journal.unlink(missing_ok=True)

    def _agrees(self, file: _File) -> bool:
        blob = file.blob
        if file.part.stat().st_size != blob.size:
            return False
        if blob.sha256:
            return bool(_hash(file.part, "sha256", self._stop).hexdigest() == blob.sha256)
        if blob.md5:
            return bool(_hash(file.part, "md5", self._stop).digest() == blob.md5)
        return True

    def _count(self, number: int) -> None:
        with self._lock:
            self._done += number


def _stamp(blob: Found) -> str:
    return f"{blob.etag} {blob.size}"


def _gaps(there: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """What the sorted ranges leave out of a file."""
    gaps, at = [], 0
    for start, end in [*there, (size, size)]:
        if start > at:
            gaps.append((at, start))
        at = max(at, end)
    return gaps


def _hash(path: Path, algorithm: str, stop: Stop) -> Any:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(READ):
            stop.check()
            digest.update(data)
    return digest


def safe_name(name: str) -> str:
    """A blob's name as a path below a folder.

    Raises:
        RequestError: it would lead out of the folder.
    """
    path = PurePosixPath(name)
    bad = (
        path.is_absolute()
        or path.as_posix() != name  # such as a//b, which a/b is written over
        or ".." in path.parts
        or not path.parts
        or "\\" in name
        or "\0" in name
        or ":" in name
    )
    if bad:
        raise RequestError(
            told("The model has a file that would be written outside its folder."),
            told("{name!r}.", name=name),
            told("Do not use this model; tell its owner."),
            code="fetch.outside",
        )
    return path.as_posix()


_NOWHERE_ELSE = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
"""What the name of a file or folder cannot have on Windows."""
LONGEST_NAME, LONGEST_PATH = 255, 900
"""Bytes of a name on any system, and of a path below the storage's own (1024)."""


def check_names(names: Iterable[str], *, everywhere: bool = True) -> None:
    """Refuse files that a folder of another system cannot hold.

    Args:
        everywhere: on any system, not only on those like this one.

    Raises:
        RequestError: with the name and why.
    """
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        same = unicodedata.normalize("NFC", name).casefold() if everywhere else name
        why = ""
        if any(len(part.encode()) > LONGEST_NAME for part in parts) or len(name.encode()) > LONGEST_PATH:
            why = told("too long a name")
        elif everywhere and any(_NOWHERE_ELSE.search(part) for part in parts):
            why = told("a character or name that Windows does not take")
        elif same in seen:
            why = told("the same as {seen!r} where capitals do not count", seen=seen[same])
        seen[same] = name
        if why:
            raise _not_held(name, why)
    for same, name in seen.items():
        for folder in PurePosixPath(same).parents:
            if folder.as_posix() in seen:
                raise _not_held(
                    name, told("{seen!r} is a file and not a folder", seen=seen[folder.as_posix()])
                )


def _not_held(name: str, why: str) -> RequestError:
    return RequestError(
        told("A file of the model has a name that not every system can hold."),
        told("{name!r}: {why}.", name=name[:120], why=why),
        told("Rename the file where the model is made."),
        code="model.file-name",
    )


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
    with _told(target):
        sizes = _receive(container, prefix, work, stop, report)
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
            told("A file is in the way."),
            told("{target} is not a folder.", target=target),
            told("Name another folder."),
            code="lab.file",
        )
    # A fetch that was stopped while it put things in place has left some of its own.
    ours = {WORK, RECIPE_NAME, REPORT_NAME, "models"} if (target / WORK).is_dir() else set()
    others = [path.name for path in target.iterdir() if path.name not in ours] if target.is_dir() else []
    if others:
        raise RequestError(
            told("The folder is not empty."),
            told("{target} has {others}.", target=target, others=min(others)),
            told("Name a new or an empty folder."),
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
        # A page from elsewhere could do in a browser what ours does not; the next stage writes ours anew.
        (work / REPORT_PAGE_NAME).unlink(missing_ok=True)
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
