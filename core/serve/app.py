"""The paths of the server, and who may ask."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.chat.protocol import Done, Token
from core.serve.faults import Refusal, refusal_of, shutting_down
from core.serve.metrics import Metrics
from core.serve.model import ServedModel
from core.serve.replies import Reply, Usage
from core.serve.requests import Wanted, read_chat, read_completion

LARGEST_BODY = 8 << 20
_READ_AND_DROPPED = 64 << 20
"""A longer body is read on so far, since many a client hears of nothing before it has sent all."""

_BODY_SECONDS = 30.0
_READER_SECONDS = 60.0
"""A client that takes nothing for so long is taken to be gone."""

GONE = 499
"""How a request is counted whose client left before its answer (nginx's number; nobody is sent it)."""

_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")

_TOLD = "olivepress"
"""Where a request's scope keeps what the log and the figures are to have."""


class ServedApp:
    """The application that uvicorn runs.

    Attributes:
        closing: set when the server ends; running answers end, and their clients are told.
    """

    def __init__(
        self,
        model: ServedModel,
        log: Callable[[str], None],
        *,
        key: str | None,
        any_host: bool,
        origins: Sequence[str],
    ) -> None:
        """``key``: what clients must have, or None; ``any_host``: whatever name they call the server by."""
        self._model = model
        self._log = log
        self.closing = asyncio.Event()
        guard = Middleware(
            _Guard, log=log, metrics=model.metrics, key=key, any_host=any_host, origins=tuple(origins)
        )
        across = Middleware(
            CORSMiddleware,
            allow_origins=tuple(origins),
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
        )
        self.asgi: ASGIApp = Starlette(
            routes=[
                Route(_PATHS[0], self._chat, methods=["POST"]),
                Route(_PATHS[1], self._complete, methods=["POST"]),
                Route(_PATHS[2], self._models),
                Route(f"{_PATHS[2]}/{{name:path}}", self._one_model),
                Route(_PATHS[3], self._health),
                Route(_PATHS[4], self._metrics),
            ],
            middleware=[*([across] if origins else []), guard],
            exception_handlers={HTTPException: _no_such_path, Refusal: _refused, Exception: self._unexpected},
        )

    async def _chat(self, request: Request) -> _Answer:
        return await self._answer(request, read_chat)

    async def _complete(self, request: Request) -> _Answer:
        return await self._answer(request, read_completion)

    async def _answer(self, request: Request, read: Callable[[bytes], Wanted]) -> _Answer:
        if self.closing.is_set():
            raise shutting_down()
        return _Answer(self, self._model, read(await _body(request)))

    async def _models(self, _: Request) -> Response:
        data = [self._model_object(name) for name in self._model.models()]
        return JSONResponse({"object": "list", "data": data})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._model.models():
            raise Refusal(404, f"The model {name[:200]!r} does not exist.", "model_not_found", param="model")
        return JSONResponse(self._model_object(name))

    def _model_object(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._model.created, "owned_by": "olivepress"}

    async def _health(self, _: Request) -> Response:
        model = self._model
        state = "ready" if model.ready is not None else "failed" if model.error is not None else "loading"
        if not model.models():
            state = "failed"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._model.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _unexpected(self, _: Request, error: Exception) -> Response:
        self._log(f"Unexpected: {type(error).__name__}: {error}")
        return _response(refusal_of(error))

    def tell_fault(self, error: Exception) -> None:
        """Log what a client is not told in full."""
        self._log(" ".join(str(error).split()) or type(error).__name__)


async def _body(request: Request) -> bytes:
    """The whole body, if it is not too long and does not take too long."""
    too_long = Refusal(413, f"The body is longer than {LARGEST_BODY >> 20} MiB.", "request_too_large")
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > _READ_AND_DROPPED:
                    raise too_long
                if size <= LARGEST_BODY:
                    parts.append(part)
    except TimeoutError:
        raise Refusal(
            408,
            f"The body did not come within {_BODY_SECONDS:g} s.",
            "request_timeout",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise Refusal(GONE, "The client has gone.", "client_gone") from None
    if size > LARGEST_BODY:
        raise too_long
    return b"".join(parts)


def _response(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.as_dict(), refusal.status, headers=refusal.headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _response(error)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    place = f"{request.method} {request.url.path[:200]}"
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _response(
        Refusal(error.status_code, f"There is no {place} here.", code, headers=error.headers or {})
    )


class _Guard:
    """Who may ask; and a line in the log and a figure for each request."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        log: Callable[[str], None],
        metrics: Metrics,
        key: str | None,
        any_host: bool,
        origins: tuple[str, ...],
    ) -> None:
        self._app, self._log, self._metrics = app, log, metrics
        self._key = None if key is None else key.encode()
        self._any_host, self._origins = any_host, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        told: dict[str, Any] = {"status": 0, "id": f"req_{uuid.uuid4().hex}"}
        scope[_TOLD] = told

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", told["id"].encode())]
            await send(message)

        try:
            refusal = self._refusal(Headers(scope=scope), scope["path"])
            if refusal is None:
                await self._app(scope, receive, noted)
            else:
                await _response(refusal)(scope, receive, noted)
        finally:
            path = scope["path"]
            place = path if path in _PATHS else "other"
            self._metrics.requests.labels(place, str(told["status"])).inc()
            usage: Usage | None = told.get("usage")
            tokens = f"{usage.prompt}+{usage.answer} tokens" if usage is not None else ""
            line = (scope["method"], path[:200], told.get("model", ""), str(told["status"]), tokens)
            self._log(" ".join(part for part in line if part) + f" {time.monotonic() - began:.2f} s")

    def _refusal(self, headers: Headers, path: str) -> Refusal | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._any_host and not _names_loopback(host):
            # A page of another site can make its own name lead here (DNS rebinding); its name gives it away.
            return Refusal(
                403,
                f"This server is not called {host[:200]!r}. Use localhost or 127.0.0.1.",
                "host_not_allowed",
            )
        if origin is not None and origin not in self._origins and "*" not in self._origins:
            return Refusal(
                403,
                f"Pages of {origin[:200]!r} may not ask. --allow-origin lets them.",
                "origin_not_allowed",
            )
        if self._key is None or path == "/health":
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key):
            return None
        return Refusal(
            401,
            "The key is missing or wrong. Send it as: Authorization: Bearer KEY",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _names_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_End = Exception | None
"""How the answering ended: an error, or None. Stands last among the events of an answer."""


class _Answer(Response):
    """An answer on its way to a client.

    The model does not wait for a client that reads slowly: what it writes is kept until it is read. An answer that
    nobody waits for any more is ended.
    """

    def __init__(self, app: ServedApp, model: ServedModel, wanted: Wanted) -> None:
        super().__init__()
        self._app, self._model, self._wanted = app, model, wanted
        asked = [("logprobs" in prompt) for prompt in wanted.prompts for _ in range(wanted.choices)]
        self._reply = Reply(wanted.chat, wanted.model, asked)
        self._events: asyncio.Queue[tuple[int, Token | Done] | _End] = asyncio.Queue()
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        scope[_TOLD]["model"] = self._wanted.model[:100]
        work = asyncio.create_task(
            self._model.answer(self._wanted, lambda index, event: self._events.put_nowait((index, event)))
        )
        gone = asyncio.create_task(_until_gone(receive))
        closing = asyncio.create_task(self._app.closing.wait())
        client_gone = Refusal(GONE, "The client has gone.", "client_gone")
        work.add_done_callback(lambda task: self._put_end(None if task.cancelled() else task.exception()))
        gone.add_done_callback(lambda _: self._put_end(client_gone))
        closing.add_done_callback(lambda _: self._put_end(shutting_down()))
        try:
            await self._send_all(send, arrived)
            scope[_TOLD]["usage"] = self._reply.usage
        except TimeoutError:  # uvicorn closes a connection whose answer was not completed
            scope[_TOLD]["status"] = GONE
        except Exception as error:  # whatever it is: the client waits for a word
            await self._tell(error, scope, receive, send)
        finally:
            for task in (work, gone, closing):
                task.cancel()

    def _put_end(self, error: BaseException | None) -> None:
        self._events.put_nowait(error if isinstance(error, Exception) else None)

    async def _send_all(self, send: Send, arrived: float) -> None:
        wanted, reply, metrics = self._wanted, self._reply, self._model.metrics
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            index, told = event
            if not reply.begun:
                reply.fingerprint = self._model.fingerprint
                metrics.first.labels(wanted.model).observe(time.monotonic() - arrived)
                if wanted.stream:
                    await self._start(send, b"text/event-stream; charset=utf-8")
            if isinstance(told, Token):
                choice = reply.add(index, told.text, told.tokens)
            else:
                choice = reply.end(index, told, index % wanted.choices == 0)
            if wanted.stream:
                await self._write(send, reply.chunk([choice], wanted.usage))
        self._count(time.monotonic() - arrived)
        if wanted.stream:
            if wanted.usage:
                await self._write(send, reply.chunk([], True, last=True))
            await self._send(send, b"data: [DONE]\n\n", more=False)
        else:
            body = JSONResponse(reply.whole()).body
            await self._start(send, b"application/json", len(body))
            await self._send(send, bytes(body), more=False)

    def _count(self, seconds: float) -> None:
        metrics, model, usage = self._model.metrics, self._wanted.model, self._reply.usage
        metrics.took.labels(model).observe(seconds)
        for kind, count in (("prompt", usage.prompt), ("cached", usage.cached), ("answer", usage.answer)):
            metrics.tokens.labels(model, kind).inc(count)

    async def _start(self, send: Send, kind: bytes, size: int | None = None) -> None:
        self._begun = True
        headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
        if size is not None:
            headers.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, send: Send, data: dict[str, Any]) -> None:
        await self._send(send, b"data: " + _json(data) + b"\n\n", more=True)

    async def _send(self, send: Send, data: bytes, *, more: bool) -> None:
        async with asyncio.timeout(_READER_SECONDS):
            await send({"type": "http.response.body", "body": data, "more_body": more})

    async def _tell(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell the client of a failure: by its status, or where the answer has begun by an event."""
        refusal = refusal_of(error)
        if refusal is not error:
            self._app.tell_fault(error)
        scope[_TOLD]["status"] = refusal.status
        if refusal.status == GONE:
            return
        if not self._begun:
            await _response(refusal)(scope, receive, send)
        else:  # without the [DONE] of a whole answer
            await self._send(send, b"data: " + _json(refusal.as_dict()) + b"\n\n", more=False)


def _json(data: dict[str, Any]) -> bytes:
    # In ASCII: there are readers of events that take U+2028 and its like for the end of a line.
    return json.dumps(data, separators=(",", ":")).encode("ascii")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
