"""The loss, drawn: the smoothed training curve as a line, the measurements on held-out records as marks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import accumulate

from textual.content import Content
from textual.filter import LineFilter
from textual.geometry import Region
from textual.widget import Widget

from core.language import _, pgettext
from tui.figures import number
from tui.glyphs import ascii_only, glyph
from tui.reading import from_the_left
from tui.theme import QUIET

Points = Sequence[tuple[float, float]]


class LossChart(Widget):
    """Training loss as braille dots (``*`` in ASCII), held-out loss as ``o``, its lowest as a mark of its own.

    All are told in words above. The curve is smoothed, and thinned to the columns there are, by mean, so that a long
    run costs no more to draw.
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
        self._lines: list[Content] = []

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
        """Draw the lines that are others: most of them stay."""
        self._waiting = False
        self._drawn = time.monotonic()
        before, lines = self._lines, self._picture()
        if len(lines) != len(before):
            self.refresh()
            return
        others = [y for y, (old, new) in enumerate(zip(before, lines, strict=True)) if not new.is_same(old)]
        if others:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in others))

    def get_line_filters(self) -> list[LineFilter]:
        """The axis goes from the left in every language."""
        return from_the_left(super().get_line_filters())

    def render(self) -> Content:
        self._lines = self._picture()
        return Content("\n").join(self._lines)

    def _picture(self) -> list[Content]:
        """Its lines."""
        width, height = self.size.width - self.LEFT, self.size.height - 2
        if width < 10 or height < 2:
            return []
        train = smooth(self._train)
        points = [p for p in (*train, *self._held) if math.isfinite(p[1])]
        legend = self._legend()
        if not points:
            waiting = Content.styled("       " + _("The curve starts with the first step."), QUIET)
            return [legend, Content(""), waiting]
        low, high = min(p[1] for p in points), max(p[1] for p in points)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        right = max(self._last or 0.0, *(p[0] for p in points), 1.0)
        rows = plot(train, width, height, low, high, right)
        best = lowest(self._held)
        # The best comes last: it is seen where several fall into one cell.
        marks = {
            (_row(point[1], low, high, height), _column(point[0], width, right)): point == best
            for point in sorted(self._held, key=lambda point: point == best)
            if math.isfinite(point[1])
        }
        ticks = {
            _row(value, low, high, height): f"{value:g}" for value in round_values(low, high, height // 2)
        }
        lines = [legend]
        for y, row in enumerate(rows):
            tick = ticks.get(y, "")
            line = [Content.styled(f"{tick:>{self.LEFT - 1}}", QUIET), Content(glyph("bar"))]
            start = 0
            for x in sorted(x for my, x in marks if my == y):
                mark = ("best", "bold $text-success") if marks[y, x] else ("held", "bold $text-warning")
                line += [
                    Content.styled(row[start:x], "$text-primary"),
                    Content.styled(glyph(mark[0]), mark[1]),
                ]
                start = x + 1
            line.append(Content.styled(row[start:], "$text-primary"))
            lines.append(Content.assemble(*line))
        axis = " " * (self.LEFT - 1) + glyph("corner") + step_axis(width, right)
        return [*lines, Content.styled(axis, QUIET)]

    def _legend(self) -> Content:
        """What each mark is; of it as much as goes into a line, for other languages have longer words."""
        parts = [Content.styled(_("Loss") + " ", "bold")]
        for points, sign, words, style in (
            (self._train, " *" if ascii_only() else " ⠤⠤", _("training"), "$text-primary"),
            (self._held, f"   {glyph('held')}", _("held out"), "$text-warning"),
        ):
            if points:
                named = (f"{sign} {words} ", style)
                parts.append(Content.assemble(named, (number(points[-1][1]), "bold")))
        best = lowest(self._held)
        if best is not None:
            named = (f"   {glyph('best')} " + pgettext("loss", "best") + " ", "$text-success")
            parts.append(Content.assemble(named, (number(best[1]), "bold")))
            parts.append(Content(" " + _("at step {number}", number=number(best[0]))))
        while sum(part.cell_length for part in parts) > self.size.width:
            parts.pop()
        return Content("").join(parts)


def _place(value: float, low: float, high: float, height: int) -> int:
    return min(height - 1, max(0, round((high - value) / (high - low) * (height - 1))))


def _levels() -> int:
    """Heights that are told apart within a line."""
    return 1 if ascii_only() else 4


def _row(value: float, low: float, high: float, height: int) -> int:
    """The line that the curve would be in at this value, so that ticks and marks stand where it passes."""
    return _place(value, low, high, height * _levels()) // _levels()


def _column(step: float, width: int, right: float) -> int:
    return min(width - 1, max(0, int(step / right * (width - 1))))


def lowest(held: Points) -> tuple[float, float] | None:
    """The best measurement, the first of equal ones; None while fewer than two can be compared."""
    found = [(step, value) for step, value in held if math.isfinite(value)]
    return min(found, key=lambda point: point[1]) if len(found) > 1 else None


def smooth(points: Points) -> Points:
    """Each point as the mean of those around it, of a tenth of the curve; the first and the last stay themselves."""
    found = [(step, value) for step, value in points if math.isfinite(value)]
    most = len(found) // 20
    sums = [0.0, *accumulate(value for _, value in found)]
    smoothed = []
    for at, (step, value) in enumerate(found):
        reach = min(most, at, len(found) - 1 - at)
        mean = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
        smoothed.append((step, mean if reach else value))
    return smoothed


def round_values(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round values from low to high, one, two or five times a power of ten apart."""
    if most < 1 or not high > low:
        return []
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    for apart in (size, 2 * size, 5 * size, 10 * size, 20 * size):
        first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
        if last - first < most:
            return [float(f"{at * apart:.12g}") for at in range(first, last + 1)]
    return []


def step_axis(width: int, right: float) -> str:
    """The line below the curve, with round steps where they are and the last one at its end."""
    end = " " + _("step {number}", number=number(right))
    line = [*glyph("line") * width]
    line[max(0, width - len(end)) :] = end[:width]
    for step in round_values(0.0, right, max(1, width // 9)):
        text = number(step)
        start = _column(step, width, right) - len(text) // 2
        if step.is_integer() and step > 0 and 0 <= start < width - len(end) - len(text) - 1:
            line[start : start + len(text)] = text
    return "".join(line)


def thin(points: Points, columns: int, right: float) -> list[tuple[int, float]]:
    """Mean of the points that fall in each of ``columns``, in order; empty columns are left out."""
    sums: dict[int, tuple[float, int]] = {}
    for step, value in points:
        if math.isfinite(value):
            column = _column(step, columns, right)
            total, count = sums.get(column, (0.0, 0))
            sums[column] = (total + value, count + 1)
    return [(column, total / count) for column, (total, count) in sorted(sums.items())]


def plot(points: Points, width: int, height: int, low: float, high: float, right: float) -> list[str]:
    """The points as ``height`` lines of ``width`` cells, with the gaps between columns joined."""
    wide, tall = 1 if ascii_only() else 2, _levels()
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
