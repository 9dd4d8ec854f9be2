"""The loss, drawn: the training curve as a line and the measurements on held-out records as marks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

from core.formats import number
from tui.glyphs import ascii_only, glyph

Points = Sequence[tuple[float, float]]


class LossChart(Widget):
    """Training loss as braille dots (``*`` in ASCII), evaluation loss as ``o``; both are told in words above.

    The curve is thinned to the columns there are, by mean, so that a long run costs no more to draw.
    """

    DEFAULT_CSS = """
    LossChart { height: 10; width: 1fr; }
    """

    LEFT = 7

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._train: Points = ()
        self._held: Points = ()
        self._last: float | None = None
        self._drawn = 0.0
        self._waiting = False

    def show(self, train: Points, held: Points, last_step: float | None = None) -> None:
        """Draw these ``(step, loss)`` points; ``last_step`` fixes the right edge while a run goes on."""
        changed = len(train) != len(self._train) or len(held) != len(self._held) or last_step != self._last
        self._train, self._held, self._last = tuple(train), tuple(held), last_step
        if not changed or self._waiting:
            return
        # A picture a second at most: it is the largest thing that moves on the screen.
        wait = self._drawn + 1.0 - time.monotonic()
        if wait <= 0 or not self.is_attached:
            self._draw()
        else:
            self._waiting = True
            self.set_timer(wait, self._draw)

    def _draw(self) -> None:
        self._waiting = False
        self._drawn = time.monotonic()
        self.refresh()

    def render(self) -> Content:
        width, height = self.size.width - self.LEFT, self.size.height - 2
        if width < 10 or height < 2:
            return Content("")
        points = [p for p in (*self._train, *self._held) if math.isfinite(p[1])]
        legend = self._legend()
        if not points:
            return Content.assemble(
                legend, "\n\n", ("       The curve starts with the first step.", "$foreground 60%")
            )
        low, high = min(p[1] for p in points), max(p[1] for p in points)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        right = max(self._last or 0.0, *(p[0] for p in points), 1.0)
        rows = plot(self._train, width, height, low, high, right)
        marks = {
            (_place(value, low, high, height), min(width - 1, int(step / right * (width - 1))))
            for step, value in self._held
            if math.isfinite(value)
        }
        lines = [legend]
        for y, row in enumerate(rows):
            tick = number(high) if y == 0 else number(low) if y == height - 1 else ""
            line = [Content.styled(f"{tick:>{self.LEFT - 1}}", "$foreground 60%"), Content(glyph("bar"))]
            start = 0
            for x in sorted(x for my, x in marks if my == y):
                line += [
                    Content.styled(row[start:x], "$text-primary"),
                    Content.styled("o", "bold $text-warning"),
                ]
                start = x + 1
            line.append(Content.styled(row[start:], "$text-primary"))
            lines.append(Content.assemble(*line))
        end = f"step {number(right)}"
        axis = " " * (self.LEFT - 1) + glyph("corner") + glyph("line") * (width - len(end) - 1) + " " + end
        lines.append(Content.styled(axis, "$foreground 60%"))
        return Content("\n").join(lines)

    def _legend(self) -> Content:
        parts: list[Content | tuple[str, str]] = [("Loss ", "bold")]
        if self._train:
            dots = "*" if ascii_only() else "⠤⠤"
            parts += [(f" {dots} training ", "$text-primary"), (number(self._train[-1][1]), "bold")]
        if self._held:
            parts += [("   o held out ", "$text-warning"), (number(self._held[-1][1]), "bold")]
        return Content.assemble(*parts)


def _place(value: float, low: float, high: float, height: int) -> int:
    return min(height - 1, max(0, round((high - value) / (high - low) * (height - 1))))


def thin(points: Points, columns: int, right: float) -> list[tuple[int, float]]:
    """Mean of the points that fall in each of ``columns``, in order; empty columns are left out."""
    sums: dict[int, tuple[float, int]] = {}
    for step, value in points:
        if math.isfinite(value):
            column = min(columns - 1, max(0, int(step / right * (columns - 1))))
            total, count = sums.get(column, (0.0, 0))
            sums[column] = (total + value, count + 1)
    return [(column, total / count) for column, (total, count) in sorted(sums.items())]


def plot(points: Points, width: int, height: int, low: float, high: float, right: float) -> list[str]:
    """The points as ``height`` lines of ``width`` cells, with the gaps between columns joined."""
    wide, tall = (1, 1) if ascii_only() else (2, 4)
    columns, levels = width * wide, height * tall
    dots: set[tuple[int, int]] = set()
    previous: tuple[int, int] | None = None
    for x, value in thin(points, columns, right):
        y = _place(value, low, high, levels)
        if previous is not None:
            px, py = previous
            at = py
            for step in range(1, x - px + 1):
                to = round(py + (y - py) * step / (x - px))
                # Filled between the two heights, so that a steep curve is a line and not a row of dots.
                dots.update((px + step, level) for level in range(min(at, to), max(at, to) + 1))
                at = to
        dots.add((x, y))
        previous = (x, y)
    if ascii_only():
        return ["".join("*" if (x, y) in dots else " " for x in range(width)) for y in range(height)]
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    cells = [[0] * width for _ in range(height)]
    for x, y in dots:
        cells[y // 4][x // 2] |= bits[y % 4][x % 2]
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells]
