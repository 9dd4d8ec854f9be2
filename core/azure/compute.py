"""The machines of a workspace: what there is, what it costs, what the quota leaves; and making a cluster when asked.

Sizes, prices and quotas are the region's, and may be refused to somebody who may see the workspace: what is not
known is None and is never guessed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from core.azure.rest import Rest, segment
from core.azure.retry import Stop
from core.azure.signin import current, prompt_to
from core.azure.workspace import ML, Place
from core.errors import Do, LabError, MachineError, RequestError, with_told
from core.events import Reporter
from core.formats import counted, duration, listed
from core.language import told

API = "2024-10-01"
COMPUTE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,31}")
DEFAULT_IDLE_S = 600
"""Seconds after which an idle node of a cluster that we make is given back."""

BETWEEN_S = 1.0
"""Seconds between two looks at a cluster that is being made."""

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d+)?S)?)?")


@dataclass(frozen=True)
class Size:
    """A size of machine in a region.

    Attributes:
        price: an hour, dedicated, in ``currency``; None where Azure does not say.
        low_price: of a node that may be taken back.
    """

    name: str
    family: str
    vcpus: int
    gpus: int
    memory_gb: float
    price: float | None = None
    low_price: float | None = None
    currency: str = ""

    def line(self) -> str:
        """What is to be known before choosing it, in one line."""
        parts = [counted(self.gpus, "GPU")] if self.gpus else []
        parts += [told("{vcpus} vCPUs", vcpus=self.vcpus), f"{self.memory_gb:g} GB"]
        if self.price is not None:
            parts.append(
                told("{price:g} {currency} an hour dedicated", price=self.price, currency=self.currency)
            )
        if self.low_price is not None:
            parts.append(
                told(
                    "{price:g} {currency} an hour low priority", price=self.low_price, currency=self.currency
                )
            )
        return told("{name}: {facts}", name=self.name, facts=listed(parts))


@dataclass(frozen=True)
class Compute:
    """A compute of a workspace.

    Attributes:
        kind: ``cluster``, ``instance``, or what Azure calls another.
        state: Succeeded, Creating, Failed, … for a cluster; Running, Stopped, … for an instance.
        low_priority: its nodes may be taken back at any time, and cost less.
        idle_s: seconds after which an idle node is given back; None: never, or not told.
        quota_used, quota_limit: vCPUs of its family in the region.
        fault: what Azure says is wrong with it; empty if nothing.
    """

    name: str
    kind: str
    size: str
    state: str
    low_priority: bool = False
    nodes: int = 0
    nodes_min: int = 0
    nodes_max: int = 0
    idle_s: int | None = None
    gpus: int | None = None
    vcpus: int | None = None
    memory_gb: float | None = None
    price: float | None = None
    currency: str = ""
    quota_used: int | None = None
    quota_limit: int | None = None
    fault: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        why_not = self.why_not()
        return with_told(asdict(self) | {"usable": why_not == "", "why_not": why_not})

    def why_not(self) -> str:
        """Why no job can run there; empty where one can."""
        if self.kind not in ("cluster", "instance"):
            return told("it is a {kind}, not a cluster or an instance", kind=self.kind)
        if self.state not in ("Succeeded", "Running", "Resizing", "Updating"):
            return told("its state is {state}", state=self.state)
        if self.fault:
            return self.fault
        if self.kind == "cluster" and self.nodes_max < 1:
            return told("it may have no node (maximum 0)")
        if self.kind == "cluster" and self.quota_limit is not None and not self.nodes:
            left = self.quota_limit - (self.quota_used or 0)
            if left < (self.vcpus or 1):
                return told(
                    "the quota leaves {left} vCPUs of its family, a node needs {needed}",
                    left=max(0, left),
                    needed=self.vcpus or 1,
                )
        return ""

    def matches(self, text: str) -> bool:
        """Whether every word of ``text`` stands in its line, in any case."""
        return all(word in self.line().lower() for word in text.lower().split())

    def line(self) -> str:
        """What is to be known before choosing it, in one line."""
        parts = [self.size or told("size not told")]
        if self.gpus:
            parts.append(counted(self.gpus, "GPU"))
        parts.append(told("low priority") if self.low_priority else told("dedicated"))
        parts.append(self.state.lower())
        if self.kind == "cluster":
            parts.append(told("{nodes} of {most} nodes", nodes=self.nodes, most=self.nodes_max))
        if self.price is not None:
            parts.append(told("{price:g} {currency} an hour", price=self.price, currency=self.currency))
        parts.append(
            told("never given back when idle")
            if self.idle_s is None
            else told("idle {time} at most", time=duration(self.idle_s))
        )
        if self.quota_limit is not None:
            parts.append(
                told("quota {used} of {limit} vCPUs", used=self.quota_used or 0, limit=self.quota_limit)
            )
        why = self.why_not()
        if why:
            return told(
                "{name}: {facts}; cannot be used: {why}", name=self.name, facts=listed(parts), why=why
            )
        return told("{name}: {facts}", name=self.name, facts=listed(parts))


class Computes:
    """The calls on a workspace's compute. Each raises LabError, explained."""

    def __init__(self, rest: Rest, place: Place) -> None:
        self._rest, self.place = rest, place
        self._location = ""

    @property
    def location(self) -> str:
        """The workspace's region."""
        if not self._location:
            found = self._rest.call(
                "GET",
                self.place.path,
                told("workspace {workspace}", workspace=self.place.workspace),
                api_version=API,
            )
            self._location = str(found.get("location") or "").replace(" ", "").lower()
        return self._location

    def _regional(self, what: str) -> list[dict[str, Any]]:
        """A list of the region; empty where it is refused or not there."""
        url = (
            f"/subscriptions/{segment(self.place.subscription)}/providers/{ML}"
            f"/locations/{segment(self.location)}/{what}"
        )
        try:
            return list(
                self._rest.pages(
                    url, told("{what} of {location}", what=what, location=self.location), api_version=API
                )
            )
        except LabError as refused:
            if refused.code not in ("azure.right", "azure.missing"):
                raise
            return []

    def sizes(self) -> dict[str, Size]:
        """The sizes of machines in the region, by their names in lower case."""
        return {size.name.lower(): size for size in map(_size, self._regional("vmSizes"))}

    def all(self) -> list[Compute]:
        """Every compute, by name, with its size's price and the quota."""
        url, subject = (
            self.place.path + "/computes",
            told("compute of workspace {workspace}", workspace=self.place.workspace),
        )
        found = [_compute(item) for item in self._rest.pages(url, subject, api_version=API)]
        if not found:
            return []
        sizes, usages = self.sizes(), self._regional("usages")
        return sorted(
            (_completed(each, sizes.get(each.size.lower()), usages) for each in found),
            key=lambda each: each.name.lower(),
        )

    def named(self, name: str) -> Compute:
        """The compute of that name.

        Raises:
            RequestError: there is none.
        """
        every = self.all()
        for each in every:
            if each.name.lower() == name.lower():
                return each
        raise RequestError(
            told(
                "There is no compute {name!r} in workspace {workspace}.",
                name=name,
                workspace=self.place.workspace,
            ),
            told(
                "There are: {computes}.", computes=", ".join(each.name for each in every[:10]) or told("none")
            ),
            told("See what there is: {compute}, or make one with --create.", compute=Do("compute")),
            code="azure.compute",
        )

    def create(self, wanted: NewCluster, stop: Stop) -> None:
        """Make a cluster, and wait until it can take jobs. It has no node, and costs nothing, until one is sent to it.

        Raises:
            MachineError: Azure could not make it.
        """
        body = {
            "location": self.location,
            "properties": {
                "computeType": "AmlCompute",
                "properties": {
                    "vmSize": wanted.size,
                    "vmPriority": "LowPriority" if wanted.low_priority else "Dedicated",
                    "scaleSettings": {
                        "minNodeCount": 0,
                        "maxNodeCount": wanted.nodes,
                        "nodeIdleTimeBeforeScaleDown": f"PT{wanted.idle_s}S",
                    },
                },
            },
        }
        url = f"{self.place.path}/computes/{segment(wanted.name)}"
        subject = told("compute {name}", name=wanted.name)
        made = _compute(self._rest.call("PUT", url, subject, body=body, api_version=API))
        while made.state in ("Unknown", "Creating", "Updating"):
            stop.wait(BETWEEN_S)
            made = _compute(self._rest.call("GET", url, subject, api_version=API))
        if made.state != "Succeeded" or made.fault:
            raise MachineError(
                told("Azure did not make the compute."),
                told(
                    "{name}: {state}.", name=wanted.name, state=f"{made.state.lower()} {made.fault}".strip()
                ),
                told("Look at it in Azure ML studio, or choose another size or region."),
                code="azure.compute",
            )


