"""What two answers to one question do not have in common, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]", re.UNICODE)
_MOST = 3000
"""Words of a text; longer ones are not compared, for it takes their product in time."""
_ALIKE = 0.25
"""Share of the words in common below which two texts are simply different: marks would be everywhere."""

Spans = list[tuple[int, int]]
"""Places in a text: begin and end, in order, none touching another."""


@dataclass(frozen=True)
class Difference:
    """What stands only in the first text, and only in the second.

    Attributes:
        first, second: the places; empty where the texts are ``unlike`` or the same.
        unlike: they have little in common, or are too long to be compared.
        same: they are word for word the same.
    """

    first: Spans
    second: Spans
    unlike: bool = False
    same: bool = False


def difference(first: str, second: str) -> Difference:
    """Compare two texts by their words; case counts, spaces and line breaks do not."""
    left, right = _words(first), _words(second)
    if max(len(left), len(right)) > _MOST:
        return Difference([], [], unlike=True)
    if [word for word, _, _ in left] == [word for word, _, _ in right]:
        return Difference([], [], same=True)
    matcher = SequenceMatcher(None, [word for word, _, _ in left], [word for word, _, _ in right], False)
    if matcher.ratio() < _ALIKE:
        return Difference([], [], unlike=True)
    ours: Spans = []
    theirs: Spans = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind != "equal":
            if b > a:
                ours.append((left[a][1], left[b - 1][2]))
            if d > c:
                theirs.append((right[c][1], right[d - 1][2]))
    return Difference(ours, theirs)


def _words(text: str) -> list[tuple[str, int, int]]:
    return [(found.group(), found.start(), found.end()) for found in _WORD.finditer(text)]
