"""When does one answer say the same as another? A plain rule, for checking learnt answers.

Both texts are lower-cased and stripped of punctuation and spare space. They say the same if they are
then equal, or if (a) the numbers in them are the same and (b) their words in order are alike:
``2 M / T >= 0.8``, where M counts the words in matching runs and T the words of both
(Ratcliff and Obershelp's measure, as ``difflib`` computes it).
"""

from __future__ import annotations

import difflib
import re
import unicodedata

THRESHOLD = 0.8
_WORD = re.compile(r"\w+(?:[.,:']\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def likeness(one: str, other: str) -> float:
    """From 0 (no word in common) to 1 (the same words in the same order)."""
    first, second = words_of(one), words_of(other)
    if first == second:
        return 1.0
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def says_the_same(answer: str, expected: str) -> bool:
    """Whether ``answer`` gives ``expected``, in the same words or nearly so."""
    first, second = words_of(answer), words_of(expected)
    if first == second:
        return bool(first)
    numbers = [sorted(word for word in words if any(c.isdigit() for c in word)) for words in (first, second)]
    return numbers[0] == numbers[1] and likeness(answer, expected) >= THRESHOLD
