"""Lines of a job's log as people read them: when, how grave, what; and tracebacks, which are many lines of one thing.

A log holds what everything printed: our own lines, those of Olive and ONNX Runtime, Python's warnings, whatever a
library says. What is not known to be a prefix stays in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.text import clean

LEVELS = ("debug", "info", "warning", "error")

_BRACKETS = re.compile(
    r"\[\d{4}-\d\d-\d\d[ T](\d\d:\d\d:\d\d)(?:[,.]\d+)?\] \[([A-Z]+)\] (?:\[[\w.]+:\d+:[^\]\s]*\] )?(.*)",
    re.DOTALL,
)  # ours and Olive's
_RUNTIME = re.compile(
    r"\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d)\.\d+ \[([VIWEF]):[^\]]*\] (.*)", re.DOTALL
)  # ONNX Runtime's
_STANDARD = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:(.*)", re.DOTALL)
_PLAIN = re.compile(r"(debug|warning|error): (.*)", re.DOTALL)
_PYTHON = re.compile(r"\S+\.py:\d+: (\w*Warning: .*)", re.DOTALL)
_NAMED = re.compile(r"\[(?:transformers|torch|huggingface_hub|datasets|peft|accelerate)\] (.*)", re.DOTALL)
_WORDS = {
    "D": "debug", "V": "debug", "DEBUG": "debug", "I": "info", "INFO": "info", "W": "warning", "WARN": "warning",
    "WARNING": "warning", "E": "error", "F": "error", "ERROR": "error", "CRITICAL": "error", "FATAL": "error",
}  # fmt: skip

TRACEBACK = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


@dataclass(frozen=True)
class LogLine:
    """A line of a log.

    Attributes:
        time: hours, minutes and seconds; empty where the line does not say.
        level: debug, info, warning or error.
        text: what it says, without what stood before it.
    """

    time: str
    level: str
    text: str


def written(text: str, level: str) -> str:
    """A line as a job's log has it, with the time that it is here now."""
    at = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"[{at}] [{level.upper()}] {clean(text)}"


def read(line: str) -> LogLine:
    """A line of a log in its parts."""
    for pattern in (_BRACKETS, _RUNTIME):
        if found := pattern.match(line):
            return LogLine(found[1], _WORDS.get(found[2], "info"), found[3])
    if found := _STANDARD.match(line):
        return LogLine("", _WORDS[found[1]], found[2])
    if found := _PLAIN.match(line):
        return LogLine("", found[1], found[2])
    if found := _PYTHON.match(line):
        return LogLine("", "warning", found[1])
    if found := _NAMED.match(line):
        return LogLine("", "info", found[1])
    return LogLine("", "info", line)


@dataclass(frozen=True)
class LogBlock:
    """Lines that belong together: a traceback with those that it follows from, or one line.

    Attributes:
        first: the number of its first line.
        lines: as they stand in the file.
    """

    first: int
    lines: tuple[str, ...]

    @property
    def after(self) -> int:
        """The number of the line after it."""
        return self.first + len(self.lines)

    @property
    def traceback(self) -> bool:
        """Whether it is a traceback."""
        return self.lines[0].strip() == TRACEBACK

    @property
    def reason(self) -> str:
        """What a traceback ends with: the exception that came out."""
        return next((line for line in reversed(self.lines) if _says(line)), self.lines[0])


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.startswith((" ", "\t")) and line not in (TRACEBACK, *_CHAINED)


def entries(lines: Sequence[str], first: int = 0) -> Iterator[LogBlock]:
    """The entries of some lines, of which the first has this number."""
    at = 0
    while at < len(lines):
        end = _end_of_traceback(lines, at) if lines[at].strip() == TRACEBACK else at + 1
        yield LogBlock(first + at, tuple(lines[at:end]))
        at = end


def may_go_on(line: str) -> bool:
    """Whether a line after a traceback may belong to one that follows from it."""
    return not line.strip() or line.strip() in _CHAINED


def _end_of_traceback(lines: Sequence[str], at: int) -> int:
    """The place after a traceback that begins at ``at``, and after those that it led to."""
    while True:
        at += 1
        while at < len(lines) and (lines[at].startswith((" ", "\t")) or not lines[at].strip()):
            at += 1
        at = min(at + 1, len(lines))  # the exception itself
        chained = at
        while chained < len(lines) and may_go_on(lines[chained]):
            chained += 1
        if chained == at or chained >= len(lines) or lines[chained].strip() != TRACEBACK:
            return at
        at = chained
