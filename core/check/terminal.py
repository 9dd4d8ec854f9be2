"""The terminal: size, colours, UTF-8, and what tmux, screen or VS Code do to keys."""

from __future__ import annotations

import locale
import os
import shutil
import sys
from collections.abc import Iterator, Mapping

from core.check.types import OK, SKIP, WARN, Check, Subject
from core.language import told

WIDTH, HEIGHT = 80, 24


def terminal(subject: Subject) -> Iterator[Check]:
    """How the wizard will look here."""
    if not sys.stdout.isatty() and not sys.stderr.isatty():
        yield Check(
            told("terminal"), SKIP, told("No terminal: the commands work, and the wizard by lines (--plain).")
        )
        return
    size = shutil.get_terminal_size()
    yield judge(os.environ, size.columns, size.lines, locale.getpreferredencoding(False))


def judge(environment: Mapping[str, str], columns: int, lines: int, encoding: str) -> Check:
    """The verdict on a terminal described by its environment, size and encoding."""
    term = environment.get("TERM", "")
    colours = (
        told("no colours")
        if environment.get("NO_COLOR") or term in ("dumb", "")
        else _colours(environment, term)
    )
    found = told(
        "{columns}x{lines}, {term}, {colours}, {encoding}",
        columns=columns,
        lines=lines,
        term=term or told("TERM not set"),
        colours=colours,
        encoding=encoding,
    )
    inside = [name for name, mark in (("tmux", "TMUX"), ("screen", "STY")) if environment.get(mark)]
    if environment.get("TERM_PROGRAM") == "vscode":
        inside.append("VS Code")
    if inside:
        programs = inside[0]
        for other in inside[1:]:
            programs = told("{one} and {other}", one=programs, other=other)
        found = told("{terminal}, in {programs}", terminal=found, programs=programs)
    if term in ("dumb", ""):
        return Check(
            told("terminal"),
            WARN,
            found,
            told("The wizard asks by lines here. To have it drawn: export TERM=xterm"),
        )
    if columns < WIDTH or lines < HEIGHT:
        return Check(
            told("terminal"),
            WARN,
            told("{found}: small", found=found),
            told("Make it at least {width} by {height}.", width=WIDTH, height=HEIGHT),
        )
    if encoding.upper().replace("-", "") not in ("UTF8", "UTF_8"):
        return Check(
            told("terminal"),
            WARN,
            told("{found}: not UTF-8", found=found),
            told("Try: export LC_ALL=C.UTF-8"),
        )
    if "screen" in inside or "tmux" in inside:
        return Check(
            told("terminal"),
            OK,
            told("{found}; Ctrl-A and Ctrl-B belong to it, no key of the wizard does", found=found),
        )
    if "VS Code" in inside:
        return Check(
            told("terminal"),
            OK,
            told(
                "{found}; it keeps F1, F5, F6, F10, F11, Ctrl-P, Ctrl-Q for itself, and the wizard needs "
                "none",
                found=found,
            ),
        )
    return Check(told("terminal"), OK, found)


def _colours(environment: Mapping[str, str], term: str) -> str:
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return told("true colour")
    return told("256 colours") if "256" in term else told("16 colours")
