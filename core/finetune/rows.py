"""From examples to batches of token ids: tokenising, joining, padding.

A row is a conversation of its own, from its first token on; rows are never joined to fill a length. They may be joined
as the turns of one conversation: a model that is trained on single questions and answers may answer worse from the
second turn on, a small one most of all, since what the adapter has learnt to look for is then in the earlier turns too.
Trained on the same records as turns of random conversations it learns that an answer follows from the last question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.data import Example
from core.model.messages import Message
from core.model.prompt_format import PromptFormat
from core.model.template import TemplateError
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


def collate(rows: Sequence[TokenRow], pad_id: int, device: torch.device, *, width: int = 0) -> TokenBatch:
    """Pad rows to the longest, or to ``width`` where that is more, and find the places where something is predicted."""
    import torch

    width = max(width, *(len(row.ids) for row in rows))
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


@dataclass(frozen=True)
class JoinedTurns:
    """How records are joined.

    Attributes:
        most: turns of the longest conversations; 1 leaves every record by itself.
        between: token ids that stand between two turns.
        start: id of a token that each record begins with and a later turn does not; None for none.
        max_len: tokens that a conversation may have.
        seed: of the choice of lengths.
    """

    most: int = 1
    between: tuple[int, ...] = ()
    start: int | None = None
    max_len: int = 1024
    seed: int = 0

    def join(self, rows: Sequence[TokenRow], number: int) -> list[TokenRow]:
        """The rows of batch ``number``, joined to conversations of one length, drawn for this batch."""
        if self.most == 1 or not rows:
            return list(rows)
        chance = random.Random(f"{self.seed}/turns/{number}")
        longest = max(len(row.ids) for row in rows) + len(self.between)
        turns = min(chance.randint(1, self.most), max(1, self.max_len // longest))
        mixed = chance.sample(rows, len(rows))
        return [self._conversation(mixed[place : place + turns]) for place in range(0, len(mixed), turns)]

    def _conversation(self, rows: Sequence[TokenRow]) -> TokenRow:
        ids, trained = list(rows[0].ids), list(rows[0].trained)
        for row in rows[1:]:
            skip = 1 if row.ids[:1] == [self.start] else 0
            ids += [*self.between, *row.ids[skip:]]
            trained += [*(False for _ in self.between), *row.trained[skip:]]
        return TokenRow(ids, trained)


def tokens_between(prompts: PromptFormat) -> tuple[int, ...] | None:
    """What stands between a record's end and the next question, where records are turns of a conversation.

    Returns:
        token ids; None where a conversation is not its records one behind the other in this format.
    """
    if prompts.plain_text:
        return None
    first = (Message("user", "What is it?"), Message("assistant", "A house."))
    second = (Message("user", "And that?"), Message("assistant", "A tree."))
    try:
        one, two, both = (
            prompts.encode(prompts.segments(talk)).ids for talk in (first, second, (*first, *second))
        )
    except TemplateError:  # a template may refuse a conversation in any way
        return None
    start = prompts.tokenizer.start
    two = two[len(start) :] if start and tuple(two[: len(start)]) == start else two
    if both[: len(one)] != one or both[-len(two) :] != two or len(both) < len(one) + len(two):
        return None
    return tuple(both[len(one) : len(both) - len(two)])
