"""The model of a chat in a child process: whether there is one, its start, its requests, its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.chat.protocol import (
    Adapted,
    Ask,
    ChatError,
    Error,
    Finished,
    Load,
    Progress,
    ProtocolMessage,
    Ready,
    Score,
    Scored,
    SetAdapter,
    from_wire,
    to_wire,
)
from core.errors import Do, Hint, LabError, MachineError, RequestError, StageError
from core.files import refuse_damaged
from core.folder import LabFolder, lab_command
from core.language import told
from core.optimize.trusted import CONFIG_FILE, check_config, graph_name
from core.process import Call, Child

Listener = Callable[[ProtocolMessage], None]
LoadListener = Callable[[Progress | Ready | Error], None]

PYTHON_VARIABLE = "OLIVEPRESS_CHAT_PYTHON"
"""Names another Python for the model's process, such as one with a newer onnxruntime-genai for CUDA."""

_WATCH_SECONDS = 0.1


class ModelProcess:
    """A model in ``core.chat.worker``. It begins to load when this object is made; requests wait for it.

    Listeners are called from a thread of the child's, in order, and must not block.

    Attributes:
        ready: what is known of the loaded model; None while it loads.
    """

    def __init__(self, load: Load, on_load: LoadListener | None = None) -> None:
        """Start the process. ``on_load`` hears of the loading: Progress, then Ready or Error.

        Raises:
            RequestError: the Python that ``OLIVEPRESS_CHAT_PYTHON`` names cannot be started.
            MachineError: the process cannot be started.
        """
        self._load = load
        self._tell = on_load or (lambda event: None)
        self._start()

    def _start(self) -> None:
        self.ready: Ready | None = None
        self._load_error: LabError | None = None
        self._loaded = threading.Event()
        python = os.environ.get(PYTHON_VARIABLE)
        try:
            self._child = Child(
                "core.chat.worker",
                what=told("The model's process"),
                hint=told("The conversation is kept. Start the model again to go on."),
                python=python,
            )
        except MachineError as error:
            if not python:
                raise
            raise RequestError(
                error.title,
                error.detail,
                told("Let {python_variable} name a Python, or unset it.", python_variable=PYTHON_VARIABLE),
                code="chat.python",
            ) from error
        self._child.start(to_wire(self._load)).future.add_done_callback(self._hear_load)
        threading.Thread(target=self._watch_load, name="chat-load-watch", daemon=True).start()

    def _hear_load(self, future: Future[dict[str, Any]]) -> None:
        found = _result(future)
        if isinstance(found, Ready):
            self.ready = found
        elif isinstance(found, Error):
            self._load_error = found.error
        self._loaded.set()
        if isinstance(found, Ready | Error):
            self._tell(found)

    def _watch_load(self) -> None:
        """Tell the progress: bytes of weights that have come into the process's memory.

        The runtime loads in one call that tells nothing; Linux tells how much of the process is in
        memory. Elsewhere the total stays unknown.
        """
        loaded, pid = self._loaded, self.pid
        total = weights_bytes(Path(self._load.model_dir))
        start = resident_bytes(pid)
        best = 0
        while not loaded.wait(_WATCH_SECONDS):
            now = resident_bytes(pid)
            if start is None or now is None:
                self._tell(Progress("loading", 0, None))
                continue
            best = max(best, min(now - start, int(total * 0.99)))
            self._tell(Progress("loading", best, total))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """The process is there."""
        return not self._child.dead.is_set()

    def check(self) -> None:
        """Raise ChatError if the process is gone, or what kept the model from loading."""
        if self._load_error is not None:
            raise self._load_error
        if not self.alive:
            raise ChatError(
                told("The model's process is gone."),
                told("The conversation is kept."),
                told("Start the model again to go on."),
                code="process.died",
                died=True,
            )

    def wait_ready(self, timeout: float | None = None) -> Ready:
        """Wait until the model is loaded. Raises what prevented it, or ChatError at the end of the time."""
        if not self._loaded.wait(timeout):
            raise ChatError(
                told("The model is still loading."),
                told("It took longer than {timeout:g} s.", timeout=timeout),
                code="process.deadline",
            )
        if self._load_error is not None:
            raise self._load_error
        assert self.ready is not None
        return self.ready

    def ask(
        self, prompts: list[dict[str, Any]], settings: dict[str, Any], listener: Listener
    ) -> Callable[[], None]:
        """Have a question answered; ``listener`` hears the events, and Finished or Error as the last.

        Returns:
            what ends the answer after the token in hand.
        """

        def over(future: Future[dict[str, Any]]) -> None:
            found = _result(future)
            listener(found if isinstance(found, Error) else Finished())

        call: Call = self._child.start(
            to_wire(Ask(prompts, settings)), lambda event: listener(from_wire(event))
        )
        call.future.add_done_callback(over)
        return call.cancel

    def set_adapter(self, adapter: str) -> float:
        """Make an adapter ready, or none (""); returns the seconds it took. Raises what kept it from that."""
        found = self._wait_for(SetAdapter(adapter))
        assert isinstance(found, Adapted)
        return found.seconds

    def score(self, adapter: str, segments: Sequence[list[Any]]) -> tuple[float, int]:
        """The loss of a text and the tokens that counted. Raises what kept it from that."""
        found = self._wait_for(Score(adapter, list(segments)))
        assert isinstance(found, Scored)
        return found.loss, found.tokens

    def _wait_for(self, request: ProtocolMessage) -> ProtocolMessage:
        self.wait_ready()
        call = self._child.start(to_wire(request))
        try:
            return from_wire(call.result())
        except LabError as error:
            raise _chat_error(error) from error

    def restart(self, adapter: str) -> None:
        """Start another process in place of this one, with an adapter made ready at once. Raises as the first start."""
        self.close()
        self._load = replace(self._load, adapter=adapter)
        self._start()

    def close(self) -> None:
        """End the process and free its memory."""
        self._child.close()


