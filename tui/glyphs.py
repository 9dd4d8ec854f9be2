"""The few glyphs that are drawn, with an ASCII form of each for terminals that have no others."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tui.terminal import plain_glyphs

if TYPE_CHECKING:
    from textual.content import Content


@cache
def ascii_only() -> bool:
    """Whether to draw with ASCII alone, decided once."""
    return plain_glyphs()


def glyph(name: str) -> str:
    """The glyph of that name, one cell wide."""
    fancy, simple = _GLYPHS[name]
    return simple if ascii_only() else fancy


_GLYPHS = {
    "full": ("█", "#"),
    "blank": ("_", "_"),
    "run": ("━", "="),
    "rest": ("─", "-"),
    "dot": ("·", "-"),
    "here": ("▸", ">"),
    "line": ("─", "-"),
    "bar": ("│", "|"),
    "corner": ("└", "+"),
    "held": ("o", "o"),
    "best": ("◆", "@"),
    "cut": ("…", "~"),
    "done": ("✓", "+"),
    "stopped": ("■", "#"),
    "times": ("×", "x"),
    "to": ("→", "to"),
    "warning": ("!", "!"),
    "error": ("✗", "x"),
    "folded": ("▸", ">"),
    "opened": ("▾", "v"),
    "break": ("↵", "|"),
}


SPINNER = ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\")


def alive(now: float) -> str:
    """A sign that turns as the seconds go: it moves when the time beside it does, and sends nothing of its own."""
    turns = SPINNER[ascii_only()]
    return turns[int(now) % len(turns)]


def bar(share: float, width: int) -> Content:
    """A bar ``width`` cells wide, done to ``share`` (0 to 1); what is left can be told from it without colours."""
    from textual.content import Content  # whoever only wants a glyph knows no Textual

    done = round(max(0.0, min(1.0, share)) * width)
    return Content.assemble(
        (glyph("run") * done, "bold $text-primary"), (glyph("rest") * (width - done), "$foreground 55%")
    )
