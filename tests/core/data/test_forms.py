"""Rows in the forms that people bring: read as they are meant, and nothing dropped unsaid."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import load_examples
from core.data.plan import Record, make_plan
from core.data.preview import Previewer
from core.data.survey import DataReport, summary
from core.data.types import Example
from core.data.unused import UnusedCounter, unused_words
from core.errors import RequestError
from core.model.text import ModelText
from core.recipe import Recipe
from tests.tiny_models import CHAT_TEMPLATE

Turn = dict[str, Any]
Row = dict[str, Any]
NUMBERS = range(1, 7)
PLAIN = "<|user|>\n{prompt}<|end|>\n<|assistant|>\n{response}<|end|>"


def sentence(number: int) -> str:
    return f"Tower {number} stands by the river, near the old market."


def rows_of(**columns: Any) -> list[Row]:
    """Six rows; a text's {n} is the number, a function gets it."""

    def value(made: Any, number: int) -> Any:
        if callable(made):
            return made(number)
        return json.loads(json.dumps(made).replace("{n}", str(number)))

    return [{name: value(made, number) for name, made in columns.items()} for number in NUMBERS]


def look(
    folder: Path, rows: list[Row], *, chat: bool = True, objective: str = "auto", **values: Any
) -> tuple[DataReport, list[Example]]:
    """The report, and what training gets."""
    (folder / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    wanted = {"data.file": "own.jsonl", "data.eval_fraction": 0.0, "data.template": "auto" if chat else PLAIN}
    wanted["finetune.objective"] = objective
    recipe = Recipe().with_values({**wanted, **{f"data.{key}": value for key, value in values.items()}})
    report = summary(folder, recipe)
    try:
        examples = load_examples(recipe, folder, chat_template=CHAT_TEMPLATE).train
    except RequestError:
        examples = []
    return report, sorted(examples, key=lambda example: example.line)


def turns(example: Example) -> list[tuple[str, str, bool]]:
    return [(each.role, each.content, each.learnt) for each in example.messages]


def not_used(report: DataReport) -> set[str]:
    return {each.name for each in report.not_used}


def told(report: DataReport) -> str:
    return " ".join(finding.message for finding in report.findings if finding.kind == "not-used")


# Question and context


@pytest.mark.parametrize(
    "name", ["context", "input", "passage", "ngữ cảnh", "متن", "contexte", "上下文", "source document"]
)
@pytest.mark.parametrize("chat", [True, False])
def test_a_context_goes_behind_the_question(tmp_path: Path, name: str, chat: bool) -> None:
    rows = rows_of(
        **{name: sentence, "question": "Where is tower {n}?", "answer": "By the river {n}, of course."}
    )
    report, examples = look(tmp_path, rows, chat=chat)
    assert report.ok
    assert not_used(report) == set()
    assert examples[0].prompt == f"Where is tower 1?\n\n{sentence(1)}"


def test_a_context_of_another_name_is_named_and_not_joined(tmp_path: Path) -> None:
    rows = rows_of(blurb=sentence, question="Where is tower {n}?", answer="By the river {n}.")
    report, examples = look(tmp_path, rows)
    assert examples[0].prompt == "Where is tower 1?"
    (found,) = report.not_used
    assert (found.name, found.rows, found.line, found.matters) == ("blurb", 6, 1, True)
    assert "'blurb' in 6 rows does not reach the model" in told(report)
    assert "question+blurb" in next(iter(report.findings)).fix
    joined, examples = look(tmp_path, rows, prompt_field="question+blurb", response_field="answer")
    assert not_used(joined) == set()
    assert sentence(1) in examples[0].prompt


def test_ids_and_numbers_are_named_without_a_finding(tmp_path: Path) -> None:
    rows = rows_of(id="r-{n}", tokens=lambda n: 400 + n, question="Where is {n}?", answer="By the river {n}.")
    report, _ = look(tmp_path, rows)
    assert not_used(report) == {"id", "tokens"}
    assert len(report.findings) == 0
    assert unused_words([each.as_dict() for each in report.not_used], 6) == "'id', 'tokens'"


def test_a_copy_of_the_whole_row_is_named_without_a_finding(tmp_path: Path) -> None:
    rows = rows_of(
        instruction="Where is {n}?",
        output="By the river {n}.",
        text="### Instruction:\nWhere is {n}?\n### Response:\nBy the river {n}.",
    )
    report, _ = look(tmp_path, rows)
    assert not_used(report) == {"text"}
    assert len(report.findings) == 0


@pytest.mark.parametrize(
    ("name", "words", "field"),
    [
        ("context", "", ""),
        ("sources", "", ""),
        ("retrieved_docs", "'retrieved_docs' in 6 rows does not reach the model", "question+retrieved_docs"),
    ],
)
def test_a_list_of_passages_is_put_behind_the_question_or_told(
    tmp_path: Path, name: str, words: str, field: str
) -> None:
    passages = ["Tower {n} is a hundred metres high.", "It was built by the people of the town."]
    rows = rows_of(**{"question": "How high is tower {n}?", name: passages, "answer": sentence})
    report, examples = look(tmp_path, rows)
    assert words in told(report)
    report, examples = look(tmp_path, rows, prompt_field=field)  # as it says
    asked = (
        "How high is tower 1?\n\nTower 1 is a hundred metres high.\n\nIt was built by the people of the town."
    )
    assert turns(examples[0])[0] == ("user", asked, True)
    assert told(report) == ""


@pytest.mark.parametrize(
    ("column", "value", "advice"),
    [
        (
            "notes",
            {"by": "Ann", "said": ["It is closed for repairs in winter."]},
            "write it into the question",
        ),
        (
            "steps",
            ["Go to the river first.", "Then cross the bridge."],
            "data.prompt_field = 'question+steps'",
        ),
        ("table", {"head": ["a"], "rows": [["1"]]}, "write it into the question"),
        ("images", ["tower{n}.png"], "only text is trained on"),
        ("thinking", "I look at the map of part {n} first.", "reasoning_content"),
        ("explanation", "The map of part {n} shows it.", "reasoning_content"),
        ("weight", 0.25, "all rows count alike"),
        (
            "answer_in_french",
            "La tour {n} est au bord du fleuve.",
            "data.response_field = 'answer_in_french'",
        ),
        ("option_a", "in the hills", "question+option_a"),
    ],
)
def test_what_is_dropped_is_told_with_advice_that_fits_it(
    tmp_path: Path, column: str, value: Any, advice: str
) -> None:
    rows = rows_of(**{"question": "Where is tower {n}?", "answer": sentence, column: value})
    report, _ = look(tmp_path, rows)
    finding = next(each for each in report.findings if each.kind == "not-used")
    assert f"{column!r} in 6 rows does not reach the model" in finding.message
    assert advice in finding.fix


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("source", "wikipedia"),
        ("metadata", {"title": "All about the towers", "page": 3}),
        ("tags", ["tall", "old"]),
        ("views", float("nan")),
        ("lang", "en"),
        ("distractor1", "Tower {n} stands in another town."),
        ("rejected2", "Tower {n} stands in another town."),
    ],
)
def test_what_says_nothing_of_the_answer_is_named_without_a_finding(
    tmp_path: Path, column: str, value: Any
) -> None:
    rows = rows_of(**{"question": "Where is tower {n}?", "answer": sentence, column: lambda _: value})
    report, _ = look(tmp_path, rows)
    assert (not_used(report), told(report)) == ({column}, "")


