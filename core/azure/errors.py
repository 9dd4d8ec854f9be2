"""Azure's failures in a short sentence each, with what to do about it; and no secret in any text.

The SDK's exceptions carry pages of text: URLs with signatures, correlation ids, advice for other
people. :func:`explain` keeps the code that support asks for and says the rest in plain words.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from core.errors import Do, Hint, LabError, MachineError, RequestError, StageError
from core.language import changed, told
from core.text import clean, without_logins

LOGIN = told("Run: {login}", login=Do("login"))
CHOOSE = told("Choose again: {workspaces}", workspaces=Do("workspaces"))
TENANT = Do("login", ("--tenant", "ID"))
DEVICE = Do("login", ("--method", "device"))
AGAIN = told("Look at the network and try again; nothing sent is lost.")
SUPPORT = told("Try again; if it stays so, show this to the workspace's owner.")
CLOCK_OFF = 300.0
"""Seconds by which this machine's clock may differ from Azure's; tokens and signatures are refused beyond it."""
_clock = {"ahead": 0.0}

HIDDEN = "***"
_SECRETS = (
    # The signature of a shared access signature, plain or percent-encoded.
    (re.compile(r"(?i)\b(sig=)[^&\s\"'<>]+"), r"\1" + HIDDEN),
    # Any JSON Web Token, and what follows Bearer or SharedKey in a header.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,2}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|sharedkey)\s+[A-Za-z0-9._~+/=:-]{8,}"), r"\1 " + HIDDEN),
    # Named values in JSON, in forms and in connection strings.
    (
        re.compile(
            r"(?i)([\"']?(?:access_token|refresh_token|id_token|client_secret|client_assertion|device_code|"
            r"sastoken|sasuri|accountkey|primarykey|password|secret)[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&}]+)"
        ),
        r"\1" + HIDDEN,
    ),
    # An account key standing alone: 64 bytes as base64.
    (re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==(?![A-Za-z0-9+/=])"), HIDDEN),
)


def redact(text: str) -> str:
    """The text with every secret that can be told by its form replaced by ``***``."""
    return changed(text, _redacted)


def _redacted(text: str) -> str:
    text = without_logins(text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


@dataclass(frozen=True)
class _Saying:
    kind: type[LabError]
    code: str
    title: str
    hint: Hint

    def about(self, detail: str) -> LabError:
        return self.kind(self.title, detail, self.hint, code=self.code)


_TABLE: tuple[tuple[str, type[LabError], str, str, Hint], ...] = (
    # Entra's error numbers, https://learn.microsoft.com/entra/identity-platform/reference-error-codes
    (
        "53003 53000 53001 53004 530032 530035 530084",
        MachineError,
        "azure.policy",
        told("Your organisation does not allow signing in this way (conditional access)."),
        told(
            "Run az login on this machine, then: {login}. Or ask for a service principal.",
            login=Do("login", ("--method", "cli")),
        ),
    ),
    (
        "50173 70008 700082 700084 70043 70044 50132 50133 50089 50078 ExpiredAuthenticationToken",
        MachineError,
        "azure.expired",
        told("Your Azure sign-in has expired."),
        LOGIN,
    ),
    (
        "70016 70020 70019 50199 expired_token authorization_pending",
        MachineError,
        "azure.sign-in",
        told("The code was not entered in time."),
        told("Sign in again and enter the new code: {login}", login=Do("login")),
    ),
    (
        "authorization_declined access_denied",
        MachineError,
        "azure.sign-in",
        told("The sign-in was declined."),
        LOGIN,
    ),
    (
        "90002 900023 90072 900021",
        MachineError,
        "azure.tenant",
        told("There is no such tenant."),
        told("Check the tenant's id or domain: {tenant}", tenant=TENANT),
    ),
    (
        "50020 50034 500011 50178 16000",
        MachineError,
        "azure.tenant",
        told("This account does not belong to that tenant."),
        told("Sign in with an account of the workspace's tenant: {tenant}", tenant=TENANT),
    ),
    (
        "50076 50079 50072 50074",
        MachineError,
        "azure.sign-in",
        told("Your organisation wants a second factor for this sign-in."),
        LOGIN,
    ),
    (
        "50105",
        MachineError,
        "azure.right",
        told("You are not assigned to this application in your organisation."),
        told("Ask an administrator for access."),
    ),
    (
        "65001 65004 90094",
        MachineError,
        "azure.consent",
        told("The sign-in was not consented to."),
        told("Ask an administrator to consent, or use another method."),
    ),
    (
        "7000215 7000222 700016 70001 700027 700024",
        MachineError,
        "azure.principal",
        told("The service principal was refused."),
        told("Check AZURE_CLIENT_ID, AZURE_TENANT_ID and that the secret or certificate is still valid."),
    ),
    (
        "50126 50053 50057",
        MachineError,
        "azure.sign-in",
        told("The account or its password was refused."),
        LOGIN,
    ),
    # What azure-identity tells by its words alone.
    (
        "cli-missing",
        MachineError,
        "azure.cli",
        told("The Azure CLI is not installed."),
        told("Use another way: {device}", device=DEVICE),
    ),
    (
        "cli-signed-out",
        MachineError,
        "azure.cli",
        told("The Azure CLI is not signed in."),
        told("Run az login, or: {device}", device=DEVICE),
    ),
    (
        "cli-silent",
        MachineError,
        "azure.connection",
        told("The Azure CLI does not answer."),
        told("Try az account show, or: {device}", device=DEVICE),
    ),
    (
        "no-keeper",
        MachineError,
        "azure.keep",
        told("This machine has no place that keeps secrets."),
        told("Sign in again, and agree to a file that only you can read: {login}", login=Do("login")),
    ),
    # No answer at all.
    (
        "line-untrusted",
        MachineError,
        "azure.certificate",
        told("The connection to Azure is not trusted."),
        told("Behind an inspecting proxy, set REQUESTS_CA_BUNDLE to its certificate."),
    ),
    (
        "line-date",
        MachineError,
        "azure.certificate",
        told("The connection's certificate is too old or too new."),
        told("If that is not the time, set the clock; else tell whoever runs the proxy or the service."),
    ),
    (
        "line-proxy",
        MachineError,
        "azure.connection",
        told("The proxy does not let us through to Azure."),
        told("Look at HTTPS_PROXY and NO_PROXY."),
    ),
    (
        "line-name",
        MachineError,
        "azure.connection",
        told("Azure's address is not known here."),
        told(
            "Look at the network, the proxy (HTTPS_PROXY), or a private endpoint that only its own "
            "network sees."
        ),
    ),
    ("line-silent", StageError, "azure.connection", told("Azure does not answer."), AGAIN),
    ("line-broken", StageError, "azure.connection", told("The line to Azure broke."), AGAIN),
    # Error codes in the bodies of Resource Manager, the ML front end and Blob Storage.
    (
        "InvalidAuthenticationTokenTenant",
        MachineError,
        "azure.tenant",
        told("You are signed in to another tenant than the workspace's."),
        told("Run: {tenant}", tenant=TENANT),
    ),
    (
        "AuthorizationFailed LinkedAuthorizationFailed",
        MachineError,
        "azure.right",
        told("You have no right to do this in the workspace."),
        told("Ask for the role AzureML Data Scientist on it."),
    ),
    (
        "SubscriptionNotFound",
        RequestError,
        "azure.subscription",
        told("There is no such subscription, or you cannot see it."),
        CHOOSE,
    ),
    (
        "ResourceGroupNotFound",
        RequestError,
        "azure.workspace",
        told("There is no such resource group."),
        CHOOSE,
    ),
    (
        "ReadOnlyDisabledSubscription",
        MachineError,
        "azure.subscription",
        told("The subscription is disabled and can only be read."),
        told("Choose another: {workspaces}", workspaces=Do("workspaces")),
    ),
    (
        "AuthorizationPermissionMismatch InsufficientAccountPermissions",
        MachineError,
        "azure.right",
        told("You have no right to the workspace's storage."),
        told("Ask for the role Storage Blob Data Contributor on its storage account."),
    ),
    (
        "AuthorizationFailure AuthorizationSourceIPMismatch",
        MachineError,
        "azure.network",
        told("The storage account does not let this machine in (firewall)."),
        told("Use a machine in its network, or have this machine's address allowed."),
    ),
    (
        "KeyBasedAuthenticationNotPermitted",
        MachineError,
        "azure.right",
        told("The storage account takes no keys, only signed-in users."),
        told(
            "Set the workspace's datastore to identity-based access, and ask for Storage Blob Data "
            "Contributor."
        ),
    ),
    (
        "AccountIsDisabled",
        MachineError,
        "azure.storage",
        told("The workspace's storage account is disabled."),
        told("Ask the workspace's owner."),
    ),
    (
        "ContainerNotFound ContainerBeingDeleted",
        RequestError,
        "azure.storage",
        told("The workspace's storage container is gone."),
        told("Ask the workspace's owner, or choose another one."),
    ),
    (
        "BlobNotFound",
        RequestError,
        "fetch.gone",
        told("A file of the model is gone from the storage."),
        told("Upload the model again, or take another version."),
    ),
    (
        "AuthenticationFailed",
        MachineError,
        "azure.expired",
        told("The storage did not accept our access (expired or withdrawn)."),
        told("Try again; if it stays so: {login}", login=Do("login")),
    ),
    (
        "Md5Mismatch",
        StageError,
        "upload.damaged",
        told("A block arrived damaged."),
        told("Try again; what has arrived whole is kept."),
    ),
    (
        "InvalidBlockList InvalidBlobOrBlock InvalidBlockId BlockCountExceedsLimit",
        StageError,
        "upload.blocks",
        told("The storage has lost or replaced blocks of a file that is being sent."),
        told(
            "See that nobody else sends this model, then run the upload again: what is missing is sent anew."
        ),
    ),
    (
        "ConditionNotMet 412",
        StageError,
        "azure.changed",
        told("A file in the storage was changed in the meantime."),
        told("Run it again; the file is taken as it is now."),
    ),
    # What is left, by the status alone.
    (
        "InvalidAuthenticationToken 401",
        MachineError,
        "azure.sign-in",
        told("Azure did not accept the sign-in."),
        LOGIN,
    ),
    (
        "403",
        MachineError,
        "azure.right",
        told("Azure refuses this to you."),
        told("Ask for the right, or choose another: {workspaces}", workspaces=Do("workspaces")),
    ),
    ("404", RequestError, "azure.missing", told("There is no such thing in Azure."), CHOOSE),
    (
        "409",
        StageError,
        "azure.conflict",
        told("Azure reports a conflict with what is there."),
        told("Try again, or use another name or version."),
    ),
    (
        "429",
        StageError,
        "azure.busy",
        told("Azure is busy and asks us to wait."),
        told("Try again in some minutes; nothing sent is lost."),
    ),
    (
        "500",
        StageError,
        "azure.fault",
        told("Azure has a fault of its own."),
        told("Try again later; nothing sent is lost."),
    ),
)
_IDENTITY_WORDS = {
    "azure cli not found": "cli-missing",
    "az login": "cli-signed-out",
    "failed to invoke": "cli-silent",
    "timed out waiting": "expired_token",
    "encryption is impossible": "no-keeper",
}
"""No type tells these apart."""
_SAYINGS = {name: _Saying(*saying) for names, *saying in _TABLE for name in names.split()}  # type: ignore[arg-type]


def explain(
    error: BaseException, subject: str, *, tried_for: float = 0.0, asked: float | None = None
) -> LabError:
    """The failure as an error that says what happened and what to do.

    Args:
        subject: what was asked, such as ``workspace travel``; stands first in the detail.
        tried_for: seconds for which the call was tried again.
        asked: seconds that the service asked to wait, when that was more than we wait.
    """
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    from azure.identity import CredentialUnavailableError

    ours = next((found for found in _chain(error) if isinstance(found, LabError)), None)
    if ours is not None:
        return ours
    line = line_failure(error)
    tried = tried_for if tried_for >= 1 else 0.0
    if line is not None:
        return _explain_line(line, subject, tried)
    text = redact(clean(str(error), keep_newlines=False))
    unavailable = isinstance(error, CredentialUnavailableError)
    refused = isinstance(error, ClientAuthenticationError) or getattr(error, "status_code", 0) in (401, 403)
    off = _clock["ahead"]
    if refused and not unavailable and abs(off) > CLOCK_OFF:
        return MachineError(
            told("This machine's clock is wrong."),
            told(
                "{subject}: it is {off:.0f} minutes ahead of Azure's, which refuses what is signed by it.",
                subject=subject,
                off=off / 60,
            )
            if off > 0
            else told(
                "{subject}: it is {off:.0f} minutes behind Azure's, which refuses what is signed by it.",
                subject=subject,
                off=-off / 60,
            ),
            told("Set the clock, then try again."),
            code="azure.clock",
        )
    saying = _SAYINGS.get(_oauth_error(error))
    if saying is not None:
        return saying.about(told("{subject}.", subject=subject))
    entra = re.search(r"AADSTS(\d+)", text)
    if entra and entra.group(1) in _SAYINGS:
        return _SAYINGS[entra.group(1)].about(
            told("{subject}: AADSTS{number}.", subject=subject, number=entra.group(1))
        )
    if isinstance(error, HttpResponseError) and error.status_code and not unavailable:
        return _explain_status(error, text, subject, tried, asked)
    if isinstance(error, ClientAuthenticationError):
        return _explain_sign_in(error, text, subject)
    if isinstance(error, AzureError):
        return StageError(
            told("Azure gave an answer that we do not understand."),
            told("{subject}: {short}", subject=subject, short=_short(text)),
            SUPPORT,
            code="azure.answer",
        )
    return StageError(
        told("The work with Azure failed."),
        told("{subject}: {kind}: {short}", subject=subject, kind=type(error).__name__, short=_short(text)),
        SUPPORT,
        code="azure.failed",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it stands for, as the packages wrap them."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 30:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [
            getattr(found, name, None) for name in ("inner_exception", "reason", "__cause__", "__context__")
        ]
        waiting += found.args


def line_failure(error: BaseException) -> BaseException | None:
    """The broken line or missing answer that a failure stands for, or None.

    azure-identity hides both behind its own exception, which would be taken for a refusal.
    """
    from azure.core.exceptions import (
        ClientAuthenticationError,
        IncompleteReadError,
        ServiceRequestError,
        ServiceResponseError,
    )

    kinds = (ServiceRequestError, ServiceResponseError, IncompleteReadError)
    found = _chain(error) if isinstance(error, ClientAuthenticationError) else iter((error,))
    return next((each for each in found if isinstance(each, kinds)), None)


def passing(error: BaseException) -> bool:
    """Whether a failure may be gone when the call is tried again."""
    from azure.core.exceptions import HttpResponseError

    line = line_failure(error)
    if line is not None:
        # A certificate that is not trusted, or a proxy that refuses (its own words: no type tells), stays as it is.
        return not any(
            isinstance(each, ssl.SSLCertVerificationError) or str(each).endswith("403 Forbidden")
            for each in _chain(line)
        )
    return isinstance(error, HttpResponseError) and error.status_code in (408, 429, 500, 502, 503, 504)


def note_time(date: str | None) -> None:
    """Compare this machine's clock with the ``Date`` of an answer; azure-identity does not hand its answers on."""
    with suppress(TypeError, ValueError):
        _clock["ahead"] = time.time() - parsedate_to_datetime(date or "").timestamp()


