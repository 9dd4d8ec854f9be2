"""The few glyphs that are drawn, with an ASCII form of each for terminals that have no others."""

from __future__ import annotations

from functools import cache

from tui.terminal import plain_glyphs


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
    "empty": ("░", "."),
    "dot": ("·", "-"),
    "here": ("▸", ">"),
    "line": ("─", "-"),
    "bar": ("│", "|"),
    "corner": ("└", "+"),
    "held": ("o", "o"),
    "best": ("◆", "@"),
    "cut": ("…", "~"),
    "done": ("✓", "+"),
    "times": ("×", "x"),
    "to": ("→", "to"),
    "warning": ("!", "!"),
    "error": ("✗", "x"),
    "folded": ("▸", ">"),
    "opened": ("▾", "v"),
    "break": ("↵", "|"),
}


def bar(share: float, width: int) -> str:
    """A bar ``width`` cells wide, filled to ``share`` (0 to 1)."""
    filled = round(max(0.0, min(1.0, share)) * width)
    return glyph("full") * filled + glyph("empty") * (width - filled)
