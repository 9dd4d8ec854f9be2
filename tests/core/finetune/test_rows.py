"""From examples to batches: which tokens are learnt, and in what order rows come."""

from __future__ import annotations

import pytest
import torch

from core.data import Example, Segment
from core.data.batch_order import BatchOrder
from core.finetune.rows import TokenRow, collate, tokenize
from core.model.tokenizer import ModelTokenizer
from tests.tiny_models import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return ModelTokenizer.read(folder)


def example(prompt: str, answer: str) -> Example:
    return Example("data.jsonl", 1, (), (Segment(prompt, False), Segment(answer, True)))


def test_only_the_answer_and_its_end_are_learnt(tokenizer: ModelTokenizer) -> None:
    row = tokenize(
        [example("<|user|>\nWhere is it?<|end|>\n<|assistant|>\n", "In London.<|end|>")],
        tokenizer,
        max_len=64,
    ).rows[0]
    learnt = [token for token, trained in zip(row.ids, row.trained, strict=True) if trained]
    assert tokenizer.tokenizer.decode(learnt, skip_special_tokens=False) == "In London.<|end|>"
    assert learnt[-1] == tokenizer.numbers["<|end|>"]


def test_everything_but_the_first_token_is_learnt_if_asked(tokenizer: ModelTokenizer) -> None:
    row = tokenize([example("Where is it? ", "There.")], tokenizer, max_len=64, answer_only=False).rows[0]
    assert all(row.trained)
    assert len(collate([row], 0, torch.device("cpu")).targets) == len(row.ids) - 1


def test_the_prompt_has_the_tokens_that_it_has_alone(tokenizer: ModelTokenizer) -> None:
    # "museums" is one token of this tokenizer; it must not be made across the segments' border.
    together = tokenizer.encode([Segment(" museums", False)]).ids
    prompt = tokenizer.encode([Segment(" muse", False)]).ids
    assert together[: len(prompt)] != prompt, "the case needs a token across the border"
    row = tokenizer.encode([Segment(" muse", False), Segment("ums", True)])
    assert row.ids[: len(prompt)] == prompt
    assert row.learnt == [False] * len(prompt) + [True] * (len(row.ids) - len(prompt))
    assert tokenizer.tokenizer.decode(row.ids) == " museums"


def test_long_rows_are_cut_and_those_without_an_answer_left_out(tokenizer: ModelTokenizer) -> None:
    long_prompt = "Where? " * 50
    rows = tokenize(
        [example("Where? ", "There. " * 30), example(long_prompt, "There."), example("Where? ", "There.")],
        tokenizer,
        max_len=32,
    )
    assert (len(rows.rows), rows.truncated, rows.dropped) == (2, 1, 1)
    assert rows.longest == 32
    assert rows.tokens == sum(len(row.ids) for row in rows.rows)


def test_each_round_has_every_row_once_and_is_the_same_for_a_seed() -> None:
    lengths = [3 + (i * 7) % 50 for i in range(101)]
    order = BatchOrder(lengths, 8, seed=1)
    first = [order.batch(i) for i in range(order.batches_a_round)]
    assert sorted(row for batch in first for row in batch) == list(range(101))
    later = [order.batch(order.batches_a_round * 3 + i) for i in range(order.batches_a_round)]
    assert sorted(row for batch in later for row in batch) == list(range(101))
    assert later != first
    again = BatchOrder(lengths, 8, seed=1)
    assert again.batch(order.batches_a_round * 3) == later[0], "any batch can be asked for at once"
    assert [BatchOrder(lengths, 8, seed=2).batch(i) for i in range(13)] != first


def test_rows_of_like_length_come_together_and_the_longest_first() -> None:
    lengths = [3 + (i * 7) % 50 for i in range(256)]
    order = BatchOrder(lengths, 8, seed=0)
    batches = [[lengths[row] for row in order.batch(i)] for i in range(order.batches_a_round)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding < 0.05 * sum(lengths)
    assert max(batches[0]) == max(lengths)


def test_places_and_targets_by_hand() -> None:
    rows = [
        TokenRow([5, 6, 7, 8], [False, False, True, True]),
        TokenRow([9, 4], [False, True]),
    ]
    batch = collate(rows, 0, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 0, 0, 0, 0], [9, 4, 0, 0, 0, 0, 0, 0]]
    assert batch.places.tolist() == [1, 2, 8]
    assert batch.targets.tolist() == [7, 8, 4]
    assert batch.counts == [2, 1]
