"""Records joined as turns: what is learnt stays what it was, and the text is what a chat will read."""

from __future__ import annotations

import json
from pathlib import Path

from core.finetune.rows import JoinedTurns, TokenRow, tokens_between
from core.model.messages import Message
from core.model.prompt_format import read_prompt_format
from core.resources import rehearsal_model, sample_data
from tests.tiny_models import save_tokenizer

ROWS = [TokenRow([1, 10 + n, 20 + n, 30 + n], [False, False, True, True]) for n in range(6)]


def test_one_turn_leaves_the_rows_as_they_are() -> None:
    assert JoinedTurns().join(ROWS, 0) == ROWS


def test_every_record_comes_once_with_its_own_marks() -> None:
    turns = JoinedTurns(most=4, between=(7,), start=1, max_len=100, seed=3)
    lengths = set()
    for number in range(20):
        joined = turns.join(ROWS, number)
        assert joined == turns.join(ROWS, number)
        learnt = sorted(i for row in joined for i, counts in zip(row.ids, row.trained, strict=True) if counts)
        assert learnt == sorted(i for row in ROWS for i in row.ids[2:])
        for row in joined:
            assert row.ids[0] == 1
            assert row.ids.count(1) == 1  # the start of a text stands at its start only
            assert row.ids.count(7) == row.trained.count(True) // 2 - 1
            assert not any(counts for i, counts in zip(row.ids, row.trained, strict=True) if i in (1, 7))
        lengths.add(len(joined))
    assert lengths == {2, 3, 6}  # conversations of 3 and 4, of 2, and of 1


def test_a_conversation_is_no_longer_than_rows_may_be() -> None:
    turns = JoinedTurns(most=6, between=(7,), start=None, max_len=10)
    assert max(len(row.ids) for number in range(20) for row in turns.join(ROWS, number)) <= 10
    assert JoinedTurns(most=6, max_len=3).join(ROWS[:2], 1)  # longer already: each by itself


def test_records_joined_are_what_a_chat_reads(tmp_path: Path) -> None:
    form = read_prompt_format(rehearsal_model())
    between = tokens_between(form)
    assert between is not None
    rows = [json.loads(line) for line in sample_data().read_text(encoding="utf-8").splitlines()[:2]]
    talks = [(Message("user", row["prompt"]), Message("assistant", row["response"])) for row in rows]
    first, second = (form.encode(form.segments(talk)) for talk in talks)
    joined = JoinedTurns(most=2, between=between, max_len=4096)._conversation(
        [TokenRow(row.ids, row.learnt) for row in (first, second)]
    )
    whole = form.encode(form.segments([*talks[0], *talks[1]]))
    assert (joined.ids, joined.trained) == (whole.ids, whole.learnt)


def test_where_a_conversation_is_more_than_its_records_they_are_not_joined(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert tokens_between(read_prompt_format(tmp_path)) is not None
    counted = "{% for m in messages %}{{ loop.length }}{{ m.content }}<|end|>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(counted)
    assert tokens_between(read_prompt_format(tmp_path)) is None
