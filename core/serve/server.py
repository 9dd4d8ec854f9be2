"""Starting and stopping the server, from the command line, the wizard or a script."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

import uvicorn

from core.errors import LabError, MachineError, RequestError
from core.lab import Lab
from core.language import told
from core.serve.app import ServedApp
from core.serve.faults import Refusal
from core.serve.model import Limits, ServedModel
from core.text import clean_line

SHORTEST_KEY = 16

_CONNECTIONS = 512
_GRACE_SECONDS = 5


class ModelServer:
    """A lab's model over HTTP, in a thread of this process; the model is in a child process.

    It listens when it is made, and answers as soon as the model is loaded.

    >>> with ModelServer(Lab.open("my-lab"), port=0) as server:  # doctest: +SKIP
    ...     server.wait_ready()
    ...     print(server.url, server.models())

    Attributes:
        url: what clients take for their base URL.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        key: str | None = None,
        origins: Sequence[str] = (),
        limits: Limits | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        """Take the address, and begin to load the model.

        Args:
            port: 0 for any that is free.
            key: what clients must have; needed where others than this machine can ask.
            origins: web pages that may ask, such as ``https://example.org``; ``*`` for all.
            on_log: gets each line of the log, cleaned, from another thread.

        Raises:
            RequestError: the port is taken, there is no such address, there is no key where there must be one, or the
                lab's recipe is wrong.
        """
        self._key, self._origins = key, tuple(origins)
        self._on_log = on_log or (lambda line: None)
        self._loopback = _check_address(host, key)
        self._model = ServedModel(lab, limits or Limits(), self._log)
        self._socket = _listen(host, port)
        name, self.port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self.port}/v1"
        self._fault: LabError | None = None
        self._ending = False
        self._loaded, self._begun = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)
        self._thread.start()
        self._begun.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def ended(self) -> bool:
        """It was ended, or is about to."""
        return self._ending or not self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """The model is loaded."""
        return self._model.ready is not None

    def models(self) -> list[str]:
        """The names by which clients ask for the base and for each adapter."""
        return list(self._model.models())

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the model is loaded.

        Raises:
            LabError: what kept it from loading; the server goes on, and tries again when its files change.
            MachineError: the time ran out, or the server was stopped.
        """
        if not self._loaded.wait(timeout):
            raise MachineError(
                told("The model is still loading."),
                told("It took longer than {timeout:g} s.", timeout=timeout),
                code="serve.loading",
            )
        if self._fault is not None:
            raise self._fault
        if not self.ready:
            raise MachineError(
                told("The server was stopped."),
                told("The model was not loaded by then."),
                code="serve.stopped",
            )

    def end(self) -> None:
        """Begin to end it, from a signal's handler too. Answers under way end, and their clients are told."""
        self._ending = True
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._end_asked.set)

    def stop(self) -> None:
        """:meth:`end`, and wait for the end."""
        self.end()
        self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if the time ran out first."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._socket.close()
            self._loaded.set()
            self._begun.set()

    async def _serve(self) -> None:
        self._loop, self._end_asked = asyncio.get_running_loop(), asyncio.Event()
        model = self._model
        app = ServedApp(model, self._log, key=self._key, any_host=not self._loopback, origins=self._origins)
        config = uvicorn.Config(
            app.asgi,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        with _LogTo(self._log):
            listening = asyncio.create_task(server.serve(sockets=[self._socket]))
            loading = asyncio.create_task(self._load(model))
            self._begun.set()
            end = asyncio.create_task(self._end_asked.wait())
            await asyncio.wait({listening, end}, return_when=asyncio.FIRST_COMPLETED)
            app.closing.set()
            server.should_exit = True
            loading.cancel()
            await model.close()
            await listening
            end.cancel()

    async def _load(self, model: ServedModel) -> None:
        try:
            await model.load()
        except Refusal as error:
            self._fault = model.error or MachineError(
                told("The model cannot be served."), str(error), code="serve.model"
            )
        finally:
            self._loaded.set()

    def _log(self, line: str) -> None:
        self._on_log(clean_line(line))


class _LogTo(logging.Handler):
    """Brings uvicorn's own log into ours, and nowhere else, while it is entered."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._write = log

    def emit(self, record: logging.LogRecord) -> None:
        self._write(f"{record.levelname}: {' '.join(self.format(record).split())}")

    def __enter__(self) -> Self:
        logger = logging.getLogger("uvicorn")
        logger.addHandler(self)
        logger.propagate = False
        return self

    def __exit__(self, *error: object) -> None:
        logger = logging.getLogger("uvicorn")
        logger.removeHandler(self)
        logger.propagate = True


def _check_address(host: str, key: str | None) -> bool:
    """Whether only this machine can ask. Raises RequestError: others can, and there is no key, or a weak one."""
    loopback = host == "localhost" or _is_loopback(host)
    if key is None and not loopback:
        raise RequestError(
            told("A server for other machines needs a key."),
            told("The address {host} can be reached from outside.", host=host),
            told("Set OLIVEPRESS_SERVE_KEY, or use --key-file FILE; openssl rand -hex 24 makes one."),
            code="serve.key",
        )
    if key is not None and (
        len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key
    ):
        raise RequestError(
            told("The key cannot be used."),
            told(
                "It needs at least {shortest_key} characters, ASCII, without spaces.",
                shortest_key=SHORTEST_KEY,
            ),
            told("openssl rand -hex 24 makes one."),
            code="serve.key",
        )
    return loopback


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use is told before anything is loaded."""
    try:
        family, *_, address = socket.getaddrinfo(
            "127.0.0.1" if host == "localhost" else host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = (
                told("is used by another program")
                if error.errno == errno.EADDRINUSE
                else told("is not for this user")
            )
            raise RequestError(
                told("The port {port} cannot be used.", port=port),
                told("{host}:{port} {why}.", host=host, port=port, why=why),
                told("Name another one with --port; --port 0 takes one that is free."),
                code="serve.port",
            ) from None
        raise RequestError(
            told("The server cannot listen on {host}.", host=host),
            told("{reason}.", reason=error.strerror or error),
            told(
                "Name an address of this machine with --host, such as 127.0.0.1, or 0.0.0.0 for all of them."
            ),
            code="serve.host",
        ) from None
