"""How the command line shows events, results and errors. All foreign text is cleaned here.

On a terminal there is colour, lines are folded at words, and progress is one line that is redrawn; Rich does
that, loaded only then. With ``NO_COLOR`` or ``TERM=dumb``, in a pipe or a file, the same words stay plain text.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from core.cli.parser import UsageError
from core.errors import Cancelled, LabError, said, text_of
from core.events import Event, Reporter, TimeLeft, log_line
from core.formats import duration, human_bytes, number, time_left
from core.language import N_, RIGHT_TO_LEFT, Told, _, in_use, shown
from core.stages import STAGES, assessment, result_lines
from core.text import clean, json_line
from core.user_dirs import user_setting

if TYPE_CHECKING:
    from rich.console import Console

Part = str | tuple[str, str]
"""A piece of a line: text, or text and its style. Text is never read as markup."""

ORDERS = "right_to_left"
"""The setting of ``wizard.toml`` that says who joins and orders letters that are read from the right."""

TONES = {
    "OK": "green",
    "WARN": "yellow",
    "FAIL": "bold red",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
}
"""The colours of states, of checks and of jobs."""

STATES = {
    "queued": N_("queued"),
    "running": N_("running"),
    "cancelling": N_("cancelling"),
    "succeeded": N_("succeeded"),
    "failed": N_("failed"),
    "cancelled": N_("cancelled"),
    "crashed": N_("crashed"),
}
"""The states of jobs, to be translated where they are shown."""

_OVER = {
    "succeeded": N_("{stage} is done, after {time}."),
    "failed": N_("{stage} failed, after {time}."),
    "cancelled": N_("{stage} was stopped, after {time}."),
}
_BAR = 24
_REDRAWN_S = 0.1
_TOLD_FROM_S = 2.0
_FIRST_S = 10.0
_MOST_S = 300.0


def redraws(stream: TextIO) -> bool:
    """Whether a line may be written over: it is a terminal, and not a dumb one."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def colours(stream: TextIO) -> bool:
    """Whether there may be colour: on a terminal that can, unless ``NO_COLOR`` is set."""
    return redraws(stream) and not os.environ.get("NO_COLOR")


def say(*parts: Part, head: Part | list[Part] = "", to: TextIO | None = None, fold: bool = True) -> None:
    """Print a line for people; nothing in it does anything to a terminal.

    Args:
        head: what stands before it; the lines it is folded into begin under the first, not under this.
        to: standard output, if not given.
        fold: whether it is folded at words; not where it may be a command that is to be copied.
    """
    stream = sys.stdout if to is None else to
    heads = [_cleaned(part) for part in (head if isinstance(head, list) else [head])]
    parts = tuple(map(_cleaned, parts))
    moving.end()
    if not colours(stream):
        print("".join(_plain(part) for part in (*heads, *parts)), file=stream, flush=True)
        return
    from rich.text import Text

    console = _console(stream)
    before, text = Text.assemble(*heads), Text.assemble(*parts)
    inside = max(20, console.width - before.cell_len)
    for line in text.wrap(console, inside) if fold and text.plain else [text]:
        console.print(Text.assemble(before, line), soft_wrap=True)
        before = Text(" " * before.cell_len)


def _cleaned(part: Part) -> Part:
    return clean(shown(part)) if isinstance(part, str) else (clean(shown(part[0])), part[1])


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def on_screen(text: str) -> str:
    """A question as :func:`input` is to show it, which writes to the terminal by itself."""
    if in_use() not in RIGHT_TO_LEFT:
        return text
    from core.from_the_right import ordered_here, ordered_text

    return ordered_text(text) if ordered_here(user_setting(ORDERS)) and sys.stdout.isatty() else text


def order_lines() -> None:
    """Where the language is read from the right and the terminal does not order letters: order what is printed."""
    if in_use() in RIGHT_TO_LEFT:
        from core.from_the_right import order_streams

        order_streams(user_setting(ORDERS))


def padded(text: str, width: int) -> str:
    """A text with blanks behind it up to so many columns."""
    return text + " " * (width - cells(text))


