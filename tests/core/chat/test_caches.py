"""Which conversation in memory a question goes on with, and where an answer ends at a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat.caches import Caches
from core.chat.kv_cache import common_prefix
from core.chat.sampler import log_probabilities
from core.chat.stopping import StopTexts


class Empty:
    """Stands for a cache: only what is asked of one here."""

    def __init__(self, adapter: str) -> None:
        self.adapter, self.words = adapter, ""


def caches(most: int) -> Caches:
    make: Any = Empty
    return Caches(make, most)


def test_a_conversation_that_goes_on_finds_its_cache() -> None:
    kept = caches(3)
    anna, bert = kept.take("", "I am Anna"), kept.take("", "Here is Bert")
    assert anna is not bert
    assert kept.take("", "I am Anna and I go on") is anna
    assert kept.take("", "Here is Bert") is bert
    assert kept.take("one", "I am Anna") is not anna  # keys and values of another adapter
    assert len(kept) == 3


def test_the_one_used_longest_ago_goes_first() -> None:
    kept = caches(2)
    first, second = kept.take("", "aaaa"), kept.take("one", "bbbb")
    assert kept.take("", "aaaa more") is first
    third = kept.take("", "cccc")
    assert third not in (first, second)
    assert kept.take("", "aaaa more") is first
    assert len(kept) == 2
    # Of the same adapter it is used again, and keeps what the two have in common.
    assert kept.take("", "dddd") is third


def test_a_cache_is_not_taken_from_who_would_lose_most_of_it() -> None:
    kept = caches(2)
    long = kept.take("", "The same start. " + "x" * 100)
    assert kept.take("", "The same start. And something else") is not long
    assert kept.take("", "The same start. " + "x" * 100 + "y") is long
    assert kept.take("", "The same start. x") is long  # asked again
    kept.forget(long)
    assert len(kept) == 1


@given(st.text("ab", max_size=12), st.text("ab", max_size=12))
def test_the_common_prefix(left: str, right: str) -> None:
    size = common_prefix(left, right)
    assert left[:size] == right[:size]
    assert left[size : size + 1] != right[size : size + 1] or size == min(len(left), len(right))


@given(
    st.lists(st.text("ab", max_size=3), max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_text_is_found_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    stopping, shown, held, ended = StopTexts(stops), "", "", False
    for piece in pieces:
        new, held, ended = stopping.split(held + piece)
        shown += new
        if ended:
            break
    whole = "".join(pieces)
    assert ended == any(stop in whole for stop in stops)
    assert not any(stop in shown for stop in stops)
    assert whole.startswith(shown)
    assert ended or shown + held == whole


def test_log_probabilities() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0], dtype=np.float32)
    of_token, best = log_probabilities(logits, 2, 3)
    whole = np.log(np.exp(logits.astype(np.float64)).sum())
    assert of_token == pytest.approx(2 - whole)
    assert [number for number, _ in best] == [1, 3, 2]
    assert log_probabilities(logits, 0, 0)[1] == []
    assert len(log_probabilities(logits, 0, 20)[1]) == 4
