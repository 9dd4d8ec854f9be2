"""Files of one's own, with other field names, in several languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.data import load_examples
from core.data.mapping import FieldMap, propose_mapping
from core.data.survey import summary
from core.errors import RequestError
from core.recipe import read_recipe, write_values
from tests.tiny_models import CHAT_TEMPLATE

VIETNAMESE = [("Đến Huế nên xem gì?", "Bạn hãy xem Đại Nội và chùa Thiên Mụ bên sông Hương.")]
VIETNAMESE += [
    (f"Ở {place} có món gì ngon?", f"Ở {place} bạn nên thử {food}, bán ở khắp các con phố nhỏ.")
    for place, food in [
        ("Hà Nội", "bún chả"),
        ("Hội An", "cao lầu"),
        ("Sài Gòn", "cơm tấm"),
        ("Đà Nẵng", "mì Quảng"),
    ]
]
PERSIAN = [("در شیراز چه ببینم؟", "حافظیه، سعدیه و ارگ کریم‌خان را ببینید و شب در باغ ارم قدم بزنید.")]
PERSIAN += [
    (f"بهترین غذای {place} چیست؟", f"در {place} حتماً {food} را در رستوران‌های قدیمی بازار بخورید.")
    for place, food in [("تبریز", "کوفته"), ("رشت", "میرزاقاسمی"), ("یزد", "قیمه"), ("اصفهان", "بریانی")]
]


def records(pairs: list[tuple[str, str]], asked: str, answer: str, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", asked: a, answer: b, **more} for i, (a, b) in enumerate(pairs)]


def lab(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "own.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )
    (folder / "lab.toml").write_text(
        '[model]\nsource = "rehearsal"\n[data]\nfile = "own.jsonl"\n', encoding="utf-8"
    )
    return folder


KNOWN = [
    ("question", "answer"),
    ("instruction", "output"),
    ("source", "target"),
    ("Question", "Answer"),
    ("user_question", "model_answer"),
    ("câu hỏi", "câu trả lời"),
    ("cau_hoi", "tra_loi"),
    ("Câu Hỏi", "Đáp án"),
    ("پرسش", "پاسخ"),
    ("سؤال", "جواب"),
    ("سوال", "پاسخ"),
    ("pregunta", "respuesta"),
    ("问题", "答案"),
]


@pytest.mark.parametrize(("asked", "answer"), KNOWN)
def test_known_names_need_no_choice(tmp_path: Path, asked: str, answer: str) -> None:
    pairs = PERSIAN if asked[0] in "پس" else VIETNAMESE
    folder = lab(tmp_path, records(pairs, asked, answer))
    split = load_examples(read_recipe(folder / "lab.toml"), folder)
    rows = sorted([*split.train, *split.eval], key=lambda example: example.line)
    assert [(row.prompt, row.answer) for row in rows] == pairs
    question, reply = pairs[0]
    assert rows[0].text == f"<|user|>\n{question}<|end|>\n<|assistant|>\n{reply}<|end|>\n"
    report = summary(folder, read_recipe(folder / "lab.toml"))
    assert report.ok
    assert not report.to_confirm
    assert not len(report.findings)


OWN = [
    (VIETNAMESE, "khách nói", "hướng dẫn viên đáp"),
    (PERSIAN, "مسافر", "راهنما"),
    (VIETNAMESE, "cot_1", "cot_2"),
]


@pytest.mark.parametrize(("pairs", "asked", "answer"), OWN)
@pytest.mark.parametrize("answer_first", [False, True])
def test_other_names_need_one_choice(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pairs: list[tuple[str, str]],
    asked: str,
    answer: str,
    answer_first: bool,
) -> None:
    rows = records(pairs, asked, answer)
    if answer_first:
        rows = [{answer: row[answer], "id": row["id"], asked: row[asked]} for row in rows]
    folder = lab(tmp_path, rows)

    with pytest.raises(RequestError, match="not clear which field") as refused:
        load_examples(read_recipe(folder / "lab.toml"), folder)
    assert "--accept" in refused.value.hint
    assert asked in refused.value.hint

    assert main(["data", str(folder), "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["to_confirm"]
    assert report["proposal"]["mapping"] == {"prompt": [asked], "response": answer}
    assert report["usable"] == len(pairs)
    assert report["tokens"]["total"] > 0

    assert main(["data", str(folder), "--accept", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["findings"] == []
    split = load_examples(read_recipe(folder / "lab.toml"), folder)
    assert {(row.prompt, row.answer) for row in [*split.train, *split.eval]} == set(pairs)


def test_an_answer_column_with_gaps_is_found_all_the_same() -> None:
    rows = records(VIETNAMESE, "khách", "chủ nhà")
    rows[1]["chủ nhà"] = rows[3]["chủ nhà"] = ""
    assert propose_mapping(rows).mapping == FieldMap(("khách",), "chủ nhà")


def test_instruction_input_output(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate to French.", "input": "The river.", "output": "La rivière."},
        {"instruction": "Name a river of Iran.", "input": "", "output": "The Karun."},
    ]
    folder = lab(tmp_path, rows)
    split = load_examples(read_recipe(folder / "lab.toml"), folder)
    prompts = {row.prompt for row in [*split.train, *split.eval]}
    assert prompts == {"Translate to French.\n\nThe river.", "Name a river of Iran."}


def test_the_first_part_of_a_question_must_be_there(tmp_path: Path) -> None:
    rows = [{"question": "", "context": "A river.", "answer": "Yes."}]
    folder = lab(tmp_path, rows)
    with pytest.raises(RequestError, match="'question' is empty"):
        load_examples(read_recipe(folder / "lab.toml"), folder)


def test_fields_named_in_the_recipe_win(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "other": "c", "last": "d"}]
    folder = lab(tmp_path, rows)
    recipe = read_recipe(folder / "lab.toml").with_values(
        {"data.prompt_field": "other+prompt", "data.response_field": "last", "data.eval_fraction": 0.0}
    )
    (row,) = load_examples(recipe, folder).train
    assert (row.prompt, row.answer) == ("c\n\na", "d")


def test_a_field_named_in_the_recipe_must_exist(tmp_path: Path) -> None:
    folder = lab(tmp_path, [{"prompt": "a", "response": "b"}])
    recipe = read_recipe(folder / "lab.toml").with_values({"data.response_field": "reply"})
    with pytest.raises(RequestError, match=r"'reply'.*'prompt', 'response'"):
        load_examples(recipe, folder)


def test_a_template_with_the_rows_own_names(tmp_path: Path) -> None:
    folder = lab(tmp_path, records(VIETNAMESE, "khách nói", "đáp"))
    recipe = read_recipe(folder / "lab.toml").with_values(
        {"data.template": "H: {khách nói}\nĐ: {đáp}<|end|>"}
    )
    split = load_examples(recipe, folder)
    row = split.train[0]
    assert row.segments[0].text.startswith("H: ")
    assert not row.segments[0].trained
    assert row.segments[1].trained


@pytest.mark.parametrize("name", ["messages", "conversations", "hội_thoại", "whatever"])
@pytest.mark.parametrize(
    "keys", [("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")]
)
def test_conversations(tmp_path: Path, name: str, keys: tuple[str, str, str, str]) -> None:
    who, what, user, bot = keys
    talk = [
        {who: user, what: "One?"},
        {who: bot, what: "Two."},
        {who: user, what: "Three?"},
        {who: bot, what: "Four."},
    ]
    folder = lab(tmp_path, [{name: talk}])
    recipe = read_recipe(folder / "lab.toml").with_values({"data.eval_fraction": 0.0})
    (row,) = load_examples(recipe, folder).train
    assert [message.role for message in row.messages] == ["user", "assistant"] * 2
    assert [part.text for part in row.segments if part.trained] == ["Two.<|end|>", "Four.<|end|>"]
    assert row.text == (
        "<|user|>\nOne?<|end|>\n<|assistant|>\nTwo.<|end|>\n"
        "<|user|>\nThree?<|end|>\n<|assistant|>\nFour.<|end|>\n"
    )


def test_conversations_written_as_text(tmp_path: Path) -> None:
    talk = json.dumps([{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}])
    folder = lab(tmp_path, [{"messages": talk}])
    recipe = read_recipe(folder / "lab.toml").with_values({"data.eval_fraction": 0.0})
    assert load_examples(recipe, folder).train[0].answer == "Two."


@pytest.mark.parametrize(
    "settled", [{"data.template": "auto"}, {"data.template": "Hỏi: {prompt}\nĐáp: {response}<|end|>"}]
)
def test_accepting_keeps_what_the_recipe_has_settled(tmp_path: Path, settled: dict[str, Any]) -> None:
    folder = lab(tmp_path, records(VIETNAMESE, "khách", "chủ nhà"))
    write_values(folder / "lab.toml", settled)
    assert main(["data", str(folder), "--accept", "--json"]) == 0
    after = read_recipe(folder / "lab.toml")
    for name, value in settled.items():
        assert getattr(after.data, name.removeprefix("data.")) == value
    assert load_examples(after, folder, chat_template=CHAT_TEMPLATE).train[0].answer


def test_plain_text_is_learnt_whole_after_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lab(
        tmp_path, [{"text": f"The {word} stands by the sea."} for word in ("tower", "castle", "bridge")]
    )
    assert main(["data", str(folder), "--accept", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mapping"] == {"text": "text"}
    split = load_examples(read_recipe(folder / "lab.toml"), folder, eos="</s>")
    assert split.train[0].segments[0].trained
    assert split.train[0].text.endswith("sea.</s>")


def test_the_models_own_template_is_proposed_where_it_has_one() -> None:
    rows = records(VIETNAMESE, "question", "answer")
    own = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    assert propose_mapping(rows, own).chat_template
    assert "own chat template" in propose_mapping(rows, own).why
    assert not propose_mapping(rows).chat_template
    assert {propose_mapping(rows, chat).settings()["data.template"] for chat in (own, None)} == {"auto"}


@pytest.mark.parametrize(
    "rows",
    [
        [{"label": i % 2, "score": 0.5} for i in range(9)],
        [{"url": f"https://a.example/{i}", "id": f"{i}"} for i in range(9)],
        [],
    ],
)
def test_nothing_is_made_up(rows: list[dict[str, Any]]) -> None:
    proposal = propose_mapping(rows)
    assert proposal.mapping == FieldMap()
    assert not proposal.sure


def test_a_context_is_not_proposed_as_the_answer() -> None:
    rows = [
        {
            "question": f"Where is {n}?",
            "context": f"Tower {n} stands by the river.",
            "answers": {"text": ["x"]},
        }
        for n in range(6)
    ]
    assert propose_mapping(rows).mapping.response == ""


def test_labels_and_ids_are_not_taken_for_text() -> None:
    rows = [
        {"id": f"row-{i}", "topic": ["food and drink", "old places"][i % 2], "ask": a, "reply text": b}
        for i, (a, b) in enumerate(PERSIAN + VIETNAMESE)
    ]
    assert propose_mapping(rows).mapping == FieldMap(("ask",), "reply text")


def test_answers_that_are_the_same_in_many_rows_are_not_said_to_be_no_sentences() -> None:
    rows = [
        {
            "customer_question": f"My lamp number {i} is broken, what now?",
            "agent_answer": f"Send us lamp {i % 3}, please.",
        }
        for i in range(40)
    ]
    found = propose_mapping(rows, CHAT_TEMPLATE)
    assert not found.sure
    assert found.mapping.prompt == ("customer_question",)
    assert found.mapping.response == "agent_answer"
    assert "many rows have the same text in 'agent_answer'" in found.why
    assert "no sentences" not in found.why
