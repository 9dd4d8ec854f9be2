"""The chat's worker process: ``python -m core.chat.worker``.

Requests come in on standard input, events go out on what was standard output when the process began;
from then on file descriptor 1 is the log, so that native code that prints cannot break the protocol.
The end of standard input, as when the parent is gone for whatever reason, ends the process at once.
"""

from __future__ import annotations

import dataclasses
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.chat.protocol import (
    Adapted,
    Ask,
    Error,
    Finished,
    Load,
    Message,
    ProtocolError,
    Score,
    SetAdapter,
    Stop,
    decode,
    encode,
)
from core.errors import LabError, MachineError, RequestError
from core.folder import lab_command
from core.text import without_logins

if TYPE_CHECKING:
    from core.chat.engine import Engine


class Pipe:
    """The way to the parent."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.set_inheritable(self._fd, False)
        os.dup2(2, 1)

    def send(self, message: Message) -> None:
        """Write a message at once. A parent that is gone ends the process."""
        data = encode(message)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os._exit(0)


class Inbox:
    """Requests in order; Stop and the end of input act as soon as they are looked for.

    The thread that answers looks itself, before each token, at the cost of one system call. One that reads
    beside it would wait long: the runtime gives the interpreter's lock back only for microseconds.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._waiting: deque[tuple[Message, float]] = deque()
        self._stopped: set[int] = set()
        self._line = b""
        self._arrivals = select.poll()
        self._arrivals.register(0, select.POLLIN)
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def _read(self) -> None:
        """Take what has come in; waits if nothing has."""
        data = os.read(0, 1 << 16)
        if not data:
            os._exit(0)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            message = decode(line)
        except ProtocolError as error:
            self._pipe.send(Error(0, "request", "The chat sent something unreadable.", str(error)))
            return
        if isinstance(message, Stop):
            self._stopped.add(message.id)
        else:
            self._waiting.append((message, time.perf_counter()))

    def stopped(self, number: int) -> bool:
        """Whether the request with this id is to end. Asked before each token."""
        while self._arrivals.poll(0):
            self._read()
        return number in self._stopped

    def __iter__(self) -> Iterator[tuple[Message, float]]:
        while True:
            while not self._waiting:
                self._read()
            yield self._waiting.popleft()


def _end_with_parent() -> None:
    """End the process when the parent is gone, though native code may be in the middle of a long step."""
    hang_up = select.poll()
    hang_up.register(0, 0)  # told in any case: the other end was closed
    hang_up.poll()
    os._exit(0)


def serve() -> None:
    """Answer requests until the parent closes the pipe."""
    pipe = Pipe()
    inbox = Inbox(pipe)
    engine: Engine | None = None
    failure: Error | None = None
    for message, arrived in inbox:
        try:
            if isinstance(message, Load):
                from core.chat.engine import (
                    Engine as Loading,
                )  # native libraries, only now: the pipe must live first

                engine = Loading(message)
                pipe.send(engine.ready)
            elif engine is None:
                nothing = Error(
                    0, "request", "No model is loaded.", f"The request was {message.type}.", fatal=True
                )
                pipe.send(dataclasses.replace(failure or nothing, id=message.id))
            else:
                _answer(engine, message, arrived, pipe, inbox)
        except LabError as error:
            kind = {RequestError: "request", MachineError: "machine"}.get(type(error), "model")
            problem = Error(
                message.id, kind, error.title, error.detail, error.hint, fatal=engine is None, code=error.code
            )
        except MemoryError:
            problem = _no_memory(message.id, "", engine is None)
        except ImportError as error:
            problem = _no_package(message.id, error)
        except (
            Exception
        ) as error:  # native code raises RuntimeError and others; the worker must tell and go on
            import traceback

            print(without_logins(traceback.format_exc()), file=sys.stderr)
            problem = _native(message, error, engine is None)
        else:
            continue
        if isinstance(message, Load):
            failure = problem
        pipe.send(problem)


def _answer(engine: Engine, message: Message, arrived: float, pipe: Pipe, inbox: Inbox) -> None:
    if isinstance(message, Ask):
        for event in engine.ask(message, arrived, lambda: inbox.stopped(message.id)):
            pipe.send(event)
        pipe.send(Finished(message.id))
    elif isinstance(message, SetAdapter):
        pipe.send(Adapted(message.id, message.adapter, engine.set_adapter(message.adapter)))
    elif isinstance(message, Score):
        pipe.send(engine.score(message))
    else:
        raise RequestError("The worker does not do that.", f"The request was {message.type}.")


def _no_package(number: int, error: ImportError) -> Error:
    """A package that the model needs is not in this Python, which OLIVEPRESS_CHAT_PYTHON may have named."""
    what = (
        f"pip install {error.name}"
        if isinstance(error, ModuleNotFoundError) and error.name
        else "Mend its packages"
    )
    return Error(
        number,
        "machine",
        "The model's process lacks a package.",
        f"{sys.executable}: {error}.",
        f"{what}, for that Python.",
        fatal=True,
    )


def _native(message: Message, error: Exception, fatal: bool) -> Error:
    text = str(error).strip()[:1000]
    if "allocate" in text.lower() or "bad_alloc" in text:
        return _no_memory(message.id, text, fatal)
    if isinstance(message, Load):
        again = lab_command(Path(message.model_dir), "run", "optimize", "--force")
        return Error(
            message.id,
            "model",
            "The model could not be loaded.",
            text,
            "Run the optimize stage again: " + again,
            fatal=True,
        )
    return Error(
        message.id,
        "model",
        "The model failed while it answered.",
        text,
        "Ask again, or start the chat again.",
    )


def _no_memory(number: int, text: str, fatal: bool) -> Error:
    hint = "Close other programs, set a smaller chat.context_tokens in lab.toml, or use a smaller model."
    title, code = "There is not enough memory.", "machine.memory"
    return Error(number, "machine", title, text, hint, fatal=fatal, code=code)


if __name__ == "__main__":
    serve()
