"""Text that is read from the right, for terminals that neither join its letters nor order it by themselves.

It is applied to a line just before it is drawn: everything above works with text as it is stored. A line is a list
of signs, each with its style, whatever styles are there: the wizard's, or a command line's sequences of colours.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TextIO
from unicodedata import combining

from rich.cells import cell_len

FROM_THE_RIGHT = re.compile("[\u0590-\u08ff]")
_DRAWN = re.compile("[\ufb50-\ufdff\ufe70-\ufefc]")  # letters in the forms in which they are drawn
CELL = "\u2063"
"""Ends a cell of a line: what stands before it and after it is ordered by itself. It is not drawn."""
_FIXED = re.compile(f"[\u2500-\u259f{CELL}]")  # lines, corners, bars and blocks stay where they are
_UNDRAWN = "\u200c\u200d\ufeff"  # they tell whether letters are joined, and are drawn by nothing
_WORDS = re.compile(f"(?:{FROM_THE_RIGHT.pattern}|[{_UNDRAWN}])+")
Sign = tuple[str, Any]
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


def ordered_here(setting: str) -> bool:
    """Whether lines are to be ordered before a terminal gets them, by the setting ``right_to_left``."""
    return setting == "wizard" or (setting != "terminal" and not orders_by_itself())


def drawn(signs: Sequence[Sign], base: str = "") -> list[Sign] | None:
    """A line's signs as they are drawn from left to right, in as many cells; None where it is to stay as it is.

    Args:
        base: the way in which the line as a whole is read: ``R``, ``L``, or empty for that of its first letter.
    """
    text = "".join(char for char, _style in signs)
    # What stands behind a dialog is drawn a second time.
    if not FROM_THE_RIGHT.search(text) or _DRAWN.search(text):
        return None
    found: list[Sign] = []
    start = 0
    for end in range(len(signs) + 1):
        if end == len(signs) or _FIXED.match(signs[end][0]):
            found += _ordered(list(signs[start:end]), base)
            found += [sign for sign in signs[end : end + 1] if sign[0] != CELL]
            start = end + 1
    return found


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


_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_INDENTED = 5
"""So many blanks stand before the rest of a cell that was folded, which stays below its beginning."""
_PIECES = re.compile("(\x1b\\[[0-9;]*[A-Za-z]|[\r\n])")


class OrderedLines:
    """A stream whose lines are ordered on their way to a terminal: put in place of ``sys.stdout`` or ``sys.stderr``.

    A line that is wider than the terminal is folded at words first, and one that begins from the right ends at the
    terminal's right edge. What is not a whole line yet waits for its end, where ``waits``: letters that stream in
    cannot be ordered one by one.
    """

    def __init__(self, stream: TextIO, *, waits: bool) -> None:
        self._stream = stream
        self._waits = waits
        self._line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Take text; whole lines of it go on."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            self._stream.write(ordered_text(line, self._width()) + "\n")
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Take several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what is there, but for a line that has to wait for its end."""
        if self._line and not (self._waits and FROM_THE_RIGHT.search(self._line)):
            self._stream.write(ordered_text(self._line, 0))
            self._line = ""
        self._stream.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return 80


def order_streams(setting: str) -> None:
    """Order what this process prints on a terminal; pipes and files get text as it is stored."""
    if not ordered_here(setting):
        return
    if sys.stdout.isatty():
        sys.stdout = OrderedLines(sys.stdout, waits=True)
    if sys.stderr.isatty():
        sys.stderr = OrderedLines(sys.stderr, waits=False)


def ordered_text(text: str, width: int = 0) -> str:
    """A line, with its sequences of colours, as a terminal is to get it.

    Args:
        width: the terminal's, to fold it at words and to begin it at the right edge; 0: neither.
    """
    if not FROM_THE_RIGHT.search(text):
        return text
    before, between, text = text.rpartition("\r")
    signs, ends = _signs(text)
    lines = list(_folded(signs, width)) if width else [signs]
    told = []
    for line in lines:
        spare = width - sum(cell_len(char) for char, _style in line)
        first = next((char for char, _style in line if char.isalpha()), "")
        cells = list(_cells(line))
        in_its_column = "".join(char for char, _style in line[:_INDENTED]).isspace()
        if FROM_THE_RIGHT.match(first) and not in_its_column:
            cells = [[(" ", "")] * spare, *reversed(cells)]
        told.append(_coloured([sign for cell in cells for sign in drawn(cell) or cell]))
    return before + between + "\n".join(told) + ends


def _signs(text: str) -> tuple[list[Sign], str]:
    """The signs of a line, each with the sequences that colour it; and what clears the rest of the line."""
    signs: list[Sign] = []
    style = ends = ""
    for piece in _PIECES.split(text):
        if _COLOUR.fullmatch(piece):
            style = "" if piece in ("\x1b[0m", "\x1b[m") else style + piece
        elif _PIECES.fullmatch(piece):
            ends += piece
        else:
            signs += [(char, style) for char in piece]
    return signs, ends


def _cells(signs: list[Sign]) -> Iterator[list[Sign]]:
    """The columns of a table's line, apart by two blanks or more, and these: each is ordered by itself."""
    text = "".join(char for char, _style in signs)
    at = 0
    for gap in re.finditer(" {2,}", text):
        yield signs[at : gap.start()]
        yield signs[gap.start() : gap.end()]
        at = gap.end()
    yield signs[at:]


def _coloured(signs: Sequence[Sign]) -> str:
    """Signs as text, with their sequences before and the end of colour behind each run."""
    text = style = ""
    for char, own in signs:
        if own != style:
            text += ("\x1b[0m" if style else "") + own
            style = own
        text += char
    return text + ("\x1b[0m" if style else "")


def _folded(signs: list[Sign], width: int) -> Iterator[list[Sign]]:
    """Lines of at most so many cells, cut at blanks where there are some; the blanks at a cut are left out."""
    while signs:
        cells = end = 0
        while end < len(signs) and cells + cell_len(signs[end][0]) <= width:
            cells += cell_len(signs[end][0])
            end += 1
        end = max(end, 1)
        blank = next((at for at in range(end, 0, -1) if at < len(signs) and signs[at][0] == " "), 0)
        cut = end if end == len(signs) or not blank else blank
        yield signs[:cut]
        signs = signs[cut:]
        while signs and signs[0][0] == " ":
            signs = signs[1:]
