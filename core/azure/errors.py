"""Azure's failures in a short sentence each, with what to do about it.

The SDK's exceptions carry pages of text: URLs with signatures, correlation ids, advice for other
people. :func:`explain` keeps the code that support asks for and says the rest in plain words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from core.azure.redact import redact
from core.errors import LabError, MachineError, RequestError, StageError
from core.text import clean, command

LOGIN = "Run: olivepress login"


@dataclass(frozen=True)
class _Saying:
    kind: type[LabError]
    title: str
    hint: str
    code: str


# Entra's error numbers, https://learn.microsoft.com/entra/identity-platform/reference-error-codes
_ENTRA: dict[str, _Saying] = {}


def _entra(numbers: str, title: str, hint: str, *, code: str) -> None:
    for number in numbers.split():
        _ENTRA[number] = _Saying(MachineError, title, hint, code)


_entra(
    "53003 53000 53001 53004 530032 530035 530084",
    "Your organisation does not allow signing in this way (conditional access).",
    "Run az login on this machine, then: olivepress login --method cli. Or ask for a service principal.",
    code="azure.policy",
)
_entra(
    "50173 70008 700082 700084 70043 70044 50132 50133 50089 50078",
    "Your Azure sign-in has expired.",
    LOGIN,
    code="azure.expired",
)
_entra(
    "70016 70020 70019 50199",
    "The code was not entered in time.",
    "Run olivepress login again and enter the new code.",
    code="azure.sign-in",
)
_entra(
    "90002 900023 90072 900021",
    "There is no such tenant.",
    "Check the tenant's id or domain: olivepress login --tenant ID",
    code="azure.tenant",
)
_entra(
    "50020 50034 500011 50178 16000",
    "This account does not belong to that tenant.",
    "Sign in with an account of the workspace's tenant: olivepress login --tenant ID",
    code="azure.tenant",
)
_entra(
    "50076 50079 50072 50074",
    "Your organisation wants a second factor for this sign-in.",
    LOGIN,
    code="azure.sign-in",
)
_entra(
    "50105",
    "You are not assigned to this application in your organisation.",
    "Ask an administrator for access.",
    code="azure.right",
)
_entra(
    "65001 65004 90094",
    "The sign-in was not consented to.",
    "Ask an administrator to consent, or use another method.",
    code="azure.consent",
)
_entra(
    "7000215 7000222 700016 70001 700027 700024",
    "The service principal was refused.",
    "Check AZURE_CLIENT_ID, AZURE_TENANT_ID and that the secret or certificate is still valid.",
    code="azure.principal",
)
_entra("50126 50053 50057", "The account or its password was refused.", LOGIN, code="azure.sign-in")

# Error codes in the bodies of Resource Manager, the ML front end and Blob Storage.
_CODES: dict[str, _Saying] = {
    "InvalidAuthenticationTokenTenant": _Saying(
        MachineError,
        "You are signed in to another tenant than the workspace's.",
        "Run: olivepress login --tenant ID",
        "azure.tenant",
    ),
    "ExpiredAuthenticationToken": _Saying(
        MachineError, "Your Azure sign-in has expired.", LOGIN, "azure.expired"
    ),
    "InvalidAuthenticationToken": _Saying(
        MachineError, "Azure did not accept the sign-in.", LOGIN, "azure.sign-in"
    ),
    "AuthorizationFailed": _Saying(
        MachineError,
        "You have no right to do this in the workspace.",
        "Ask for the role AzureML Data Scientist on it.",
        "azure.right",
    ),
    "LinkedAuthorizationFailed": _Saying(
        MachineError,
        "You have no right to do this in the workspace.",
        "Ask for the role AzureML Data Scientist on it.",
        "azure.right",
    ),
    "SubscriptionNotFound": _Saying(
        RequestError,
        "There is no such subscription, or you cannot see it.",
        "Choose again: olivepress workspaces",
        "azure.subscription",
    ),
    "ResourceGroupNotFound": _Saying(
        RequestError,
        "There is no such resource group.",
        "Choose again: olivepress workspaces",
        "azure.workspace",
    ),
    "ReadOnlyDisabledSubscription": _Saying(
        MachineError,
        "The subscription is disabled and can only be read.",
        "Choose another: olivepress workspaces",
        "azure.subscription",
    ),
    "AuthorizationPermissionMismatch": _Saying(
        MachineError,
        "You have no right to the workspace's storage.",
        "Ask for the role Storage Blob Data Contributor on its storage account.",
        "azure.right",
    ),
    "InsufficientAccountPermissions": _Saying(
        MachineError,
        "You have no right to the workspace's storage.",
        "Ask for the role Storage Blob Data Contributor on its storage account.",
        "azure.right",
    ),
    "AuthorizationFailure": _Saying(
        MachineError,
        "The storage account does not let this machine in (firewall).",
        "Use a machine in its network, or have this machine's address allowed.",
        "azure.network",
    ),
    "AuthorizationSourceIPMismatch": _Saying(
        MachineError,
        "The storage account does not let this machine in (firewall).",
        "Use a machine in its network, or have this machine's address allowed.",
        "azure.network",
    ),
    "KeyBasedAuthenticationNotPermitted": _Saying(
        MachineError,
        "The storage account takes no keys, only signed-in users.",
        "Set the workspace's datastore to identity-based access, and ask for Storage Blob Data Contributor.",
        "azure.right",
    ),
    "AccountIsDisabled": _Saying(
        MachineError,
        "The workspace's storage account is disabled.",
        "Ask the workspace's owner.",
        "azure.storage",
    ),
    "ContainerNotFound": _Saying(
        RequestError,
        "The workspace's storage container is gone.",
        "Ask the workspace's owner, or choose another one.",
        "azure.storage",
    ),
    "ContainerBeingDeleted": _Saying(
        RequestError,
        "The workspace's storage container is gone.",
        "Ask the workspace's owner, or choose another one.",
        "azure.storage",
    ),
    "BlobNotFound": _Saying(
        RequestError,
        "A file of the model is gone from the storage.",
        "Upload the model again, or take another version.",
        "fetch.gone",
    ),
    "AuthenticationFailed": _Saying(
        MachineError,
        "The storage did not accept our access (expired or withdrawn).",
        "Try again; if it stays so: olivepress login",
        "azure.expired",
    ),
    "Md5Mismatch": _Saying(
        StageError, "A block arrived damaged.", "Try again; what has arrived whole is kept.", "upload.damaged"
    ),
}

_BY_STATUS: dict[int, _Saying] = {
    401: _Saying(MachineError, "Azure did not accept the sign-in.", LOGIN, "azure.sign-in"),
    403: _Saying(
        MachineError,
        "Azure refuses this to you.",
        "Ask for the right, or choose another: olivepress workspaces",
        "azure.right",
    ),
    404: _Saying(
        RequestError,
        "There is no such thing in Azure.",
        "Choose again: olivepress workspaces",
        "azure.missing",
    ),
    409: _Saying(
        StageError,
        "Azure reports a conflict with what is there.",
        "Try again, or use another name or version.",
        "azure.conflict",
    ),
    429: _Saying(
        StageError,
        "Azure is busy and asks us to wait.",
        "Try again in some minutes; nothing sent is lost.",
        "azure.busy",
    ),
}


def explain(
    error: BaseException, subject: str, *, tried_for: float = 0.0, asked: float | None = None
) -> LabError:
    """The failure as an error that says what happened and what to do.

    Args:
        subject: what was asked, such as ``workspace travel``; stands first in the detail.
        tried_for: seconds for which the call was tried again.
        asked: seconds that the service asked to wait, when that was more than our patience.
    """
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    if isinstance(error, LabError):
        return error
    error = line_failure(error) or error
    text = redact(clean(str(error), keep_newlines=False))
    tried = f" Tried for {tried_for:.0f} s." if tried_for >= 1 else ""
    entra = re.search(r"AADSTS(\d+)", text)
    if entra and entra.group(1) in _ENTRA:
        return _say(_ENTRA[entra.group(1)], f"{subject}: AADSTS{entra.group(1)}.")
    if isinstance(error, HttpResponseError) and error.status_code and not isinstance(error, _unavailable()):
        return _explain_status(error, text, subject, tried, asked)
    if isinstance(error, ClientAuthenticationError):
        return _explain_sign_in(error, text, subject)
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return _explain_line(text, subject, tried)
    if isinstance(error, AzureError):
        return StageError(
            "Azure gave an answer that we do not understand.",
            f"{subject}: {_short(text)}",
            code="azure.answer",
        )
    return StageError(
        "The work with Azure failed.",
        f"{subject}: {type(error).__name__}: {_short(text)}",
        code="azure.failed",
    )


def line_failure(error: BaseException) -> BaseException | None:
    """The broken line or missing answer that a sign-in's failure stands for, or None.

    azure-identity hides both behind its own exception, which would be taken for a refusal.
    """
    from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError

    inner: BaseException | None = error
    for _ in range(8):
        if isinstance(inner, ServiceRequestError | ServiceResponseError):
            found: BaseException = inner
            return found
        if inner is None or not isinstance(error, ClientAuthenticationError):
            return None
        inner = inner.__cause__ or inner.__context__
    return None


def _unavailable() -> type[BaseException]:
    from azure.identity import CredentialUnavailableError

    kind: type[BaseException] = CredentialUnavailableError
    return kind


def _explain_status(error: Any, text: str, subject: str, tried: str, asked: float | None) -> LabError:
    status = int(error.status_code)
    code = error_code(error)
    where = f"{subject}: {status}" + (f" {code}" if code else "") + "."
    saying = _CODES.get(code)
    if code == "InvalidAuthenticationTokenTenant":
        return _wrong_tenant(text, subject)
    if code in ("ResourceNotFound", "ParentResourceNotFound") and "/workspaces/" in text:
        return RequestError(
            "There is no such workspace.",
            where,
            "Choose again: olivepress workspaces",
            code="azure.workspace",
        )
    if saying is None and status == 429 and asked:
        return StageError(
            f"Azure is busy and asks us to wait {_minutes(asked)}.",
            where,
            "Try again then; nothing sent is lost.",
            code="azure.busy",
        )
    if saying is None and status >= 500:
        saying = _Saying(
            StageError,
            "Azure has a fault of its own.",
            "Try again later; nothing sent is lost.",
            "azure.fault",
        )
    if saying is None:
        saying = _BY_STATUS.get(status)
    if saying is None:
        return StageError("Azure refused the request.", f"{where} {_short(text)}", code="azure.refused")
    return _say(saying, where + tried)


def _wrong_tenant(text: str, subject: str) -> LabError:
    tenants = re.findall(r"https://sts\.windows\.net/([0-9a-fA-F-]{36})", text)
    wanted = tenants[1] if len(tenants) > 1 else ""
    detail = f"{subject}: signed in to {tenants[0]}, it belongs to {wanted}." if wanted else f"{subject}."
    saying = _CODES["InvalidAuthenticationTokenTenant"]
    hint = "Run: " + command("login", "--tenant", wanted or "ID")
    return saying.kind(saying.title, detail, hint, code=saying.code)


def _explain_sign_in(error: BaseException, text: str, subject: str) -> LabError:
    from azure.identity import AuthenticationRequiredError

    low = text.lower()
    if isinstance(error, AuthenticationRequiredError):
        return MachineError("Your Azure sign-in has expired.", f"{subject}.", LOGIN, code="azure.expired")
    if "azure cli not found" in low:
        return MachineError(
            "The Azure CLI is not installed.",
            f"{subject}.",
            "Use another way: olivepress login --method device",
            code="azure.cli",
        )
    if "az login" in low:
        return MachineError(
            "The Azure CLI is not signed in.",
            f"{subject}.",
            "Run az login, or: olivepress login --method device",
            code="azure.cli",
        )
    if "failed to invoke" in low and "azure cli" in low:
        return MachineError(
            "The Azure CLI does not answer.",
            f"{subject}.",
            "Try az account show, or: olivepress login --method device",
            code="azure.connection",
        )
    if "timed out waiting" in low or "authorization_pending" in low or "expired_token" in low:
        return MachineError("The code was not entered in time.", f"{subject}.", LOGIN, code="azure.sign-in")
    if "authorization_declined" in low or "access_denied" in low:
        return MachineError("The sign-in was declined.", f"{subject}.", LOGIN, code="azure.sign-in")
    if "encryption is impossible" in low:
        return MachineError(
            "This machine has no place that keeps secrets.",
            f"{subject}.",
            "Run olivepress login again, and agree to a file that only you can read.",
            code="azure.keep",
        )
    return MachineError(
        "The sign-in to Azure failed.", f"{subject}: {_short(text)}", LOGIN, code="azure.sign-in"
    )


def _explain_line(text: str, subject: str, tried: str) -> LabError:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return MachineError(
            "The connection to Azure is not trusted.",
            f"{subject}: its certificate is not signed by an authority that this machine knows.",
            "Behind an inspecting proxy, set REQUESTS_CA_BUNDLE to its certificate.",
            code="azure.certificate",
        )
    if re.search(
        r"Name or service not known|NameResolution|getaddrinfo|nodename|No address associated", text
    ):
        return MachineError(
            "Azure's address is not known here.",
            f"{subject}: no such host name from this machine.{tried}",
            "Look at the network, the proxy (HTTPS_PROXY), or a private endpoint that only its own network sees.",
            code="azure.connection",
        )
    if re.search(r"(?i)timed? ?out", text):
        return StageError(
            "Azure does not answer.",
            f"{subject}.{tried}",
            "Look at the network and try again; nothing sent is lost.",
            code="azure.connection",
        )
    if re.search(r"(?i)tunnel connection failed|connect to proxy.*refused", text):
        return MachineError(
            "The proxy does not let us through to Azure.",
            f"{subject}.{tried}",
            "Look at HTTPS_PROXY and NO_PROXY.",
            code="azure.connection",
        )
    return StageError(
        "The line to Azure broke.",
        f"{subject}.{tried}",
        "Look at the network and try again; nothing sent is lost.",
        code="azure.connection",
    )


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


def _say(saying: _Saying, detail: str) -> LabError:
    return saying.kind(saying.title, detail, saying.hint, code=saying.code)


def _short(text: str, longest: int = 240) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
