"""Two answers are compared word by word: the words that are left without the marks are the same in both."""

from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from core.difference import Spans, difference

WORDS = st.lists(
    st.sampled_from(["see", "the", "old", "new", "bridge", "market", ",", ".", "and", "river"]), max_size=30
)


def without(text: str, spans: Spans) -> list[str]:
    for begin, end in reversed(spans):
        text = text[:begin] + " " + text[end:]
    return re.findall(r"\w+", text)


@given(WORDS, WORDS)
def test_what_is_not_marked_is_the_same_in_both(first: list[str], second: list[str]) -> None:
    left, right = " ".join(first), "\n".join(second)
    found = difference(left, right)
    assert found.same == (first == second)
    assume(not found.unlike)
    assert without(left, found.first) == without(right, found.second)


@given(WORDS, WORDS)
def test_marks_stand_in_order_on_whole_words(first: list[str], second: list[str]) -> None:
    text = " ".join(first)
    last = -1
    for begin, end in difference(text, " ".join(second)).first:
        assert last < begin < end <= len(text)
        assert not (text[begin - 1 : begin] + text[begin]).isalnum() or begin == 0
        last = end


def test_the_words_that_changed_are_marked() -> None:
    base, tuned = "See the old bridge, and the market.", "See the new bridge and the fish market."
    found = difference(base, tuned)
    assert [base[a:b] for a, b in found.first] == ["old"], "and no comma"
    assert [tuned[a:b] for a, b in found.second] == ["new", "fish"]


def test_another_punctuation_is_a_difference_without_marks() -> None:
    found = difference("See the bridge, and go.", "See the bridge and go!")
    assert (found.first, found.second, found.same, found.unlike) == ([], [], False, False)


def test_what_has_little_in_common_or_is_very_long_is_not_marked_all_over() -> None:
    assert difference("Bruges is a city in Belgium.", "Three things, all within walks").unlike
    assert difference("word " * 4000, "word " * 3999).unlike
