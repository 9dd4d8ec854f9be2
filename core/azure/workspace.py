"""A workspace: finding it, its storage, its registered models, and registering one.

Azure Resource Graph lists the workspaces of all subscriptions at once. Where it is not allowed or
not there, subscriptions are listed and each is asked for its workspaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.azure.errors import TENANT
from core.azure.rest import Rest, cloud, segment, storage_url
from core.azure.retry import Stop, retried
from core.azure.signin import current, prompt_to
from core.azure.storage import Access, Container
from core.errors import Do, LabError, MachineError, RequestError, StageError
from core.events import Reporter
from core.formats import some
from core.language import told
from core.recipe import Recipe, write_values

ML = "Microsoft.MachineLearningServices"
MODELS_API = "2023-08-01-preview"
STORES_API = "2024-10-01-preview"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
"""What Azure ML takes as a model's name or version."""
QUERY = (
    "resources | where type =~ 'microsoft.machinelearningservices/workspaces' "
    "| project name, resourceGroup, subscriptionId, location, tenantId | order by name asc"
)


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
                told("No workspace is chosen."),
                told("lab.toml has no {keys}.", keys=", ".join(f"upload.{key}" for key in missing)),
                told("Choose one: {workspaces}", workspaces=Do.of("workspaces", lab, "--use", "NAME")),
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
        return storage_url(
            self.account, self.endpoint, self.container, told("datastore {name}", name=self.name)
        )


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
    description: str = ""

    @property
    def content(self) -> str:
        """OlivePress's digest of what it holds, or empty for a model of other origin."""
        return self.properties.get("olivepress.content", "")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


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
        self.subject = told("workspace {workspace}", workspace=place.workspace)
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
            self._rest.pages(
                self.place.path + "/datastores",
                told("datastores of {subject}", subject=self.subject),
                **query,
            )
        )
        chosen = next((item for item in items if item.get("properties", {}).get("isDefault")), None)
        if chosen is None:
            return self.datastore("workspaceblobstore")
        return self._datastore(chosen)

    def datastore(self, name: str) -> Datastore:
        """A datastore by name."""
        url = f"{self.place.path}/datastores/{segment(name)}"
        return self._datastore(
            self._rest.call("GET", url, told("datastore {name}", name=name), api_version=STORES_API)
        )

    def _datastore(self, item: dict[str, Any]) -> Datastore:
        said = item.get("properties") or {}
        name = str(item.get("name", ""))
        if said.get("datastoreType") != "AzureBlob" or not said.get("accountName"):
            raise MachineError(
                told("The workspace's default datastore does not hold blobs."),
                told(
                    "{name} of {subject} is of type {datastoretype}.",
                    name=name,
                    subject=self.subject,
                    datastoretype=said.get("datastoreType") or told("unknown"),
                ),
                told("Make a blob datastore the workspace's default, or choose another workspace."),
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
                "POST",
                url,
                told("access to datastore {name}", name=store.name),
                body=body,
                api_version=STORES_API,
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
            subject=told("storage {account}", account=store.account),
            stop=self._stop,
            say=self._say,
            connections=connections,
        )

    def model(self, name: str, version: str) -> Registered | None:
        """A version of a model, or None if there is no such one."""
        item = self._or_none(
            f"models/{segment(name)}/versions/{segment(version)}",
            told("model {name}:{version}", name=name, version=version),
        )
        return None if item is None else _registered(name, item)

    def versions(self, name: str) -> list[Registered]:
        """Every version of a model, the newest first; none if there is no such model."""
        url = f"{self.place.path}/models/{segment(name)}/versions"
        query = {"api_version": MODELS_API, "$orderBy": "createdtime desc"}
        try:
            found = [
                _registered(name, item)
                for item in self._rest.pages(url, told("model {name}", name=name), **query)
            ]
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            return []
        return sorted(found, key=lambda model: (_number(model.version), model.created), reverse=True)

    def names(self) -> Iterator[str]:
        """The names of all models."""
        url, subject = self.place.path + "/models", told("models of {subject}", subject=self.subject)
        return (str(item.get("name", "")) for item in self._rest.pages(url, subject, api_version=MODELS_API))

    def next_version(self, name: str, seen: list[Registered]) -> str:
        """The next free version: one above the highest number, also of versions archived or deleted."""
        highest = max((_number(model.version) for model in seen), default=0)
        answer = self._or_none(f"models/{segment(name)}", told("model {name}", name=name)) or {}
        said = str((answer.get("properties") or {}).get("nextVersion") or "")
        return str(max(highest + 1, _number(said)))

    def _or_none(self, path: str, subject: str) -> dict[str, Any] | None:
        """What the workspace has at a path, or None if there is no such thing."""
        try:
            found: dict[str, Any] = self._rest.call(
                "GET", f"{self.place.path}/{path}", subject, api_version=MODELS_API
            )
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            return None
        return found

    def may_register(self) -> str:
        """``yes`` where the user may register a model, ``unknown`` where Azure does not tell.

        Raises:
            MachineError: the user may not.
        """
        url = f"{self.place.path}/providers/Microsoft.Authorization/permissions"
        try:
            granted = list(
                self._rest.pages(
                    url, told("rights on {subject}", subject=self.subject), api_version="2022-04-01"
                )
            )
        except LabError:
            return "unknown"
        wanted = f"{ML}/workspaces/models/write"
        for grant in granted:
            if _covers(grant.get("actions"), wanted) and not _covers(grant.get("notActions"), wanted):
                return "yes"
        raise MachineError(
            told("You have no right to register a model in the workspace."),
            told("{subject}: no role of yours allows {wanted}.", subject=self.subject, wanted=wanted),
            told("Ask for the role AzureML Data Scientist on it."),
            code="azure.right",
        )

    def register(
        self,
        name: str,
        version: str,
        path: str,
        tags: dict[str, str],
        properties: dict[str, str],
        text: str,
        *,
        again: bool = False,
    ) -> Registered:
        """Register what lies at ``path`` (``azureml://datastores/…``) through azure-ai-ml.

        Args:
            again: the version is there, with this content; its tags and description become these.

        Raises:
            VersionTaken: somebody else has registered that version in between.
        """
        from azure.ai.ml import MLClient
        from azure.ai.ml.entities import Model
        from azure.ai.ml.exceptions import MlException

        from core.azure.errors import explain
        from core.azure.transport import Transport

        client = MLClient(
            self._credential,
            self.place.subscription,
            self.place.resource_group,
            self.place.workspace,
            enable_telemetry=False,
            cloud=cloud().sdk,
            retry_total=0,
            transport=Transport(self._stop),
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
        failed: LabError | None = None
        try:
            retried(
                lambda: client.models.create_or_update(model), self.subject, stop=self._stop, say=self._say
            )
        except (LabError, MlException) as error:
            failed = explain(error, self.subject)
        if failed is not None and again:
            raise failed
        # As Azure has it; and an answer that was lost was not the work.
        there = self.model(name, version)
        if there is None:
            raise failed or StageError(
                told("The model is not registered."),
                told(
                    "{subject} took {name}:{version}, and does not have it.",
                    subject=self.subject,
                    name=name,
                    version=version,
                ),
                told("Run the upload again; nothing is sent twice."),
                code="azure.answer",
            )
        if failed is not None and there.content != properties.get("olivepress.content"):
            raise VersionTaken(name, version)
        return there


class VersionTaken(RequestError):
    """The version exists already with other content."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(
            told(
                "Version {version} of {name} exists already, with other content.", version=version, name=name
            ),
            told("A registered version is not changed."),
            told('Set upload.version to "" to take the next free one, or upload.name to another name.'),
            code="azure.version-taken",
        )


def check_name(kind: str, text: str) -> None:
    """Refuse a name or version that Azure ML does not take.

    Raises:
        RequestError: with what is allowed.
    """
    # ``latest`` is what Azure ML calls the newest: as a version's own name, nobody could ask for it.
    if not NAME.fullmatch(text) or (kind == "version" and text.lower() == "latest"):
        raise RequestError(
            told("upload.{kind} is not a {kind} that Azure ML takes.", kind=kind),
            told("lab.toml: {kind} = {value!r}.", kind=kind, value=text),
            told(
                "Use letters, digits, dash, underscore and dot, beginning with a letter or digit, up to "
                "255; and no version called latest."
            ),
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
        str(said.get("description") or ""),
    )


def _covers(patterns: Any, action: str) -> bool:
    """Whether one of a role's action patterns (``*`` stands for anything) fits."""
    return any(fnmatchcase(action.lower(), str(pattern).lower()) for pattern in patterns or ())


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0


@dataclass(frozen=True, order=True)
class WorkspaceEntry:
    """An Azure ML workspace in a list: its name and where it is."""

    name: str
    resource_group: str
    subscription: str
    subscription_name: str = ""
    location: str = ""

    @property
    def place(self) -> Place:
        """What identifies it."""
        return Place(self.subscription, self.resource_group, self.name)

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)

    def matches(self, text: str) -> bool:
        """Whether every word of ``text`` stands somewhere in its names, in any case."""
        line = f"{self.name} {self.resource_group} {self.subscription_name} {self.subscription} {self.location}".lower()
        return all(word in line for word in text.lower().split())


