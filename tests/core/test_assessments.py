"""The one sentence on a stage's result: true to its numbers, and with a next step where one is bad."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.assessments import HARDLY, LEARNT, ROSE
from core.stages import STAGES, assessment
from core.text import clean
from tests.tui.labs import EVALUATION
from tests.tui.labs import RESULTS as STEPS

RESULTS = {**STEPS, "evaluate": EVALUATION}
QUANTIZED = {**RESULTS["quantize"], "algorithm": "awq+gptq", "group_size": 64}
TUNED = RESULTS["finetune"]
AGREEING = {"base": {"agreeing": 5, "prompts": 5}, "tuned": {"agreeing": 5, "prompts": 5}}


def said(stage: str, result: dict[str, Any]) -> tuple[str, bool]:
    """The sentence, and whether it is a warning."""
    found = assessment(stage, result)
    return found.text, found.poor


def test_a_good_quantization() -> None:
    result = QUANTIZED | {"bytes_before": 260, "bytes_after": 100, "same_likeliest_token": 0.8734}
    assert said("quantize", result) == (
        "2.6 times smaller; of 100 next words 87 stay the same: a good result for 4 bits.",
        False,
    )


def test_what_is_no_smaller_is_not_called_so() -> None:
    """A small model is mostly its embeddings, which have no four bits in a checkpoint."""
    no_smaller = QUANTIZED | {"bytes_before": 511, "bytes_after": 539, "same_likeliest_token": 0.88}
    assert said("quantize", no_smaller)[0] == (
        "No smaller yet, as most of this model is its embeddings, which only the optimize stage packs; of 100 next "
        "words 88 stay the same: a good result for 4 bits."
    )
    assert said("quantize", no_smaller | {"same_likeliest_token": None})[0].startswith("No smaller yet: ")
    assert "1.1 times smaller" in said("quantize", no_smaller | {"bytes_after": 511 / 1.06})[0]


@pytest.mark.parametrize(
    ("more", "word", "step"),
    [
        ({"same_likeliest_token": 0.80}, "fair", "a group size of 32"),
        ({"same_likeliest_token": 0.60}, "poor", "a group size of 32"),
        ({"same_likeliest_token": 0.60, "algorithm": "rtn"}, "poor", "awq+gptq"),
        ({"same_likeliest_token": 0.60, "algorithm": "awq"}, "poor", "awq+gptq"),
        ({"same_likeliest_token": 0.60, "group_size": 16}, "poor", "8 bits"),
        ({"same_likeliest_token": 0.90, "bits": 8}, "fair", "a group size of 32"),
        ({"same_likeliest_token": 0.80, "bits": 8, "group_size": 16}, "poor", "more samples"),
    ],
)
def test_a_quantization_that_is_not_good_offers_a_step(more: dict[str, Any], word: str, step: str) -> None:
    text, poor = said("quantize", QUANTIZED | more)
    assert f"a {word} result" in text
    assert step in text
    assert poor is (word == "poor")


def test_all_of_them_is_said_of_all_alone() -> None:
    assert "99 stay the same" in said("quantize", QUANTIZED | {"same_likeliest_token": 0.9999})[0]
    assert "100 stay the same" in said("quantize", QUANTIZED | {"same_likeliest_token": 1.0})[0]


def test_few_measured_tokens_and_no_rounding_are_said() -> None:
    assert "measured on 40 tokens only" in said("quantize", QUANTIZED | {"measured_tokens": 40})[0]
    assert said("quantize", QUANTIZED | {"algorithm": "none"})[0].startswith("Kept as it is")


def test_an_adapter_that_has_learnt() -> None:
    text, poor = said("finetune", TUNED | {"eval_loss_base": 3.41, "eval_loss_tuned": 1.21})
    assert text == (
        "Held-out loss 3.41 to 1.21: in records it never saw, right words are 9.0 times as likely as before: it has "
        "learnt."
    )
    assert not poor


@pytest.mark.parametrize(
    ("more", "step", "poor"),
    [
        ({"eval_loss_tuned": 2.58}, "lower learning rate, fewer steps", True),
        ({"eval_loss_tuned": 2.58 * HARDLY + 0.01}, "train more steps", True),
        ({"eval_loss_tuned": 2.58 * LEARNT + 0.01}, "a small gain", False),
        ({"eval_loss_base": None, "eval_loss_tuned": None}, "data.eval_fraction", True),
        ({"eval_curve": [[0, 2.58], [40, 0.5], [100, 0.61]]}, "Train 40 steps", True),
        ({"eval_curve": [[0, 2.58], [40, 0.61 / ROSE + 0.001], [100, 0.61]]}, "it has learnt", False),
    ],
)
def test_an_adapter_that_is_not_good_offers_a_step(more: dict[str, Any], step: str, poor: bool) -> None:
    text, bad = said("finetune", TUNED | more)
    assert step in text
    assert bad is poor


def test_a_graph_that_answers_as_pytorch_does() -> None:
    result = RESULTS["optimize"] | {"agreement": AGREEING}
    assert said("optimize", result) == (
        "Answers agree 10 of 10 with PyTorch's; 8 of 8 questions answered as trained; the base 0: ready to chat.",
        False,
    )
    assert said("optimize", {"verified": True, "agreement": {"base": AGREEING["base"]}})[0] == (
        "Answers agree 5 of 5 with PyTorch's: ready to chat."
    )


@pytest.mark.parametrize(
    ("more", "step"),
    [
        (
            {"verified": False, "why_not_verified": "no GPU\x1b[2J here."},
            "not tried here: no GPU here. Ask it",
        ),
        ({"training_right_tuned": 0}, "back to Finetune"),
        ({"agreement": {"base": {"agreeing": 4, "prompts": 5}}}, "fp32"),
    ],
)
def test_a_graph_that_is_not_good_offers_a_step(more: dict[str, Any], step: str) -> None:
    text, poor = said("optimize", RESULTS["optimize"] | {"agreement": AGREEING} | more)
    assert step in text
    assert poor


def test_an_upload_says_what_went() -> None:
    assert said("upload", RESULTS["upload"])[0] == (
        "ft-for-travel is registered as version 3 in travel-ws: 1.7 GiB sent of 2.3 GiB; the rest was there already."
    )
    assert "nothing was sent" in said("upload", RESULTS["upload"] | {"bytes_sent": 0})[0]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("stage", STAGES)
@given(data=st.data())
def test_any_result_has_a_sentence_of_one_clean_line(stage: str, data: st.DataObject) -> None:
    keys = [*RESULTS[stage], "agreement", "eval_curve", "measured_tokens", "why_not_verified"]
    changed = data.draw(st.dictionaries(st.sampled_from(keys), ODD))
    text, poor = said(stage, RESULTS[stage] | changed)
    assert text == clean(text, keep_newlines=False)
    assert text or not poor


def test_what_is_not_known_gives_none() -> None:
    assert [said(stage, {}) for stage in (*STAGES, "of-a-newer-version")] == [("", False)] * (len(STAGES) + 1)


PREFERRED = {
    "objective": "dpo",
    "eval_rows": 6,
    "eval_preferred_base": 0.5,
    "eval_preferred_tuned": 1.0,
    "eval_margin_base": 0.0,
    "eval_margin_tuned": 1.5,
    "eval_loss_base": 0.69,
    "eval_loss_tuned": 0.2,
}


@pytest.mark.parametrize(
    ("more", "end", "poor"),
    [
        ({}, "; the margin went from 0.00 to 1.50.", False),
        ({"eval_margin_tuned": -0.1}, "no better than the base", True),
        ({"eval_preferred_base": 1.0, "eval_preferred_tuned": 2 / 3}, "Fewer than before", True),
        ({"objective": "kto"}, "Of 6 held-out answers it has 6 on the right side (3 before)", False),
        ({"eval_preferred_tuned": None}, "no records were held out", True),
    ],
)
def test_preferences_are_told_as_preferences(more: dict[str, Any], end: str, poor: bool) -> None:
    text, warned = said("finetune", PREFERRED | more)
    assert (end in text, warned) == (True, poor)
    assert "likely" not in text


def test_pairs_are_counted() -> None:
    text, _ = said("finetune", PREFERRED)
    assert text.startswith("Of 6 held-out pairs it prefers the chosen answer in 6 (3 before)")
