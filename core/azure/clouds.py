"""The Azure that is worked with, and which hosts belong to it: the only ones that get a token.

Addresses come in Azure's answers (the next page, a registry's home, a storage account), and an answer, or what
somebody wrote into a workspace, must not send a person's token elsewhere.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from core.errors import RequestError, StageError

CLOUD_VARIABLE = "OLIVEPRESS_AZURE_CLOUD"


@dataclass(frozen=True)
class Cloud:
    """One Azure, by its hosts.

    Attributes:
        sdk: what Microsoft's packages call it.
        manager: Resource Manager's host.
        login: Entra's host.
        storage: what the hosts of storage accounts end with.
        ml: what Azure ML's hosts end with.
        discovery: where registries are looked up.
        studio: Azure ML's web page.
    """

    sdk: str
    manager: str
    login: str
    storage: str
    ml: tuple[str, ...]
    discovery: str
    studio: str

    @property
    def url(self) -> str:
        """Resource Manager's address."""
        return f"https://{self.manager}"

    @property
    def scope(self) -> str:
        """What a token for Resource Manager is asked for."""
        return f"{self.url}/.default"


CLOUDS = {
    "public": Cloud(
        "AzureCloud",
        "management.azure.com",
        "login.microsoftonline.com",
        "core.windows.net",
        (".api.azureml.ms", ".experiments.azureml.net"),
        "eastus.api.azureml.ms",
        "ml.azure.com",
    ),
    "usgov": Cloud(
        "AzureUSGovernment",
        "management.usgovcloudapi.net",
        "login.microsoftonline.us",
        "core.usgovcloudapi.net",
        (".api.ml.azure.us", ".experiments.ml.azure.us"),
        "usgovarizona.api.ml.azure.us",
        "ml.azure.us",
    ),
    "china": Cloud(
        "AzureChinaCloud",
        "management.chinacloudapi.cn",
        "login.chinacloudapi.cn",
        "core.chinacloudapi.cn",
        (".api.ml.azure.cn", ".experiments.ml.azure.cn"),
        "chinaeast2.api.ml.azure.cn",
        "studio.ml.azure.cn",
    ),
}
"""By the words that :data:`CLOUD_VARIABLE` takes."""

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"\$?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ZONE = re.compile(r"z[0-9]{1,2}\.blob\.storage\.azure\.net")


def cloud() -> Cloud:
    """The cloud that is chosen.

    Raises:
        RequestError: the variable names none.
    """
    chosen = os.environ.get(CLOUD_VARIABLE, "").strip().lower() or "public"
    if chosen not in CLOUDS:
        raise RequestError(
            "There is no such Azure cloud.",
            f"{CLOUD_VARIABLE} is {chosen!r}.",
            f"Set it to one of: {', '.join(CLOUDS)}.",
            code="azure.cloud",
        )
    return CLOUDS[chosen]


def require_service(url: str, subject: str) -> str:
    """The address, if it is one of Resource Manager or Azure ML in the chosen cloud.

    Raises:
        StageError: it is not; nothing was sent there.
    """
    host = _host(url)
    if host != cloud().manager and not host.endswith(cloud().ml):
        raise _stranger(url, subject)
    return url


def storage_url(account: str, endpoint: str, container: str, subject: str) -> str:
    """The address of a container that an answer describes.

    Raises:
        StageError: the names are not such as Azure gives, or the host is none of the chosen cloud's storage.
    """
    return require_storage(f"https://{account}.blob.{endpoint}/{container}", subject)


def require_storage(url: str, subject: str) -> str:
    """The address of a container, if it is one in the chosen cloud's storage. Raises as :func:`storage_url`."""
    host, container = _host(url), urlsplit(url).path.removeprefix("/")
    account, _, rest = host.partition(".")
    known = rest == f"blob.{cloud().storage}" or (cloud() is CLOUDS["public"] and _ZONE.fullmatch(rest))
    named = _ACCOUNT.fullmatch(account) and _CONTAINER.fullmatch(container) and url.endswith(f"/{container}")
    if not known or not named:
        raise _stranger(url, subject)
    return url


def segment(name: str) -> str:
    """A name as one part of a path: quoted whole, slashes too.

    Raises:
        RequestError: it is empty or would step to another folder of the address.
    """
    if name in ("", ".", ".."):
        raise RequestError(
            "That is no name in Azure.",
            f"{name!r}.",
            "Write the name as Azure shows it.",
            code="azure.address",
        )
    return quote(name, safe="")


def _host(url: str) -> str:
    """The host of a plain https address; empty for any other."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.netloc == parts.hostname and "\\" not in url
    except ValueError:
        return ""
    return parts.netloc if plain else ""


def _stranger(url: str, subject: str) -> StageError:
    return StageError(
        "Azure named a place that is not Azure's.",
        f"{subject}: {url[:200]!r}. Nothing was sent there.",
        f"If you work in another cloud, set {CLOUD_VARIABLE} to one of: {', '.join(CLOUDS)}. Else tell the owner of "
        "the workspace or registry.",
        code="azure.stranger",
    )