@dataclass(frozen=True)
class NewCluster:
    """A cluster that somebody wants to have made."""

    name: str
    size: str
    low_priority: bool = False
    nodes: int = 1
    idle_s: int = DEFAULT_IDLE_S


def looked_at(computes: Computes, wanted: NewCluster) -> dict[str, Any]:
    """What a new cluster would be and cost; nothing is made.

    Raises:
        RequestError: the name is taken or none that Azure takes, or there is no such size.
        MachineError: the quota does not suffice for one node.
    """
    if not COMPUTE_NAME.fullmatch(wanted.name):
        raise RequestError(
            told("That is no name for a compute."),
            told("{name!r}.", name=wanted.name),
            told("Use letters, digits and dashes, beginning with a letter, 2 to 32 of them."),
            code="azure.compute",
        )
    if any(each.name.lower() == wanted.name.lower() for each in computes.all()):
        raise RequestError(
            told("There is a compute {name} already.", name=wanted.name),
            told("Workspace {workspace}.", workspace=computes.place.workspace),
            told("Use it, or take another name."),
            code="azure.compute",
        )
    sizes = computes.sizes()
    size = sizes.get(wanted.size.lower())
    if size is None and sizes:
        with_gpu = [each.name for each in sizes.values() if each.gpus][:8]
        raise RequestError(
            told("There is no size {size!r} in {location}.", size=wanted.size, location=computes.location),
            told("Sizes with GPUs there: {with_gpu}.", with_gpu=", ".join(with_gpu) or told("none")),
            code="azure.compute",
        )
    blank = Compute(wanted.name, "cluster", wanted.size, "Succeeded", wanted.low_priority, nodes_max=1)
    full = _completed(blank, size, computes._regional("usages"))
    if why := full.why_not():
        raise MachineError(
            told("The quota does not allow this compute."),
            told("{size} in {location}: {why}.", size=wanted.size, location=computes.location, why=why),
            told("Ask for more quota in the Azure portal, or take another size or --low-priority."),
            code="azure.quota",
        )
    return {
        "name": wanted.name,
        "size": size.name if size else wanted.size,
        "gpus": full.gpus,
        "priority": "low: nodes may be taken back at any time" if wanted.low_priority else "dedicated",
        "nodes_max": wanted.nodes,
        "price": full.price,
        "currency": full.currency,
        "idle_s": wanted.idle_s,
        "location": computes.location,
    }


