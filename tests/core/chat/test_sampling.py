"""Settings are checked, and tokens are chosen as the settings say."""

from __future__ import annotations

import numpy as np
import pytest

from core.chat.sampler import Sampler
from core.chat.settings import Sampling
from core.errors import RequestError
from core.recipe import Recipe

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.5], dtype=np.float32)


def draws(settings: Sampling, seen: list[int] | None = None, count: int = 400) -> list[int]:
    sampler = Sampler(settings)
    return [sampler.choose(LOGITS, seen or []) for _ in range(count)]


def test_the_recipe_gives_the_first_settings() -> None:
    recipe = Recipe().with_values({"chat.temperature": 0.3, "chat.max_new_tokens": 7})
    assert Sampling.from_recipe(recipe.chat) == Sampling(temperature=0.3, max_new_tokens=7)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temperature", -1, "temperature"),
        ("temperature", "warm", "a number"),
        ("temperature", float("nan"), "temperature"),
        ("top_p", 1.5, "from 0 to 1"),
        ("top_k", 0, "at least 1|from 1"),
        ("max_new_tokens", 2.5, "whole number"),
        ("temprature", 1.0, "temperature"),
    ],
)
def test_an_impossible_setting_is_refused_and_says_what_would_be_right(
    name: str, value: object, told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        Sampling().changed(**{name: value})


def test_words_are_taken_as_typed() -> None:
    assert Sampling().changed(temperature="0.7", top_k="20") == Sampling(temperature=0.7, top_k=20)


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draws(Sampling(temperature=0.0), count=3)) == {1}


def test_one_seed_gives_one_answer_and_another_seed_another() -> None:
    first = draws(Sampling(temperature=1.0, seed=5))
    assert first == draws(Sampling(temperature=1.0, seed=5))
    assert first != draws(Sampling(temperature=1.0, seed=6))


def test_draws_follow_the_softmax_of_logits_over_temperature() -> None:
    found = np.bincount(draws(Sampling(temperature=2.0), count=20_000), minlength=5) / 20_000
    weights = np.exp(LOGITS / 2.0)
    assert np.abs(found - weights / weights.sum()).max() < 0.015


def test_top_k_keeps_the_likeliest() -> None:
    assert set(draws(Sampling(temperature=5.0, top_k=2))) == {1, 4}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    weights = np.exp(LOGITS)
    weights /= weights.sum()
    assert set(draws(Sampling(temperature=1.0, top_p=float(weights[1]) - 0.01))) == {1}
    assert set(draws(Sampling(temperature=1.0, top_p=float(weights[1]) + 0.01))) == {1, 4}


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    seen = [1, 3, 1]
    expected = RepetitionPenaltyLogitsProcessor(1.6)(torch.tensor([seen]), torch.tensor(LOGITS)[None].clone())
    settings = Sampling(repetition_penalty=1.6)
    assert Sampler(settings).choose(LOGITS, seen) == int(expected.argmax())
    assert int(expected.argmax()) != 1
    assert not Sampler(settings).plain
