"""Azure's REST calls that azure-ai-ml does not have, or only with seconds of loading: one small client.

Calls go through azure-core's pipeline, so the proxy and certificate variables hold, and through
:func:`core.azure.patience.patiently`, so each ends in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from core.azure.clouds import cloud, require_service
from core.azure.patience import Stop, longest_call, patiently, timeouts, within
from core.errors import StageError

LARGEST = 16 << 20
"""Bytes of an answer. The longest that Azure gives have some MiB."""
MAX_PAGES = 500
"""Pages of a list that are followed; a list that goes on for ever ends here."""


class Rest:
    """JSON over HTTPS with a signed-in user's token."""

    def __init__(
        self, credential: Any, stop: Stop | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, HeadersPolicy, UserAgentPolicy

        from core.version import __version__

        self._stop = stop or Stop()
        self._say = say
        self._client: Any = PipelineClient(
            cloud().url,
            policies=[
                HeadersPolicy({"Accept": "application/json"}),
                UserAgentPolicy(base_user_agent=f"olivepress/{__version__}"),
                BearerTokenCredentialPolicy(credential, cloud().scope),
            ],
            **timeouts(),
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
            request = HttpRequest(method, whole, params=parameters, json=body)
            response = within(longest_call(), lambda: self._read(request, subject))
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

    def _read(self, request: Any, subject: str) -> Any:
        """Send; the response, its whole body read."""
        response = self._client.send_request(request, stream=True)
        try:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > LARGEST:
                    raise StageError(
                        "Azure's answer is too long.",
                        f"{subject}: more than {LARGEST >> 20} MiB.",
                        "Something between here and Azure answers in its place; look at the proxy.",
                        code="azure.answer",
                    )
        finally:
            response.close()
        response._content = bytes(body)
        return response

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