def state_word(state: str) -> str:
    """A job's state for people."""
    return _(STATES[state]) if state in STATES else state


def _plain(part: Part) -> str:
    return part if isinstance(part, str) else part[0]


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, width=_width(stream))


def _width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return shutil.get_terminal_size().columns


def print_error(error: LabError, *, as_json: bool = False) -> None:
    """An error on standard error: what happened, to what, and what to do. As JSON on standard output too, if asked."""
    moving.end()
    if isinstance(error, UsageError):
        print(error.usage, end="", file=sys.stderr)
    say((error.title, "bold"), head=(_("error: "), "bold red"), to=sys.stderr)
    for line in clean(shown(error.detail)).splitlines():
        say(line, head="  ", to=sys.stderr)
    for line in clean(said(error.advice)).splitlines():
        say((line, "cyan"), head="  ", to=sys.stderr, fold=False)
    if as_json:
        print_json({"type": "error", "error": error.as_dict(), "exit_status": error.exit_status})


def print_cancelled(*, as_json: bool = False) -> None:
    """Says on standard error that the user stopped the command; as JSON on standard output too, if asked."""
    say((_("cancelled"), TONES["cancelled"]), to=sys.stderr)
    if as_json:
        error = Cancelled()
        print_json({"type": "error", "error": error.as_dict(), "exit_status": error.exit_status})


def print_json(data: Any) -> None:
    """One JSON object on one line of standard output."""
    print(json_line(data), flush=True)


