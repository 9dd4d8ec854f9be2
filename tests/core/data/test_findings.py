"""Each kind of finding fires where it should, and not where it should not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.data.survey import DataReport, summary, to_words
from core.errors import Cancelled, RequestError
from core.events import RecordingReporter
from core.recipe import Recipe

PLACES = "Huế Hanoi Kyoto Cairo Lisbon Isfahan Chicago Vienna Lima Oslo".split()  # noqa: SIM905
LONG = (
    "There is an old quarter by the river with small shops, a covered market where people eat at noon, a museum "
    "of ships, and a hill with a garden from which the whole bay is seen when the evening is clear"
)


def pair(prompt: str, response: str) -> dict[str, str]:
    return {"prompt": prompt, "response": response}


GOOD = [
    pair(f"How old is the bridge of {place}?", f"In {place} it stands since {1500 + 7 * i}.")
    for i, place in enumerate(PLACES)
]


def look(folder: Path, rows: list[Any], **settings: Any) -> DataReport:
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    values = {"data.file": "a.jsonl", **{key.replace("__", "."): value for key, value in settings.items()}}
    return summary(folder, Recipe().with_values(values))


def kinds(report: DataReport) -> list[tuple[int, str]]:
    return [(finding.line, finding.kind) for finding in report.findings]


def test_good_rows_have_no_findings(tmp_path: Path) -> None:
    report = look(tmp_path, GOOD)
    assert kinds(report) == []
    assert report.ok
    assert (report.rows, report.usable, report.train, report.eval) == (10, 10, 9, 1)
    assert not report.to_confirm


@pytest.mark.parametrize(
    "text",
    [
        "a\x1b[31mred",
        "nul \x00 here",
        "bell\x07",
        "turned \u202eround",
        "what \ufffd was",
        "c1 \x9b here",
        "bom\ufeff",
    ],
)
def test_control_characters(tmp_path: Path, text: str) -> None:
    assert kinds(look(tmp_path, [*GOOD, pair("What is odd?", text)])) == [(11, "control-characters")]


@pytest.mark.parametrize("text", ["tab\tand\nline\r\nend", "می‌روم", "👩‍🚀 family", "\u200fپاسخ"])
def test_good_text_has_no_control_characters(tmp_path: Path, text: str) -> None:
    assert kinds(look(tmp_path, [*GOOD, pair("What is odd?", text)])) == []


def test_special_tokens_of_the_model(tmp_path: Path) -> None:
    rows = [
        *GOOD,
        pair("Write <|end|> now", "No."),
        pair("Write the end now", "<end> and <b> and </p> | end"),
    ]
    assert kinds(look(tmp_path, rows)) == [(11, "special-token")]


def test_duplicates(tmp_path: Path) -> None:
    again = pair("how  old is the bridge of CAIRO?", GOOD[3]["response"])
    other = pair(GOOD[3]["prompt"], "Nobody knows for certain.")
    report = look(tmp_path, [*GOOD, again, other])
    assert kinds(report) == [(11, "duplicate")]
    assert "line 4" in next(iter(report.findings)).message


def test_near_duplicates(tmp_path: Path) -> None:
    first = pair("What is there to see in the town of Bergen?", f"{LONG} over Bergen.")
    near = pair("What is there to see in the town of Bergen now?", f"{LONG} over all Bergen.")
    report = look(tmp_path, [*GOOD, first, near])
    assert kinds(report) == [(12, "near-duplicate")]
    assert "line 11" in next(iter(report.findings)).message


def test_like_answers_to_other_questions_are_no_near_duplicates(tmp_path: Path) -> None:
    first = pair("What is there to see in the town of Bergen?", f"{LONG} over Bergen.")
    other = pair("Where would a painter spend a free afternoon?", f"{LONG} over Bergen.")
    assert kinds(look(tmp_path, [*GOOD, first, other])) == []


def test_like_questions_with_other_answers_are_no_near_duplicates(tmp_path: Path) -> None:
    other = pair(
        GOOD[0]["prompt"].replace("the bridge", "a bridge"), "I would have to look into a book for that."
    )
    assert kinds(look(tmp_path, [*GOOD, other])) == []


def test_near_duplicates_in_vietnamese_and_without_spaces(tmp_path: Path) -> None:
    long = "Bạn nên đến thăm Đại Nội, chùa Thiên Mụ, chợ Đông Ba và các lăng của vua triều Nguyễn bên dòng sông Hương"
    signs = "京都では金閣寺と清水寺と伏見稲荷大社を見て、それから嵐山の竹林を歩いてください。夕方は祇園がきれいです"
    rows = [
        pair("Đến Huế nên xem gì?", f"{long}."),
        pair("Đến Huế nên xem những gì?", f"{long} nhé."),
        pair("京都で何を見ればいいですか。", signs),
        pair("京都では何を見ればいいですか。", signs + "よ。"),
    ]
    assert kinds(look(tmp_path, [*GOOD, *rows])) == [(12, "near-duplicate"), (14, "near-duplicate")]


def test_rows_longer_than_the_limit(tmp_path: Path) -> None:
    rows = [*GOOD, pair("What is there?", " ".join(str(n) for n in range(400)))]
    report = look(tmp_path, rows, data__max_seq_len=128)
    assert kinds(report) == [(11, "too-long")]
    message = next(iter(report.findings)).message
    assert f"it has {report.tokens.max} tokens, so {report.tokens.max - 128} would be lost" in message
    assert "nothing of the answer" not in message
    assert report.tokens.lost == report.tokens.max - 128
    assert kinds(look(tmp_path, rows, data__max_seq_len=report.tokens.max)) == []


def test_a_question_longer_than_the_limit_leaves_no_answer(tmp_path: Path) -> None:
    rows = [*GOOD, pair(" ".join(str(n) for n in range(400)), "Yes.")]
    finding = next(iter(look(tmp_path, rows, data__max_seq_len=128).findings))
    assert "nothing of the answer is left" in finding.message


def test_a_training_row_that_is_held_out_too(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    leak = pair("Tell me please, how old is the bridge of Oslo?", "Very.")
    (tmp_path / "set" / "train.jsonl").write_text(
        "\n".join(map(json.dumps, [*GOOD[:9], leak])), encoding="utf-8"
    )
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps(GOOD[9]), encoding="utf-8")
    report = summary(tmp_path, Recipe().with_values({"data.file": "set"}))
    assert [(each.file, each.line, each.kind) for each in report.findings] == [
        ("train.jsonl", 10, "in-held-out")
    ]
    assert "test.jsonl, line 1" in next(iter(report.findings)).message
    assert (report.train, report.eval) == (10, 1)

    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, GOOD[:9])), encoding="utf-8")
    assert kinds(summary(tmp_path, Recipe().with_values({"data.file": "set"}))) == []


def test_a_template_with_a_field_that_no_row_has(tmp_path: Path) -> None:
    template = "Q: {prompt}\nA: {reply}"
    (tmp_path / "lab.toml").write_text(
        '[model]\nsource = "rehearsal"\n\n[data]\nfile = "a.jsonl"\ntemplate = ""\n'
    )
    report = look(tmp_path, GOOD, data__template=template)
    finding = next(iter(report.findings))
    assert (finding.file, finding.line, finding.kind) == ("lab.toml", 4, "template-field")
    assert "{reply}" in finding.message
    assert report.usable == 10  # it goes on with what it proposes
    assert report.to_confirm
    assert kinds(look(tmp_path, GOOD, data__template="Q: {prompt}\nA: {response}<|end|>")) == []


def test_a_template_with_markers_the_model_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('[data]\ntemplate = "x"\n')
    report = look(tmp_path, GOOD, data__template="<s><|im_start|>user\n{prompt}<|end|>{response}<|im_end|>")
    finding = next(iter(report.findings))
    assert (finding.file, finding.line, finding.kind) == ("lab.toml", 2, "template-model")
    assert "<|im_start|>, <|im_end|>" in finding.message
    assert "<|end|>" not in finding.message
    assert report.ok  # worth a look, no more


def test_a_chat_template_that_refuses_a_row(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    )
    template += (
        "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "</s>"}))
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"messages": talk},
        {"messages": [talk[0], {"role": "tool", "content": "t"}, talk[1]]},
        {"messages": talk[:]},
    ]
    report = look(tmp_path, rows, data__chat_template=True, model__source=str(model))
    found = {(each.line, each.kind) for each in report.findings}
    assert (2, "template-error") in found
    assert (1, "template-error") not in found
    assert report.tokens.estimated  # there is no tokenizer.json


def test_unmapped_fields(tmp_path: Path) -> None:
    rows = [{"alpha": 1, "beta": 2}] * 3
    report = look(tmp_path, rows)
    assert [each.kind for each in report.findings] == ["unmapped"]
    assert not report.ok


def test_all_findings_of_one_row_come(tmp_path: Path) -> None:
    report = look(tmp_path, [*GOOD, pair("a \x07 <|user|>", "x"), {"prompt": "", "response": 5}])
    assert kinds(report) == [
        (11, "control-characters"),
        (11, "special-token"),
        (12, "empty-field"),
        (12, "wrong-type"),
    ]
    assert [each.level for each in report.findings] == ["warning", "warning", "error", "error"]


def test_findings_beyond_the_memory_limit_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.findings.IN_MEMORY", 5)
    report = look(tmp_path, GOOD + [{"prompt": f"What of {n}?"} for n in range(20)])
    assert [line for line, _ in kinds(report)] == list(range(11, 31))
    assert len(report.findings) == 20


def test_numbers(tmp_path: Path) -> None:
    values = {"finetune__steps": 18, "finetune__batch_size": 2, "finetune__gradient_accumulation": 2}
    report = look(tmp_path, GOOD, **values)
    assert report.epochs == pytest.approx(18 * 2 * 2 / 9)
    assert 0 <= report.padding < 0.5
    stats = report.tokens
    assert sum(rows for _, _, rows in stats.histogram) == 10
    assert stats.histogram[-1][1] == stats.max, "no bar reaches further than the longest row"
    assert all(low <= top for low, top, _ in stats.histogram)
    assert stats.p50 <= stats.p95 <= stats.max <= stats.total
    even = look(tmp_path, GOOD, finetune__batch_size=1)
    assert even.padding == 0


def test_token_counts_are_those_of_training(tmp_path: Path) -> None:
    from core.data import load_examples
    from core.finetune.rows import tokenize
    from core.model.prompt_format import read_prompt_format
    from core.resources import rehearsal_model

    report = look(tmp_path, GOOD)
    split = load_examples(Recipe().with_values({"data.file": "a.jsonl"}), tmp_path)
    tokenizer = read_prompt_format(rehearsal_model()).tokenizer
    rows = tokenize([*split.train, *split.eval], tokenizer, max_len=1024)
    assert (rows.tokens, rows.longest) == (report.tokens.total, report.tokens.max)


def test_it_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, GOOD * 100)))
    with pytest.raises(Cancelled):
        summary(tmp_path, Recipe().with_values({"data.file": "a.jsonl"}), RecordingReporter(cancelled=True))


def test_progress_ends_where_it_should(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, GOOD * 100)))
    reporter = RecordingReporter()
    summary(tmp_path, Recipe().with_values({"data.file": "a.jsonl"}), reporter)
    steps = [(each["phase"], each["done"], each["total"]) for each in reporter.events]
    assert len(steps) > 6
    for phase in dict.fromkeys(phase for phase, _, _ in steps):
        done = [at for name, at, _ in steps if name == phase]
        assert done == sorted(done)
        assert done[-1] == next(total for name, _, total in steps if name == phase)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.jsonl"):
        summary(tmp_path, Recipe().with_values({"data.file": "nowhere.jsonl"}))


def test_words_for_people_hold_file_line_kind_and_fix(tmp_path: Path) -> None:
    report = look(tmp_path, [*GOOD, {"prompt": "x"}])
    text = to_words(next(iter(report.findings)))
    assert text.startswith("a.jsonl:11: missing-field: it has no 'response'")
    assert text.endswith("Add 'response', or remove the row.")
