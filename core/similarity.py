"""How alike two answers are: ROUGE-L over their words, and when one says the same as the other.

Texts are compared in one form of each letter, without case, punctuation and spare space; `1.5` and
`it's` are one word each.
"""

from __future__ import annotations

import re
import unicodedata

THRESHOLD = 0.8
"""Likeness from which two answers with the same numbers say the same."""
_WORD = re.compile(r"\w+(?:[.,:'’]\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def rouge_l(text: str, expected: str) -> float:
    """ROUGE-L F1 (Lin 2004): the longest common subsequence of words against both lengths; 0 to 1."""
    return _rouge_l(words_of(text), words_of(expected))


def _rouge_l(left: list[str], right: list[str]) -> float:
    from rapidfuzz.distance import Indel

    # 1 - (insertions and deletions) / both lengths is 2 * LCS / both lengths; 1 for two texts without a word.
    return Indel.normalized_similarity(left, right)


def says_the_same(answer: str, expected: str) -> bool:
    """Whether an answer gives the expected one: its numbers, and its words or nearly all of them in their order."""
    first, second = words_of(answer), words_of(expected)
    if first == second:
        return bool(first)
    numbers = [sorted(word for word in words if any(c.isdigit() for c in word)) for words in (first, second)]
    return numbers[0] == numbers[1] and _rouge_l(first, second) >= THRESHOLD
