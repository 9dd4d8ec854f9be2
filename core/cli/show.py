"""How the command line shows events, results and errors. All foreign text is cleaned here."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Any

from core.cli.parser import UsageError
from core.errors import Cancelled, LabError
from core.events import Event, log_line
from core.files import human_bytes
from core.text import clean


def print_error(error: LabError, *, as_json: bool = False) -> None:
    """An error on standard error: what happened, to what, and what to do. As JSON on standard output too, if asked."""
    moving.end()
    if isinstance(error, UsageError):
        print(error.usage, end="", file=sys.stderr)
    print(f"error: {clean(error.title)}", file=sys.stderr)
    for part in (error.detail, error.hint):
        for line in clean(part).splitlines():
            print(f"  {line}", file=sys.stderr)
    if as_json:
        print_json({"type": "error", "error": error.as_dict(), "exit_status": error.exit_status})


def print_cancelled(*, as_json: bool = False) -> None:
    """Says on standard error that the user stopped the command; as JSON on standard output too, if asked."""
    moving.end()
    print("cancelled", file=sys.stderr)
    if as_json:
        error = Cancelled()
        print_json({"type": "error", "error": error.as_dict(), "exit_status": error.exit_status})


def print_json(data: Any) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(data, ensure_ascii=False), flush=True)


def human_seconds(seconds: float) -> str:
    """A duration for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_value(name: str, value: Any) -> str:
    """A result's value for people, its unit told by its name."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int | float):
        if "bytes" in name:
            return human_bytes(value)
        if name.endswith("_s") and not name.endswith("per_s"):
            return human_seconds(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return clean(str(value), keep_newlines=False)


class MovingLine:
    """A line on a terminal's standard error that is written over until something else is to be said."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Put this text where the line stands."""
        width = shutil.get_terminal_size().columns - 1
        print("\r" + text[:width].ljust(width), end="", file=sys.stderr, flush=True)
        self._shown = True

    def end(self) -> None:
        """Take it away, if it is there."""
        if self._shown:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + " " * width + "\r", end="", file=sys.stderr, flush=True)
            self._shown = False


moving = MovingLine()
"""The one of this process."""


class EventPrinter:
    """Shows a job's events to people on standard error: one moving line on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._moving = sys.stderr.isatty()
        self._phase = ""
        self._tenth = -1
        self._loss: float | None = None
        self._started = time.monotonic()

    def __call__(self, event: Event) -> None:
        kind = event["type"]
        if kind == "progress":
            self._progress(event)
        elif kind == "metric" and event["name"] in ("loss", "eval_loss"):
            self._loss = event["value"]
            if event["name"] == "eval_loss" and event["value"] is not None:
                self._line(f"  eval loss {event['value']:.4f} at step {event.get('step')}")
        elif kind == "log" and event["level"] in ("info", "warning", "error"):
            self._line(f"  {log_line(event['text'], event['level'])}")
        elif kind == "state" and event["state"] in ("running", "cancelling"):
            self._line(f"{event['job']}: {event['state']}")
        elif kind == "state" and event["state"] != "queued":
            self._line(
                f"{event['job']}: {event['state']} after {human_seconds(time.monotonic() - self._started)}"
            )

    def _progress(self, event: Event) -> None:
        phase, done, total = clean(event["phase"], keep_newlines=False), event["done"], event["total"]
        text = f"  {phase}"
        if total:
            text += (
                f" {done:g} of {total:g}" if total < 1e6 else f" {human_bytes(done)} of {human_bytes(total)}"
            )
            if event["eta_s"] is not None:
                text += f", {human_seconds(event['eta_s'])} left"
        if self._loss is not None and phase == "training":
            text += f", loss {self._loss:.4f}"
        if self._moving:
            moving.show(text)
            return
        tenth = int(10 * done / total) if total else 0
        if phase != self._phase or tenth > self._tenth:
            self._line(text)
        self._phase, self._tenth = phase, tenth

    def _line(self, text: str) -> None:
        moving.end()
        print(text, file=sys.stderr, flush=True)


def print_result(stage: str, numbers: dict[str, Any], *, reused: bool = False) -> None:
    """A stage's result, name and value a line, on standard output."""
    print(f"{stage}: {'unchanged, nothing to do' if reused else 'done'}")
    for name, value in numbers.items():
        if isinstance(value, dict):
            for inner, item in value.items():
                print(f"  {name}.{inner}: {human_value(inner, item)}")
        elif isinstance(value, list):
            continue
        else:
            print(f"  {name}: {human_value(name, value)}")
