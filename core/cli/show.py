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
from core.formats import duration, human_bytes, number, time_left
from core.stages import assessment, result_lines
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
            self._line(f"{event['job']}: {event['state']} after {duration(time.monotonic() - self._started)}")

    def _progress(self, event: Event) -> None:
        phase, done, total = clean(event["phase"], keep_newlines=False), event["done"], event["total"]
        text = f"  {phase}"
        if total:
            count = number if total < 1e6 else human_bytes
            text += f" {count(done)} of {count(total)}"
            if event["eta_s"] is not None and done < total:
                text += f", {time_left(event['eta_s'])}"
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
    """A stage's result on standard output: a sentence, then a figure a line."""
    print(f"{stage}: {'unchanged, nothing to do' if reused else 'done'}")
    if sentence := assessment(stage, numbers).text:
        print(f"  {sentence}")
    for label, value in result_lines(stage, numbers):
        print(f"  {label}: {value}")
