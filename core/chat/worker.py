"""The chat's worker process, ``python -m core.chat.worker``: the other end of :mod:`core.chat.model_process`."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chat.protocol import (
    Adapted,
    Ask,
    ChatError,
    Load,
    ProtocolMessage,
    Score,
    SetAdapter,
    from_wire,
    to_wire,
)
from core.errors import LabError, MachineError, RequestError
from core.folder import lab_command
from core.language import told
from core.process import Request, serve
from core.text import without_logins

if TYPE_CHECKING:
    from core.chat.engine import Engine


class ChatWorker:
    """Answers requests with one loaded model."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._load_error: LabError | None = None

    def handle(self, request: Request) -> dict[str, Any]:
        """The result of a request; native failures are told as the chat's errors.

        Raises:
            LabError: it failed.
        """
        message = from_wire(request.ask)
        try:
            return self._answer(message, request)
        except LabError as error:
            failure = error
        except MemoryError:
            failure = _no_memory("")
        except ImportError as error:
            failure = _no_package(error)
        except (
            Exception
        ) as error:  # native code raises RuntimeError and others: it must be told, and the worker goes on
            print(without_logins(traceback.format_exc()), file=sys.stderr)
            failure = _native(message, error)
        if isinstance(message, Load):
            self._load_error = failure
        raise failure

    def _answer(self, message: ProtocolMessage, request: Request) -> dict[str, Any]:
        if isinstance(message, Load):
            from core.chat.engine import Engine  # native libraries, only now: the pipe must be served first

            self._engine = Engine(message)
            return to_wire(self._engine.ready)
        engine = self._engine
        if engine is None:
            raise self._load_error or RequestError(
                told("No model is loaded."),
                told("The request was {type}.", type=message.type),
                code="chat.protocol",
            )
        if isinstance(message, Ask):
            for event in engine.ask(message, request.arrived, lambda: request.cancelled):
                request.tell(to_wire(event))
            return {}
        if isinstance(message, SetAdapter):
            return to_wire(Adapted(message.adapter, engine.set_adapter(message.adapter)))
        if isinstance(message, Score):
            return to_wire(engine.score(message))
        raise RequestError(
            told("The worker does not do that."),
            told("The request was {type}.", type=message.type),
            code="chat.protocol",
        )


def _no_package(error: ImportError) -> LabError:
    """A package that the model needs is not in this Python, which OLIVEPRESS_CHAT_PYTHON may have named."""
    named = isinstance(error, ModuleNotFoundError) and error.name
    return MachineError(
        told("The model's process lacks a package."),
        told("{executable}: {error}.", executable=sys.executable, error=error),
        told("pip install {name}, for that Python.", name=error.name)
        if named
        else told("Mend its packages, for that Python."),
        code="chat.package",
    )


def _native(message: ProtocolMessage, error: Exception) -> LabError:
    text = str(error).strip()[:1000]
    if "allocate" in text.lower() or "bad_alloc" in text:  # the runtime has no exception of its own for it
        return _no_memory(text)
    if isinstance(message, Load):
        again = lab_command(Path(message.model_dir), "run", "optimize", "--force")
        return ChatError(
            told("The model could not be loaded."),
            text,
            told("Run the optimize stage again: {again}", again=again),
            code="chat.failed",
        )
    return ChatError(
        told("The model failed while it answered."),
        text,
        told("Ask again, or start the chat again."),
        code="chat.failed",
    )


def _no_memory(text: str) -> LabError:
    return MachineError(
        told("There is not enough memory."),
        text,
        told("Close other programs, set a smaller chat.context_tokens in lab.toml, or use a smaller model."),
        code="machine.memory",
    )


if __name__ == "__main__":
    serve(ChatWorker().handle, grace_s=0)
