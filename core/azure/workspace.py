"""A workspace as OlivePress uses it: its storage, its registered models, and registering one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.azure.arm import Rest
from core.azure.clouds import cloud, segment, storage_url
from core.azure.find import ML
from core.azure.patience import Stop, patience, patiently
from core.azure.storage import Access, Container
from core.errors import LabError, MachineError, RequestError
from core.recipe import Recipe
from core.text import command

MODELS_API = "2023-08-01-preview"
STORES_API = "2024-10-01-preview"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
"""What Azure ML takes as a model's name or version."""


@dataclass(frozen=True)
class Place:
    """Which workspace."""

    subscription: str
    resource_group: str
    workspace: str

    @classmethod
    def of(cls, recipe: Recipe, lab: Path) -> Place:
        """The workspace that the recipe of the lab in this folder names.

        Raises:
            RequestError: it names none.
        """
        upload = recipe.upload
        missing = [
            key for key in ("subscription", "resource_group", "workspace") if not getattr(upload, key).strip()
        ]
        if missing:
            raise RequestError(
                "No workspace is chosen.",
                "lab.toml has no upload." + ", upload.".join(missing) + ".",
                "Choose one: " + command("workspaces", lab, "--use", "NAME"),
                code="azure.workspace",
            )
        return cls(upload.subscription.strip(), upload.resource_group.strip(), upload.workspace.strip())

    @property
    def path(self) -> str:
        """Its Resource Manager path."""
        return (
            f"/subscriptions/{segment(self.subscription)}/resourceGroups/{segment(self.resource_group)}"
            f"/providers/{ML}/workspaces/{segment(self.workspace)}"
        )

    @property
    def uri(self) -> str:
        """Its address as Azure ML writes it."""
        return (
            f"azureml://subscriptions/{self.subscription}/resourcegroups/{self.resource_group}"
            f"/workspaces/{self.workspace}"
        )

    def page(self, name: str, version: str) -> str:
        """The link to a model's page in Azure ML studio."""
        return f"https://{cloud().studio}/model/{segment(name)}:{segment(version)}/details?wsid={quote(self.path)}"


@dataclass(frozen=True)
class Datastore:
    """A blob datastore of a workspace."""

    name: str
    account: str
    container: str
    endpoint: str
    credentials: str

    @property
    def url(self) -> str:
        """The container's address."""
        return storage_url(self.account, self.endpoint, self.container, f"datastore {self.name}")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    id: str
    name: str
    version: str
    uri: str
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def content(self) -> str:
        """OlivePress's digest of what it holds, or empty for a model of other origin."""
        return self.properties.get("olivepress.content", "")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "uri": self.uri,
            "created": self.created,
            "tags": self.tags,
            "properties": self.properties,
        }


