"""Compute, jobs, run history and endpoints of a workspace, played; a job's command is really run, if a test says so.

A job's inputs come out of the storage and its outputs go into it, as a mount would do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ML = "Microsoft.MachineLearningServices"
SPACE = rf"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/{ML}/workspaces/([^/]+)"
REGION = rf"/subscriptions/([^/]+)/providers/{ML}/locations/([^/]+)"
Route = tuple[str, str, Callable[..., None]]


def cluster(
    name: str,
    size: str = "Standard_NC24ads_A100_v4",
    *,
    state: str = "Succeeded",
    low: bool = False,
    most: int = 2,
    idle: str = "PT600S",
    errors: Any = (),
) -> dict[str, Any]:
    """A cluster as ``GET computes`` gives it."""
    return {
        "id": f"/computes/{name}",
        "name": name,
        "type": f"{ML}/workspaces/computes",
        "location": "westeurope",
        "properties": {
            "computeType": "AmlCompute",
            "provisioningState": state,
            "properties": {
                "vmSize": size,
                "vmPriority": "LowPriority" if low else "Dedicated",
                "scaleSettings": {
                    "minNodeCount": 0,
                    "maxNodeCount": most,
                    "nodeIdleTimeBeforeScaleDown": idle,
                },
                "currentNodeCount": 0,
                "errors": list(errors),
            },
        },
    }


def instance(name: str, size: str = "Standard_DS3_v2", state: str = "Running") -> dict[str, Any]:
    """A compute instance."""
    inner = {"vmSize": size, "state": state, "idleTimeBeforeShutdown": "PT60M"}
    return {
        "id": f"/computes/{name}",
        "name": name,
        "location": "westeurope",
        "properties": {
            "computeType": "ComputeInstance",
            "provisioningState": "Succeeded",
            "properties": inner,
        },
    }


def _size(name: str, family: str, vcpus: int, gpus: int, price: float) -> dict[str, Any]:
    values = [
        {"osType": "Linux", "vmTier": "Standard", "retailPrice": price},
        {"osType": "Linux", "vmTier": "LowPriority", "retailPrice": price / 5},
        {"osType": "Windows", "vmTier": "Standard", "retailPrice": price * 2},
    ]
    prices = {"billingCurrency": "USD", "unitOfMeasure": "OneHour", "values": values}
    return {"name": name, "family": family, "vCPUs": vcpus, "gpus": gpus, "memoryGB": 8.0 * vcpus,
            "lowPriorityCapable": True, "estimatedVMPrices": prices}  # fmt: skip


class Played:
    """What the workspace has of these. Change its attributes to change what it says."""

    def __init__(self) -> None:
        self.compute = [
            cluster("gpu-cluster"),
            cluster("spot", "Standard_NC96ads_A100_v4", low=True),
            instance("my-box"),
        ]
        self.sizes = [
            _size("Standard_NC24ads_A100_v4", "standardNCADSA100v4Family", 24, 1, 3.67),
            _size("Standard_NC96ads_A100_v4", "standardNCADSA100v4Family", 96, 4, 14.69),
            _size("Standard_DS3_v2", "standardDSv2Family", 4, 0, 0.27),
        ]
        self.usages = {
            "Standard NCADSA100v4 Family Cluster Dedicated vCPUs": (24, 96),
            "Standard DSv2 Family Cluster Dedicated vCPUs": (4, 100),
            "Total Cluster LowPriority Regional vCPUs": (0, 192),
        }

    def routes(self, handler: Any) -> list[Route]:
        """The routes, for one request."""

        def bound(act: Callable[..., None]) -> Callable[..., None]:
            return lambda *groups, query, data: act(handler, *groups, query=query, data=data)

        routes: list[tuple[str, str, Callable[..., None]]] = [
            (SPACE + "/computes", "GET", self._computes),
            (SPACE + "/computes/([^/]+)", "GET", self._compute),
            (SPACE + "/computes/([^/]+)", "PUT", self._make_compute),
            (REGION + "/vmSizes", "GET", self._sizes),
            (REGION + "/usages", "GET", self._usages),
        ]
        return [(pattern, method, bound(act)) for pattern, method, act in routes]

    def _computes(self, h: Any, *_: str, query: Any, data: Any) -> None:
        h._json({"value": self.compute})

    def _compute(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        found = next((each for each in self.compute if each["name"] == name), None)
        if found is None:
            h._none("ResourceNotFound", f"no compute {name}")
        else:
            h._json(found)

    def _make_compute(self, h: Any, sub: str, rg: str, ws: str, name: str, query: Any, data: Any) -> None:
        made = cluster(name, state="Creating")
        made["properties"] = {**made["properties"], **data["properties"], "provisioningState": "Creating"}
        self.compute.append(made)
        h._json(made, 201)

    def _sizes(self, h: Any, *_: str, query: Any, data: Any) -> None:
        h._json({"value": self.sizes})

    def _usages(self, h: Any, *_: str, query: Any, data: Any) -> None:
        rows = [
            {
                "unit": "Count",
                "currentValue": used,
                "limit": limit,
                "name": {"value": name, "localizedValue": name},
            }
            for name, (used, limit) in self.usages.items()
        ]
        h._json({"value": rows})
