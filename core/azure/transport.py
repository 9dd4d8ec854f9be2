"""The one way to Azure's hosts, below every client of Microsoft's packages: limits of time and size, and a cancel.

Imports azure-core: only for functions that are about to call.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
from azure.core.exceptions import ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection
from urllib3.util.ssl_ import create_urllib3_context

from core.azure.errors import note_time
from core.azure.retry import Stop, retry_limit
from core.errors import StageError
from core.language import told

LARGEST = 16 << 20
"""Bytes of an answer. The longest that Azure gives have some MiB; a file comes in parts that are smaller."""
SLOWEST = 4 << 10
"""Bytes a second that a connection must make, beside the time that every call has."""
SEND_BUFFER = 512 << 10
"""Bytes that may wait in the system for each connection. The system's own choice is up to some MiB: on a slow
line that takes longer to leave than we wait for an answer, and progress would count it as gone."""

# What the packages log may quote what is secret: it stays out of our logs.
for _name in ("azure", "msal", "msal_extensions", "urllib3", "opentelemetry"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False

_SOCKET = [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)]
_SLICE = 0.5
"""Seconds after which a thread that waits for a byte looks whether it should go on waiting."""


class _Call(threading.local):
    """What this thread's call may take: until when it may last, and the stop that ends it."""

    until = float("inf")
    stop = Stop()


_call = _Call()


class _Socket(ssl.SSLSocket):
    """A line that is read and written no longer than the call of this thread may last, and no longer than its stop.

    A limit for each byte, as requests has it, is none for a host that sends one now and then, headers included.
    """

    def recv_into(self, *words: Any, **more: Any) -> int:
        """As the socket's own."""
        read = super().recv_into
        return self._limited(lambda: read(*words, **more))

    def send(self, *words: Any, **more: Any) -> int:
        """As the socket's own."""
        send = super().send
        return self._limited(lambda: send(*words, **more))

    def _limited(self, act: Callable[[], int]) -> int:
        given = self.gettimeout()
        until = _call.until if given is None else min(_call.until, time.monotonic() + given)
        try:
            while True:
                _call.stop.check()
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("The call took too long.")
                self.settimeout(min(left, _SLICE))
                with suppress(TimeoutError):
                    return act()
        finally:
            self.settimeout(given)


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *words: Any, **more: Any) -> None:
        super().init_poolmanager(*words, socket_options=_SOCKET, ssl_context=_context(), **more)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        return super().proxy_manager_for(proxy, socket_options=_SOCKET, ssl_context=_context(), **more)


def _context() -> ssl.SSLContext:
    context = create_urllib3_context()
    context.sslsocket_class = _Socket
    return context


class Transport(RequestsTransport):
    """Sends a request and takes its whole answer, within a limit of time that grows with what is sent or asked for.

    ``stop`` may be changed; once it is set, nothing more is sent, nothing is waited for, and no pause is made.
    """

    def __init__(self, stop: Stop, url: str = "", connections: int = 10) -> None:
        """Send for one piece of work.

        Args:
            url: of the one host that is asked, where small files are many: its proxy and certificates are looked
                up once. requests does it for each call, a third of the time that a small file takes.
            connections: how many calls at once will reuse their connection.
        """
        session = requests.Session()
        session.mount("https://", _Adapter(pool_connections=4, pool_maxsize=connections, max_retries=0))
        given: dict[str, Any] = {}
        if url:
            session.trust_env = False
            session.proxies.update(get_environ_proxies(url))
            trusted = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            given = {"use_env_settings": False, "connection_verify": trusted}
        limit = retry_limit()
        super().__init__(
            session=session, connection_timeout=min(20.0, limit), read_timeout=min(60.0, limit), **given
        )
        self.stop = stop

    def sleep(self, duration: float) -> None:
        """A pause of a client's own, which a stop ends."""
        self.stop.wait(duration)

    def send(self, request: Any, **options: Any) -> Any:
        """The response, its whole body there.

        Raises:
            Cancelled: the stop is set.
            StageError: the answer is too long.
            azure.core.exceptions.AzureError: the line broke, or the call took too long.
        """
        self.stop.check()
        stream = options.pop("stream", False)
        limit = min(60.0, retry_limit()) + _bytes_of(request) / SLOWEST
        _call.until, _call.stop = time.monotonic() + limit, self.stop
        response = self._whole(super().send(request, stream=True, **options))
        if not stream and hasattr(response, "read"):
            response.read()
        return response

    def _whole(self, response: Any) -> Any:
        answer = response.internal_response
        note_time(answer.headers.get("Date"))
        body = bytearray()
        try:
            for piece in answer.iter_content(1 << 16):
                self.stop.check()
                body += piece
                if len(body) > LARGEST:
                    raise StageError(
                        told("Azure's answer is too long."),
                        told(
                            "{url}: more than {largest} MiB.",
                            url=answer.url.split("?")[0],
                            largest=LARGEST >> 20,
                        ),
                        told("Something between here and Azure answers in its place; look at the proxy."),
                        code="azure.answer",
                    )
        except requests.RequestException as error:
            raise ServiceResponseError(error, error=error) from error
        finally:
            answer.close()
        answer._content, answer._content_consumed = bytes(body), True
        return response


def _bytes_of(request: Any) -> int:
    """The bytes that a call sends or asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("x-ms-range", ""))
    sent = int(request.headers.get("Content-Length") or 0)
    return sent + (int(asked[2]) - int(asked[1]) if asked else 0)
