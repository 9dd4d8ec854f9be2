"""Waiting with a limit: calls that are tried again, and work that can be cancelled while it waits.

Every wait of this package ends: a call that Azure cannot answer now (429, 5xx, a broken line, no
answer) is tried again, after the time that the service asked for (RFC 9110, Retry-After) or with
growing pauses, until :func:`retry_limit` has passed. It is one way for all of Microsoft's packages: azure-core,
azure-storage-blob, azure-identity and azure-ai-ml each retry other failures. Their own policies over a transport
whose sleep can be cancelled were tried, and still would not do: azure-storage-blob (12.31) neither retries 429 nor
waits for as long as the service asks, and azure-core's (1.41) tells nobody of a pause nor counts it against one limit
of the whole call.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from core.errors import Cancelled
from core.events import Reporter
from core.language import told

T = TypeVar("T")

LIMIT_VARIABLE = "OLIVEPRESS_AZURE_PATIENCE"
DEFAULT_LIMIT = 120.0
QUIET = 5.0
"""Seconds without anything new after which it is said what is waited for, and for how long at most."""


def retry_limit() -> float:
    """Seconds for which a failing call is tried again, from ``OLIVEPRESS_AZURE_PATIENCE``."""
    try:
        return min(3600.0, max(0.5, float(os.environ.get(LIMIT_VARIABLE, ""))))
    except ValueError:
        return DEFAULT_LIMIT


class Stop:
    """A request to stop, seen by every thread of one piece of work; and what its threads are waiting for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._waits: dict[int, tuple[float, str]] = {}

    def set(self) -> None:
        """Ask to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise :class:`~core.errors.Cancelled` if somebody asked."""
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Wait, or raise :class:`~core.errors.Cancelled` as soon as somebody asks."""
        if self._event.wait(seconds):
            raise Cancelled

    @contextmanager
    def waiting(self, subject: str, until: float) -> Iterator[None]:
        """While this thread waits for an answer, until :func:`time.monotonic` is ``until`` at most."""
        me = threading.get_ident()
        self._waits[me] = (until, subject)
        try:
            yield
        finally:
            self._waits.pop(me, None)

    def waits_for(self) -> str:
        """What is waited for and how long still, as a phase of the progress; empty if nothing is."""
        found = list(self._waits.values())
        if not found:
            return ""
        until, subject = max(found)
        left = max(0, round(until - time.monotonic()))
        left -= left % 5 if left > 10 else 0  # where each is printed, two minutes are not 120 lines
        return told("waiting for {subject}, {left} s more at most", subject=subject, left=left)


def retry_after(headers: Any) -> float | None:
    """Seconds that a response asks to wait, or None: Retry-After as number or date, or Azure's in ms."""
    for name, unit in (("x-ms-retry-after-ms", 0.001), ("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = (headers or {}).get(name)
        if not value:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            try:
                return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
            except (TypeError, ValueError):
                continue
    return None


def retried(
    call: Callable[[], T],
    subject: str,
    *,
    stop: Stop,
    limit: float | None = None,
    counted: bool = True,
    say: Callable[[str], None] | None = None,
) -> T:
    """Call until it works, until it fails for good, or until the limit has passed.

    Args:
        subject: what is being asked, such as ``workspace travel``, for the error.
        limit: seconds; by default :func:`retry_limit`.
        counted: whether it is said how long it may last still.
        say: gets a line for people before each pause of a second or more.

    Raises:
        Cancelled: ``stop`` was set.
        LabError: the failure, explained by :func:`core.azure.errors.explain`.
    """
    from azure.core.exceptions import AzureError

    from core.azure.errors import explain, passing

    limit = retry_limit() if limit is None else limit
    began = time.monotonic()
    attempt = 0
    with stop.waiting(subject, began + limit) if counted else nullcontext():
        while True:
            stop.check()
            try:
                return call()
            except AzureError as error:
                stop.check()
                if not passing(error):
                    raise explain(error, subject) from None
                attempt += 1
                asked = retry_after(getattr(getattr(error, "response", None), "headers", None))
                pause = (
                    asked if asked is not None else min(20.0, 0.4 * 2**attempt) * random.uniform(0.75, 1.25)
                )
                spent = time.monotonic() - began
                if spent + pause > limit:
                    raise explain(error, subject, tried_for=spent, asked=asked) from None
                if say and pause >= 1:
                    say(f"{subject}: {explain(error, subject).title} Trying again in {pause:.0f} s.")
            stop.wait(pause)


class Beside(threading.Thread):
    """Work in another thread, beside the block of a ``with`` or waited for; its failure is raised again."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="azure", daemon=True)
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work."""
        try:
            self._value = self._work()
        except BaseException as error:  # raised in the thread that waits
            self._error = error

    def check(self) -> None:
        """Raise what the work failed with, if it has."""
        if self._error is not None:
            raise self._error

    def value(self) -> Any:
        """What the ended work gave; raises what it failed with."""
        self.check()
        return self._value

    def __enter__(self) -> Beside:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.join()
            self.check()


def in_parallel(
    step: Callable[[], bool], threads: int, *, stop: Stop, tick: Callable[[], None] = lambda: None
) -> None:
    """Call ``step`` again and again in some threads, until it says that nothing is left.

    Args:
        step: does one piece and returns True, or False if none is left.
        tick: called all the while, in this thread.

    Raises:
        BaseException: the first that a step or ``tick`` raised; the other threads end after their piece.
    """
    over: list[BaseException] = []

    def work() -> None:
        try:
            while not over and step():
                pass
        except BaseException as error:  # raised again below
            over.append(error)

    running = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        while any(thread.is_alive() for thread in running):
            stop.wait(0.02)
            tick()
            if over:
                break
    except BaseException as error:  # Ctrl-C or a cancel: the threads end as well
        over.append(error)
        raise
    if over:
        raise over[0]
    tick()


class Relay(Reporter):
    """A reporter for work in another thread: what it gets is passed on in the thread that waits."""

    def __init__(self, stop: Stop) -> None:
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._last: tuple[Any, ...] = ()
        self.check_cancelled = stop.check  # type: ignore[method-assign]

    def progress(self, phase: str, done: float, total: float | None) -> None:
        if (phase, done, total) != self._last:
            self._last = (phase, done, total)
            self._calls.put(("progress", self._last))

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._calls.put(("metric", (name, value, step)))

    def artifact(self, path: Path, what: str) -> None:
        self._calls.put(("artifact", (path, what)))

    def log(self, text: str, level: str = "info") -> None:
        from core.azure.errors import redact

        self._calls.put(("log", (redact(text), level)))

    def pass_on(self, report: Reporter) -> bool:
        """Hand what came so far to the real reporter; whether there was anything."""
        came = False
        while True:
            try:
                name, arguments = self._calls.get_nowait()
            except queue.Empty:
                return came
            came = True
            getattr(report, name)(*arguments)


def cancellable(work: Callable[[Stop, Reporter], T], report: Reporter) -> T:
    """Do ``work`` in another thread, so that a cancel is obeyed within a second whatever it waits for.

    When nothing new has come for some seconds, a progress that counts down says what is waited for.
    A thread that is stuck in a system call is left behind; it is a daemon and ends with the process.

    Raises:
        Cancelled: the reporter said that the user asked to stop, or the user pressed Ctrl-C.
    """
    stop = Stop()
    relay = Relay(stop)
    thread = Beside(lambda: work(stop, relay))
    moved = time.monotonic()
    noted = ""
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            now = time.monotonic()
            if relay.pass_on(report):
                moved = now
            elif now - moved > QUIET and (line := stop.waits_for()) != noted:
                noted = line
                if line:
                    report.progress(line, 0, None)
            report.check_cancelled()
    except BaseException:  # cancelled, or Ctrl-C: the thread is told before anybody else
        stop.set()
        thread.join(0.5)
        relay.pass_on(report)
        raise
    relay.pass_on(report)
    return thread.value()  # type: ignore[no-any-return]