def find_computes(place: Place, stop: Stop, report: Reporter) -> list[Compute]:
    """Every compute of a workspace, asked for by whoever is signed in."""
    rest = Rest(current(stop=stop, on_prompt=prompt_to(report)).credential, stop, report.log)
    try:
        return Computes(rest, place).all()
    finally:
        rest.close()


def find_sizes(place: Place, stop: Stop, report: Reporter) -> tuple[str, list[Size]]:
    """The region of a workspace and the sizes of machine there: those with GPUs first, of these the cheapest."""
    rest = Rest(current(stop=stop, on_prompt=prompt_to(report)).credential, stop, report.log)
    try:
        computes = Computes(rest, place)
        unknown = float("inf")

        def order(size: Size) -> tuple[bool, float, str]:
            return not size.gpus, unknown if size.price is None else size.price, size.name

        return computes.location, sorted(computes.sizes().values(), key=order)
    finally:
        rest.close()


def seconds_of(text: Any) -> int | None:
    """An ISO 8601 duration in seconds; None for anything else."""
    match = _DURATION.fullmatch(str(text or ""))
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _size(item: dict[str, Any]) -> Size:
    noted = item.get("estimatedVMPrices") or {}
    prices = {
        str(each.get("vmTier")): float(each["retailPrice"])
        for each in noted.get("values") or ()
        if each.get("osType") == "Linux" and isinstance(each.get("retailPrice"), int | float)
    }
    return Size(
        str(item.get("name") or ""),
        str(item.get("family") or ""),
        int(item.get("vCPUs") or 0),
        int(item.get("gpus") or 0),
        float(item.get("memoryGB") or 0),
        prices.get("Standard"),
        prices.get("LowPriority"),
        str(noted.get("billingCurrency") or ""),
    )


def _compute(item: dict[str, Any]) -> Compute:
    said = item.get("properties") or {}
    inner = said.get("properties") or {}
    kind = str(said.get("computeType") or "")
    faults = inner.get("errors") or said.get("provisioningErrors") or ()
    fault = next((str((each.get("error") or each).get("code") or "") for each in faults), "")
    name, size = str(item.get("name") or ""), str(inner.get("vmSize") or "")
    if kind == "ComputeInstance":
        state = str(inner.get("state") or said.get("provisioningState") or "Unknown")
        idle = seconds_of(inner.get("idleTimeBeforeShutdown"))
        up = 1 if state == "Running" else 0
        return Compute(name, "instance", size, state, nodes=up, nodes_max=1, idle_s=idle, fault=fault)
    scale = inner.get("scaleSettings") or {}
    return Compute(
        name,
        "cluster" if kind == "AmlCompute" else kind or "unknown",
        size,
        str(said.get("provisioningState") or "Unknown"),
        inner.get("vmPriority") == "LowPriority",
        int(inner.get("currentNodeCount") or 0),
        int(scale.get("minNodeCount") or 0),
        int(scale.get("maxNodeCount") or 0),
        seconds_of(scale.get("nodeIdleTimeBeforeScaleDown")),
        fault=fault,
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _completed(compute: Compute, size: Size | None, usages: list[dict[str, Any]]) -> Compute:
    """A compute with what the region tells of its size and its quota."""
    if size is None:
        return compute
    compute = replace(
        compute,
        gpus=size.gpus,
        vcpus=size.vcpus,
        memory_gb=size.memory_gb,
        price=size.low_price if compute.low_priority else size.price,
        currency=size.currency,
    )
    for usage in usages:
        name = _plain(str((usage.get("name") or {}).get("value") or ""))
        # Nodes that may be taken back have one quota for the region, the others one for each family.
        fits = (
            "lowpriority" in name
            if compute.low_priority
            else name.startswith(_plain(size.family)) and "lowpriority" not in name
        )
        if fits and isinstance(usage.get("limit"), int):
            return replace(
                compute, quota_used=int(usage.get("currentValue") or 0), quota_limit=int(usage["limit"])
            )
    return compute
