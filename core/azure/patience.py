"""Waiting with a limit: calls that are tried again, and work that can be cancelled while it waits.

Every wait of this package ends: a call that Azure cannot answer now (429, 5xx, a broken line, no
answer) is tried again, after the time that the service asked for (RFC 9110, Retry-After) or with
growing pauses, until the patience is used up.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from core.errors import Cancelled, MachineError
from core.events import Reporter

T = TypeVar("T")

PATIENCE_VARIABLE = "OLIVEPRESS_AZURE_PATIENCE"
DEFAULT_PATIENCE = 120.0
RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def patience() -> float:
    """Seconds for which a failing call is tried again, from ``OLIVEPRESS_AZURE_PATIENCE``."""
    try:
        return min(3600.0, max(0.5, float(os.environ.get(PATIENCE_VARIABLE, ""))))
    except ValueError:
        return DEFAULT_PATIENCE


def timeouts() -> dict[str, float]:
    """Limits for each connection and each answer, as the Azure clients' keyword arguments."""
    limit = patience()
    return {"connection_timeout": min(20.0, limit), "read_timeout": min(60.0, limit)}


def longest_call() -> float:
    """Seconds for one small call, from the first byte sent to the last received."""
    return min(90.0, patience())


class Stop:
    """A request to stop, seen by every thread of one piece of work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask to stop."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise :class:`~core.errors.Cancelled` if somebody asked."""
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Wait, or raise :class:`~core.errors.Cancelled` as soon as somebody asks."""
        if self._event.wait(seconds):
            raise Cancelled


def retry_after(headers: Any) -> float | None:
    """Seconds that a response asks to wait, or None: Retry-After as number or date, or Azure's in ms."""
    if not headers:
        return None
    for name, unit in (("x-ms-retry-after-ms", 0.001), ("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
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


def passing(error: BaseException) -> bool:
    """Whether a failure may be gone when the call is tried again."""
    from azure.core.exceptions import HttpResponseError

    from core.azure.errors import line_failure

    line = line_failure(error)
    if line is not None:
        # A certificate that is not trusted, or a proxy that refuses, does not change by waiting.
        return "CERTIFICATE_VERIFY_FAILED" not in str(line) and "403 Forbidden" not in str(line)
    return isinstance(error, HttpResponseError) and error.status_code in RETRIED_STATUS


def patiently(
    call: Callable[[], T],
    subject: str,
    *,
    stop: Stop,
    limit: float | None = None,
    say: Callable[[str], None] | None = None,
) -> T:
    """Call until it works, until it fails for good, or until the patience is used up.

    Args:
        subject: what is being asked, such as ``workspace travel``, for the error.
        limit: seconds; by default :func:`patience`.
        say: gets a line for people before each pause of a second or more.

    Raises:
        Cancelled: ``stop`` was set.
        LabError: the failure, explained by :func:`core.azure.errors.explain`.
    """
    from azure.core.exceptions import AzureError

    from core.azure.errors import explain

    limit = patience() if limit is None else limit
    began = time.monotonic()
    attempt = 0
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
            pause = asked if asked is not None else min(20.0, 0.4 * 2**attempt) * random.uniform(0.75, 1.25)
            spent = time.monotonic() - began
            if spent + pause > limit:
                raise explain(error, subject, tried_for=spent, asked=asked) from None
            if say and pause >= 1:
                say(f"{subject}: {explain(error, subject).title} Trying again in {pause:.0f} s.")
        stop.wait(pause)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call gives, if that takes no longer; a host that sends a byte now and then is not waited for.

    A call that is given up goes on in a thread that ends with the process; its answer is not used.

    Raises:
        azure.core.exceptions.ServiceResponseTimeoutError: it took longer.
        BaseException: whatever the call raises.
    """
    from azure.core.exceptions import ServiceResponseTimeoutError

    outcome: list[tuple[bool, Any]] = []

    def body() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # raised again in the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=body, name="azure-call", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise ServiceResponseTimeoutError(f"The answer timed out: not whole after {seconds:.0f} s.")
    good, value = outcome[0]
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


class Relay(Reporter):
    """A reporter for work in another thread: what it gets is passed on in the thread that waits."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()

    def progress(self, phase: str, done: float, total: float | None) -> None:
        self._calls.put(("progress", (phase, done, total)))

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._calls.put(("metric", (name, value, step)))

    def artifact(self, path: Path, what: str) -> None:
        self._calls.put(("artifact", (path, what)))

    def log(self, text: str, level: str = "info") -> None:
        from core.azure.redact import redact

        self._calls.put(("log", (redact(text), level)))

    def check_cancelled(self) -> None:
        self._stop.check()

    def pass_on(self, report: Reporter) -> None:
        """Hand what came so far to the real reporter."""
        while True:
            try:
                name, arguments = self._calls.get_nowait()
            except queue.Empty:
                return
            getattr(report, name)(*arguments)


class Beside:
    """Work in another thread beside the block of a ``with``; its failure is raised by :meth:`check` or at the end."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._body, name="azure-beside", daemon=True)

    def _body(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised in the thread that waits
            self._error = error

    def check(self) -> None:
        """Raise what the work failed with, if it has."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._thread.join()
            self.check()


def cancellable(work: Callable[[Stop, Reporter], T], report: Reporter, *, limit: float | None = None) -> T:
    """Do ``work`` in another thread, so that a cancel is obeyed within a second whatever it waits for.

    A thread that is stuck in a system call is left behind; it is a daemon and ends with the process.

    Args:
        limit: seconds for all of the work; by default there is none but those of its calls.

    Raises:
        Cancelled: the reporter said that the user asked to stop, or the user pressed Ctrl-C.
        MachineError: the limit has passed.
    """
    stop = Stop()
    relay = Relay(stop)
    outcome: list[tuple[bool, Any]] = []
    ended = threading.Event()

    def body() -> None:
        try:
            outcome.append((True, work(stop, relay)))
        except BaseException as error:  # handed to the thread that waits, and raised there
            outcome.append((False, error))
        finally:
            ended.set()

    began = time.monotonic()
    threading.Thread(target=body, name="azure", daemon=True).start()
    try:
        while not ended.wait(0.1):
            relay.pass_on(report)
            report.check_cancelled()
            if limit is not None and time.monotonic() - began > limit:
                raise MachineError(
                    "Azure did not answer in time.",
                    f"Waited {limit:.0f} s.",
                    "Look at the network, then try again.",
                    code="azure.connection",
                )
    except BaseException:  # cancelled, out of time, or Ctrl-C: the thread is told before anybody else
        stop.set()
        ended.wait(0.5)
        relay.pass_on(report)
        raise
    relay.pass_on(report)
    good, value = outcome[0]
    if not good:
        raise value
    return value  # type: ignore[no-any-return]
