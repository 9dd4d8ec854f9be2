"""A CONNECT proxy (RFC 9110, 9.3.6) that leads chosen hosts to local ports and refuses every other.

It can hold each connection to a rate, which is how a slow line is played.
"""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
import time
from typing import Any


class ConnectProxy:
    """Runs until :meth:`close`. ``routes`` maps a host or ``.suffix`` to a local port."""

    def __init__(self, routes: dict[str, int], *, rate: float | None = None) -> None:
        self.routes, self.rate = routes, rate
        self.refused: list[str] = []
        self.connections = 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A connection that broke is what some tests want."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _target(self, host: str) -> int | None:
        for name, port in self.routes.items():
            if host == name or (name.startswith(".") and host.endswith(name)):
                return port
        return None

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(4096)
            if not data:
                return
            head += data
        words = head.split(b"\r\n", 1)[0].decode().split()
        host = words[1].rsplit(":", 1)[0] if len(words) > 1 else ""
        port = self._target(host) if words[0] == "CONNECT" else None
        if port is None:
            self.refused.append(host)
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        self.connections += 1
        with socket.create_connection(("127.0.0.1", port), timeout=10) as server:
            server.settimeout(None)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            free_at = time.monotonic()
            while True:
                for key, _ in selector.select():
                    source: Any = key.fileobj
                    try:
                        data = source.recv(65536)
                        if not data:
                            return
                        key.data.sendall(data)
                    except OSError:
                        return
                    if self.rate and source is client:
                        free_at = max(free_at, time.monotonic() - 0.02) + len(data) / self.rate
                        wait = free_at - time.monotonic()
                        if wait > 0:
                            time.sleep(wait)  # the rate of the line, not a wait for something