def test_names_written_with_humps_are_read_like_others(tmp_path: Path) -> None:
    rows = rows_of(
        systemPrompt="Speak like a guide.",
        userQuestion="Where is tower {n}?",
        rejectedAnswer="Nowhere, tower {n} is gone, and I do not care about it.",
        chosenAnswer=sentence,
        userContext="Tower {n} can be seen from the river.",
    )
    report, examples = look(tmp_path, rows)
    assert [(role, learnt) for role, _, learnt in turns(examples[0])] == [
        ("system", True),
        ("user", True),
        ("assistant", True),
    ]
    assert turns(examples[0])[1][1].endswith("Tower 1 can be seen from the river.")
    assert turns(examples[0])[2][1] == sentence(1)
    assert (report.mapping.rejected, not_used(report), len(report.findings)) == ("rejectedAnswer", set(), 0)


def test_a_column_of_approved_and_rejected_may_say_which_rows_are_good(tmp_path: Path) -> None:
    rows = rows_of(
        question="Where is tower {n}?", answer=sentence, status=lambda n: "approved" if n % 2 else "rejected"
    )
    report, examples = look(tmp_path, rows)
    finding = next(each for each in report.findings if each.kind == "not-used")
    assert "'status' may say how good a row is" in finding.message
    assert "data.label_field = 'status'" in finding.fix
    report, examples = look(tmp_path, rows, label_field="status")
    assert [example.line for example in examples] == [1, 3, 5]


