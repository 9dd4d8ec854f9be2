"""Jobs of a workspace by REST: their state, their log as it grows, and ending one. Sending one is azure-ai-ml's work.

State and cancel are Resource Manager's; the log's address and what went wrong are told by the region's run history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from core.azure.compute import API, Computes
from core.azure.rest import Rest, cloud, require_storage, segment
from core.azure.retry import Stop, retried
from core.azure.workspace import Place
from core.errors import LabError, RequestError
from core.language import told

QUEUED = ("notstarted", "queued", "scheduled", "paused")
ENDED = ("completed", "failed", "canceled", "notresponding")
"""States after which nothing more comes, in lower case."""
MAIN_LOG = "user_logs/std_log.txt"
AT_ONCE = 4 << 20
"""Bytes of a log that are asked for in one call."""


@dataclass(frozen=True)
class RunState:
    """A job there.

    Attributes:
        status: Azure's word.
        page: its page in Azure ML studio.
    """

    name: str
    status: str
    page: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status.lower() in ENDED

    @property
    def waits(self) -> bool:
        """Whether it waits for a machine."""
        return self.status.lower() in QUEUED


@dataclass(frozen=True)
class RunDetails:
    """What the run history tells: the addresses of the logs, each with a signature, and what went wrong."""

    logs: dict[str, str]
    code: str = ""
    message: str = ""


class Runs:
    """The calls on a workspace's jobs. Each raises LabError, explained."""

    def __init__(self, credential: Any, place: Place, stop: Stop, say: Any) -> None:
        self.place, self._stop = place, stop
        self._rest = Rest(credential, stop, say)
        self._history = Rest(credential, stop, say, scope=cloud().ml_scope)
        self.computes = Computes(self._rest, place)

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()
        self._history.close()

    def state(self, name: str) -> RunState | None:
        """A job's state; None if there is no such job."""
        try:
            found = self._rest.call("GET", self._path(name), told("job {name}", name=name), api_version=API)
        except RequestError as error:
            if error.code != "azure.missing":
                raise
            return None
        said = found.get("properties") or {}
        studio = (said.get("services") or {}).get("Studio") or {}
        page = str(studio.get("endpoint") or "")
        return RunState(name, str(said.get("status") or "Unknown"), page if _is_page(page) else "")

    def details(self, name: str) -> RunDetails:
        """Its logs and its error."""
        url = (
            f"https://{segment(self.computes.location)}{cloud().ml[0]}/history/v1.0{self.place.path}"
            f"/runs/{segment(name)}/details"
        )
        found = self._history.call("GET", url, told("history of job {name}", name=name))
        noted = (found.get("error") or {}).get("error") or {}
        inner = noted
        while isinstance(inner.get("innerError"), dict) and inner["innerError"].get("code"):
            inner = inner["innerError"]
        logs = {str(k): str(v) for k, v in (found.get("logFiles") or {}).items()}
        return RunDetails(logs, str(inner.get("code") or ""), str(noted.get("message") or ""))

    def log(self, address: str, start: int) -> tuple[bytes, int]:
        """What a log has from a byte on, and its size.

        Raises:
            StageError: the address is none of the cloud's storage; nothing was sent there.
        """
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
        from azure.storage.blob import BlobClient

        from core.azure.transport import Transport

        parts = urlsplit(address)
        require_storage(
            f"https://{parts.netloc}/{parts.path.lstrip('/').split('/')[0]}", told("the job's log")
        )
        client = BlobClient.from_blob_url(
            address, transport=Transport(self._stop), retry_total=0, retry_connect=0, retry_read=0
        )

        def read() -> tuple[bytes, int]:
            try:
                size = int(client.get_blob_properties().size)
                if size <= start:
                    return b"", size
                came = client.download_blob(
                    offset=start, length=min(AT_ONCE, size - start), max_concurrency=1
                )
                return bytes(came.readall()), size
            except ResourceNotFoundError:
                return b"", 0
            except HttpResponseError as error:
                if error.status_code == 416:  # it was begun anew in between
                    return b"", 0
                raise

        with client:
            return retried(read, told("the job's log"), stop=self._stop)

    def cancel(self, name: str) -> bool:
        """Ask Azure to end a job; False if there is no such job, or it is over."""
        try:
            self._rest.call(
                "POST", self._path(name) + "/cancel", told("job {name}", name=name), api_version=API
            )
        except LabError as error:
            if error.code not in ("azure.missing", "azure.conflict", "azure.refused"):
                raise
            return False
        return True

    def _path(self, name: str) -> str:
        return f"{self.place.path}/jobs/{segment(name)}"


def _is_page(address: str) -> bool:
    return address.startswith(f"https://{cloud().studio}/")
