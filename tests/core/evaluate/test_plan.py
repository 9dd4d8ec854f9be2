"""What is asked and measured: the last answer's own question, of rows that are cut, long, or of pairs, too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.evaluate.plan import EvaluationPlan, make_plan
from core.events import RecordingReporter
from core.files import MANIFEST, write_json
from core.folder import LabFolder
from tests.core.optimize.labs import recipe_with
from tests.tiny_models import make_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    lab = LabFolder(tmp_path_factory.mktemp("plan"))
    make_tiny("llama", lab.quantized_dir)
    return lab


def plan_of(lab: LabFolder, records: list[dict[str, Any]], **values: Any) -> EvaluationPlan:
    path = lab.root / "records.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return make_plan(
        lab,
        recipe_with({"data.file": str(path), "data.eval_fraction": 0.4, "data.max_seq_len": 200, **values}),
        RecordingReporter(),
        50,
    )


def spoken(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]}


def asked(plan: EvaluationPlan) -> list[str]:
    return [plan.tokenizer.tokenizer.decode(prompt.ids, skip_special_tokens=False) for prompt in plan.prompts]


TALKS = [
    spoken(f"Where is {n}?", f"In town {n}.", f"And {n} days in it?", f"They are {n} fine.")
    for n in range(10)
]


@pytest.mark.parametrize("answer_only", [True, False])
def test_the_last_question_is_asked_with_all_before_it(model: LabFolder, answer_only: bool) -> None:
    plan = plan_of(model, TALKS, **{"data.answer_only": answer_only})
    assert len(plan.prompts) == len(plan.rows) == 4
    for text, row in zip(asked(plan), plan.rows, strict=True):
        assert "And" in text
        assert "In town" in text
        assert "fine" not in text
        assert row.ids[: row.asked] == plan.prompts[plan.rows.index(row)].ids
        learnt = plan.tokenizer.tokenizer.decode(
            [n for n, each in zip(row.ids, row.learnt, strict=True) if each]
        )
        assert "fine" in learnt
        assert "Where" not in learnt


def test_of_a_row_that_is_cut_before_its_last_question_no_earlier_one_is_asked(model: LabFolder) -> None:
    whole = plan_of(model, TALKS)
    cut = plan_of(model, TALKS, **{"data.max_seq_len": min(row.asked for row in whole.rows) - 4})
    assert cut.truncated == len(cut.rows) == 4
    assert [prompt for prompt in cut.prompts if prompt.row is not None] == []


def test_an_answer_has_no_more_room_than_the_model_can_read(model: LabFolder) -> None:
    long = [
        {"prompt": f"Where is {n}? " + "far " * 150, "response": f"It is {n}. " + "near " * 60}
        for n in range(10)
    ]
    plan = plan_of(model, long, **{"data.max_seq_len": 500})
    assert plan.prompts
    for prompt in plan.prompts:
        assert len(prompt.ids) + prompt.most <= 512


def test_pairs_are_read_where_the_adapter_was_trained_to_prefer(model: LabFolder) -> None:
    pairs = [
        {"prompt": f"Where is {n}?", "chosen": f"It is in town {n}.", "rejected": f"Find {n} yourself."}
        for n in range(10)
    ]
    plan = plan_of(model, pairs, **{"finetune.objective": "dpo"})
    for row in plan.rows:
        assert row.rejected is not None
        words = plan.tokenizer.tokenizer.decode(
            [n for n, each in zip(row.rejected.ids, row.rejected.trained, strict=True) if each]
        )
        assert "yourself" in words
        assert "Where" not in words
    adapter = model.finetuned_dir("travel")
    adapter.mkdir(parents=True, exist_ok=True)
    write_json(adapter / MANIFEST, {"result": {"steps": 3}})
    assert all(row.rejected is None for row in plan_of(model, pairs, **{"finetune.objective": "dpo"}).rows)
    (adapter / MANIFEST).unlink()
