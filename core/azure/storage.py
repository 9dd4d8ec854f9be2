"""One blob container and the right to use it, renewed before it ends.

The access comes from whoever owns the container (a workspace's datastore, a registry): a shared access
signature for an hour or so, an account key, or nothing but the signed-in user. A signature that is
about to end, or that is refused although it should hold, is asked for again; the clients that use it
take the new one at their next request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qs

from core.azure.errors import error_code
from core.azure.retry import Stop, retried
from core.errors import LabError, MachineError
from core.language import told

T = TypeVar("T")

MAX_PAGES = 500
"""Pages of a list of blobs that are followed."""
COPY_LIMIT = 600.0
"""Seconds for a copy within the storage, which takes a moment as a rule."""
RENEW_BEFORE = 300.0
"""Seconds before the end of a signature at which a new one is asked for."""
FRESH = 30.0
"""Seconds within which a signature that is refused, or about to end from the first, is renewed only once."""


@dataclass(frozen=True)
class Access:
    """The right to a container: ``kind`` is ``sas``, ``key`` or ``user``; ``secret`` is the signature or key."""

    kind: str
    secret: str = field(default="", repr=False)

    def ends(self) -> float | None:
        """When a signature ends, in seconds of :func:`time.time`; None where it does not say."""
        try:
            text = parse_qs(self.secret.lstrip("?"))["se"][0]
            ends = datetime.fromisoformat(text)
        except (KeyError, ValueError):
            return None
        return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True)
class Found:
    """A committed blob: its size and what it says of its content."""

    name: str
    size: int
    sha256: str
    md5: bytes | None
    etag: str


class Container:
    """A blob container, its client, and its calls: tried again, renewed, explained."""

    def __init__(
        self,
        url: str,
        ask: Callable[[], Access],
        credential: Any,
        *,
        subject: str,
        stop: Stop,
        say: Callable[[str], None] | None = None,
        connections: int = 16,
    ) -> None:
        """Reach a container by its address.

        Args:
            url: ``https://<account>.blob.core.windows.net/<container>``.
            ask: gives the access, anew each time; raises LabError.
            credential: the signed-in user, where the access is by user.
            subject: the container in words, for errors.
            connections: how many calls at once will reuse their connection.
        """
        from azure.core.credentials import AzureSasCredential
        from azure.storage.blob import ContainerClient

        from core.azure.transport import Transport

        self._ask, self._subject, self._stop, self._say = ask, subject, stop, say
        self._lock = threading.Lock()
        self._access = ask()
        self._taken = time.monotonic()
        self._refused = float("-inf")
        self._sas = AzureSasCredential(self._access.secret) if self._access.kind == "sas" else None
        account = url.split("//", 1)[-1].split(".", 1)[0]
        given: Any = {
            "sas": self._sas,
            "key": {"account_name": account, "account_key": self._access.secret},
            "user": credential,
            "none": None,
        }[self._access.kind]
        transport = Transport(stop, url, connections)
        self.client: Any = ContainerClient.from_container_url(
            url, credential=given, transport=transport, retry_total=0, retry_connect=0, retry_read=0
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def call(self, fn: Callable[[], T], subject: str = "") -> T:
        """``fn`` with a right that holds, tried again where that helps. Raises LabError or Cancelled."""
        from azure.core.exceptions import HttpResponseError

        def once() -> T:
            self._renew_if_ending()
            used = self._taken
            try:
                return fn()
            except HttpResponseError as error:
                refused = error.status_code in (401, 403) and error_code(error) in (
                    "AuthenticationFailed",
                    "AuthorizationFailure",
                    "InvalidAuthenticationInfo",
                )
                if self._sas is None or not refused or not self._renew(used, refused=True):
                    raise
                return fn()

        return retried(once, subject or self._subject, stop=self._stop, say=self._say)

    def may_write(self) -> str:
        """``yes`` where a signature or key allows writing, ``unknown`` where only trying would tell.

        Raises:
            MachineError: the signature does not allow it.
        """
        if self._access.kind == "user":
            return "unknown"
        allowed = parse_qs(self._access.secret).get("sp", [""])[0]
        if self._access.kind == "sas" and allowed and not ({"w", "c"} & set(allowed)):
            raise MachineError(
                told("You have no right to write to the workspace's storage."),
                told("{subject}: the access is for reading only.", subject=self._subject),
                told("Ask for the role Storage Blob Data Contributor on its storage account."),
                code="azure.right",
            )
        return "yes"

    def _renew_if_ending(self) -> None:
        ends = self._access.ends() if self._sas is not None else None
        if ends is not None and ends - time.time() < RENEW_BEFORE:
            self._renew(self._taken)

    def _renew(self, used: float, *, refused: bool = False) -> bool:
        """Take a new signature unless another thread has since ``used``; False if that was done just now."""
        assert self._sas is not None
        with self._lock:
            if self._taken != used:
                return True
            now = time.monotonic()
            if now - (self._refused if refused else self._taken) < FRESH and not self._ended():
                return False
            if refused:
                self._refused = now
            access = self._ask()
            if access.kind != "sas":
                return False
            self._access = access
            self._sas.update(access.secret)
            self._taken = time.monotonic()
            return True

    def _ended(self) -> bool:
        ends = self._access.ends()
        return ends is not None and ends < time.time()

    def listing(self, prefix: str, *, unfinished: bool = False, pages: int = MAX_PAGES) -> dict[str, Found]:
        """Every committed blob whose name begins with ``prefix``, by name.

        Args:
            unfinished: those too of which only blocks have arrived; they have no size and no digest.
            pages: of 5000 blobs, so many at most.
        """
        include = ["metadata", *(["uncommittedblobs"] if unfinished else [])]

        def page(token: str | None) -> tuple[list[Any], str | None]:
            found = self.client.list_blobs(name_starts_with=prefix, include=include).by_page(token)
            items = list(next(found, ()))
            return items, found.continuation_token

        found: dict[str, Found] = {}
        token: str | None = None
        for _ in range(pages):
            items, token = self.call(lambda token=token: page(token))  # type: ignore[misc]
            found.update({blob.name: _found(blob) for blob in items if not _is_folder(blob)})
            if not token:
                break
        return found

    def head(self, name: str) -> Found | None:
        """One committed blob, or None."""
        from azure.core.exceptions import ResourceNotFoundError

        def look() -> Any:
            try:
                return self.client.get_blob_client(name).get_blob_properties()
            except ResourceNotFoundError as error:
                if str(getattr(error, "error_code", "")) in ("ContainerNotFound", "ContainerBeingDeleted"):
                    raise
                return None

        blob = self.call(look)
        return None if blob is None else _found(blob)

    def look(self, prefix: str, names: list[str]) -> dict[str, Found]:
        """What is there of ``names`` (below ``prefix``), by one listing, or one by one where none is allowed."""
        try:
            return self.listing(prefix)
        except LabError as refused:
            if refused.code != "azure.right":
                raise
        found = ((name, self.head(prefix + name)) for name in names)
        return {prefix + name: blob for name, blob in found if blob is not None}

    def copy(self, source: str, target: str, subject: str) -> bool:
        """Have the service copy a blob within the container; False where it cannot, and it must be sent.

        Raises:
            LabError: the line broke.
            Cancelled: somebody asked to stop; a copy that is on its way goes on, and the next upload finds it.
        """
        from azure.core.exceptions import HttpResponseError

        client, address = self.client.get_blob_client(target), self.client.get_blob_client(source).url

        def begin() -> str:
            # The service reads with the signature, if there is one; a key and a user hold for the whole account.
            signature = f"?{self._access.secret}" if self._access.kind == "sas" else ""
            try:
                return str(client.start_copy_from_url(address + signature)["copy_status"])
            except HttpResponseError as error:
                if error.status_code in (408, 429, 503) or error_code(error) == "AuthenticationFailed":
                    raise
                return "pending" if error_code(error) == "PendingCopyOperation" else "refused"

        status = self.call(begin, subject)
        until = time.monotonic() + COPY_LIMIT
        while status == "pending" and time.monotonic() < until:
            self._stop.wait(0.5)
            status = str(self.call(client.get_blob_properties, subject).copy.status)
        return status == "success"


def _is_folder(blob: Any) -> bool:
    return bool((blob.metadata or {}).get("hdi_isfolder") == "true")


def _found(blob: Any) -> Found:
    metadata = blob.metadata or {}
    md5 = blob.content_settings.content_md5 if blob.content_settings else None
    return Found(
        blob.name,
        int(blob.size or 0),
        str(metadata.get("sha256", "")),
        bytes(md5) if md5 else None,
        str(blob.etag or "").strip('"'),
    )
