"""Who we are in Azure: the ways to sign in, tokens from each, the choice that is remembered, and signing out.

The choice is the user's and not the lab's: it lies in the user's configuration folder
(:func:`core.user_dirs.config_dir`), holds no secret, and stays until it is changed. Without a
choice a service principal, workload identity or managed identity that the environment describes is
used, then the Azure CLI's session.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.azure.errors import LOGIN, TENANT
from core.azure.rest import cloud
from core.azure.retry import Stop, retried, retry_limit
from core.errors import Do, MachineError, RequestError
from core.events import Reporter
from core.files import PRIVATE, explained, read_if_whole, write_json
from core.language import told
from core.user_dirs import config_dir

METHODS = {
    "cli": told("the Azure CLI's session (az login)"),
    "device": told("a code entered in a browser on any machine"),
    "environment": told(
        "a service principal named by AZURE_CLIENT_ID, AZURE_TENANT_ID and a secret or certificate"
    ),
    "workload": told("a federated workload identity (AZURE_FEDERATED_TOKEN_FILE)"),
    "managed": told("the identity of the Azure machine this runs on"),
}
"""The ways to sign in, and what each is."""

KEEP = {
    "platform": told("encrypted by this platform's place for secrets"),
    "file": told("a file that only you can read"),
    "none": told("not kept: gone when the program ends"),
}
"""Where a device-code token can be kept."""

STORAGE_SCOPE = "https://storage.azure.com/.default"
CACHE_NAME = "olivepress"
RENEW_BEFORE = 300.0
"""Seconds before its end at which a token is no longer used."""

_SUBJECTS = {
    "cli": told("Azure CLI"),
    "device": told("device code"),
    "environment": told("service principal"),
    "workload": told("workload identity"),
    "managed": told("managed identity"),
}


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

    def as_dict(self) -> dict[str, Any]:
        """For ``--json`` and the wizard."""
        ends = self.expires.astimezone(UTC)
        return {
            "type": "prompt",
            "uri": self.uri,
            "code": self.code,
            "expires": ends.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "expires_in_s": max(0, round((ends - datetime.now(UTC)).total_seconds())),
        }


Ask = Callable[[Prompt], None]
"""Shows a device code to a person."""


def prompt_to(report: Reporter) -> Ask:
    """Shows a device code in a job's log and, until it is entered, as what the job is doing."""

    def show(prompt: Prompt) -> None:
        what = told("enter {code} at {address}", code=prompt.code, address=prompt.uri)
        report.log(f"Azure: {what} by {prompt.expires.astimezone():%H:%M}, in any browser.", "warning")
        report.progress(what, 0, None)

    return show


@dataclass(frozen=True)
class Choice:
    """What is remembered of a sign-in; nothing of it is secret.

    Attributes:
        method: one of :data:`METHODS`.
        tenant: the tenant that was asked for, or empty.
        user: who it was, for showing.
        user_tenant: the tenant that the token was for.
        keep: one of :data:`KEEP`.
        record: azure-identity's account record, which finds the token in its store.
        chosen: False when nothing was chosen and the method was found by looking.
    """

    method: str
    tenant: str = ""
    user: str = ""
    user_tenant: str = ""
    keep: str = "none"
    record: str = ""
    chosen: bool = True

    @property
    def kept_nowhere(self) -> bool:
        """Whether the token is gone when the program ends."""
        return self.method == "device" and self.keep == "none"


