"""Commands run for the wizard in a process of their own: ``python -m core.cli.served``; see :mod:`core.process`.

A request ``{"words": ["login", "--show"]}`` is ``olivepress login --show --json``: each object that the command
prints is an event, the last one is the result, and its error is the answer.
"""

from __future__ import annotations

import io
import json
import signal
import threading
from contextlib import redirect_stdout, suppress
from typing import Any

from core.cli.parser import parse
from core.errors import Cancelled
from core.process import Request, serve

_LOOK_S = 0.1


class _Printed(io.TextIOBase):
    """Takes standard output's place: each line that is a JSON object is an event."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._part = ""
        self.last: dict[str, Any] = {}

    def write(self, text: str) -> int:
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            found = json.loads(line)
            self.last = found
            self._request.tell(found)
        return len(text)


def answer(request: Request) -> dict[str, Any]:
    """Run one command. Being cancelled is Ctrl-C to it."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if request.cancelled:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    printed = _Printed(request)
    try:
        with redirect_stdout(printed):
            options = parse([*request.ask["words"], "--json"])
            options.run(options)
    except KeyboardInterrupt:
        raise Cancelled from None
    finally:
        ended.set()
        with suppress(KeyboardInterrupt):  # one that came too late is not for the next command
            watching.join()
    return printed.last


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve(answer)
