"""The chat's worker process: ``python -m core.chat.worker``.

Requests come in on standard input, events go out on what was standard output when the process began;
from then on file descriptor 1 is the log, so that native code that prints cannot break the protocol.
The end of standard input, as when the parent is gone for whatever reason, ends the process at once.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.chat.protocol import (
    Adapted,
    Ask,
    Close,
    Error,
    Finished,
    Load,
    Message,
    ProtocolError,
    Reset,
    Score,
    SetAdapter,
    Stop,
    decode,
    encode,
)
from core.errors import LabError, MachineError, RequestError

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


LET_IN_SECONDS = 0.02
"""How long an answer may go on before the thread that reads requests is let in."""


class Inbox:
    """Requests in order; Stop, Close and the end of input act at once."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._queue: queue.SimpleQueue[tuple[Message, float]] = queue.SimpleQueue()
        self._stopped: set[int] = set()
        self._let_in = 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            try:
                message = decode(line)
            except ProtocolError as error:
                self._pipe.send(Error(0, "request", "The chat sent something unreadable.", str(error)))
                continue
            if isinstance(message, Stop):
                self._stopped.add(message.id)
            elif isinstance(message, Close):
                break
            else:
                self._queue.put((message, time.perf_counter()))
        # Native code may be in the middle of a long step: do not wait for it.
        os._exit(0)

    def stopped(self, number: int) -> bool:
        """Whether the request with this id is to end. Asked before each token.

        The runtime gives the interpreter's lock back and takes it again within microseconds, so the
        thread that reads would wait for seconds: each time it wakes the lock is taken, and it never
        waits the five milliseconds after which CPython hands it over. A short sleep now and then lets it in.
        """
        now = time.perf_counter()
        if now - self._let_in > LET_IN_SECONDS:
            time.sleep(0.0001)
            self._let_in = now
        return number in self._stopped

    def __iter__(self) -> Iterator[tuple[Message, float]]:
        while True:
            yield self._queue.get()


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
            problem = Error(message.id, kind, error.title, error.detail, error.hint, fatal=engine is None)
        except MemoryError:
            problem = _no_memory(message.id, "", engine is None)
        except (
            Exception
        ) as error:  # native code raises RuntimeError and others; the worker must tell and go on
            import traceback

            traceback.print_exc(file=sys.stderr)
            problem = _native(message.id, error, engine is None)
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
    elif isinstance(message, Reset):
        engine.reset()
        pipe.send(Finished(message.id))
    else:
        raise RequestError("The worker does not do that.", f"The request was {message.type}.")


def _native(number: int, error: Exception, fatal: bool) -> Error:
    text = str(error).strip()[:1000]
    if "allocate" in text.lower() or "bad_alloc" in text:
        return _no_memory(number, text, fatal)
    if fatal:
        return Error(
            number,
            "model",
            "The model could not be loaded.",
            text,
            "Run the optimize stage again: olivepress run optimize --force",
            fatal=True,
        )
    return Error(
        number, "model", "The model failed while it answered.", text, "Ask again, or start the chat again."
    )


def _no_memory(number: int, text: str, fatal: bool) -> Error:
    hint = "Close other programs, set a smaller chat.context_tokens in lab.toml, or use a smaller model."
    return Error(number, "machine", "There is not enough memory.", text, hint, fatal=fatal)


if __name__ == "__main__":
    serve()
