"""Work done in a process of its own: both ends of the one protocol, JSON objects, one a line, over two pipes.

The parent makes a :class:`Child`, which runs ``python -P -m MODULE``, and sends it requests; that module calls
:func:`serve` with the function that answers one. What goes over the pipes:

    down   {"id": 1, "ask": {…}}        a request
           {"cancel": 1}                end that request; it is still answered
    up     {"id": 1, "event": {…}}      any number of these, in order
           {"id": 1, "result": {…}}     the last, or
           {"id": 1, "error": {"code", "title", "detail", "hint", "status"}}

Requests are answered one after another, in the order in which they were sent. The parent may close the pipe or die
at any time: the child then ends. The child may die at any time: every request that waits fails with ``process.died``.
JSON is written in ASCII, so that no text, not even a lone surrogate, can break a line.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from core.errors import (
    Cancelled,
    Hint,
    LabError,
    MachineError,
    RequestError,
    StageError,
    error_from,
    with_told,
)
from core.events import Reporter
from core.language import told
from core.text import clean_line, without_logins

Message = dict[str, Any]

LONGEST_LINE = 64 << 20
"""The longest line, in bytes, that either end sends or takes."""

_KEPT_LINES = 20


# The parent's end


class Call:
    """A request that was sent.

    Attributes:
        future: holds the result, or the :class:`~core.errors.LabError`. Cancelling it cancels the request, whose
            answer is then dropped; :meth:`cancel` keeps the answer.
    """

    def __init__(self, child: Child, number: int, on_event: Callable[[Message], object] | None) -> None:
        self._child = child
        self._on_event = on_event
        self._timer: threading.Timer | None = None
        self.id = number
        self.future: Future[Message] = Future()
        self.future.add_done_callback(self._over)

    def cancel(self) -> None:
        """Ask the child to end this request. It is answered all the same, as a rule with ``cancelled``."""
        self._child._send({"cancel": self.id})

    def result(self) -> Message:
        """Wait for the result. A Ctrl-C while waiting cancels the request.

        Raises:
            LabError: the request failed, or the child is gone.
        """
        try:
            return self.future.result()
        except KeyboardInterrupt:
            self.cancel()
            raise

    def _over(self, future: Future[Message]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if future.cancelled():
            self.cancel()

    def _limit(self, seconds: float, what: str) -> None:
        def out_of_time() -> None:
            self.cancel()
            self._settle(
                StageError(
                    told("{what} took too long.", what=what),
                    told("No answer in {seconds:g} s.", seconds=seconds),
                    code="process.deadline",
                )
            )

        self._timer = threading.Timer(seconds, out_of_time)
        self._timer.daemon = True
        self._timer.start()

    def _settle(self, end: Message | Exception) -> None:
        """Give the waiting their answer; an answer that comes after the first one is dropped."""
        with suppress(InvalidStateError):
            if isinstance(end, Exception):
                self.future.set_exception(end)
            else:
                self.future.set_result(end)

    def _hear(self, event: Message) -> None:
        if self._on_event is None or self.future.done():
            return
        try:
            self._on_event(event)
        except Exception as error:  # the listener's own fault, whatever it is: told to who waits alone
            self.cancel()
            self._settle(error)


class Child:
    """A running child process that answers requests. May be used from any thread, and from asyncio.

    Events and answers come from a thread of this object, in order; a listener must not block it. With
    :meth:`ask_async` they come in the event loop's thread.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        what: str = told("The helper process"),
        hint: Hint = "",
        log: Path | None = None,
        python: str | None = None,
        longest_line: int = LONGEST_LINE,
    ) -> None:
        """Start the process, in a session of its own: Ctrl-C in the terminal does not reach it.

        Args:
            module: run as ``python -P -m MODULE ARGUMENTS``; it calls :func:`serve`.
            what: its name in errors, as a sentence begins with it.
            hint: what to do when it has died.
            log: what it prints goes there; if None, into a file without a name that ends with the two processes.
            python: another interpreter than this one.

        Raises:
            MachineError: it cannot be started (``process.start``).
        """
        self._what, self._hint, self._log_path, self._longest = what, hint, log, longest_line
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._fault: LabError | None = None
        self._closing = False
        self._last_lines: list[str] = []
        self.dead = threading.Event()
        python = python or sys.executable
        package = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
        try:
            if log is None:
                self._log: IO[bytes] = tempfile.TemporaryFile(prefix="olivepress-")  # noqa: SIM115 - lives as long
            else:
                log.parent.mkdir(parents=True, exist_ok=True)
                self._log = open(log, "w+b")  # noqa: SIM115 - lives as long as the child
            self._process = subprocess.Popen(
                [python, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        except OSError as error:
            if hasattr(self, "_log"):
                self._log.close()
            raise MachineError(
                told("{what} cannot be started.", what=what),
                told(
                    "{filename}: {strerror}.",
                    filename=error.filename or python,
                    strerror=error.strerror or error,
                ),
                hint,
                code="process.start",
            ) from error
        # Written by a thread: a child that is busy may leave its pipe full, and who sends must not wait for it.
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=work, name=f"{module} {name}", daemon=True)
            for work, name in ((self._write, "writer"), (self._read, "reader"))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """How it ended: an exit status, or minus the number of a signal. None while it runs."""
        return self._process.returncode

    def start(
        self,
        ask: Message,
        on_event: Callable[[Message], object] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Call:
        """Send a request. A child that is gone is told by the call's future, as any other failure.

        Args:
            on_event: gets each event, before the result; an exception of its own ends the call.
            deadline_s: after so many seconds the request is cancelled and fails with ``process.deadline``, whether
                or not the child obeys. A child that hangs is ended by :meth:`close`.

        Raises:
            RequestError: the request is longer than a line may be (``process.too-long``).
        """
        call = Call(self, next(self._numbers), on_event)
        line = _line({"id": call.id, "ask": ask}, self._longest)
        if deadline_s is not None:
            call._limit(deadline_s, self._what)
        with self._lock:
            gone = self._closing or self.dead.is_set()
            if not gone:
                self._calls[call.id] = call
                self._outbox.put(line)
        if gone:
            call._settle(self._obituary())
        return call

    def ask(
        self,
        ask: Message,
        on_event: Callable[[Message], object] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Message:
        """Send a request and wait for its result; see :meth:`start`.

        Raises:
            LabError: the request failed, took too long, or the child is gone.
        """
        return self.start(ask, on_event, deadline_s=deadline_s).result()

    async def ask_async(
        self,
        ask: Message,
        on_event: Callable[[Message], object] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Message:
        """:meth:`ask` for asyncio: events come in the loop's thread; cancelling the task cancels the request.

        Raises:
            LabError: the request failed, took too long, or the child is gone.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        hear = None if on_event is None else lambda event: loop.call_soon_threadsafe(on_event, event)
        return await asyncio.wrap_future(self.start(ask, hear, deadline_s=deadline_s).future)

    def close(self, grace_s: float = 2.0) -> None:
        """End the process and wait until it is gone: close its input, then kill it and what it started.

        Requests that still wait fail with ``process.closed``, at once.
        """
        with self._lock:
            self._closing = True
            waiting, self._calls = self._calls, {}
        for call in waiting.values():
            call._settle(self._obituary())
        self._outbox.put(None)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            # Its input is closed, yet native code may keep the interpreter busy for long, or it is stopped.
            self._kill()
            self._process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(grace_s)

    def log_tail(self, lines: int = 3) -> list[str]:
        """The last lines of what it printed, cleaned."""
        try:
            size = os.fstat(self._log.fileno()).st_size
            text = os.pread(self._log.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace")
        except (OSError, ValueError):  # closed with the process's end
            return self._last_lines[-lines:]
        return [clean_line(without_logins(line), 300) for line in text.splitlines() if line.strip()][-lines:]

    def _send(self, message: Message) -> None:
        self._outbox.put(_line(message, self._longest))

    def _write(self) -> None:
        assert self._process.stdin is not None
        # A process that has just gone: the reader sees its end and tells those who wait.
        with suppress(OSError):
            while (line := self._outbox.get()) is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(self._longest + 1):
            if len(line) > self._longest:
                self._fault = StageError(
                    told("{what} sent more than can be read.", what=self._what),
                    told("A line of more than {longest} bytes.", longest=self._longest),
                    self._hint,
                    code="process.too-long",
                )
                break
            self._take(line)
        try:
            self._process.wait(0 if self._fault else 2.0)
        except subprocess.TimeoutExpired:  # it closed its output, or broke the protocol, and lives on
            self._kill()
            self._process.wait()
        self._process.stdout.close()
        self._last_lines = self.log_tail(_KEPT_LINES)
        self._log.close()
        with self._lock:
            self.dead.set()
            waiting, self._calls = self._calls, {}
        self._outbox.put(None)
        for call in waiting.values():
            call._settle(self._obituary())

    def _take(self, line: bytes) -> None:
        """Deliver one line; what is no message of this protocol is passed over, such as the start of a line."""
        message = _message(line)
        number = message.get("id")
        if not isinstance(number, int):
            return
        with self._lock:
            call = (self._calls.get if "event" in message else self._calls.pop)(number, None)
        if call is None:
            return
        event, result, error = (message.get(key) for key in ("event", "result", "error"))
        if isinstance(event, dict):
            call._hear(event)
        elif isinstance(result, dict):
            call._settle(result)
        elif isinstance(error, dict):
            status = error.pop("status", None)
            call._settle(error_from(error, status if isinstance(status, int) else StageError.exit_status))
        elif "event" not in message:
            call._settle(
                StageError(
                    told("{what} gave no answer.", what=self._what),
                    str(sorted(message)),
                    self._hint,
                    code="process.fault",
                )
            )

    def _kill(self) -> None:
        # Its whole session, for what it started itself. Not yet waited for, so the number is still its own.
        with suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _obituary(self) -> LabError:
        if self._closing:
            return StageError(told("{what} was closed.", what=self._what), code="process.closed")
        if self._fault is not None:
            return self._fault
        last = " | ".join(self.log_tail())
        where = f" ({self._log_path})" if self._log_path else ""
        detail = ended(self._process.returncode)
        if last:
            detail = told(
                "{ended} The last lines of its log{where}: {last}", ended=detail, where=where, last=last
            )
        return StageError(told("{what} is gone.", what=self._what), detail, self._hint, code="process.died")


def ended(status: int | None) -> str:
    """A sentence about how a process ended, from its status as :mod:`subprocess` gives it."""
    if status is not None and status < 0:
        with suppress(ValueError):
            name = signal.Signals(-status).name
            if name == "SIGKILL":
                return told(
                    "It was ended by the signal {name}, which is what Linux does when memory runs out.",
                    name=name,
                )
            return told("It was ended by the signal {name}.", name=name)
    return told("It ended with the exit status {status}.", status=status)


def _line(message: Message, longest: int) -> bytes:
    line = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
    if len(line) > longest:
        raise RequestError(
            told("This is too much for one message."),
            told("{count} bytes; {longest} is the most.", count=len(line), longest=longest),
            code="process.too-long",
        )
    return line


def _message(line: bytes) -> Message:
    """The object on a line; empty if there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# The child's end


class Request:
    """One request, as the child sees it.

    Attributes:
        id: its number, of its own in this process.
        ask: what is asked.
        arrived: when it came, by :func:`time.perf_counter`.
    """

    def __init__(self, channel: _Channel, number: int, ask: Message) -> None:
        self._channel = channel
        self.id = number
        self.ask = ask
        self.arrived = time.perf_counter()

    def tell(self, event: Message) -> None:
        """Send an event at once. From any thread."""
        self._channel.send({"id": self.id, "event": event})

    @property
    def cancelled(self) -> bool:
        """Whether this request is to end: cancelled, maybe before its turn came, or the parent is gone.

        Costs one system call, so that it can be asked before each token. The thread that works asks itself: one
        that reads beside it would wait long for the interpreter while native code runs.
        """
        return self._channel.cancelled(self.id)

    def check_cancelled(self) -> None:
        """Raise :class:`~core.errors.Cancelled` if this request is to end."""
        if self.cancelled:
            raise Cancelled

    def reporter(self) -> Reporter:
        """A reporter whose events are this request's: ``type`` progress, metric, artifact or log, as a job's are."""
        return _RequestReporter(self)


class _RequestReporter(Reporter):
    def __init__(self, request: Request) -> None:
        self._request = request
        self.check_cancelled = request.check_cancelled  # type: ignore[method-assign]

    def progress(self, phase: str, done: float, total: float | None) -> None:
        self._request.tell(with_told({"type": "progress", "phase": phase, "done": done, "total": total}))

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._request.tell({"type": "metric", "name": name, "value": value, "step": step})

    def artifact(self, path: Path, what: str) -> None:
        self._request.tell({"type": "artifact", "path": str(path), "what": what})

    def log(self, text: str, level: str = "info") -> None:
        self._request.tell({"type": "log", "level": level, "text": without_logins(text)})


def serve(
    handler: Callable[[Request], Message | None],
    *,
    grace_s: float = 1.0,
    longest_line: int = LONGEST_LINE,
) -> None:
    """Answer requests until the parent closes the pipe or is gone.

    From here on standard output is the log, so that whatever prints, native code too, cannot break the protocol.

    Args:
        handler: gives the result of one request. A :class:`~core.errors.LabError` that it raises is the answer; so is
            any other exception, as ``process.fault``, and its traceback goes to the log.
        grace_s: a handler that is at work when the parent has gone sees ``cancelled``, and so much time later the
            process ends, whatever it does.
    """
    channel = _Channel(grace_s, longest_line)
    while (request := channel.next()) is not None:
        channel.answer(request, _outcome(handler, request))


def _outcome(handler: Callable[[Request], Message | None], request: Request) -> Message:
    try:
        return {"result": handler(request) or {}}
    except LabError as error:
        found = error
    except MemoryError:
        found = MachineError(told("There is not enough memory."), code="machine.memory")
    except Exception as error:  # whatever a library raises: this request failed, the next is answered
        print(without_logins(traceback.format_exc()), file=sys.stderr, flush=True)
        words = clean_line(" ".join(str(error).split()), 300)
        found = StageError(
            told("It failed unexpectedly."),
            told("{kind}: {words}", kind=type(error).__name__, words=words),
            code="process.fault",
        )
    return {"error": {**found.as_dict(), "status": found.exit_status}}


class _Channel:
    """The child's two pipes: requests in order; cancelling and the end are seen as soon as they are looked for."""

    def __init__(self, grace_s: float, longest_line: int) -> None:
        self._in, self._out = os.dup(0), os.dup(1)
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self._longest = longest_line
        self._waiting: deque[Request] = deque()
        self._now: int | None = None
        self._cancelled: set[int] = set()
        self._part: list[bytes] = []
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        self._over = False
        self._arrivals = select.poll()
        self._arrivals.register(self._in, select.POLLIN)
        threading.Thread(target=self._end_with_parent, args=(grace_s,), daemon=True).start()

    def next(self) -> Request | None:
        """The next request, when there is one; None at the end."""
        while not self._waiting and not self._over:
            self._read()
        if self._over:
            return None
        request = self._waiting.popleft()
        self._now = request.id
        return request

    def cancelled(self, number: int) -> bool:
        with self._read_lock:
            while not self._over and self._arrivals.poll(0):
                self._read()
            return self._over or number in self._cancelled

    def answer(self, request: Request, outcome: Message) -> None:
        try:
            self.send({"id": request.id, **outcome})
        except (LabError, TypeError, ValueError) as error:  # too long, or something that JSON does not hold
            fault = (
                error
                if isinstance(error, LabError)
                else StageError(told("No answer."), str(error), code="process.fault")
            )
            self.send({"id": request.id, "error": {**fault.as_dict(), "status": fault.exit_status}})
        self._now = None
        self._cancelled.discard(request.id)

    def send(self, message: Message) -> None:
        data = _line(message, self._longest)
        with self._write_lock:
            try:
                while data:
                    data = data[os.write(self._out, data) :]
            except OSError:
                os._exit(0)  # the parent is gone

    def _read(self) -> None:
        """Take what has come in; waits if nothing has."""
        data = os.read(self._in, 1 << 16)
        if not data:
            self._over = True
            return
        first, *more = data.split(b"\n")
        self._part.append(first)
        for piece in more:
            self._take(b"".join(self._part))
            self._part = [piece]

    def _take(self, line: bytes) -> None:
        message = _message(line)
        number, ask, cancel = message.get("id"), message.get("ask"), message.get("cancel")
        if isinstance(number, int) and isinstance(ask, dict):
            self._waiting.append(Request(self, number, ask))
        elif isinstance(cancel, int) and (
            cancel == self._now or any(cancel == each.id for each in self._waiting)
        ):
            self._cancelled.add(cancel)

    def _end_with_parent(self, grace_s: float) -> None:
        """End the process when the parent is gone, though native code may be in the middle of a long step."""
        hang_up = select.poll()
        hang_up.register(self._in, 0)  # told in any case: the other end was closed
        hang_up.poll()
        if grace_s:
            time.sleep(grace_s)
        os._exit(0)