@pytest.mark.parametrize(
    ("chat", "template", "used"),
    [
        (True, "", True),
        (False, "{system}\nQ: {prompt}\nA: {response}<|end|>", True),
        (False, "Q: {prompt}\nA: {response}", False),
    ],
)
def test_a_system_column_is_used_where_it_has_a_place(
    tmp_path: Path, chat: bool, template: str, used: bool
) -> None:
    rows = rows_of(system="Speak like a guide.", prompt="Where is {n}?", response="By the river {n}.")
    report, examples = look(tmp_path, rows, chat=chat, **({"template": template} if template else {}))
    assert ("Speak like a guide." in examples[0].text) == used
    assert ("system" in not_used(report)) == (not used)
    assert ("'system' in 6 rows" in told(report)) == (not used)


# Known forms


def test_alpaca_with_a_history(tmp_path: Path) -> None:
    rows = rows_of(
        instruction="And tower {n}?",
        input="",
        output="By the sea {n}.",
        system="Be brief.",
        history=[["Where is the bridge?", "By the hill."]],
    )
    report, examples = look(tmp_path, rows)
    assert not_used(report) == set()
    assert turns(examples[0]) == [
        ("system", "Be brief.", True),
        ("user", "Where is the bridge?", True),
        ("assistant", "By the hill.", True),
        ("user", "And tower 1?", True),
        ("assistant", "By the sea 1.", True),
    ]


def test_sharegpt_with_a_system_and_tools_column(tmp_path: Path) -> None:
    rows = rows_of(
        conversations=[{"from": "human", "value": "q {n}"}, {"from": "gpt", "value": "a {n}"}],
        system="Be brief.",
        tools=json.dumps([{"name": "rain", "parameters": {}}]),
    )
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plan = make_plan(Recipe(), rows, ModelText(template=CHAT_TEMPLATE))
    record = plan.convert(rows[0])
    assert isinstance(record, Record)
    assert [each.content for each in record.messages] == ["Be brief.", "q 1", "a 1"]
    assert record.tools == ({"type": "function", "function": {"name": "rain", "parameters": {}}},)
    assert plan.used == {"conversations", "system", "tools"}


@pytest.mark.parametrize("chat", [True, False])
def test_prompt_and_completion_as_turns_are_one_conversation(tmp_path: Path, chat: bool) -> None:
    rows = rows_of(
        prompt=[
            {"role": "user", "content": "one {n}?"},
            {"role": "assistant", "content": "shown"},
            {"role": "user", "content": "two {n}?"},
        ],
        completion=[{"role": "assistant", "content": "learnt {n}"}],
    )
    report, examples = look(tmp_path, rows, chat=chat)
    assert report.ok
    assert report.turns_not_learnt == 6
    assert [(each.content, each.learnt) for each in examples[0].messages if each.role == "assistant"] == [
        ("shown", False),
        ("learnt 1", True),
    ]
    trained = "".join(part.text for part in examples[0].segments if part.trained)
    assert "learnt 1" in trained
    assert "shown" not in trained


def test_weights_and_a_cut_turn(tmp_path: Path) -> None:
    rows = rows_of(
        messages=[
            {"role": "user", "content": "q {n}"},
            {"role": "assistant", "content": "wrong {n}", "weight": 0},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "right {n}", "weight": 1},
            {"role": "user", "content": "thanks"},
        ]
    )
    report, examples = look(tmp_path, rows)
    trained = "".join(part.text for example in examples for part in example.segments if part.trained)
    assert "right 6" in trained
    assert "wrong" not in trained
    assert report.turns_not_learnt == 6
    assert "6 rows end with a turn of the user" in told(report)
    assert unused_words([each.as_dict() for each in report.not_used], 6) == "the user's last turn (6 rows)"


def test_rows_of_which_nothing_is_learnt_are_no_errors(tmp_path: Path) -> None:
    good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    spared = [good[0], {**good[1], "weight": 0}]
    rows: list[Row] = [
        {"messages": spared},
        *({"messages": [{**good[0], "content": f"q {n}"}, good[1]]} for n in NUMBERS),
    ]
    report, examples = look(tmp_path, rows)
    assert report.ok
    assert list(report.not_learnt.values()) == [1]
    assert [example.line for example in examples] == list(range(2, 8))


# Preferences


def dialogue(answer: str) -> list[Turn]:
    return [{"role": "user", "content": "Where is quay {n}?"}, {"role": "assistant", "content": answer}]


PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Where is quay {n}?", "chosen": "It is good {n}.", "rejected": "It is BAD {n}."},
    "longer names": {
        "question": "Where is quay {n}?",
        "chosen_response": "It is good {n}.",
        "rejected_response": "It is BAD {n}.",
    },
    "dialogues": {
        "prompt": "Where is quay {n}?",
        "chosen": dialogue("good {n}"),
        "rejected": dialogue("BAD {n}"),
    },
    "dialogues alone": {"chosen": dialogue("good {n}"), "rejected": dialogue("BAD {n}")},
    "turns": {
        "prompt": dialogue("")[:1],
        "chosen": dialogue("good {n}")[1:],
        "rejected": dialogue("BAD {n}")[1:],
    },
    "two speakers": {
        "chosen": "\n\nHuman: Where is quay {n}?\n\nAssistant: good {n}",
        "rejected": "\n\nHuman: Where is quay {n}?\n\nAssistant: BAD {n}",
    },
    "beside a conversation": {
        "conversations": [{"from": "human", "value": "Where is quay {n}?"}],
        "chosen": {"from": "gpt", "value": "good {n}"},
        "rejected": {"from": "gpt", "value": "BAD {n}"},
    },
    "preferred output": {
        "input": {"messages": [{"role": "user", "content": "Where is quay {n}?"}]},
        "preferred_output": [{"role": "assistant", "content": "good {n}"}],
        "non_preferred_output": [{"role": "assistant", "content": "BAD {n}"}],
    },
    "good and bad": {
        "question": "Where is quay {n}?",
        "good_answer": "It is good {n}.",
        "bad_answer": "It is BAD {n}.",
    },
}


def looked_at(
    folder: Path, name: str, *, backwards: bool, chat: bool, objective: str
) -> tuple[DataReport, list[Example]]:
    """Pairs of a form, of which the chosen answers are found in any case."""
    rows = rows_of(**PAIRS[name])
    if backwards:
        rows = [dict(reversed(row.items())) for row in rows]
    report, examples = look(folder, rows, chat=chat, objective=objective)
    assert report.ok, list(report.findings)
    assert (len(examples), len(report.findings)) == (6, 0)
    for example in examples:
        assert "good" in example.answer
        assert "Where is quay" in example.prompt
        assert "BAD" not in example.text
    return report, examples


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("chat", [True, False])
def test_rejected_answers_are_not_read_for_learning_answers_alone(
    tmp_path: Path, name: str, backwards: bool, chat: bool
) -> None:
    report, examples = looked_at(tmp_path, name, backwards=backwards, chat=chat, objective="sft")
    assert any("rejected" in each or "bad" in each or "non_" in each for each in not_used(report))
    assert (report.pairs, any(example.rejected for example in examples)) == (0, False)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "good and bad"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("chat", [True, False])
def test_a_chosen_and_a_rejected_answer_are_a_pair(
    tmp_path: Path, name: str, backwards: bool, chat: bool
) -> None:
    report, examples = looked_at(tmp_path, name, backwards=backwards, chat=chat, objective="auto")
    assert report.pairs == 6
    assert not_used(report) <= {"prompt"}  # where it stands in the dialogues as well
    for example in examples:
        said = "".join(segment.text for segment in example.rejected)
        learnt = "".join(segment.text for segment in example.rejected if segment.trained)
        assert said.replace("BAD", "good") == example.text
        assert "BAD" in learnt
        assert "Where is quay" not in learnt


def test_names_that_may_mean_something_else_are_no_pair(tmp_path: Path) -> None:
    report, _ = looked_at(tmp_path, "good and bad", backwards=False, chat=True, objective="auto")
    assert (report.pairs, not_used(report)) == (0, {"bad_answer"})


def test_who_asks_for_the_rejected_answers_gets_them(tmp_path: Path) -> None:
    _, examples = look(tmp_path, rows_of(**PAIRS["texts"]), response_field="rejected")
    assert examples[0].answer == "It is BAD 1."


def test_other_names_are_taken_when_they_are_named(tmp_path: Path) -> None:
    report, examples = look(
        tmp_path,
        rows_of(**PAIRS["good and bad"]),
        response_field="good_answer",
        rejected_field="bad_answer",
    )
    assert (report.pairs, not_used(report), len(report.findings)) == (6, set(), 0)
    assert all("BAD" in segment.text for each in examples for segment in each.rejected if segment.trained)
    report, _ = look(tmp_path, rows_of(**PAIRS["texts"]), rejected_field="-")
    assert (report.pairs, not_used(report)) == (0, {"rejected"})


