"""Azure's REST calls that azure-ai-ml does not have, or only with seconds of loading: one small client.

Calls go through azure-core's pipeline, so the proxy and certificate variables hold, and through
:func:`core.azure.patience.patiently`, so each ends in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from core.azure.patience import Stop, patiently, timeouts
from core.errors import StageError

ARM = "https://management.azure.com"
MAX_PAGES = 500
"""Pages of a list that are followed; a list that goes on for ever ends here."""


class Rest:
    """JSON over HTTPS with a signed-in user's token."""

    def __init__(
        self, credential: Any, stop: Stop | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, HeadersPolicy, UserAgentPolicy

        from core.azure.credentials import ARM_SCOPE
        from core.version import __version__

        self._stop = stop or Stop()
        self._say = say
        self._client: Any = PipelineClient(
            ARM,
            policies=[
                HeadersPolicy({"Accept": "application/json"}),
                UserAgentPolicy(base_user_agent=f"olivepress/{__version__}"),
                BearerTokenCredentialPolicy(credential, ARM_SCOPE),
            ],
            **timeouts(),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, method: str, url: str, subject: str, *, body: Any = None, **query: str) -> Any:
        """One call; its JSON answer.

        Args:
            url: a path below Resource Manager, or a whole https URL.
            subject: what is asked, for the error.
            query: parameters; ``api_version`` becomes ``api-version``.

        Raises:
            LabError: explained, after trying again where that may help.
        """
        from azure.core.exceptions import HttpResponseError, map_error
        from azure.core.rest import HttpRequest

        parameters = {key.replace("api_version", "api-version"): value for key, value in query.items()}

        def once() -> Any:
            request = HttpRequest(
                method, url if url.startswith("https:") else ARM + url, params=parameters, json=body
            )
            response = self._client.send_request(request, stream=False)
            if response.status_code >= 400:
                map_error(response.status_code, response, {})
                raise _with_code(HttpResponseError(response=response))
            return response

        response = patiently(once, subject, stop=self._stop, say=self._say)
        try:
            return response.json() if response.content else {}
        except ValueError:
            raise StageError(
                "Azure gave an answer that we do not understand.",
                f"{subject}: not JSON, from {urlsplit(str(response.request.url)).netloc}.",
                "Something between here and Azure answers in its place; look at the proxy.",
                code="azure.answer",
            ) from None

    def pages(self, url: str, subject: str, **query: str) -> Iterator[dict[str, Any]]:
        """The items of a list, over all its pages. Raises as :meth:`call`."""
        answer = self.call("GET", url, subject, **query)
        for _ in range(MAX_PAGES):
            for item in answer.get("value") or ():
                if isinstance(item, dict):
                    yield item
            following = answer.get("nextLink")
            if not following or not str(following).startswith("https://"):
                return
            answer = self.call("GET", str(following), subject)


def _with_code(error: Any) -> Any:
    """The error with the code of a body that azure-core's own parser did not take."""
    if getattr(error, "error", None) is None:
        try:
            code = error.response.json()["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return error
        error.error_code = str(code)
    return error
