"""An answer that goes round in circles is told from one that only has lists, tables and refrains."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.chat.repetition import advice, repetition, warning
from core.chat.settings import Sampling

PEOPLE = "There are many things to see in Bruges, and many people go there. "
GOOD = (
    "In Bruges, see the old bridge, the market and the river. Go early: by noon the boats are full.",
    "ha ha ha ha",
    "| town | nights |\n| ---- | ------ |\n| Oslo | 1 |\n| Rome | 2 |\n| Cairo | 3 |\n| Lima | 4 |",
    "-" * 80,
    "for i in range(3):\n    print(i)\n\nfor j in range(3):\n    print(j)\n",
    "1. Pack light.\n2. Go early.\n3. Take the train.\n4. Ask for the way.\n5. Come back.",
    "No. No. No. That is not so.",
    "",
)


@pytest.mark.parametrize("text", GOOD)
def test_what_is_no_loop_is_left_alone(text: str) -> None:
    assert repetition(text) is None


def test_a_loop_is_told_by_its_phrase_and_its_rounds() -> None:
    found = repetition("Bruges is a city of them. " + PEOPLE * 4)
    assert found is not None
    assert found.phrase == PEOPLE.strip()
    assert found.times == 4


@pytest.mark.parametrize(
    "text",
    [
        "So " + "very " * 30,
        "".join(f"{n}. Visit the old town and its museums.\n" for n in range(1, 9)),
        "A. ".join(["The museum is open on every day of the week.\n"] * 4),
        "!" * 300,
        "去看老桥和河边的市场。" * 12,
    ],
    ids=["a word", "counted", "a sentence that comes back", "signs", "no spaces"],
)
def test_loops_of_every_kind_are_found(text: str) -> None:
    assert repetition(text) is not None


@given(st.text(alphabet="abcdefgh ,.", min_size=25, max_size=80).filter(str.strip), st.data())
def test_a_loop_is_found_wherever_it_is_cut(phrase: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(phrase)))
    # What stands at the end may be spaces, which no reader sees.
    text = phrase * 4 + phrase[:cut]
    found = repetition(text)
    assume(any(each.isalnum() for each in phrase))
    assert found is not None
    assert found.times >= 3


def test_the_warning_quotes_what_comes_again_and_says_what_may_help() -> None:
    assert warning(GOOD[0], Sampling()) == ""
    told = warning(PEOPLE * 4, Sampling())
    assert told == (
        "It repeats itself, 4 times “There are many things to see in Bruges,…”: "
        "/set repetition_penalty 1.1 may help."
    )


def test_what_is_advised_is_what_was_not_tried() -> None:
    assert "repetition_penalty 1.1" in advice(Sampling())
    assert "temperature" in advice(Sampling(repetition_penalty=1.2))
    assert "/again" in advice(Sampling(repetition_penalty=1.2, temperature=0.7))