def _oauth_error(error: Any) -> str:
    """The ``error`` of an OAuth answer (RFC 6749, RFC 8628), or an empty string."""
    try:
        said = json.loads(error.response.text())
    except (AttributeError, TypeError, ValueError):
        return ""
    found = said.get("error") if isinstance(said, dict) else ""
    return found if isinstance(found, str) else ""


def _explain_status(error: Any, text: str, subject: str, tried: float, asked: float | None) -> LabError:
    status = int(error.status_code)
    code = error_code(error)
    answered = f"{status} {code}".strip()
    where = told("{subject}: {answered}.", subject=subject, answered=answered)
    if code == "InvalidAuthenticationTokenTenant":
        return _wrong_tenant(text, subject)
    if code in ("ResourceNotFound", "ParentResourceNotFound") and "/workspaces/" in text:
        return RequestError(told("There is no such workspace."), where, CHOOSE, code="azure.workspace")
    if code not in _SAYINGS and status == 429 and asked:
        wait = (
            told("{asked:.0f} s", asked=asked)
            if asked < 120
            else told("{asked:.0f} minutes", asked=asked / 60)
        )
        title = told("Azure is busy and asks us to wait {wait}.", wait=wait)
        return StageError(title, where, told("Try again then; nothing sent is lost."), code="azure.busy")
    saying = _SAYINGS.get(code) or _SAYINGS.get("500" if status >= 500 else str(status))
    if saying is None:
        # The body is said only where the service gave no code: it may be a page of XML.
        if not code and "<" not in text:
            where = told("{answer} {short}", answer=where, short=_short(text))
        return StageError(told("Azure refused the request."), where, SUPPORT, code="azure.refused")
    return saying.about(_tried(where, tried))


