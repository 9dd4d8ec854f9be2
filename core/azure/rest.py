"""Azure's REST calls that azure-ai-ml does not have, or only with seconds of loading; and whom they may go to.

Addresses come in Azure's answers (the next page, a registry's home, a storage account), and an answer, or what
somebody wrote into a workspace, must not send a person's token elsewhere: only the chosen cloud's hosts get one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from core.azure.retry import Stop, retried
from core.errors import RequestError, StageError
from core.language import told

MAX_PAGES = 500
"""Pages of a list that are followed; a list that goes on for ever ends here."""
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
        studio: Azure ML's web page; what a token for its run history is asked for by.
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

    @property
    def inference(self) -> str:
        """What the hosts of online endpoints end with."""
        return f".inference.{self.studio.removeprefix('studio.')}"

    @property
    def ml_scope(self) -> str:
        """What a token for Azure ML's own services is asked for."""
        return f"https://{self.studio.removeprefix('studio.')}/.default"


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
            told("There is no such Azure cloud."),
            told("{cloud_variable} is {chosen!r}.", cloud_variable=CLOUD_VARIABLE, chosen=chosen),
            told("Set it to one of: {clouds}.", clouds=", ".join(CLOUDS)),
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
            told("That is no name in Azure."),
            told("{name!r}.", name=name),
            told("Write the name as Azure shows it."),
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
        told("Azure named a place that is not Azure's."),
        told("{subject}: {url!r}. Nothing was sent there.", subject=subject, url=url[:200]),
        told(
            "If you work in another cloud, set {cloud_variable} to one of: {clouds}. Else tell the "
            "owner of the workspace or registry.",
            cloud_variable=CLOUD_VARIABLE,
            clouds=", ".join(CLOUDS),
        ),
        code="azure.stranger",
    )


class Rest:
    """JSON over HTTPS with a signed-in user's token."""

    def __init__(
        self,
        credential: Any,
        stop: Stop | None = None,
        say: Callable[[str], None] | None = None,
        *,
        scope: str = "",
    ) -> None:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, HeadersPolicy, UserAgentPolicy

        from core.azure.transport import Transport
        from core.version import __version__

        self._stop = stop or Stop()
        self._say = say
        self._client: Any = PipelineClient(
            cloud().url,
            policies=[
                HeadersPolicy({"Accept": "application/json"}),
                UserAgentPolicy(base_user_agent=f"olivepress/{__version__}"),
                BearerTokenCredentialPolicy(credential, scope or cloud().scope),
            ],
            transport=Transport(self._stop),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, method: str, url: str, subject: str, *, body: Any = None, **query: str) -> Any:
        """One call; its JSON answer.

        Args:
            url: a path below Resource Manager, or a whole URL, which must be one of this cloud's.
            subject: what is asked, for the error.
            query: parameters; ``api_version`` becomes ``api-version``.

        Raises:
            LabError: explained, after trying again where that may help.
        """
        from azure.core.exceptions import HttpResponseError, map_error
        from azure.core.rest import HttpRequest

        whole = url if url.startswith("https:") else cloud().url + url
        require_service(whole, subject)
        parameters = {key.replace("api_version", "api-version"): value for key, value in query.items()}

        def once() -> Any:
            response = self._client.send_request(HttpRequest(method, whole, params=parameters, json=body))
            if response.status_code >= 400:
                map_error(response.status_code, response, {})
                raise _with_code(HttpResponseError(response=response))
            return response

        response = retried(once, subject, stop=self._stop, say=self._say)
        try:
            return response.json() if response.content else {}
        except ValueError:
            raise StageError(
                told("Azure gave an answer that we do not understand."),
                told("{subject}: not JSON, from {netloc}.", subject=subject, netloc=urlsplit(whole).netloc),
                told("Something between here and Azure answers in its place; look at the proxy."),
                code="azure.answer",
            ) from None

    def pages(self, url: str, subject: str, **query: str) -> Iterator[dict[str, Any]]:
        """The items of a list, over all its pages. Raises as :meth:`call`."""
        answer = self.call("GET", url, subject, **query)
        for _ in range(MAX_PAGES):
            yield from (item for item in answer.get("value") or () if isinstance(item, dict))
            following = str(answer.get("nextLink") or "")
            if not following.startswith("https://"):
                return
            answer = self.call("GET", following, subject)


def _with_code(error: Any) -> Any:
    """The error with the code of a body that azure-core's own parser did not take."""
    if getattr(error, "error", None) is None:
        try:
            code = error.response.json()["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return error
        error.error_code = str(code)
    return error