@dataclass(frozen=True)
class WorkspaceList:
    """The workspaces that were found, by name, and the names of subscriptions that refused to tell theirs."""

    found: tuple[WorkspaceEntry, ...]
    refused: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"workspaces": [item.as_dict() for item in self.found], "refused": list(self.refused)}


def workspaces(rest: Rest) -> WorkspaceList:
    """Every workspace that the signed-in user can see.

    Raises:
        MachineError: the account sees no subscription, or no workspace in those it sees.
        LabError: Azure refused or failed.
    """
    names = subscriptions(rest)
    if not names:
        raise MachineError(
            told("This account sees no Azure subscription."),
            told("Azure listed none for it."),
            told("Ask for access to one, or sign in to another tenant: {tenant}", tenant=TENANT),
            code="azure.subscription",
        )
    try:
        seen = WorkspaceList(tuple(sorted(_by_graph(rest, names))))
    except LabError as refused:
        if refused.code in ("azure.expired", "azure.sign-in", "azure.connection"):
            raise
        seen = _one_by_one(rest, names)
    if not seen.found:
        looked = told("Looked in {subscriptions}.", subscriptions=some(sorted(names.values()), 5))
        if seen.refused:
            looked = told("{looked} Refused by {names}.", looked=looked, names=", ".join(seen.refused))
        raise MachineError(
            told("There is no Azure ML workspace in your subscriptions."),
            looked,
            told("Make one in the Azure portal, or ask for the role Reader on one."),
            code="azure.workspace",
        )
    return seen