def _tried(detail: str, seconds: float) -> str:
    """A detail, and how long it was tried again."""
    return told("{detail} Tried for {seconds:.0f} s.", detail=detail, seconds=seconds) if seconds else detail


def _wrong_tenant(text: str, subject: str) -> LabError:
    tenants = re.findall(r"https://sts\.windows\.net/([0-9a-fA-F-]{36})", text)
    wanted = tenants[1] if len(tenants) > 1 else ""
    detail = (
        told(
            "{subject}: signed in to {tenants}, it belongs to {wanted}.",
            subject=subject,
            tenants=tenants[0],
            wanted=wanted,
        )
        if wanted
        else told("{subject}.", subject=subject)
    )
    saying = _SAYINGS["InvalidAuthenticationTokenTenant"]
    return saying.kind(
        saying.title,
        detail,
        told("Run: {login}", login=Do("login", ("--tenant", wanted or "ID"))),
        code=saying.code,
    )


def _explain_sign_in(error: BaseException, text: str, subject: str) -> LabError:
    from azure.identity import AuthenticationRequiredError

    if isinstance(error, AuthenticationRequiredError):
        return _SAYINGS["ExpiredAuthenticationToken"].about(told("{subject}.", subject=subject))
    saying = next((name for words, name in _IDENTITY_WORDS.items() if words in text.lower()), None)
    if saying is not None:
        return _SAYINGS[saying].about(told("{subject}.", subject=subject))
    return MachineError(
        told("The sign-in to Azure failed."),
        told("{subject}: {short}", subject=subject, short=_short(text)),
        LOGIN,
        code="azure.sign-in",
    )


