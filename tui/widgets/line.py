"""A field whose text may come from a file: control characters in it are shown, and not sent to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import Input

from core.text import masked

if TYPE_CHECKING:
    from rich.text import Text

MASK = "?"


class Line(Input):
    """One line to type in. Textual's own (8.2.8) draws an escape code in its value as it is.

    The value keeps what it has: what a file says is not changed by looking at it.
    """

    @property
    def _value(self) -> Text:
        text = super()._value
        shown = masked(text.plain, MASK)
        if shown == text.plain:
            return text
        places = [at for at, (old, new) in enumerate(zip(text.plain, shown, strict=True)) if old != new]
        text.plain = shown
        for at in places:
            text.stylize("reverse", at, at + 1)
        return text
