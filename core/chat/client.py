"""The worker process seen from the chat: start it, send requests, hand out events, notice its end."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from core.chat.protocol import (
    Adapted,
    Error,
    Finished,
    Load,
    Message,
    Progress,
    ProtocolError,
    Ready,
    Scored,
    decode,
    encode,
)
from core.errors import RequestError
from core.text import clean_line

Listener = Callable[[Message], None]

PYTHON_VARIABLE = "OLIVEPRESS_CHAT_PYTHON"
"""Names another Python for the model's process, such as one with a newer onnxruntime-genai for CUDA."""

_WATCH_SECONDS = 0.1
_LAST = (Ready, Finished, Adapted, Scored, Error)


class Worker:
    """A running ``core.chat.worker``.

    Events of a request go to its listener, from a thread of this object's own, in order; a listener
    must not block. When the process ends, every listener that still waits gets a fatal Error.
    """

    def __init__(self, log_path: Path | None = None) -> None:
        """Start the process. ``log_path``: what native code prints goes there (a temporary file if None)."""
        if log_path is None:
            handle, name = tempfile.mkstemp(prefix="olivepress-chat-", suffix=".log")
            os.close(handle)
            log_path = Path(name)
            self._own_log = True
        else:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            self._own_log = False
        self.log_path = log_path
        self._ids = itertools.count(1)
        self._listeners: dict[int, Listener] = {}
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._closing = False
        self.dead = threading.Event()
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
        python = os.environ.get(PYTHON_VARIABLE) or sys.executable
        try:
            with open(log_path, "wb") as log:
                # A session of its own: Ctrl-C in the terminal stops an answer, not the model.
                self._process = subprocess.Popen(
                    [python, "-P", "-m", "core.chat.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": path},
                    start_new_session=True,
                )
        except OSError as error:
            raise RequestError(
                "The model's process cannot be started.",
                f"{python}: {error.strerror}.",
                f"Let {PYTHON_VARIABLE} name a Python, or unset it." if python != sys.executable else "",
            ) from error
        self._reader = threading.Thread(target=self._read, name="chat-worker-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def next_id(self) -> int:
        """An id for a request."""
        return next(self._ids)

    def send(self, message: Message, listener: Listener | None = None) -> None:
        """Send a request. If the process is gone, the listener is told so at once."""
        with self._lock:
            if listener is not None:
                if self.dead.is_set():
                    gone = True
                else:
                    gone = False
                    self._listeners[message.id] = listener
        if listener is not None and gone:
            listener(self._obituary(message.id))
            return
        # A process that has just gone: the reader thread sees its end and tells the listeners.
        with self._write_lock, suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(encode(message))
            self._process.stdin.flush()

    def watch_loading(self, request: Load, listener: Listener) -> None:
        """Load the model, with progress: bytes of weights that have come into the process's memory.

        The runtime loads in one call that tells nothing; Linux tells how much of the process is in
        memory. Elsewhere the total stays unknown.
        """
        total = sum(path.stat().st_size for path in Path(request.model_dir).glob("*.onnx*") if path.is_file())
        over = threading.Event()

        def hear(message: Message) -> None:
            if isinstance(message, Ready | Error):
                over.set()
            listener(message)

        def watch() -> None:
            start = resident_bytes(self.pid)
            best = 0
            while not over.wait(_WATCH_SECONDS) and not self.dead.is_set():
                now = resident_bytes(self.pid)
                if start is None or now is None:
                    listener(Progress(request.id, "loading", 0, None))
                    continue
                best = max(best, min(now - start, int(total * 0.99)))
                listener(Progress(request.id, "loading", best, total))

        self.send(request, hear)
        threading.Thread(target=watch, name="chat-load-watch", daemon=True).start()

    def close(self, patience_s: float = 2.0) -> None:
        """End the process and wait until it is gone."""
        self._closing = True
        with self._write_lock, suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            # Its input is closed, yet native code may keep the interpreter busy for long.
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(patience_s)
        if self._own_log:
            with suppress(OSError):
                self.log_path.unlink()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = decode(line)
            except ProtocolError:
                continue  # the end of a line that a dying process began
            with self._lock:
                find = self._listeners.pop if isinstance(message, _LAST) else self._listeners.get
                listener = find(message.id, None)
            if listener is not None:
                listener(message)
        self._process.wait()
        self._process.stdout.close()
        with self._lock:
            self.dead.set()
            waiting, self._listeners = self._listeners, {}
        for number, listener in waiting.items():
            listener(self._obituary(number))

    def _obituary(self, number: int) -> Error:
        if self._closing:
            return Error(number, "closed", "The chat was closed.", fatal=True)
        code = self._process.poll()
        if code is not None and code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
                how = f"It was ended by the signal {name}" + (
                    ", which is what Linux does when memory runs out." if name == "SIGKILL" else "."
                )
                return self._gone(number, how)
        return self._gone(number, f"It ended with the exit status {code}.")

    def _gone(self, number: int, how: str) -> Error:
        last = log_tail(self.log_path)
        detail = how + (f" The last words of its log ({self.log_path}): {last}" if last else "")
        return Error(
            number,
            "died",
            "The model's process is gone.",
            detail,
            "The conversation is kept. Start the model again to go on.",
            fatal=True,
        )


def log_tail(path: Path, lines: int = 3) -> str:
    """The last lines of a log, cleaned, in one line."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    found = [clean_line(line, 300) for line in text.splitlines() if line.strip()]
    return " | ".join(found[-lines:])


def resident_bytes(pid: int) -> int | None:
    """Bytes of a process that are in memory; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
