"""Text that is read from the right in the wizard: the filters of widgets' lines. Fields are left as they are typed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from core.language import RIGHT_TO_LEFT, in_use

if TYPE_CHECKING:
    from core.from_the_right import Sign


class FromTheRight(LineFilter):
    """Joins and orders letters that are read from the right; each keeps its style.

    Args:
        base: the way in which a line as a whole is read: ``R``, ``L``, or empty for that of its first letter.
    """

    def __init__(self, base: str = "") -> None:
        super().__init__()
        self.base = base

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same line, as a terminal that does nothing by itself has to get it."""
        from core.from_the_right import FROM_THE_RIGHT, drawn

        if not any(FROM_THE_RIGHT.search(segment.text) for segment in segments):
            return segments
        signs: list[Sign] = []
        for segment in segments:
            signs += [(char, segment.style) for char in segment.text]
        found = drawn(signs, self.base)
        return segments if found is None else _joined(found)


@cache
def ordering(base: str) -> FromTheRight:
    """The filter for lines that are read that way; always the same one, so that what it has done is found again."""
    return FromTheRight(base)


def cell_end() -> str:
    """What parts the cells of a line, where the language is read from the right: else each stands where it stands."""
    if in_use() not in RIGHT_TO_LEFT:
        return ""
    from core.from_the_right import CELL

    return CELL


def from_the_left(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """The filters for a widget whose lines go from the left in every language: bars, axes, cells in a row."""
    return [ordering("L") if isinstance(each, FromTheRight) else each for each in filters]


def untouched(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """The filters for a widget in which somebody types: what stands at the cursor must be what is there."""
    return [each for each in filters if not isinstance(each, FromTheRight)]


def _joined(signs: list[Sign]) -> list[Segment]:
    """Signs as segments: those of one style that stand together are one."""
    found: list[Segment] = []
    run, style = "", None
    for char, own in signs:
        if run and own != style:
            found.append(Segment(run, style))
            run = ""
        run, style = run + char, own
    if run:
        found.append(Segment(run, style))
    return found