def test_a_preview_shows_both_answers(tmp_path: Path) -> None:
    rows = rows_of(**PAIRS["texts"])
    (tmp_path / "own.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    recipe = Recipe().with_values({"data.file": "own.jsonl", "data.template": PLAIN})
    seen = Previewer(tmp_path, recipe, rows).row(rows[0])
    for pieces, said in (seen.pieces, "It is good 1."), (seen.rejected, "It is BAD 1."):
        assert said in "".join(piece.text for piece in pieces if piece.trained)
        assert any("Where is quay 1?" in piece.text for piece in pieces if not piece.trained)
    assert (
        Previewer(tmp_path, recipe.with_values({"finetune.objective": "sft"}), rows).row(rows[0]).rejected
        == ()
    )


def test_a_template_with_the_rows_own_names_has_a_place_for_the_rejected_answer(tmp_path: Path) -> None:
    template = "Q: {prompt}\nA: {chosen}\n"
    report, examples = look(tmp_path, rows_of(**PAIRS["texts"]), template=template)
    assert report.pairs == 6
    said = [(each.text, each.trained) for each in examples[0].rejected]
    assert "".join(text for text, _ in said).startswith("Q: Where is quay 1?\nA: It is BAD 1.")
    assert [text[:12] for text, trained in said if trained] == ["It is BAD 1."]


def test_earlier_turns_are_shown_and_only_what_differs_is_preferred(tmp_path: Path) -> None:
    talk = [*dialogue("It is old."), {"role": "user", "content": "And now, {n}?"}]
    rows = rows_of(
        chosen=[*talk, {"role": "assistant", "content": "good {n}"}],
        rejected=[*talk, {"role": "assistant", "content": "BAD {n}"}],
        messages=[*talk, {"role": "assistant", "content": "good {n}"}],  # as UltraFeedback has it
    )
    report, examples = look(tmp_path, rows)
    assert (report.mapping.messages, report.mapping.rejected, report.pairs) == ("chosen", "rejected", 6)
    assert [learnt for role, _, learnt in turns(examples[0]) if role == "assistant"] == [False, True]
    assert not any("It is old" in each.text for each in examples[0].rejected if each.trained)


def test_what_is_wrong_with_a_pair_is_named_with_its_line(tmp_path: Path) -> None:
    rows = rows_of(**PAIRS["texts"])
    rows[1]["rejected"] = rows[1]["chosen"] + " "
    rows[2]["rejected"] = ""
    del rows[3]["chosen"]
    report, _ = look(tmp_path, rows)
    assert [(each.line, each.kind) for each in report.findings] == [
        (2, "same-answers"),
        (3, "empty-field"),
        (4, "missing-field"),
    ]
    assert (report.pairs, report.usable, report.ok) == (3, 3, False)
    assert sum(report.not_learnt.values()) == 1
    rows = rows_of(**PAIRS["dialogues alone"])
    rows[4]["rejected"] = dialogue("BAD 5")
    report, _ = look(tmp_path, rows)
    assert [(each.line, each.kind) for each in report.findings] == [(5, "bad-messages")]
    assert "not two answers to the same question" in next(iter(report.findings)).message


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto"])
def test_rows_without_preferences_are_refused_where_they_are_asked_for(
    tmp_path: Path, objective: str
) -> None:
    report, examples = look(tmp_path, rows_of(question="Where is {n}?", answer=sentence), objective=objective)
    assert not report.ok
    finding = next(iter(report.findings))
    assert "no preferences" in finding.message
    assert "finetune.objective" in finding.fix
    assert examples == []


def test_bad_answers_are_learnt_as_such_by_kto(tmp_path: Path) -> None:
    rows = rows_of(prompt="Where is tower {n}?", completion=sentence, label=lambda n: n % 3 != 0)
    report, examples = look(tmp_path, rows)
    assert ([each.line for each in examples], report.undesirable) == ([1, 2, 4, 5], 0)
    report, examples = look(tmp_path, rows, objective="kto")
    assert [each.good for each in examples] == [True, True, False, True, True, False]
    assert (report.usable, report.undesirable, report.not_learnt) == (6, 2, {})


LABELS = [
    (True, False),
    (1, 0),
    (1, -1),
    ("True", "False"),
    ("1", "0"),
    ("good", "bad"),
    ("desirable", "undesirable"),
]


@pytest.mark.parametrize(("yes", "no"), LABELS)
@pytest.mark.parametrize("chat", [True, False])
def test_rows_labelled_as_bad_are_not_learnt(tmp_path: Path, yes: Any, no: Any, chat: bool) -> None:
    rows = rows_of(prompt="Where is {n}?", completion="It is {n}.", label=lambda n: no if n % 2 else yes)
    report, examples = look(tmp_path, rows, chat=chat)
    assert report.ok
    assert report.not_learnt == {"'label' says no": 3}
    assert [example.line for example in examples] == [2, 4, 6]
    every, examples = look(tmp_path, rows, chat=chat, label_field="-")
    assert every.not_learnt == {}
    assert len(examples) == 6


def test_a_label_of_another_name_is_asked_about(tmp_path: Path) -> None:
    rows = rows_of(prompt="Where is {n}?", completion="It is {n}.", checked=lambda n: n % 2 == 0)
    report, examples = look(tmp_path, rows)
    assert len(examples) == 6
    assert "'checked' may say how good a row is" in told(report)
    report, examples = look(tmp_path, rows, label_field="checked")
    assert [example.line for example in examples] == [2, 4, 6]
    assert not_used(report) == set()


@pytest.mark.parametrize("values", [[1, -1], [0, 5, 3], [1, 2, 3, 4]])
def test_ratings_are_told(tmp_path: Path, values: list[int]) -> None:
    rows = rows_of(prompt="Where is {n}?", completion="It is {n}.", stars=lambda n: values[n % len(values)])
    assert "'stars' may say how good" in told(look(tmp_path, rows)[0])


def test_a_label_that_says_neither_is_refused(tmp_path: Path) -> None:
    rows = rows_of(prompt="Where is {n}?", completion="It is {n}.", checked=lambda n: n > 1)
    rows[3]["checked"] = "maybe"
    report, _ = look(tmp_path, rows, label_field="checked")
    assert [(each.line, each.kind) for each in report.findings] == [(4, "wrong-type")]


def test_a_file_of_bad_rows_alone_is_refused_by_that_reason(tmp_path: Path) -> None:
    report, examples = look(tmp_path, rows_of(prompt="Where is {n}?", completion="It is {n}.", label=False))
    assert not report.ok
    assert "'label' says no" in next(iter(report.findings)).message
    assert examples == []


# Asked, not taken


ASKED: dict[str, dict[str, Any]] = {
    "ids": {
        "question_id": "q-{n}",
        "answer_id": "a-{n}",
        "note": sentence,
        "remark": "All of tower {n} is old.",
    },
    "links": {"prompt": "https://a.example/{n}", "response": sentence},
    "labels": {"input": sentence, "target": "A"},
    "two answers": {
        "question": "Where is {n}?",
        "answer": "By the river {n}.",
        "response": "By the sea {n}.",
    },
    "two lists": {"conversation_a": dialogue("one {n}"), "conversation_b": dialogue("two {n}")},
    "either answer": {
        "prompt": "Where is {n}?",
        "response_0": "By the river {n}.",
        "response_1": "By the sea {n}.",
    },
    "sources": {"source": "web", "target": "train", "ask": "Where is {n}?", "told": sentence},
}


@pytest.mark.parametrize("name", ASKED)
def test_columns_are_taken_only_where_name_and_content_fit(tmp_path: Path, name: str) -> None:
    rows = rows_of(**ASKED[name])
    report, examples = look(tmp_path, rows)
    assert examples == []
    assert not report.ok
    assert "unmapped" in report.findings.counts
    assert not {"question_id", "answer_id"} & {*report.mapping.prompt, report.mapping.response}
    with pytest.raises(RequestError, match="not clear which field"):
        make_plan(Recipe(), rows, ModelText())  # a model without a chat template


# Nothing dropped unsaid


names = st.sampled_from(
    [
        "id",
        "context",
        "input",
        "system",
        "history",
        "tools",
        "label",
        "rejected",
        "score",
        "notes",
        "text",
        "lang",
        "x",
    ]
)
contents = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 6),
    st.just(""),
    st.just([]),
    st.text(max_size=20),
    st.just("A sentence of several words."),
    st.lists(st.text(max_size=5), max_size=2),
    st.just([["Before?", "Before."]]),
    st.just([{"name": "f", "parameters": {}}]),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.dictionaries(names, contents, max_size=5), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(
        ["auto", "{prompt}\n{response}", "{system}\n{prompt}\n{response}", "{context}: {prompt}\n{response}"]
    ),
)
def test_every_column_is_read_or_named(more: list[Row], chat: bool, template: str) -> None:
    """With whatever columns beside a question and an answer: each is in the messages, or is named."""
    rows = [{**row, "prompt": f"Where is {n}?", "response": sentence(n)} for n, row in enumerate(more)]
    recipe = Recipe().with_values({"data.template": template})
    try:
        plan = make_plan(recipe, rows, ModelText(template=CHAT_TEMPLATE if chat else ""))
    except RequestError:
        return
    counter = UnusedCounter(plan)
    from core.data.types import Row as Read

    untold: list[object] = []
    for number, fields in enumerate(rows, 1):
        record = plan.convert(fields)
        if not isinstance(record, Record):  # a list of problems
            untold += [problem for problem in record if not problem.message]
            continue
        counter.add(Read("a.jsonl", number, fields), record)
        said = json.dumps(
            [[each.as_dict() for each in record.messages], record.values, record.tools], ensure_ascii=False
        )
        for name, value in fields.items():
            if value is None or value in ("", [], {}):
                continue
            named = any(each.name == name for each in counter.found)
            reached = name == plan.mapping.label or all(
                json.dumps(text, ensure_ascii=False)[1:-1] in said for text in _texts(value)
            )
            assert named or (name in plan.used and reached), (name, value)
    counter.judge(rows)
    assert untold == []


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


