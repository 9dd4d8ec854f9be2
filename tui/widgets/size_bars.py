"""Sizes before and after, as bars."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from core.formats import human_bytes
from tui.glyphs import glyph


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

    def render(self) -> Content:
        if not self._sizes:
            return Content("")
        wide = max(len(name) for name, _ in self._sizes)
        largest = max(count for _, count in self._sizes) or 1
        room = max(8, min(60, self.size.width - wide - 32))
        lines = []
        first = self._sizes[0][1]
        for index, (name, count) in enumerate(self._sizes):
            filled = max(1, round(count / largest * room)) if count else 0
            note = ""
            if index == 1 and count and first:
                times = first / count
                if times >= 1.05:
                    note = f"  {times:.1f} {glyph('times')} smaller"
            lines.append(
                Content.assemble(
                    f"{name:<{wide}}  ",
                    (glyph("full") * filled, "$text-success" if index else "$secondary"),
                    f" {human_bytes(count)}",
                    (note, "bold"),
                )
            )
        return Content("\n").join(lines)
