"""Text that is read from the right, for terminals that neither join its letters nor order it by themselves.

It is applied to each line of a widget just before it is drawn: everything above works with text as it is stored. Fields
are left as they are typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from unicodedata import combining

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from core.language import RIGHT_TO_LEFT, in_use

FROM_THE_RIGHT = re.compile("[\u0590-\u08ff]")
_DRAWN = re.compile("[\ufb50-\ufdff\ufe70-\ufefc]")  # letters in the forms in which they are drawn
CELL = "\u2063"
"""Ends a cell of a line: what stands before it and after it is ordered by itself. It is not drawn."""
_FIXED = re.compile(f"[\u2500-\u259f{CELL}]")  # lines, corners, bars and blocks stay where they are
_UNDRAWN = "\u200c\u200d\ufeff"  # they tell whether letters are joined, and are drawn by nothing
_WORDS = re.compile(f"(?:{FROM_THE_RIGHT.pattern}|[{_UNDRAWN}])+")
Sign = tuple[str, Style | None]
"""What is drawn in one place, and how."""


def orders_by_itself(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal is one that is known to join and order letters: those with VTE, Konsole, mlterm, Apple's."""
    version = environment.get("VTE_VERSION", "")
    return (
        (version.isdigit() and int(version) >= 5800)
        or "KONSOLE_VERSION" in environment
        or "MLTERM" in environment
        or environment.get("TERM_PROGRAM") == "Apple_Terminal"
    )


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
        text = "".join(segment.text for segment in segments)
        # What stands behind a dialog is drawn a second time.
        if not FROM_THE_RIGHT.search(text) or _DRAWN.search(text):
            return segments
        signs: list[Sign] = []
        for segment in segments:
            signs += [(char, segment.style) for char in segment.text]
        drawn: list[Sign] = []
        start = 0
        for end in range(len(signs) + 1):
            if end == len(signs) or _FIXED.match(signs[end][0]):
                drawn += _ordered(signs[start:end], self.base)
                drawn += [sign for sign in signs[end : end + 1] if sign[0] != CELL]
                start = end + 1
        return _joined(drawn)


@cache
def ordering(base: str) -> FromTheRight:
    """The filter for lines that are read that way; always the same one, so that what it has done is found again."""
    return FromTheRight(base)


def cell_end() -> str:
    """What parts the cells of a line, where the language is read from the right: else each stands where it stands."""
    return CELL if in_use() in RIGHT_TO_LEFT else ""


def from_the_left(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """The filters for a widget whose lines go from the left in every language: bars, axes, cells in a row."""
    return [ordering("L") if isinstance(each, FromTheRight) else each for each in filters]


def untouched(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """The filters for a widget in which somebody types: what stands at the cursor must be what is there."""
    return [each for each in filters if not isinstance(each, FromTheRight)]


def _ordered(signs: list[Sign], base: str) -> list[Sign]:
    """A stretch of a line in the order in which it is drawn, in as many cells."""
    text = "".join(char for char, _style in signs)
    if not FROM_THE_RIGHT.search(text):
        return signs
    shaped = _shaped(signs)
    spare = cell_len(text) - sum(cell_len(char) for char, _style in shaped)
    shaped += [(" ", signs[-1][1])] * spare  # two letters that became one sign
    return _turned(shaped, base)


def _shaped(signs: list[Sign]) -> list[Sign]:
    """The signs with joined letters; marks above and below stand with their letter."""
    text = "".join(char for char, _style in signs)
    found: list[Sign] = []
    at = 0
    for word in _WORDS.finditer(text):
        found += signs[at : word.start()]
        place = word.start()
        for char in _reshaper().reshape(word[0]):
            if char in _UNDRAWN:
                continue
            while place < word.end() - 1 and text[place] in _UNDRAWN:
                place += 1
            style = signs[min(place, word.end() - 1)][1]
            if combining(char) and found:
                found[-1] = (found[-1][0] + char, found[-1][1])
            else:
                found.append((char, style))
            place += 2 if "\ufef5" <= char <= "\ufefc" else 1  # lam with alef is one sign
        at = word.end()
    return found + signs[at:]


@cache
def _reshaper() -> Any:
    from arabic_reshaper import ArabicReshaper

    return ArabicReshaper({"delete_harakat": False, "support_zwj": True})


def _turned(signs: list[Sign], base: str) -> list[Sign]:
    """The signs in the order in which they are drawn from left to right (Unicode Standard Annex 9)."""
    from bidi import algorithm

    letters = "".join(char[0] for char, _style in signs)
    level = algorithm.PARAGRAPH_LEVELS[base] if base else algorithm.get_base_level(letters)
    storage = algorithm.get_empty_storage()
    storage["base_level"], storage["base_dir"] = level, "LR"[level]
    algorithm.get_embedding_levels(letters, storage)
    for place, each in enumerate(storage["chars"]):
        each["place"] = place
    for step in (
        algorithm.explicit_embed_and_overrides,
        algorithm.resolve_weak_types,
        algorithm.resolve_neutral_types,
        algorithm.resolve_implicit_levels,
        algorithm.reorder_resolved_levels,
        algorithm.apply_mirroring,
    ):
        step(storage, False)
    return [(each["ch"] + signs[each["place"]][0][1:], signs[each["place"]][1]) for each in storage["chars"]]


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