def _result(future: Future[dict[str, Any]]) -> ProtocolMessage | None:
    """What a request came to; None for a result without contents."""
    try:
        found = future.result()
        return from_wire(found) if found else None
    except LabError as error:
        return Error(_chat_error(error))


def _chat_error(error: LabError) -> LabError:
    """The child's failures as the chat's."""
    if not isinstance(error, StageError):
        return error
    died = error.code in ("process.died", "process.closed")
    return ChatError(error.title, error.detail, error.advice, code=error.code, died=died)


def weights_bytes(model_dir: Path) -> int:
    """The size of a model's graph and weights."""
    return sum(path.stat().st_size for path in model_dir.glob("*.onnx*") if path.is_file())


def resident_bytes(pid: int) -> int | None:
    """Bytes of a process that are in memory; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def check_model(folder: Path, lab: LabFolder | None = None) -> None:
    """Refuse a folder that holds no ONNX chat model.

    Args:
        lab: the lab that the folder belongs to; then the error says which step makes the model.

    Raises:
        RequestError: no such folder, a file of the model is missing or damaged, or its configuration asks for what
            is refused.
    """
    if not folder.is_dir():
        raise RequestError(
            told("There is no model to talk to yet."),
            told("{folder} does not exist.", folder=folder),
            _next_step(lab),
            code="result.missing",
        )
    _refuse_missing(folder / CONFIG_FILE)
    _refuse_missing(folder / graph_name(check_config(folder)))
    refuse_damaged(folder, _again(folder))


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise RequestError(
            told("The model is not whole."),
            told("{file} is missing.", file=file),
            _again(file.parent),
            code="onnx.config",
        )


def _again(folder: Path) -> Hint:
    """What makes the model again: the stage, where there is what it starts from."""
    if folder.name == "onnx" and not (folder.parent / "quantized").is_dir():
        return told("Fetch it again; there is nothing here to make it from.")
    return told("Make it again: {run}", run=lab_command(folder, "run", "optimize"))


def _next_step(lab: LabFolder | None) -> Hint:
    if lab is None:
        return told("Name a folder with genai_config.json and model.onnx.")
    missing = []
    if not lab.quantized_dir.is_dir():
        missing.append("quantize")
    if not lab.finetuned_root.is_dir() or not any(lab.finetuned_root.iterdir()):
        missing.append("finetune")
    return told("The optimize step makes it. Run: {run}", run=Do.of("run", lab.root, *missing, "optimize"))
