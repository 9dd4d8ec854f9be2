"""Sizes before and after, as bars."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.filter import LineFilter
from textual.widget import Widget

from core.language import _
from tui.figures import human_bytes
from tui.glyphs import glyph
from tui.reading import from_the_left


class SizeBars(Widget):
    """One bar for each size, to one scale, with the figure beside it and how many times smaller."""

    DEFAULT_CSS = """
    SizeBars { height: auto; width: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._sizes: tuple[tuple[str, float], ...] = ()

    def show(self, *sizes: tuple[str, float]) -> None:
        """Draw these ``(label, bytes)``, the first being the one that the others are compared with."""
        if sizes != self._sizes:
            self._sizes = sizes
            self.refresh(layout=True)

    def get_line_filters(self) -> list[LineFilter]:
        """Bars go from the left in every language."""
        return from_the_left(super().get_line_filters())

    def render(self) -> Content:
        if not self._sizes:
            return Content("")
        wide = max(cell_len(name) for name, count in self._sizes)
        largest = max(count for name, count in self._sizes) or 1
        room = max(8, min(60, self.size.width - wide - 32))
        lines = []
        first = self._sizes[0][1]
        for index, (name, count) in enumerate(self._sizes):
            filled = max(1, round(count / largest * room)) if count else 0
            note = ""
            if index == 1 and count and first:
                times = first / count
                if times >= 1.05:
                    note = "  " + _("{times:.1f} {x} smaller", times=times, x=glyph("times"))
            lines.append(
                Content.assemble(
                    set_cell_size(name, wide) + "  ",
                    (glyph("full") * filled, "$text-success" if index else "$secondary"),
                    f" {human_bytes(count)}",
                    (note, "bold"),
                )
            )
        return Content("\n").join(lines)
