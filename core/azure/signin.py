"""Who we are in Azure: the ways to sign in, the choice that is remembered, and signing out.

The choice is the user's and not the lab's: it lies in the user's configuration folder
(:func:`core.user_dirs.config_dir`), holds no secret, and stays until it is changed. Without a
choice a service principal, workload identity or managed identity that the environment describes is
used, then the Azure CLI's session.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.azure.clouds import cloud
from core.azure.errors import LOGIN
from core.azure.patience import Stop
from core.errors import MachineError, RequestError
from core.files import PRIVATE, explained, read_if_whole, write_json
from core.user_dirs import config_dir

METHODS = {
    "cli": "the Azure CLI's session (az login)",
    "device": "a code entered in a browser on any machine",
    "environment": "a service principal named by AZURE_CLIENT_ID, AZURE_TENANT_ID and a secret or certificate",
    "workload": "a federated workload identity (AZURE_FEDERATED_TOKEN_FILE)",
    "managed": "the identity of the Azure machine this runs on",
}
"""The ways to sign in, and what each is."""

KEEP = {
    "platform": "encrypted by this platform's place for secrets",
    "file": "a file that only you can read",
    "none": "not kept: gone when the program ends",
}
"""Where a device-code token can be kept."""


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


@dataclass(frozen=True)
class Identity:
    """Somebody who is signed in: ``user`` in ``tenant`` by ``method``; ``credential`` gives tokens."""

    user: str
    tenant: str
    method: str
    keep: str
    credential: Any

    def shown(self) -> dict[str, str]:
        """The same for people and ``--json``, without the credential."""
        return {"user": self.user, "tenant": self.tenant, "method": self.method, "kept": self.keep}

    def __repr__(self) -> str:
        return f"Identity({self.user!r}, {self.tenant!r}, {self.method!r})"


def _path() -> Path:
    return config_dir() / "azure.json"


def remembered() -> Choice | None:
    """The choice that was made, or None."""
    data = read_if_whole(_path())
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
    may_write_file: Callable[[], bool] | bool = False,
    on_prompt: Callable[[Any], None] | None = None,
    stop: Stop | None = None,
) -> Identity:
    """Sign in now, check that it works, and remember the choice.

    Args:
        method: one of :data:`METHODS`; empty: the Azure CLI's session if there is one, else a device code.
        tenant: the tenant's id or domain, where the account has several.
        may_write_file: whether the user agrees to a token in a 0600 file; asked only where the
            platform has no place for secrets. A function is called when the answer is needed.
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
            f"There is no way to sign in called {method!r}.",
            hint="Use one of: " + ", ".join(METHODS) + ".",
            code="usage",
        )
    if not method:
        try:
            return _sign_in(Choice("cli", tenant), stop, None)
        except MachineError:
            method = "device"
    choice = Choice(method, tenant)
    if method == "device":
        choice = Choice(method, tenant, keep=_where_to_keep(may_write_file))
    return _sign_in(choice, stop, on_prompt)


def cli_works(tenant: str = "", stop: Stop | None = None) -> bool:
    """Whether the Azure CLI is there and signed in."""
    from core.azure.credentials import Credential

    choice = Choice("cli", tenant)
    if not shutil.which("az"):
        return False
    try:
        Credential(_source(choice, stop or Stop(), None), "Azure CLI", stop or Stop()).get_token(
            cloud().scope
        )
    except MachineError:
        return False
    return True


def _where_to_keep(may_write_file: Callable[[], bool] | bool) -> str:
    from core.azure.credentials import platform_keeps_secrets

    if platform_keeps_secrets():
        return "platform"
    agreed = may_write_file() if callable(may_write_file) else may_write_file
    return "file" if agreed else "none"


