"""How alike two answers are: ROUGE-L over their words, and when one says the same as the other.

Texts are compared in one form of each letter, without case, punctuation and spare space; `1.5`, `-5` and
`it's` are one word each, and a text without a word has its signs for words.
"""

from __future__ import annotations

import re
import unicodedata

THRESHOLD = 0.8
"""Likeness from which two answers with the same numbers say the same."""
_WORD = re.compile(r"(?:(?<![\w)])-(?=\d))?\w+(?:[.,:'’]\w+)*")
_NOT = frozenset({"no", "not", "never", "none", "neither", "nor", "nobody", "nothing", "cannot", "without"})


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    return _WORD.findall(text) or [sign for sign in text if not sign.isspace()]


def rouge_l(text: str, expected: str) -> float:
    """ROUGE-L F1 (Lin 2004): the longest common subsequence of words against both lengths; 0 to 1."""
    return _rouge_l(words_of(text), words_of(expected))


def _rouge_l(left: list[str], right: list[str]) -> float:
    from rapidfuzz.distance import Indel

    # 1 - (insertions and deletions) / both lengths is 2 * LCS / both lengths; 1 for two texts without a word.
    return Indel.normalized_similarity(left, right)


def says_the_same(answer: str, expected: str) -> bool:
    """Whether an answer gives the expected one: its numbers, and its words or nearly all of them in their order.

    An English "not" more or less is another answer, however alike the rest is.
    """
    first, second = words_of(answer), words_of(expected)
    if first == second:
        return bool(first)
    one, other = (_decisive(words) for words in (first, second))
    return one == other and _rouge_l(first, second) >= THRESHOLD


def _decisive(words: list[str]) -> tuple[list[str], int]:
    """The numbers among some words, and how often they say no."""
    numbers = sorted(word for word in words if any(c.isdigit() for c in word))
    return numbers, sum(word in _NOT or word.endswith(("n't", "n’t")) for word in words)
