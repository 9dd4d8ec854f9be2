"""How alike two answers are, and when they say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.similarity import rouge_l, says_the_same, words_of

texts = st.lists(st.sampled_from(["a", "b", "c", "Đà", "1.5"]), max_size=9).map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected", "value"),
    [
        ("the cat sat", "The cat sat.", 1.0),
        ("the cat", "the cat sat down", 2 / 3),
        ("", "a", 0.0),
        ("", "", 1.0),
        ("b a", "a b", 0.5),
        ("it costs 1.5", "it costs 1.6", 2 / 3),
    ],
)
def test_likeness_is_rouge_l(text: str, expected: str, value: float) -> None:
    assert rouge_l(text, expected) == pytest.approx(value)


@given(texts, texts)
def test_likeness_is_by_the_longest_common_subsequence(one: str, other: str) -> None:
    left, right = words_of(one), words_of(other)
    row = [0] * (len(right) + 1)
    for word in left:
        above = 0
        for place, there in enumerate(right, 1):
            above, row[place] = row[place], above + 1 if word == there else max(row[place], row[place - 1])
    wanted = 2 * row[-1] / (len(left) + len(right)) if left or right else 1.0
    assert rouge_l(one, other) == pytest.approx(wanted)
    assert rouge_l(other, one) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("See the Art Institute, the lake and Millennium Park; it takes 2 days.", True),
        ("see the art institute the lake and millennium park it takes 2 days", True),
        ("See the Art Institute, the lake and the Millennium Park; it takes 2 days!", True),
        ("See the Art Institute, the lake and Millennium Park; it takes 3 days.", False),
        ("See the museums.", False),
        ("Yes.", False),
        ("", False),
    ],
)
def test_when_two_answers_say_the_same(answer: str, same: bool) -> None:
    expected = "See the Art Institute, the lake and Millennium Park; it takes 2 days."
    assert says_the_same(answer, expected) is same


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("The museum is not open on Sunday morning.", "The museum is open on Sunday morning.", False),
        ("The old museum isn't open on Sunday.", "The old museum is not open on Sunday.", True),
        ("It is -5 degrees.", "It is 5 degrees.", False),
        ("It is \u22125 degrees.", "It is -5 degrees.", True),
        ("From 1990-1995.", "From 1990 - 1995", True),
        ("", "👍", False),
        ("👍", "👍", True),
        ("👎", "👍", False),
    ],
)
def test_what_is_small_and_turns_an_answer_round(answer: str, expected: str, same: bool) -> None:
    assert says_the_same(answer, expected) is same
    assert (rouge_l(answer, expected) == 1.0) <= same
