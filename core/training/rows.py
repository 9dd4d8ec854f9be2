"""From examples to batches of token ids: tokenising, order, padding.

A row is a conversation of its own, from its first token on. Rows are never joined to fill a length;
:mod:`core.training.turns` may make them the turns of one conversation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.data import Example, Segment

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

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
    tokenizer: PreTrainedTokenizerBase,
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
        ids, trained = encode_segments(example.segments, tokenizer)
        if not answer_only:
            trained = [True] * len(ids)
        # The first token has nothing before it to be predicted from.
        if not any(trained[1:max_len]):
            dropped += 1
            continue
        truncated += len(ids) > max_len
        rows.append(TokenRow(ids[:max_len], trained[:max_len]))
    return Tokenized(rows, truncated, dropped)


def encode_segments(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    """Token ids of the joined segments, and which of them belong to trained segments.

    The text is encoded as a whole, as it will be at chat time. Where a token would reach across the
    end of a segment, the segments are encoded one by one instead: the model will meet the prompt
    alone, so it must be trained on the tokens of the prompt alone.
    """
    text = "".join(segment.text for segment in segments)
    bos = tokenizer.bos_token
    # A tokenizer that starts texts with a token of its own shall not do so twice.
    add_special = not (bos and text.startswith(bos))
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=add_special, return_offsets_mapping=True, verbose=False)
        marked = _by_offsets(encoded["input_ids"], encoded["offset_mapping"], segments, tokenizer)
        if marked is not None:
            return marked
    ids = list(tokenizer("", add_special_tokens=True)["input_ids"])[:1] if bos and add_special else []
    ids = [token for token in ids if token == tokenizer.bos_token_id]
    trained = [False] * len(ids)
    for segment in segments:
        piece = tokenizer(segment.text, add_special_tokens=False, verbose=False)["input_ids"]
        ids += piece
        trained += [segment.trained] * len(piece)
    return ids, trained


def _by_offsets(
    ids: list[int],
    offsets: list[tuple[int, int]],
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int], list[bool]] | None:
    """Marks from character offsets; None where a word's token reaches across the end of a segment."""
    if ids and offsets[-1][0] == offsets[-1][1] and ids[-1] == tokenizer.eos_token_id:
        ids, offsets = ids[:-1], offsets[:-1]  # an end that the tokenizer adds to every text
    whole = set(tokenizer.all_special_ids)
    bounds, at = [], 0
    for segment in segments:
        bounds.append((at + len(segment.text), segment.trained))
        at += len(segment.text)
    trained: list[bool] = []
    part = 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        if start == end and not any(stop for _, stop in offsets[: len(trained)]):
            trained.append(False)  # a start that the tokenizer adds to every text
            continue
        while part < len(bounds) - 1 and start >= bounds[part][0]:
            part += 1
        # Special tokens may swallow the white space behind them (Phi-3's do); words may not.
        if end > bounds[part][0] and token not in whole:
            return None
        trained.append(bounds[part][1])
    return ids, trained


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
