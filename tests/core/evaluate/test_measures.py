"""Figures from few rows: what they are worth, checked against arithmetic that is done here by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.evaluate.measures import difference, exponential, match, mean, ratio, share, spread

FINITE = st.floats(min_value=0, max_value=100, allow_nan=False)


@given(st.lists(st.tuples(FINITE, st.integers(1, 50)), min_size=1, max_size=30))
def test_a_ratio_is_of_the_sums_and_lies_between_the_rows(rows: list[tuple[float, int]]) -> None:
    sums, counts = [s for s, _ in rows], [float(n) for _, n in rows]
    found = ratio(sums, counts)
    each = [s / n for s, n in zip(sums, counts, strict=True)]
    assert found.value == pytest.approx(sum(sums) / sum(counts))
    assert min(each) - 1e-9 <= found.low <= found.high <= max(each) + 1e-9


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = [math.sin(number * 12.9898) for number in range(400)]
    found = mean(values)
    off = 1.96 * (sum((v - found.value) ** 2 for v in values) / 400) ** 0.5 / 20
    assert found.high - found.value == pytest.approx(off, rel=0.15)
    assert found.value - found.low == pytest.approx(off, rel=0.15)
    assert mean(values) == found, "the same rows give the same interval"


def test_a_share_of_none_or_all_is_not_certain() -> None:
    none, every = share([False] * 10), share([True] * 10)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.2775, abs=1e-3)
    assert every.low == pytest.approx(1 - none.high)


def test_paired_rows_tell_a_difference_that_each_by_itself_does_not() -> None:
    before = [float(number % 7) for number in range(40)]
    after = [value - 0.1 - 0.01 * (place % 3) for place, value in enumerate(before)]
    assert mean(after).high > mean(before).low
    assert difference(before, after).high < 0


def test_perplexity_and_spread() -> None:
    assert exponential(ratio([2.0, 4.0], [2.0, 1.0])).value == pytest.approx(math.exp(2.0))
    found = spread([10.0, 20.0, 30.0, 40.0, 1000.0])
    assert (found.low, found.value) == (14.0, 30.0)


def test_how_an_answer_compares() -> None:
    same = match("See the Bean, and the lake.", "see the bean and the lake")
    assert same.exact
    assert same.right
    assert same.words == 1.0
    other = match("I do not know.", "In Rome, see the Colosseum.")
    assert not other.right
    assert other.chrf < 25
    assert match("", "Rome") == match(" ", "Rome")
    assert match("In Rome, see the Colosseum.", "In Rome, see the Colosseum.").chrf == pytest.approx(100)