class Workspace:
    """The calls on one workspace. Each raises LabError, explained."""

    def __init__(
        self,
        place: Place,
        credential: Any,
        *,
        stop: Stop | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.place = place
        self.subject = f"workspace {place.workspace}"
        self._credential, self._stop, self._say = credential, stop or Stop(), say
        self._rest = Rest(credential, self._stop, say)

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()

    def check(self) -> None:
        """Make sure that it is there and may be read."""
        self._rest.call("GET", self.place.path, self.subject, api_version=STORES_API)

    def default_datastore(self) -> Datastore:
        """Where uploads go: the workspace's default datastore.

        Raises:
            MachineError: it is not one of blobs.
        """
        query = {"api_version": STORES_API, "isDefault": "true", "count": "30", "orderByAsc": "false"}
        items = list(
            self._rest.pages(self.place.path + "/datastores", f"datastores of {self.subject}", **query)
        )
        chosen = next((item for item in items if item.get("properties", {}).get("isDefault")), None)
        if chosen is None:
            return self.datastore("workspaceblobstore")
        return self._datastore(chosen)

    def datastore(self, name: str) -> Datastore:
        """A datastore by name."""
        url = f"{self.place.path}/datastores/{segment(name)}"
        return self._datastore(self._rest.call("GET", url, f"datastore {name}", api_version=STORES_API))

    def _datastore(self, item: dict[str, Any]) -> Datastore:
        said = item.get("properties") or {}
        name = str(item.get("name", ""))
        if said.get("datastoreType") != "AzureBlob" or not said.get("accountName"):
            raise MachineError(
                "The workspace's default datastore does not hold blobs.",
                f"{name} of {self.subject} is of type {said.get('datastoreType') or 'unknown'}.",
                "Make a blob datastore the workspace's default, or choose another workspace.",
                code="azure.datastore",
            )
        return Datastore(
            name,
            str(said["accountName"]),
            str(said["containerName"]),
            str(said.get("endpoint") or cloud().storage),
            str((said.get("credentials") or {}).get("credentialsType") or "None"),
        )

    def access(self, store: Datastore) -> Access:
        """The right to a datastore's container: a signature, a key, or the user's own.

        Without the right to the datastore's secrets the user's own right to the storage is tried.
        """
        if store.credentials == "None":
            return Access("user")
        url = f"{self.place.path}/datastores/{segment(store.name)}/listSecrets"
        body = {"expirableSecret": True, "expireAfterHours": 1}
        try:
            answer = self._rest.call(
                "POST", url, f"access to datastore {store.name}", body=body, api_version=STORES_API
            )
        except MachineError as refused:
            if refused.code != "azure.right":
                raise
            return Access("user")
        if answer.get("sasToken"):
            return Access("sas", str(answer["sasToken"]).lstrip("?"))
        if answer.get("key"):
            return Access("key", str(answer["key"]))
        return Access("user")

    def container(self, store: Datastore, connections: int = 16) -> Container:
        """The container of a datastore."""
        return Container(
            store.url,
            lambda: self.access(store),
            self._credential,
            subject=f"storage {store.account}",
            stop=self._stop,
            say=self._say,
            connections=connections,
        )

    def model(self, name: str, version: str) -> Registered | None:
        """A version of a model, or None if there is no such one."""
        url = f"{self.place.path}/models/{segment(name)}/versions/{segment(version)}"
        try:
            item = self._rest.call("GET", url, f"model {name}:{version}", api_version=MODELS_API)
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            return None
        return _registered(name, item)

    def versions(self, name: str) -> list[Registered]:
        """Every version of a model, the newest first; none if there is no such model."""
        url = f"{self.place.path}/models/{segment(name)}/versions"
        query = {"api_version": MODELS_API, "$orderBy": "createdtime desc"}
        try:
            found = [_registered(name, item) for item in self._rest.pages(url, f"model {name}", **query)]
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            return []
        return sorted(found, key=lambda model: (_number(model.version), model.created), reverse=True)

    def names(self) -> Iterator[str]:
        """The names of all models."""
        for item in self._rest.pages(
            self.place.path + "/models", f"models of {self.subject}", api_version=MODELS_API
        ):
            yield str(item.get("name", ""))

    def next_version(self, name: str, seen: list[Registered]) -> str:
        """The next free version: one above the highest number, also of versions archived or deleted."""
        highest = max((_number(model.version) for model in seen), default=0)
        try:
            url = f"{self.place.path}/models/{segment(name)}"
            answer = self._rest.call("GET", url, f"model {name}", api_version=MODELS_API)
            said = str((answer.get("properties") or {}).get("nextVersion") or "")
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            said = ""
        return str(max(highest + 1, int(said) if said.isdigit() else 1))

    def may_register(self) -> str:
        """``yes`` where the user may register a model, ``unknown`` where Azure does not tell.

        Raises:
            MachineError: the user may not.
        """
        url = f"{self.place.path}/providers/Microsoft.Authorization/permissions"
        try:
            granted = list(self._rest.pages(url, f"rights on {self.subject}", api_version="2022-04-01"))
        except LabError:
            return "unknown"
        wanted = f"{ML}/workspaces/models/write"
        for grant in granted:
            if _covers(grant.get("actions"), wanted) and not _covers(grant.get("notActions"), wanted):
                return "yes"
        raise MachineError(
            "You have no right to register a model in the workspace.",
            f"{self.subject}: no role of yours allows {wanted}.",
            "Ask for the role AzureML Data Scientist on it.",
            code="azure.right",
        )

    def register(
        self, name: str, version: str, path: str, tags: dict[str, str], properties: dict[str, str], text: str
    ) -> Registered:
        """Register what lies at ``path`` (``azureml://datastores/…``) through azure-ai-ml.

        Raises:
            VersionTaken: somebody else has registered that version in between.
        """
        from azure.ai.ml import MLClient
        from azure.ai.ml.entities import Model
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import HttpResponseError

        limit = patience()
        client = MLClient(
            self._credential,
            self.place.subscription,
            self.place.resource_group,
            self.place.workspace,
            enable_telemetry=False,
            cloud=cloud().sdk,
            retry_total=0,
            connection_timeout=min(20.0, limit),
            read_timeout=min(60.0, limit),
        )
        model = Model(
            name=name,
            version=version,
            path=path,
            type="custom_model",
            tags=tags,
            properties=properties,
            description=text,
        )
        try:
            made = patiently(
                lambda: client.models.create_or_update(model), self.subject, stop=self._stop, say=self._say
            )
        except (LabError, MlException, HttpResponseError) as error:
            there = self.model(name, version)
            if there is not None and there.content == properties.get("olivepress.content"):
                return there  # the answer was lost, not the work
            if there is not None:
                raise VersionTaken(name, version) from None
            if isinstance(error, LabError):
                raise
            from core.azure.errors import explain

            raise explain(error, self.subject) from None
        created = getattr(made.creation_context, "created_at", None)
        return Registered(
            str(made.id),
            str(made.name),
            str(made.version),
            str(made.path),
            {str(key): str(value) for key, value in (made.tags or {}).items()},
            {str(key): str(value) for key, value in (made.properties or {}).items()},
            created.isoformat() if created else "",
        )


class VersionTaken(RequestError):
    """The version exists already with other content."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            f"Version {version} of {name} exists already, with other content.",
            "A registered version is not changed.",
            'Set upload.version to "" to take the next free one, or upload.name to another name.',
            code="azure.version-taken",
        )


def check_name(kind: str, text: str) -> None:
    """Refuse a name or version that Azure ML does not take.

    Raises:
        RequestError: with what is allowed.
    """
    if not NAME.fullmatch(text):
        raise RequestError(
            f"upload.{kind} is not a {kind} that Azure ML takes.",
            f"lab.toml: {kind} = {text!r}.",
            "Use letters, digits, dash, underscore and dot, beginning with a letter or digit, up to 255.",
            code="recipe.value",
        )


def _registered(name: str, item: dict[str, Any]) -> Registered:
    said = item.get("properties") or {}
    return Registered(
        str(item.get("id", "")),
        name,
        str(item.get("name", "")),
        str(said.get("modelUri") or ""),
        {str(k): str(v) for k, v in (said.get("tags") or {}).items()},
        {str(k): str(v) for k, v in (said.get("properties") or {}).items()},
        str((item.get("systemData") or {}).get("createdAt") or ""),
    )


def _covers(patterns: Any, action: str) -> bool:
    """Whether one of a role's action patterns (``*`` stands for anything) fits."""
    return any(fnmatchcase(action.lower(), str(pattern).lower()) for pattern in patterns or ())


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0