class Credential:
    """A token source for every Azure client of this package.

    It keeps each token until shortly before its end, so that the Azure CLI is not started for each
    request, and raises :class:`~core.errors.LabError` instead of Azure's own exceptions.
    """

    def __init__(self, choice: Choice, stop: Stop, on_prompt: Ask | None) -> None:
        from core.azure.transport import Transport

        self._choice = choice
        self._transport = Transport(stop)
        self._on_prompt = on_prompt
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], Any] = {}
        self._source: Any = self._tried(self._make)

    def follow(self, stop: Stop, on_prompt: Ask | None) -> None:
        """Serve another piece of work from here on."""
        self._transport.stop, self._on_prompt = stop, on_prompt

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """An ``AccessToken`` for the scopes, as azure-core asks for it."""
        claims = options.get("claims")
        with self._lock:
            kept = self._kept.get(scopes)
            if kept and not claims and kept.expires_on - time.time() > RENEW_BEFORE:
                return kept
            wanted = {"claims": claims} if claims else {}
            token = self._tried(lambda: self._source.get_token(*scopes, **wanted))
            self._kept[scopes] = token
            return token

    def authenticate(self) -> str:
        """Ask a person for the device code now; the account's record (it holds no secret)."""
        # No CAE here: MLClient asks for tokens without it, which are kept apart, and would prompt again.
        return str(self._tried(lambda: self._source.authenticate(scopes=[cloud().scope])).serialize())

    def identity(self) -> Identity:
        """Whose token it gives, from a fresh one."""
        choice, claims = self._choice, claims_of(self.get_token(cloud().scope).token)
        names = ("upn", "unique_name", "preferred_username", "appid", "oid")
        user = next((str(claims[key]) for key in names if claims.get(key)), "")
        return Identity(
            user=user or choice.user or "somebody",
            tenant=str(claims.get("tid") or choice.user_tenant or choice.tenant),
            method=choice.method,
            keep=choice.keep if choice.method == "device" else "",
            credential=self,
        )

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _tried(self, call: Callable[[], Any]) -> Any:
        try:
            # A person who enters a code is not counted down for: the code has its own time, which is shown.
            counted = self._choice.method != "device"
            return retried(call, _SUBJECTS[self._choice.method], stop=self._transport.stop, counted=counted)
        except (
            ValueError,
            OSError,
        ) as error:  # a tenant's form, a certificate or token file: azure-identity's checks
            principal = self._choice.method in ("environment", "workload")
            raise MachineError(
                told("The sign-in cannot be tried as it is set up."),
                told("{method}: {error}", method=_SUBJECTS[self._choice.method], error=error),
                told(
                    "Check AZURE_TENANT_ID, AZURE_CLIENT_ID, and the file that AZURE_CLIENT_CERTIFICATE_PATH "
                    "or AZURE_FEDERATED_TOKEN_FILE names."
                )
                if principal
                else told("Check the tenant's id or domain: {tenant}", tenant=TENANT),
                code="azure.principal" if principal else "azure.tenant",
            ) from None

    def _make(self) -> Any:
        """azure-identity's credential."""
        from azure import identity

        choice = self._choice
        options: dict[str, Any] = {"retry_total": 0, "transport": self._transport}
        if choice.method == "cli":
            return identity.AzureCliCredential(
                tenant_id=choice.tenant, process_timeout=int(max(1, min(20, retry_limit())))
            )
        if choice.method == "managed":
            client = os.environ.get("AZURE_CLIENT_ID")
            return identity.ManagedIdentityCredential(**({"client_id": client} if client else {}), **options)
        options["authority"] = cloud().login
        if choice.method == "environment":
            return identity.EnvironmentCredential(**options)
        if choice.method == "workload":
            return identity.WorkloadIdentityCredential(**options)
        if choice.keep != "none":
            options["cache_persistence_options"] = identity.TokenCachePersistenceOptions(
                name=CACHE_NAME, allow_unencrypted_storage=choice.keep == "file"
            )
        if choice.record:
            known = identity.AuthenticationRecord.deserialize(choice.record)
            if known.authority == cloud().login:  # else it is an account of another cloud
                del options["authority"]  # the record has it
                options["authentication_record"] = known
        if choice.tenant:
            options["tenant_id"] = choice.tenant
        return identity.DeviceCodeCredential(
            disable_automatic_authentication=self._on_prompt is None, prompt_callback=self._prompt, **options
        )

    def _prompt(self, uri: str, code: str, expires: datetime) -> None:
        if self._on_prompt is not None:
            self._on_prompt(Prompt(uri, code, expires))


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JSON Web Token (RFC 7519), not verified: for showing, not for trusting."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


@dataclass(frozen=True)
class Identity:
    """Somebody who is signed in: ``user`` in ``tenant`` by ``method``; ``credential`` gives tokens."""

    user: str
    tenant: str
    method: str
    keep: str
    credential: Credential = field(repr=False)

    def shown(self) -> dict[str, str]:
        """The same for people and ``--json``, without the credential."""
        return {"user": self.user, "tenant": self.tenant, "method": self.method, "kept": self.keep}


_this_program: dict[Choice, Identity] = {}
"""A sign-in that is kept nowhere, for all that this process still does."""


def _choice_path() -> Path:
    return config_dir() / "azure.json"


def remembered() -> Choice | None:
    """The choice that was made, or None."""
    data = read_if_whole(_choice_path())
    if not isinstance(data, dict) or data.get("method") not in METHODS:
        return None
    known = {
        key: value for key, value in data.items() if key in Choice.__annotations__ and isinstance(value, str)
    }
    return Choice(**known)  # type: ignore[arg-type]


def found() -> Choice | None:
    """What to use where nothing was chosen: what the environment describes, else the CLI, else None."""
    have = os.environ.get
    if have("AZURE_CLIENT_ID") and have("AZURE_TENANT_ID"):
        if have("AZURE_CLIENT_SECRET") or have("AZURE_CLIENT_CERTIFICATE_PATH"):
            return Choice("environment", chosen=False)
        if have("AZURE_FEDERATED_TOKEN_FILE"):
            return Choice("workload", chosen=False)
    if have("IDENTITY_ENDPOINT") or have("MSI_ENDPOINT"):
        return Choice("managed", chosen=False)
    if shutil.which("az"):
        return Choice("cli", chosen=False)
    return None