def _sign_in(choice: Choice, stop: Stop, on_prompt: Callable[[Any], None] | None) -> Identity:
    from core.azure.credentials import Credential

    source = _source(choice, stop, on_prompt)
    record = ""
    if choice.method == "device":
        from core.azure.patience import patiently

        # No CAE here: MLClient asks for tokens without it, which are kept apart, and would prompt again.
        account = patiently(lambda: source.authenticate(scopes=[cloud().scope]), _subject(choice), stop=stop)
        record = account.serialize()
    credential = Credential(source, _subject(choice), stop)
    identity = _identity(choice, credential)
    kept = Choice(choice.method, choice.tenant, identity.user, identity.tenant, choice.keep, record)
    if choice.method != "device":
        # Another choice must not leave an older sign-in's token lying about.
        _forget_if_device()
    remember(kept)
    return identity


def remember(choice: Choice) -> None:
    """Write the choice down, readable by its user only."""
    data = asdict(choice)
    data.pop("chosen")
    with explained(_path()):
        _path().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(_path(), {"v": 1, **data}, PRIVATE)


def current(*, stop: Stop | None = None, on_prompt: Callable[[Any], None] | None = None) -> Identity:
    """Whoever is signed in, checked with a fresh token.

    Args:
        on_prompt: lets a device-code sign-in whose token is not kept ask again; None: it is an error.

    Raises:
        MachineError: nobody is, the sign-in has expired, or it was refused.
    """
    from core.azure.credentials import Credential

    stop = stop or Stop()
    choice = remembered() or found()
    if choice is None:
        raise MachineError(
            "You are not signed in to Azure.",
            "No sign-in is remembered on this machine.",
            LOGIN,
            code="azure.sign-in",
        )
    ask = on_prompt if choice.method == "device" and choice.keep == "none" else None
    if choice.method == "device" and choice.keep == "none" and ask is None:
        raise MachineError(
            "Your Azure sign-in was not kept.",
            f"{choice.user} signed in with a device code, and the token was not to be written.",
            "Run olivepress login again and agree to a file, or use another method.",
            code="azure.keep",
        )
    try:
        return _identity(choice, Credential(_source(choice, stop, ask), _subject(choice), stop))
    except MachineError as error:
        if choice.chosen:
            raise
        raise MachineError(
            "You are not signed in to Azure.", str(error.detail or error.title), LOGIN, code="azure.sign-in"
        ) from None


def sign_out() -> Choice | None:
    """Forget the choice and its stored token; returns what was forgotten. The Azure CLI stays signed in."""
    choice = remembered()
    _forget_if_device()
    _path().unlink(missing_ok=True)
    return choice


def _forget_if_device() -> None:
    before = remembered()
    if before and before.method == "device" and before.keep != "none":
        from core.azure.credentials import forget_tokens

        forget_tokens()


def _source(choice: Choice, stop: Stop, on_prompt: Callable[[Any], None] | None) -> Any:
    from core.azure import credentials

    if choice.method == "device":
        return credentials.device_source(
            tenant=choice.tenant, record=choice.record, store=choice.keep, stop=stop, on_prompt=on_prompt
        )
    if choice.method == "cli":
        return credentials.cli_source(choice.tenant)
    if choice.method == "environment":
        return credentials.environment_source()
    if choice.method == "workload":
        return credentials.workload_source()
    return credentials.managed_source()


def _subject(choice: Choice) -> str:
    names = {
        "cli": "Azure CLI",
        "device": "device code",
        "environment": "service principal",
        "workload": "workload identity",
        "managed": "managed identity",
    }
    return names[choice.method]


def _identity(choice: Choice, credential: Any) -> Identity:
    from core.azure.credentials import claims_of

    claims: Mapping[str, Any] = claims_of(credential.get_token(cloud().scope).token)
    user = next(
        (
            str(claims[key])
            for key in ("upn", "unique_name", "preferred_username", "appid", "oid")
            if claims.get(key)
        ),
        "",
    )
    return Identity(
        user=user or choice.user or "somebody",
        tenant=str(claims.get("tid") or choice.user_tenant or choice.tenant),
        method=choice.method,
        keep=choice.keep if choice.method == "device" else "",
        credential=credential,
    )