def _explain_line(error: BaseException, subject: str, tried: float) -> LabError:
    from azure.core.exceptions import ServiceRequestTimeoutError, ServiceResponseTimeoutError
    from urllib3.exceptions import NameResolutionError, ProxyError

    causes = list(_chain(error))

    def any_of(*kinds: type[BaseException]) -> BaseException | None:
        return next((each for each in causes if isinstance(each, kinds)), None)

    untrusted, proxy = any_of(ssl.SSLCertVerificationError), any_of(ProxyError)
    if isinstance(untrusted, ssl.SSLCertVerificationError):
        # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED
        if untrusted.verify_code in (9, 10):
            when = time.strftime("%Y-%m-%d %H:%M")
            return _SAYINGS["line-date"].about(
                told(
                    "{subject}: it does not hold at {when}, this machine's time.", subject=subject, when=when
                )
            )
        return _SAYINGS["line-untrusted"].about(
            told(
                "{subject}: its certificate is not signed by an authority that this machine knows.",
                subject=subject,
            )
        )
    # A line that breaks behind the proxy is named by urllib3 after it, too.
    if proxy and not isinstance(getattr(proxy, "original_error", None), ConnectionError | TimeoutError):
        name = "line-proxy"
    elif any_of(NameResolutionError):
        name = "line-name"
    else:
        silent = any_of(ServiceRequestTimeoutError, ServiceResponseTimeoutError, TimeoutError)
        name = "line-silent" if silent else "line-broken"
    return _SAYINGS[name].about(_tried(told("{subject}.", subject=subject), tried))


def error_code(error: Any) -> str:
    """The service's own code for an HTTP failure, or an empty string."""
    code = getattr(error, "error_code", None)
    if code is not None:
        return str(getattr(code, "value", code))
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    if headers.get("x-ms-error-code"):
        return str(headers["x-ms-error-code"])
    body = getattr(error, "error", None)
    return str(getattr(body, "code", "") or "")


def _short(text: str, longest: int = 240) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
