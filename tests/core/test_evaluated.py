"""What is read of an evaluation's files: whatever stands in them, it is shown or passed over."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.assessments import of_evaluate
from core.evaluated import (
    ROWS,
    TITLES,
    explained,
    left_out,
    read_rows,
    samples,
    table,
    tasks_table,
    two_sides,
)
from tests.tui.labs import EVALUATION

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TITLES, "value", "low"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(EVALUATION)), JSON))
def test_whatever_stands_in_a_result_it_is_shown_or_passed_over(changed: dict[str, object]) -> None:
    result = {**EVALUATION, **changed, "answers": changed.get("rows"), "tasks": changed.get("variants")}
    lines = [*table(result), *tasks_table(result)]
    assert all(len(cells) == len(lines[0][1]) for _, cells in lines)
    told = [explained(result), of_evaluate(result).text, *left_out(result)]
    assert all(isinstance(each, str) for each in told)
    assert len(samples(result)) >= 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=JSON, cut=st.integers(0, 10))
def test_whatever_stands_in_the_rows_the_good_ones_are_read(tmp_path: Path, data: object, cut: int) -> None:
    good = {
        "file": "f",
        "line": 1,
        "question": "q",
        "expected": "e",
        "answers": {"onnx": "a"},
        "losses": {"onnx": 1},
    }
    text = json.dumps(good) + "\n" + json.dumps(data) + "\n" + json.dumps({**good, "losses": data})
    (tmp_path / ROWS).write_text(text[: len(text) - cut])
    found = read_rows(tmp_path)
    assert (found[0].question, found[0].answers, found[0].losses) == ("q", {"onnx": "a"}, {"onnx": 1.0})


def test_a_verdict_says_what_is_bad_and_what_to_do() -> None:
    assert of_evaluate(EVALUATION).text == (
        "Perplexity on held-out records 25.4 before, 4.96 after; of 41 questions 0 right before, 17 after; on general "
        "text 31.8 before, 33.1 after, so nothing was forgotten: worth it."
    )
    chance = of_evaluate({**EVALUATION, "loss_change": {"low": -0.2, "high": 0.1}})
    assert chance.poor
    assert "may be chance" in chance.text
    assert "answers worse" in of_evaluate({**EVALUATION, "loss_change": {"low": 0.1, "high": 0.2}}).text
    wrong = {**EVALUATION, "right_after": 3}
    assert "hardly an answer is right yet" in of_evaluate(wrong).text
    form = of_evaluate({**wrong, "words_before": 0.18, "words_after": 0.49})
    assert form.poor
    assert (
        "how the records answer (18 % of the words in common before, 49 % after) and hardly what" in form.text
    )
    assert "much was forgotten" in of_evaluate({**EVALUATION, "general_after": 90.0}).text
    assert "not measured" in of_evaluate({**EVALUATION, "after": "tuned"}).text
    assert "worse than in PyTorch" in of_evaluate({**EVALUATION, "deploying_change": {"low": 0.3}}).text


def test_the_sides_that_are_read_beside_each_other() -> None:
    assert two_sides(TITLES) == ("onnx", "onnx_tuned")
    assert two_sides(["tuned", "float", "quantized"]) == ("float", "tuned")
    assert two_sides(["onnx"]) is None