# Forms that are not what they seem


def refusal(folder: Path, rows: list[Row], **values: Any) -> RequestError:
    """Why training refuses these rows; the report says the same."""
    (folder / "own.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    recipe = Recipe().with_values(
        {"data.file": "own.jsonl", **{f"data.{key}": value for key, value in values.items()}}
    )
    with pytest.raises(RequestError) as error:
        load_examples(recipe, folder, chat_template=CHAT_TEMPLATE)
    report = summary(folder, recipe)
    assert not report.ok
    told = next(iter(report.findings))
    words = error.value.detail.rstrip(".") if told.file == "lab.toml" else ""
    assert words in told.message
    return error.value


def test_questions_with_a_list_of_answers_are_not_taken_for_plain_text_or_answered_by_the_context(
    tmp_path: Path,
) -> None:
    answers = {"text": ["by the river"], "answer_start": [3]}
    rows = rows_of(question="Where is tower {n}?", context=sentence, answers=answers, title="The town")
    error = refusal(tmp_path, rows)
    assert "no other field holds text for the answer ('answers' holds lists or objects" in error.hint
    assert "--accept" not in error.hint
    report, _ = look(tmp_path, rows)
    assert report.proposal is not None
    assert not report.proposal.mapping.complete


@pytest.mark.parametrize("text", ["text", "content"])
def test_rows_that_are_single_turns_are_refused_by_that_reason(tmp_path: Path, text: str) -> None:
    rows = [
        {"id": n, "role": role, text: f"{said} the tower number {n}, please."}
        for n in NUMBERS
        for role, said in (("prompter", "Show me"), ("assistant", "Here is"))
    ]
    error = refusal(tmp_path, rows)
    assert "Each row is a single turn, as 'role' says" in error.hint
    assert "in 'messages'" in error.hint


