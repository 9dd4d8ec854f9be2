"""Records joined as turns: what is learnt stays what it was, and the text is what a chat will read."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer

from core.resources import rehearsal_model, sample_data
from core.training.rows import TokenRow
from core.training.turns import Turns, tokens_between
from tests.tiny_models import save_tokenizer

ROWS = [TokenRow([1, 10 + n, 20 + n, 30 + n], [False, False, True, True]) for n in range(6)]


def test_one_turn_leaves_the_rows_as_they_are() -> None:
    assert Turns().join(ROWS, 0) == ROWS


def test_every_record_comes_once_with_its_own_marks() -> None:
    turns = Turns(most=4, between=(7,), start=1, max_len=100, seed=3)
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
    turns = Turns(most=6, between=(7,), start=None, max_len=10)
    assert max(len(row.ids) for number in range(20) for row in turns.join(ROWS, number)) <= 10
    assert Turns(most=6, max_len=3).join(ROWS[:2], 1)  # longer already: each by itself


def test_what_stands_between_turns_is_the_chat_templates(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(rehearsal_model())
    row = json.loads(sample_data().read_text(encoding="utf-8").splitlines()[0])
    record = f"<|user|>\n{row['prompt']}<|end|>\n<|assistant|>\n{row['response']}<|end|>"
    between = tokens_between(tokenizer, record, row["response"])
    messages = [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["response"]},
    ]
    whole = tokenizer.apply_chat_template(messages * 2, tokenize=False)
    ids = tokenizer(record, add_special_tokens=False)["input_ids"]
    assert [*ids, *between, *ids] == tokenizer(whole.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert (
        tokens_between(tokenizer, "Q: a\nA: b</s>", "b") == ()
    )  # the record ends otherwise than the template
    save_tokenizer(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    plain.chat_template = None
    assert tokens_between(plain, record, row["response"]) == ()
