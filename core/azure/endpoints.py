"""Managed online endpoints by REST: making one, its deployment, traffic, a request, its log, and removing it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from core.azure.compute import API, Computes
from core.azure.rest import Rest, cloud, segment
from core.azure.retry import Stop, retried
from core.azure.workspace import Place
from core.errors import LabError, RequestError, StageError
from core.events import Reporter
from core.language import told

NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]")
"""What Azure ML takes as an endpoint's name."""
DEPLOYMENT = "olivepress"
"""The name of the one deployment that we make."""
LOOK_S = 10.0
_FIRST_LOOK_S = 0.3


class Endpoints:
    """The calls on a workspace's online endpoints. Each raises LabError, explained."""

    def __init__(self, credential: Any, place: Place, stop: Stop, report: Reporter) -> None:
        self.place, self._stop, self._report = place, stop, report
        self._rest = Rest(credential, stop, report.log)
        self.computes = Computes(self._rest, place)

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()

    def _url(self, *parts: str) -> str:
        return "/".join([self.place.path, "onlineEndpoints", *map(segment, parts)])

    def get(self, name: str, deployment: str = "") -> dict[str, Any] | None:
        """An endpoint, or a deployment of it; None where there is none."""
        parts = (name, "deployments", deployment) if deployment else (name,)
        try:
            found: dict[str, Any] = self._rest.call(
                "GET", self._url(*parts), told("endpoint {name}", name=name), api_version=API
            )
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            return None
        return found

    def make(self, name: str) -> None:
        """Make an endpoint that is asked with a key, if it is not there; waits until it is."""
        found = self.get(name)
        if found is None:
            body = {
                "location": self.computes.location,
                "identity": {"type": "SystemAssigned"},
                "properties": {"authMode": "Key", "properties": {"made_with": "olivepress"}},
            }
            self._rest.call(
                "PUT", self._url(name), told("endpoint {name}", name=name), body=body, api_version=API
            )
        self._wait(lambda: self.get(name), told("endpoint {name}", name=name))

    def asset(self, kind: str, name: str, properties: dict[str, Any]) -> str:
        """Register code or an environment under a version that is its content's digest; its id."""
        version = hashlib.sha256(json.dumps(properties, sort_keys=True).encode()).hexdigest()[:32]
        url = f"{self.place.path}/{kind}/{segment(name)}/versions/{version}"
        subject = told("{kind} {name}", kind=kind, name=name)
        try:
            found = self._rest.call("GET", url, subject, api_version=API)
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            found = self._rest.call("PUT", url, subject, body={"properties": properties}, api_version=API)
        return str(found["id"])

    def deploy(self, name: str, properties: dict[str, Any], count: int) -> None:
        """Make or change the deployment, and wait until it answers.

        Raises:
            StageError: it did not come up; the end of its log is in the detail.
        """
        body = {
            "location": self.computes.location,
            "sku": {"name": "Default", "tier": "Standard", "capacity": count},
            "properties": properties,
        }
        url = self._url(name, "deployments", DEPLOYMENT)
        self._rest.call(
            "PUT", url, told("deployment {deployment}", deployment=DEPLOYMENT), body=body, api_version=API
        )
        try:
            self._wait(
                lambda: self.get(name, DEPLOYMENT),
                told("deployment {deployment} of {name}", deployment=DEPLOYMENT, name=name),
            )
        except StageError as failed:
            if failed.code != "endpoint.failed":
                raise
            failed.detail = f"{failed.detail}\n{self.log(name)}".strip()
            raise

    def _wait(self, look: Callable[[], dict[str, Any] | None], subject: str) -> None:
        pause = _FIRST_LOOK_S
        while True:
            state = str(((look() or {}).get("properties") or {}).get("provisioningState") or "Unknown")
            if state == "Succeeded":
                return
            if state in ("Failed", "Canceled", "Deleting"):
                raise StageError(
                    told("The endpoint did not come up."),
                    told("{subject}: {state}.", subject=subject, state=state),
                    told("Look at its log; run it again when that is mended."),
                    code="endpoint.failed",
                )
            self._report.progress(told("{subject}: {state}", subject=subject, state=state.lower()), 0, None)
            self._stop.wait(pause)
            pause = min(LOOK_S, pause * 1.5)

    def log(self, name: str) -> str:
        """The end of the deployment's log; empty where it is not told."""
        from core.azure.errors import redact

        url = self._url(name, "deployments", DEPLOYMENT) + "/getLogs"
        body = {"containerType": "InferenceServer", "tail": 30}
        try:
            found = self._rest.call("POST", url, told("log of {name}", name=name), body=body, api_version=API)
        except LabError:
            return ""
        return redact(str(found.get("content") or ""))[-3000:]

    def traffic(self, name: str, percent: int) -> None:
        """Let so many of a hundred requests go to our deployment, and the rest where it goes now."""
        found = self.get(name) or {}
        said = found.get("properties") or {}
        before = {k: int(v) for k, v in (said.get("traffic") or {}).items() if k != DEPLOYMENT}
        shares = {**_shared(before, 100 - percent), DEPLOYMENT: percent}
        body = {
            "location": self.computes.location,
            "identity": {"type": (found.get("identity") or {}).get("type") or "SystemAssigned"},
            "properties": {"authMode": said.get("authMode") or "Key", "traffic": shares},
        }
        self._rest.call(
            "PUT", self._url(name), told("endpoint {name}", name=name), body=body, api_version=API
        )
        self._wait(lambda: self.get(name), told("traffic of {name}", name=name))

    def ask(self, name: str, question: str) -> dict[str, Any]:
        """A test request to our deployment, whatever share of the traffic it has; the answer's JSON.

        Raises:
            StageError: the endpoint's address is none of this cloud, or it answered with an error.
        """
        from azure.core import PipelineClient
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        from core.azure.transport import Transport

        address = str(((self.get(name) or {}).get("properties") or {}).get("scoringUri") or "")
        if urlsplit(address).scheme != "https" or not (urlsplit(address).hostname or "").endswith(
            cloud().inference
        ):
            raise StageError(
                told("The endpoint's address is none of this cloud."),
                told(
                    "endpoint {name}: {hostname}. Nothing was sent there.",
                    name=name,
                    hostname=urlsplit(address).hostname or told("none"),
                ),
                told("Show this to the workspace's owner."),
                code="azure.stranger",
            )
        keys = self._rest.call(
            "POST", self._url(name) + "/listKeys", told("key of {name}", name=name), api_version=API
        )
        headers = {
            "Authorization": f"Bearer {keys.get('primaryKey')}",
            "azureml-model-deployment": DEPLOYMENT,
        }
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 32}
        client: Any = PipelineClient(address, policies=[], transport=Transport(self._stop))

        def once() -> Any:
            response = client.send_request(HttpRequest("POST", address, json=body, headers=headers))
            if response.status_code >= 400:
                raise HttpResponseError(response=response)
            return response.json()

        with client:
            answer = retried(once, told("endpoint {name}", name=name), stop=self._stop, say=self._report.log)
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise StageError(
                told("The endpoint answers with something else than an answer."),
                told("endpoint {name}.", name=name),
                told("Look at its log in Azure ML studio."),
                code="endpoint.answer",
            )
        return answer

    def delete(self, name: str) -> bool:
        """Remove an endpoint with all its deployments; False if there is none."""
        if self.get(name) is None:
            return False
        self._rest.call("DELETE", self._url(name), told("endpoint {name}", name=name), api_version=API)
        pause = _FIRST_LOOK_S
        while self.get(name) is not None:
            self._report.progress(told("endpoint {name}: being removed", name=name), 0, None)
            self._stop.wait(pause)
            pause = min(LOOK_S, pause * 1.5)
        return True


def _shared(before: dict[str, int], left: int) -> dict[str, int]:
    """What is left of the traffic, in the shares that it had; a hundred in all, or none."""
    whole = sum(before.values())
    if not whole:
        return dict.fromkeys(before, 0)
    shares = {name: part * left // whole for name, part in before.items()}
    first = max(shares, key=lambda name: before[name])
    shares[first] += left - sum(shares.values())
    return shares
