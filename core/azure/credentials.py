"""Tokens for Azure from each way to sign in, asked for with a limit and explained when refused."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.azure.clouds import cloud
from core.azure.errors import LOGIN
from core.azure.patience import Stop, patience, patiently, timeouts
from core.errors import MachineError

STORAGE_SCOPE = "https://storage.azure.com/.default"
CACHE_NAME = "olivepress"
RENEW_BEFORE = 300.0
"""Seconds before its end at which a token is no longer used."""


@dataclass(frozen=True)
class Prompt:
    """What to show a person who signs in with a device code.

    Attributes:
        uri: the page to open, in any browser on any machine.
        code: what to enter there.
        expires: when the code ends.
    """

    uri: str
    code: str
    expires: datetime


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JSON Web Token (RFC 7519), not verified: for showing, not for trusting."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


class Credential:
    """A token source for every Azure client of this package.

    It keeps each token until shortly before its end, so that the Azure CLI is not started for each
    request, and raises :class:`~core.errors.LabError` instead of Azure's own exceptions.
    """

    def __init__(self, source: Any, subject: str, stop: Stop) -> None:
        self._source = source
        self._subject = subject
        self._stop = stop
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], Any] = {}

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """An ``AccessToken`` for the scopes, as azure-core asks for it."""
        claims = options.get("claims")
        with self._lock:
            kept = self._kept.get(scopes)
            if kept and not claims and kept.expires_on - time.time() > RENEW_BEFORE:
                return kept
            wanted = {"claims": claims} if claims else {}
            token = patiently(
                lambda: self._source.get_token(*scopes, **wanted), self._subject, stop=self._stop
            )
            self._kept[scopes] = token
            return token

    def close(self) -> None:
        """Close the connections."""
        close = getattr(self._source, "close", None)
        if close:
            close()


def _options() -> dict[str, Any]:
    return {"retry_total": 0, "authority": cloud().login, **timeouts()}


def _stopping_transport(stop: Stop) -> Any:
    """A transport that sends nothing more once ``stop`` is set: how a device code is given up."""
    from azure.core.pipeline.transport import RequestsTransport

    class Stopping(RequestsTransport):  # type: ignore[misc]
        def send(self, request: Any, **kwargs: Any) -> Any:
            stop.check()
            return super().send(request, **kwargs)

    return Stopping(**timeouts())


def device_source(
    *,
    tenant: str,
    record: str,
    store: str,
    stop: Stop,
    on_prompt: Callable[[Prompt], None] | None,
) -> Any:
    """azure-identity's device code credential.

    Args:
        record: the account of an earlier sign-in, serialized (it holds no secret), or empty.
        store: ``platform`` (encrypted), ``file`` (0600, agreed to) or ``none`` (this process only).
        on_prompt: shows the code; None raises instead when a person would be needed.
    """
    from azure.identity import AuthenticationRecord, DeviceCodeCredential, TokenCachePersistenceOptions

    options = _options()
    if store in ("platform", "file"):
        options["cache_persistence_options"] = TokenCachePersistenceOptions(
            name=CACHE_NAME, allow_unencrypted_storage=store == "file"
        )
    if record:
        known = AuthenticationRecord.deserialize(record)
        if known.authority == cloud().login:  # else it is an account of another cloud
            del options["authority"]  # the record has it
            options["authentication_record"] = known
    if tenant:
        options["tenant_id"] = tenant
    if on_prompt is None:
        options["disable_automatic_authentication"] = True
    else:
        options["prompt_callback"] = lambda uri, code, expires: on_prompt(Prompt(uri, code, expires))
    return DeviceCodeCredential(transport=_stopping_transport(stop), **options)


def cli_source(tenant: str) -> Any:
    """The session of the Azure CLI."""
    from azure.identity import AzureCliCredential

    return AzureCliCredential(tenant_id=tenant, process_timeout=int(max(1, min(20, patience()))))


def environment_source() -> Any:
    """A service principal described by ``AZURE_CLIENT_ID``, ``AZURE_TENANT_ID`` and a secret or certificate."""
    from azure.identity import EnvironmentCredential

    return EnvironmentCredential(**_options())


def workload_source() -> Any:
    """A federated workload identity (``AZURE_FEDERATED_TOKEN_FILE``)."""
    from azure.identity import WorkloadIdentityCredential

    try:
        return WorkloadIdentityCredential(**_options())
    except ValueError as error:
        raise MachineError(
            "The workload identity is not set up.", str(error), LOGIN, code="azure.sign-in"
        ) from None


def managed_source() -> Any:
    """The identity of the Azure machine this runs on; ``AZURE_CLIENT_ID`` picks one of several."""
    import os

    from azure.identity import ManagedIdentityCredential

    client = os.environ.get("AZURE_CLIENT_ID")
    return ManagedIdentityCredential(**({"client_id": client} if client else {}), retry_total=0, **timeouts())


def platform_keeps_secrets() -> bool:
    """Whether the platform can encrypt a stored token for this user (Keychain, DPAPI, libsecret)."""
    import sys

    if sys.platform in ("win32", "darwin"):
        return True
    try:
        from msal_extensions import LibsecretPersistence

        return LibsecretPersistence is not None and _libsecret_works()
    except ImportError:
        return False


def _libsecret_works() -> bool:
    try:
        from msal_extensions.libsecret import trial_run

        trial_run()
    except Exception:  # ImportError of gi, GLib errors without a session bus: all mean no
        return False
    return True


def forget_tokens() -> None:
    """Remove the stored tokens, wherever the platform kept them."""
    import sys
    from contextlib import suppress
    from pathlib import Path

    if sys.platform == "win32":
        import os

        folder = Path(os.environ.get("LOCALAPPDATA", Path.home())) / ".IdentityService"
    else:
        folder = Path.home() / ".IdentityService"
    if sys.platform == "darwin":
        with suppress(Exception):  # nothing stored is what we want
            from msal_extensions import KeychainPersistence

            KeychainPersistence(
                str(folder / f"{CACHE_NAME}.nocae"),
                "Microsoft.Developer.IdentityService",
                f"{CACHE_NAME}.nocae",
            ).save("{}")
    elif sys.platform.startswith("linux") and _libsecret_works():
        with suppress(Exception):
            from msal_extensions import LibsecretPersistence

            LibsecretPersistence(
                str(folder / f"{CACHE_NAME}.nocae"),
                f"{CACHE_NAME}.nocae",
                {"MsalClientID": "Microsoft.Developer.IdentityService"},
                label="MSALCache",
            ).save("{}")
    for path in folder.glob(f"{CACHE_NAME}.*"):
        with suppress(OSError):
            path.unlink()
