"""From examples to batches of token ids: tokenising, order, padding.

A row is a conversation of its own, from its first token on. Rows are never joined to fill a length;
:mod:`core.training.turns` may make them the turns of one conversation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.data import Example
from core.model.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    import torch

POOL = 32
"""Batches whose rows are sorted by length together: enough to pad little, few enough to stay random."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as token ids; ``trained[i]`` says whether ``ids[i]`` is to be predicted."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Tokenized:
    """The rows, and what the limit on their length did to them.

    Attributes:
        truncated: rows cut at the limit (those among ``dropped`` not counted).
        dropped: rows left out, since nothing to learn stood within the limit.
    """

    rows: list[TokenRow]
    truncated: int
    dropped: int

    @property
    def longest(self) -> int:
        """Tokens in the longest row; 0 without rows."""
        return max((len(row.ids) for row in self.rows), default=0)

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(len(row.ids) for row in self.rows)


def tokenize(
    examples: Sequence[Example],
    tokenizer: ModelTokenizer,
    *,
    max_len: int,
    answer_only: bool = True,
) -> Tokenized:
    """Turn examples into token rows of at most ``max_len`` tokens.

    With ``answer_only`` the tokens of trained segments are predicted (the answer and its end-of-turn
    token), else all tokens but the first.
    """
    rows, truncated, dropped = [], 0, 0
    for example in examples:
        row = tokenizer.encode_row(example.segments)
        ids, trained = row.ids, row.learnt if answer_only else [True] * len(row.ids)
        # The first token has nothing before it to be predicted from.
        if not any(trained[1:max_len]):
            dropped += 1
            continue
        truncated += len(ids) > max_len
        rows.append(TokenRow(ids[:max_len], trained[:max_len]))
    return Tokenized(rows, truncated, dropped)


class BatchOrder:
    """Which rows stand in which batch, for ever, from a seed: batch ``n`` can be asked for at any time.

    In each round every row comes once. Rows of like length come together, so that little is padding.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        if not lengths:
            raise ValueError("there are no rows")
        self._lengths = lengths
        self._size = batch_size
        self._seed = seed
        self.batches_a_round = -(-len(lengths) // batch_size)
        self._round = -1
        self._batches: list[list[int]] = []

    def batch(self, number: int) -> list[int]:
        """The row numbers of batch ``number`` (from 0)."""
        around, place = divmod(number, self.batches_a_round)
        if around != self._round:
            self._round, self._batches = around, self._shuffle(around)
        return self._batches[place]

    def _shuffle(self, around: int) -> list[list[int]]:
        chance = random.Random(f"{self._seed}/{around}")
        order = list(range(len(self._lengths)))
        chance.shuffle(order)
        batches = []
        for start in range(0, len(order), self._size * POOL):
            pool = sorted(order[start : start + self._size * POOL], key=lambda row: -self._lengths[row])
            batches += [pool[i : i + self._size] for i in range(0, len(pool), self._size)]
        chance.shuffle(batches)
        if around == 0:
            # The longest batch first: if memory is too small, that shows at once.
            longest = max(range(len(batches)), key=lambda b: max(self._lengths[r] for r in batches[b]))
            batches[0], batches[longest] = batches[longest], batches[0]
        return batches


@dataclass(frozen=True)
class Batch:
    """Padded rows on a device.

    Attributes:
        input_ids: [rows, tokens], padded on the right. No attention mask is needed: in a causal model
            no token sees what stands after it, and nothing is learnt at the padding.
        places: [n] flat places (row * tokens + i) whose next token is to be predicted.
        targets: [n] those next tokens.
        tokens: how many tokens are not padding.
    """

    input_ids: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    tokens: int


def collate(rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> Batch:
    """Pad rows to the longest and find the places where something is predicted."""
    import torch

    width = max(len(row.ids) for row in rows)
    if device.type == "cuda":
        width = -(-width // 8) * 8  # the matrix units like multiples of eight
    padded = [row.ids + [pad_id] * (width - len(row.ids)) for row in rows]
    places, targets = [], []
    for i, row in enumerate(rows):
        for j in range(1, len(row.ids)):
            if row.trained[j]:
                places.append(i * width + j - 1)
                targets.append(row.ids[j])

    def put(data: object) -> torch.Tensor:
        tensor = torch.tensor(data, dtype=torch.long)
        if device.type == "cuda":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)

    return Batch(put(padded), put(places), put(targets), sum(len(row.ids) for row in rows))
