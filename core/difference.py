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
    """Where the words of the first text differ from the second's, and the other way round.

    Attributes:
        first, second: the places; empty where the texts are ``unlike`` or the same, or only their punctuation differs.
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
            ours += _marked(left[a:b])
            theirs += _marked(right[c:d])
    return Difference(ours, theirs)


def _marked(words: list[tuple[str, int, int]]) -> Spans:
    """From the first word to the last: a comma alone, underlined, only makes one look for what is meant."""
    places = [(begin, end) for word, begin, end in words if word[0].isalnum() or word[0] == "_"]
    return [(places[0][0], places[-1][1])] if places else []


def _words(text: str) -> list[tuple[str, int, int]]:
    return [(found.group(), found.start(), found.end()) for found in _WORD.finditer(text)]