def test_an_object_in_place_of_texts_is_named(tmp_path: Path) -> None:
    rows = rows_of(translation={"en": "Where is tower {n}?", "fr": "Où est la tour {n} ?"})
    assert "'translation' holds lists or objects: write them as text" in refusal(tmp_path, rows).hint


def test_a_text_with_a_class_is_proposed_as_question_and_answer(tmp_path: Path) -> None:
    rows = rows_of(text=sentence, label=lambda n: "old" if n % 2 else "new")
    report, _ = look(tmp_path, rows)
    assert report.to_confirm
    assert (report.mapping.prompt, report.mapping.response, report.mapping.label) == (("text",), "label", "")


@pytest.mark.parametrize(
    ("asked", "answered"), [("human", "assistant"), ("input", "output"), ("question", "answer")]
)
@pytest.mark.parametrize("column", ["conversation", "history"])
def test_lists_of_pairs_are_turns(tmp_path: Path, column: str, asked: str, answered: str) -> None:
    pairs = [{"system": "", asked: "Is it far to {n}?", answered: "No, not far."}]
    rows = rows_of(**{column: [*pairs, {asked: "Where?", answered: "By the river."}]})
    if column == "history":
        rows = rows_of(history=pairs, question="Where?", answer="By the river.")
    report, examples = look(tmp_path, rows)
    assert report.ok
    assert [said for _, said, _ in turns(examples[0])] == [
        "Is it far to 1?",
        "No, not far.",
        "Where?",
        "By the river.",
    ]


def test_pairs_in_a_column_of_any_name_are_asked_about_and_the_context_beside_them_is_told(
    tmp_path: Path,
) -> None:
    rows = rows_of(passage=sentence, qas=[{"question": "Where is {n}?", "answer": "By the river."}])
    report, _ = look(tmp_path, rows)
    assert report.to_confirm
    assert "'passage' in 6 rows does not reach the model" in told(report)


def test_contents_with_parts_are_a_conversation(tmp_path: Path) -> None:
    rows = rows_of(
        contents=[
            {"role": "user", "parts": [{"text": "Where is {n}?"}]},
            {"role": "model", "parts": [{"text": "By the river {n}."}]},
        ]
    )
    report, examples = look(tmp_path, rows)
    assert (report.ok, not_used(report)) == (True, set())
    assert [said for _, said, _ in turns(examples[0])] == ["Where is 1?", "By the river 1."]