def subscriptions(rest: Rest) -> dict[str, str]:
    """The names of the enabled subscriptions, by id."""
    found = {}
    for item in rest.pages("/subscriptions", told("the subscriptions"), api_version="2022-12-01"):
        if item.get("state", "Enabled") in ("Enabled", "Warned", "PastDue") and item.get("subscriptionId"):
            found[str(item["subscriptionId"])] = str(item.get("displayName") or item["subscriptionId"])
    return found


def _by_graph(rest: Rest, names: dict[str, str]) -> list[WorkspaceEntry]:
    seen: list[WorkspaceEntry] = []
    body: dict[str, Any] = {"query": QUERY, "options": {"$top": 1000, "resultFormat": "objectArray"}}
    for _ in range(50):
        answer = rest.call(
            "POST",
            "/providers/Microsoft.ResourceGraph/resources",
            "Resource Graph",
            body=body,
            api_version="2021-03-01",
        )
        seen += [
            WorkspaceEntry(
                str(row["name"]),
                str(row["resourceGroup"]),
                str(row["subscriptionId"]),
                names.get(str(row["subscriptionId"]), ""),
                str(row.get("location") or ""),
            )
            for row in answer.get("data") or ()
        ]
        token = answer.get("$skipToken")
        if not token:
            break
        body = {**body, "options": {**body["options"], "$skipToken": token}}
    return seen


def _one_by_one(rest: Rest, names: dict[str, str]) -> WorkspaceList:
    seen: list[WorkspaceEntry] = []
    refused: dict[str, LabError] = {}
    for subscription, name in names.items():
        url = f"/subscriptions/{segment(subscription)}/providers/{ML}/workspaces"
        try:
            for item in rest.pages(url, told("subscription {name}", name=name), api_version="2024-10-01"):
                parts = str(item.get("id", "")).split("/")
                if len(parts) > 8:
                    where = str(item.get("location") or "")
                    seen.append(WorkspaceEntry(parts[8], parts[4], parts[2], name, where))
        except LabError as error:
            refused[name] = error
    if refused and not seen:
        raise next(iter(refused.values()))
    return WorkspaceList(tuple(sorted(seen)), tuple(sorted(refused)))


def find_workspaces(stop: Stop, report: Reporter) -> WorkspaceList:
    """Every workspace that whoever is signed in can see. Raises as :func:`workspaces`."""
    return workspaces(Rest(current(stop=stop, on_prompt=prompt_to(report)).credential, stop, report.log))


def list_models(place: Place, name: str, stop: Stop, report: Reporter) -> list[Registered]:
    """The versions of a model, the newest first; with no name those of every model made with OlivePress."""
    identity = current(stop=stop, on_prompt=prompt_to(report))
    workspace = Workspace(place, identity.credential, stop=stop, say=report.log)
    try:
        workspace.check()
        if name:
            return workspace.versions(name)
        found = (workspace.versions(known) for known in sorted(workspace.names()))
        return [model for versions in found for model in versions if model.content]
    finally:
        workspace.close()


def pick(found: Sequence[WorkspaceEntry], wanted: str) -> WorkspaceEntry:
    """The one workspace that ``wanted`` names: exactly by name, else by the words in it.

    Raises:
        RequestError: none or several fit; the detail lists them.
    """
    exact = [item for item in found if item.name.lower() == wanted.lower()]
    fitting = exact or [item for item in found if item.matches(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise RequestError(
            told("No workspace fits {wanted!r}.", wanted=wanted),
            told("There are: {workspaces}.", workspaces=", ".join(w.name for w in found[:10])),
            code="azure.workspace",
        )
    fits = "; ".join(
        f"{w.name} ({w.resource_group}, {w.subscription_name or w.subscription})" for w in fitting[:10]
    )
    raise RequestError(
        told("Several workspaces fit {wanted!r}.", wanted=wanted),
        told("{workspaces}.", workspaces=fits),
        told("Add a word of its resource group or subscription."),
        code="azure.workspace",
    )


def choose(recipe_path: Path, workspace: WorkspaceEntry) -> None:
    """Write the workspace into ``lab.toml``, atomically, keeping its comments."""
    write_values(
        recipe_path,
        {
            "upload.subscription": workspace.subscription,
            "upload.resource_group": workspace.resource_group,
            "upload.workspace": workspace.name,
        },
    )
