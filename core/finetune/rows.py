"""From examples to batches of token ids: tokenising, order, padding.

A row is a conversation of its own, from its first token on. Rows are never joined to fill a length;
:mod:`core.finetune.turns` may make them the turns of one conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.data import Example
from core.model.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    import torch


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


@dataclass(frozen=True)
class TokenBatch:
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


def collate(rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> TokenBatch:
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

    return TokenBatch(put(padded), put(places), put(targets), sum(len(row.ids) for row in rows))