class MovingLine:
    """A line on a terminal's standard error that is written over until something else is to be said."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str, share: float | None = None) -> None:
        """Put this text where the line stands, and a bar before it that is filled to a share of one."""
        width = _width(sys.stderr) - 1
        coloured = colours(sys.stderr)
        drawn = self._drawn(text, share, width) + "\x1b[K" if coloured else text[:width].ljust(width)
        print("\r" + drawn, end="", file=sys.stderr, flush=True)
        self._shown = True

    @staticmethod
    def _drawn(text: str, share: float | None, width: int) -> str:
        from rich.cells import set_cell_size
        from rich.progress_bar import ProgressBar

        if share is None or width < 2 * _BAR:
            return set_cell_size(text, width).rstrip()
        console = _console(sys.stderr)
        with console.capture() as bar:
            console.print(ProgressBar(total=1.0, completed=share, width=_BAR), end="")
        return f"  {bar.get()}{set_cell_size(text, width - _BAR - 2).rstrip()}"

    def end(self) -> None:
        """Take it away, if it is there."""
        if self._shown:
            self._shown = False
            blank = "\x1b[K" if colours(sys.stderr) else " " * (_width(sys.stderr) - 1) + "\r"
            print("\r" + blank, end="", file=sys.stderr, flush=True)


moving = MovingLine()
"""The one of this process."""


def phase_words(event: Mapping[str, Any]) -> str:
    """What a job is at, for people."""
    phase = text_of(event, "phase")
    return clean(shown(phase) if isinstance(phase, Told) else _(phase), keep_newlines=False)


def progress_words(
    phase: str, done: float | None, total: float | None, left: float | None, loss: float | None = None
) -> str:
    """What a job is at and how far, the time that is left, and its loss, where these are known."""
    parts = [phase]
    if total:
        count = number if total < 1e6 else human_bytes
        parts = [_("{phase} {done} of {total}", phase=phase, done=count(done or 0), total=count(total))]
    if left is not None:
        parts.append(shown(time_left(left)))
    if loss is not None:
        parts.append(_("loss {loss:.4f}", loss=loss))
    return ", ".join(filter(None, parts))


class EventPrinter:
    """Shows a job's events to people on standard error.

    On a terminal progress is one line that is redrawn. Elsewhere a phase has a line when it begins, then after
    10 seconds, after 20, 40 and so on, at least every five minutes. How long it took is told of a phase that
    was long enough to wonder.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        """Another job: its phases and its time begin anew."""
        self._phase = ""
        self._begun: dict[str, float] = {}
        self._next: dict[str, float] = {}
        self._ended: set[str] = set()
        self._loss: float | None = None
        self._started = self._clock()

    def __call__(self, event: Event) -> None:
        kind = event["type"]
        if kind == "progress":
            self._progress(event)
        elif kind == "metric" and event["name"] in ("loss", "eval_loss"):
            self._loss = event["value"]
            if event["name"] == "eval_loss" and event["value"] is not None:
                self._line(
                    "  ",
                    _("eval loss {value:.4f} at step {step}", value=event["value"], step=event.get("step")),
                )
        elif kind == "log" and event["level"] in ("info", "warning", "error"):
            style = {"warning": "yellow", "error": "red"}.get(event["level"], "")
            self._line("  ", (log_line(shown(text_of(event, "text")), event["level"]), style))
        elif kind == "state" and event["state"] != "queued":
            self._state(event["job"], event["state"])

    def _state(self, job: str, state: str) -> None:
        if state == "running":
            self._begin()
        stage = STAGES.get(job.rpartition("-")[0])
        who = _(stage.title) if stage else clean(job, keep_newlines=False)
        if state == "running":
            text = _("{stage} begins, as job {job}.", stage=who, job=clean(job, keep_newlines=False))
        elif state == "cancelling":
            text = _("{stage} is asked to stop.", stage=who)
        else:
            self._took(self._phase, finished=state == "succeeded")
            time = duration(self._clock() - self._started)
            if state in _OVER:
                text = _(_OVER[state], stage=who, time=time)
            else:
                there = clean(state, keep_newlines=False)
                text = _("{stage}: {state}, after {time}.", stage=who, state=there, time=time)
        self._line((text, TONES.get(state, "")))

    def _progress(self, event: Event) -> None:
        phase, done, total = phase_words(event), event["done"], event["total"]
        at = self._clock()
        if phase != self._phase:
            self._took(self._phase, finished=False)
            self._begun.setdefault(phase, at)
            self._next.setdefault(phase, at)
            self._phase = phase
        left = event["eta_s"] if total and done < total else None
        loss = self._loss if event["phase"] == "training" else None
        text = f"  {progress_words(phase, done, total, left, loss)}"
        over = bool(total) and done >= total
        if redraws(sys.stderr):
            if over or at >= self._next[phase]:
                moving.show(text, min(1.0, done / total) if total else None)
                self._next[phase] = at + _REDRAWN_S
        elif at >= self._next[phase]:
            self._line(text)
            self._next[phase] = at + min(_MOST_S, max(_FIRST_S, at - self._begun[phase]))
        if over:
            self._took(phase, finished=True)

    def _took(self, phase: str, *, finished: bool) -> None:
        """Say once how long a phase took that has ended."""
        if finished and phase in self._begun and phase not in self._ended:
            self._ended.add(phase)
            took = self._clock() - self._begun[phase]
            if took >= _TOLD_FROM_S:
                self._line("  ", _("{phase}: done in {time}", phase=phase, time=duration(took)))

    @staticmethod
    def _line(*parts: Part) -> None:
        head = parts[0] if len(parts) > 1 else ""
        say(*parts[1 if head else 0 :], head=head, to=sys.stderr)


class StderrReporter(Reporter):
    """Progress and log lines of work that runs in the command's own process, for people."""

    def __init__(self) -> None:
        self._printer = EventPrinter()
        self._left = TimeLeft()

    def progress(self, phase: str, done: float, total: float | None) -> None:
        eta = self._left.update(phase, done, total)
        self._printer({"type": "progress", "phase": phase, "done": done, "total": total, "eta_s": eta})

    def log(self, text: str, level: str = "info") -> None:
        self._printer({"type": "log", "level": level, "text": text})


def print_result(stage: str, numbers: dict[str, Any], state: str = "", *, reused: bool = False) -> None:
    """A stage's result on standard output: a sentence, then a figure a line."""
    done = _("unchanged, nothing to do") if reused else _("done")
    say((stage, "bold"), f": {state or done}")
    judged = assessment(stage, numbers)
    if judged.text:
        say((judged.text, "yellow" if judged.poor else "green"), head="  ")
    for label, value in result_lines(stage, numbers):
        say(value, head=(f"  {label}: ", "dim"))