def sign_in(
    method: str = "",
    *,
    tenant: str = "",
    may_write_file: bool = False,
    on_prompt: Ask | None = None,
    stop: Stop | None = None,
) -> Identity:
    """Sign in now, check that it works, and remember the choice.

    Args:
        method: one of :data:`METHODS`; empty: the Azure CLI's session if there is one, else a device code.
        tenant: the tenant's id or domain, where the account has several.
        may_write_file: whether the user agrees to a token in a 0600 file, where the platform has no place
            for secrets.
        on_prompt: shows the device code.
        stop: gives the sign-in up when set.

    Raises:
        RequestError: no such method.
        MachineError: refused, expired, not entered in time, or nothing to sign in with.
        Cancelled: ``stop`` was set.
    """
    stop = stop or Stop()
    if method and method not in METHODS:
        raise RequestError(
            told("There is no way to sign in called {method!r}.", method=method),
            hint=told("Use one of: {methods}.", methods=", ".join(METHODS)),
            code="usage",
        )
    if not method:
        try:
            return sign_in("cli", tenant=tenant, stop=stop)
        except MachineError:
            method = "device"
    keep = "none"
    if method == "device":
        keep = "platform" if platform_keeps_secrets() else "file" if may_write_file else "none"
    credential = Credential(Choice(method, tenant, keep=keep), stop, on_prompt)
    record = credential.authenticate() if method == "device" else ""
    identity = credential.identity()
    kept = Choice(method, tenant, identity.user, identity.tenant, keep, record)
    if method != "device":
        # Another choice must not leave an older sign-in's token lying about.
        _forget_if_device()
    remember(kept)
    _share(kept, identity)
    return identity


def cli_works(tenant: str = "") -> bool:
    """Whether the Azure CLI is there and signed in."""
    if not shutil.which("az"):
        return False
    try:
        Credential(Choice("cli", tenant), Stop(), None).get_token(cloud().scope)
    except MachineError:
        return False
    return True


def remember(choice: Choice) -> None:
    """Write the choice down, readable by its user only."""
    data = asdict(choice)
    data.pop("chosen")
    with explained(_choice_path()):
        _choice_path().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(_choice_path(), {"v": 1, **data}, PRIVATE)
        if choice.keep == "file" and _token_folder().is_dir():
            _token_folder().chmod(0o700)


def current(*, stop: Stop | None = None, on_prompt: Ask | None = None) -> Identity:
    """Whoever is signed in, checked with a fresh token.

    A device-code sign-in that is kept nowhere is shared by all that this process does.

    Args:
        on_prompt: lets a device-code sign-in whose token is not kept ask again; None: it is an error.

    Raises:
        MachineError: nobody is, the sign-in has expired, or it was refused.
    """
    stop = stop or Stop()
    choice = remembered() or found()
    if choice is None:
        raise MachineError(
            told("You are not signed in to Azure."),
            told("No sign-in is remembered on this machine."),
            LOGIN,
            code="azure.sign-in",
        )
    if choice in _this_program:
        _this_program[choice].credential.follow(stop, on_prompt)
        return _this_program[choice]
    if choice.kept_nowhere and on_prompt is None:
        raise MachineError(
            told("Your Azure sign-in was not kept."),
            told(
                "{user} signed in with a device code, and the token was not to be written.", user=choice.user
            ),
            told("Sign in again and agree to a file, or use another method: {login}", login=Do("login")),
            code="azure.keep",
        )
    try:
        identity = Credential(choice, stop, on_prompt if choice.kept_nowhere else None).identity()
    except MachineError as error:
        if choice.chosen or error.code != "azure.cli":
            raise  # a dead proxy, a wrong secret or clock: said as what it is
        raise MachineError(
            told("You are not signed in to Azure."),
            str(error.detail or error.title),
            LOGIN,
            code="azure.sign-in",
        ) from None
    _share(choice, identity)
    return identity


def _share(choice: Choice, identity: Identity) -> None:
    _this_program.clear()
    if choice.kept_nowhere:
        _this_program[choice] = identity


def sign_out() -> Choice | None:
    """Forget the choice and its stored token; returns what was forgotten. The Azure CLI stays signed in."""
    choice = remembered()
    _forget_if_device()
    _this_program.clear()
    _choice_path().unlink(missing_ok=True)
    return choice


def _forget_if_device() -> None:
    before = remembered()
    if before and before.method == "device" and before.keep != "none":
        forget_tokens()


def platform_keeps_secrets() -> bool:
    """Whether the platform can encrypt a stored token for this user (Keychain, DPAPI, libsecret)."""
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
    folder = _token_folder()
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


def _token_folder() -> Path:
    """Where azure-identity keeps tokens."""
    home = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    return Path(home or Path.home()) / ".IdentityService"
