"""A field whose text may come from a file: control characters in it are shown, and not sent to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.expand_tabs import expand_tabs_inline
from textual.filter import LineFilter
from textual.strip import Strip
from textual.widgets import Input

from core.text import masked
from tui.glyphs import glyph
from tui.reading import untouched

if TYPE_CHECKING:
    from rich.text import Text

MASK = "?"


class Line(Input):
    """One line to type in. Textual's own (8.2.8) draws an escape code in its value as it is.

    The value keeps what it has: what a file says is not changed by looking at it.
    """

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What is typed is drawn as it is, so that the cursor stands where it says."""
        filters = super().get_line_filters()
        return untouched(filters) if self.value else filters

    @property
    def _value(self) -> Text:
        text = super()._value
        shown = _shown(text.plain)
        if shown == text.plain:
            return text
        places = [at for at, (old, new) in enumerate(zip(text.plain, shown, strict=True)) if old != new]
        text.plain = shown
        for at in places:
            text.stylize("reverse", at, at + 1)
        return text

    def render_line(self, y: int) -> Strip:
        line = super().render_line(y)
        if not self.app.current_theme.ansi:
            return line.extend_cell_length(self.size.width, self.rich_style)
        # Without grounds of their own, fields are ruled as on paper from where their text ends.
        blank = 0
        for segment in reversed(list(line)):
            if segment.style is not None and segment.style.reverse:
                break  # the cursor
            text = segment.text.rstrip(" ")
            blank += len(segment.text) - len(text)
            if text:
                break
        written = max(line.cell_length - blank, min(self.size.width, cell_len(_shown(self.value))))
        rule = Segment(glyph("blank") * (self.size.width - written), self.rich_style + Style(dim=True))
        return Strip([*line.crop(0, written).extend_cell_length(written), rule])

    def _position_to_cell(self, position: int) -> int:
        # Textual counts no cell for such a character; what stands for it here takes one.
        return cell_len(expand_tabs_inline(_shown(self.value[:position]), 4))


def _shown(text: str) -> str:
    return masked(text.replace("\n", glyph("break")), MASK)
