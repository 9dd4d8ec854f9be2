"""The terminal: size, colours, UTF-8, and what tmux, screen or VS Code do to keys."""

from __future__ import annotations

import locale
import os
import shutil
import sys
from collections.abc import Iterator, Mapping

from core.check.types import OK, SKIP, WARN, Check, Subject

WIDTH, HEIGHT = 80, 24


def terminal(subject: Subject) -> Iterator[Check]:
    """How the wizard will look here."""
    if not sys.stdout.isatty() and not sys.stderr.isatty():
        yield Check("terminal", SKIP, "No terminal: the commands work, and the wizard by lines (--plain).")
        return
    size = shutil.get_terminal_size()
    yield judge(os.environ, size.columns, size.lines, locale.getpreferredencoding(False))


def judge(environment: Mapping[str, str], columns: int, lines: int, encoding: str) -> Check:
    """The verdict on a terminal described by its environment, size and encoding."""
    term = environment.get("TERM", "")
    colours = (
        "no colours" if environment.get("NO_COLOR") or term in ("dumb", "") else _colours(environment, term)
    )
    found = f"{columns}x{lines}, {term or 'TERM not set'}, {colours}, {encoding}"
    inside = [name for name, mark in (("tmux", "TMUX"), ("screen", "STY")) if environment.get(mark)]
    if environment.get("TERM_PROGRAM") == "vscode":
        inside.append("VS Code")
    if inside:
        found += ", in " + " and ".join(inside)
    if term in ("dumb", ""):
        return Check(
            "terminal",
            WARN,
            found,
            "The wizard asks by lines here. To have it drawn: export TERM=xterm",
        )
    if columns < WIDTH or lines < HEIGHT:
        return Check("terminal", WARN, f"{found}: small", f"Make it at least {WIDTH} by {HEIGHT}.")
    if encoding.upper().replace("-", "") not in ("UTF8", "UTF_8"):
        return Check("terminal", WARN, f"{found}: not UTF-8", "Try: export LC_ALL=C.UTF-8")
    if "screen" in inside or "tmux" in inside:
        return Check("terminal", OK, f"{found}; Ctrl-A and Ctrl-B belong to it, no key of the wizard does")
    if "VS Code" in inside:
        return Check(
            "terminal",
            OK,
            f"{found}; it keeps F1, F5, F6, F10, F11, Ctrl-P, Ctrl-Q for itself, and the wizard needs none",
        )
    return Check("terminal", OK, found)


def _colours(environment: Mapping[str, str], term: str) -> str:
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return "true colour"
    return "256 colours" if "256" in term else "16 colours"