def test_a_list_of_texts_called_conversation_is_refused_by_its_turns(tmp_path: Path) -> None:
    rows = rows_of(conversation=["Where is tower {n}?", "By the river, near the market."])
    assert "turn 1 is text, not an object" in refusal(tmp_path, rows).detail


# What a recipe says of the fields


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (
            {"prompt_field": "answer", "response_field": "answer"},
            "Both data.prompt_field and data.response_field",
        ),
        ({"response_field": "question"}, "needs a question and an answer"),
        ({"response_field": "note+answer"}, "only data.prompt_field can be several"),
        ({"messages_field": "turns", "prompt_field": "question"}, "data.prompt_field is set as well"),
        ({"template": "{turns}"}, "data.template has {turns}"),
        ({"template": "{question} = {answer"}, "data.template has 'answer' not in one brace"),
        ({"template": "{{question}} = {answer}"}, "data.template has 'question' not in one brace"),
        ({"template": "{answer}\n{question}"}, "stands before all that is asked"),
        ({"template": "{response}\n{prompt}"}, "stands before all that is asked"),
        ({"template": "{question} = {anwser}"}, "data.template has {anwser}"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(tmp_path: Path, values: dict[str, str], why: str) -> None:
    pair = [{"role": "user", "content": "Where is {n}?"}, {"role": "assistant", "content": "There."}]
    rows = rows_of(question="Where is tower {n}?", note="It is old, {n}.", answer=sentence, turns=pair)
    if "turns" not in str(values):
        for row in rows:
            del row["turns"]
    assert why in refusal(tmp_path, rows, **values).detail


def test_a_recipe_finds_a_field_however_its_accents_are_written(tmp_path: Path) -> None:
    asked = unicodedata.normalize("NFD", "câu của tôi")
    rows = rows_of(**{asked: "Where is tower {n}?", "x": sentence})
    for values in (
        {"prompt_field": "câu của tôi", "response_field": "x"},
        {"template": "{câu của tôi}\n{x}<|end|>"},
    ):
        report, examples = look(tmp_path, rows, chat="template" not in values, **values)
        assert report.ok
        assert "Where is tower 1?" in examples[0].text


def test_a_field_behind_the_answer_is_not_learnt(tmp_path: Path) -> None:
    rows = rows_of(question="Where is tower {n}?", answer=sentence, note="Ask again.")
    _, examples = look(tmp_path, rows, chat=False, template="{question}\n{answer}\n({note})")
    learnt = "".join(each.text for each in examples[0].segments if each.trained)
    assert "Ask again" not in learnt
    assert learnt.startswith(sentence(1))
    assert "(" not in learnt


def test_tools_that_the_template_does_not_write_get_advice_that_works(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {"tower": 1}}}
    talk = [{"role": "user", "content": "Where is {n}?"}, {"role": "assistant", "tool_calls": [call]}]
    rows = rows_of(messages=talk)
    for template in ("auto", "Q: {prompt}\nA: {response}"):
        error = refusal(tmp_path, rows, template=template)
        assert error.hint.startswith("Use a model whose chat template writes tools")
        assert "data.template" not in error.hint


@pytest.mark.parametrize(
    "mark", ["[INST] {} [/INST]", "<|im_start|>user\n{}<|im_end|>\n", "<start_of_turn>user {}"]
)
def test_rows_rendered_for_another_model_are_told(tmp_path: Path, mark: str) -> None:
    rows = rows_of(prompt=lambda n: mark.format(f"Where is tower {n}?"), response=sentence)
    report, _ = look(tmp_path, rows)
    found = [each for each in report.findings if each.kind == "special-token"]
    assert len(found) == len(rows)
    assert f"{re.split('[]>]', mark, maxsplit=1)[0]}" in found[0].message
    assert "another model's chat template" in found[0].message


@pytest.mark.parametrize(
    ("column", "no", "yes"), [("weight", 0, 1), ("weight", 0.0, 1.0), ("train", False, True)]
)
@pytest.mark.parametrize("talk", [True, False])
def test_rows_with_a_weight_of_nothing_are_not_learnt(
    tmp_path: Path, column: str, no: Any, yes: Any, talk: bool
) -> None:
    turn = [
        {"role": "user", "content": "Where is {n}?"},
        {"role": "assistant", "content": "By the river {n}."},
    ]
    held = {"messages": turn} if talk else {"question": "Where is {n}?", "answer": "By the river {n}."}
    report, examples = look(tmp_path, rows_of(**held, **{column: lambda n: yes if n % 2 else no}))
    assert [example.line for example in examples] == [1, 3, 5]
    assert report.not_learnt == {f"{column!r} says no": 3}
    assert not_used(report) == set()
