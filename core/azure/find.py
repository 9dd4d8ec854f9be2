"""Finding the workspace: every one that the user can see, in one call where that is allowed.

Azure Resource Graph lists the workspaces of all subscriptions at once. Where it is not allowed or
not there, subscriptions are listed and each is asked for its workspaces.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.azure.arm import Rest
from core.azure.clouds import segment
from core.errors import LabError, MachineError, RequestError
from core.recipe import write_values

ML = "Microsoft.MachineLearningServices"
QUERY = (
    "resources | where type =~ 'microsoft.machinelearningservices/workspaces' "
    "| project name, resourceGroup, subscriptionId, location, tenantId | order by name asc"
)


@dataclass(frozen=True, order=True)
class Workspace:
    """An Azure ML workspace: its name and where it is."""

    name: str
    resource_group: str
    subscription: str
    subscription_name: str = ""
    location: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return asdict(self)

    def matches(self, text: str) -> bool:
        """Whether every word of ``text`` stands somewhere in its names, in any case."""
        line = f"{self.name} {self.resource_group} {self.subscription_name} {self.subscription} {self.location}".lower()
        return all(word in line for word in text.lower().split())


def workspaces(rest: Rest) -> list[Workspace]:
    """Every workspace that the signed-in user can see, by name.

    Raises:
        MachineError: the account sees no subscription, or no workspace in those it sees.
        LabError: Azure refused or failed.
    """
    names = subscriptions(rest)
    if not names:
        raise MachineError(
            "This account sees no Azure subscription.",
            "Azure listed none for it.",
            "Ask for access to one, or sign in to another tenant: olivepress login --tenant ID",
            code="azure.subscription",
        )
    try:
        seen = _by_graph(rest, names)
    except LabError as refused:
        if refused.code in ("azure.expired", "azure.sign-in", "azure.connection"):
            raise
        seen = _one_by_one(rest, names)
    if not seen:
        shown = ", ".join(sorted(names.values())[:5]) + (" and more" if len(names) > 5 else "")
        raise MachineError(
            "There is no Azure ML workspace in your subscriptions.",
            f"Looked in {shown}.",
            "Make one in the Azure portal, or ask for the role Reader on one.",
            code="azure.workspace",
        )
    return sorted(seen)


def subscriptions(rest: Rest) -> dict[str, str]:
    """The names of the enabled subscriptions, by id."""
    found = {}
    for item in rest.pages("/subscriptions", "the subscriptions", api_version="2022-12-01"):
        if item.get("state", "Enabled") in ("Enabled", "Warned", "PastDue") and item.get("subscriptionId"):
            found[str(item["subscriptionId"])] = str(item.get("displayName") or item["subscriptionId"])
    return found


def _by_graph(rest: Rest, names: dict[str, str]) -> list[Workspace]:
    seen: list[Workspace] = []
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
            Workspace(
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


def _one_by_one(rest: Rest, names: dict[str, str]) -> list[Workspace]:
    seen: list[Workspace] = []
    refused: LabError | None = None
    for subscription, name in names.items():
        url = f"/subscriptions/{segment(subscription)}/providers/{ML}/workspaces"
        try:
            for item in rest.pages(url, f"subscription {name}", api_version="2024-10-01"):
                parts = str(item.get("id", "")).split("/")
                if len(parts) > 8:
                    seen.append(
                        Workspace(parts[8], parts[4], parts[2], name, str(item.get("location") or ""))
                    )
        except LabError as error:
            refused = error
    if refused and not seen:
        raise refused
    return seen


def pick(found: list[Workspace], wanted: str) -> Workspace:
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
            f"No workspace fits {wanted!r}.",
            "There are: " + ", ".join(w.name for w in found[:10]) + ".",
            code="azure.workspace",
        )
    listed = "; ".join(
        f"{w.name} ({w.resource_group}, {w.subscription_name or w.subscription})" for w in fitting[:10]
    )
    raise RequestError(
        f"Several workspaces fit {wanted!r}.",
        listed + ".",
        "Add a word of its resource group or subscription.",
        code="azure.workspace",
    )


def choose(recipe_path: Path, workspace: Workspace) -> None:
    """Write the workspace into ``lab.toml``, atomically, keeping its comments."""
    write_values(
        recipe_path,
        {
            "upload.subscription": workspace.subscription,
            "upload.resource_group": workspace.resource_group,
            "upload.workspace": workspace.name,
        },
    )
