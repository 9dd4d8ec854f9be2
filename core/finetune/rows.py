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
from typing import TYPE_CHECKING, Generic, TypeVar

from core.data import Example
from core.model.messages import Message
from core.model.prompt_format import PromptFormat
from core.model.template import TemplateError
from core.model.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    import torch


NOTHING = -100
"""The target of a place where nothing is learnt: what torch's cross entropy leaves out."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as token ids; ``trained[i]`` says whether ``ids[i]`` is to be predicted."""

    ids: list[int]
    trained: list[bool]

    @property
    def width(self) -> int:
        """Tokens of its longest text."""
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """Tokens of all its texts."""
        return len(self.ids)

    @property
    def weight(self) -> int:
        """How much it counts in a mean: tokens to be predicted."""
        return sum(self.trained[1:])

    @property
    def prompt(self) -> list[int]:
        """The ids before the first that is to be predicted."""
        return self.ids[: self.trained.index(True)] if True in self.trained else self.ids

    def sums(self) -> tuple[int, ...]:
        """Numbers that tell it from others."""
        return len(self.ids), sum(self.ids), sum(self.trained)


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """Two answers to a question, of which the first is preferred; or one answer that is good or bad.

    Attributes:
        chosen: the preferred answer; of one that stands alone that answer, be it good or bad.
        other: the rejected one; beside an answer that stands alone one to another question.
        good: whether `chosen` is to be given, or to be avoided.
        number: which row it is, of all of a training, from 0.
    """

    chosen: TokenRow
    other: TokenRow
    good: bool = True
    number: int = 0

    @property
    def width(self) -> int:
        """Tokens of its longest text."""
        return max(len(self.chosen.ids), len(self.other.ids))

    @property
    def tokens(self) -> int:
        """Tokens of all its texts."""
        return len(self.chosen.ids) + len(self.other.ids)

    @property
    def weight(self) -> int:
        """How much it counts in a mean: as much as every other."""
        return 1

    @property
    def ids(self) -> list[int]:
        """The ids of the question and the first answer."""
        return self.chosen.ids

    def sums(self) -> tuple[int, ...]:
        """Numbers that tell it from others."""
        return *self.chosen.sums(), *self.other.sums(), int(self.good)


Row = TokenRow | PreferenceRow
R_co = TypeVar("R_co", bound=Row, covariant=True)


@dataclass(frozen=True)
class Tokenized(Generic[R_co]):
    """The rows, and what the limit on their length did to them.

    Attributes:
        truncated: rows cut at the limit (those among ``dropped`` not counted).
        dropped: rows left out, since nothing to learn stood within the limit.
    """

    rows: Sequence[R_co]
    truncated: int
    dropped: int

    @property
    def longest(self) -> int:
        """Tokens in the longest text of a row; 0 without rows."""
        return max((row.width for row in self.rows), default=0)

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(row.tokens for row in self.rows)


def tokenize(
    examples: Sequence[Example],
    tokenizer: ModelTokenizer,
    *,
    max_len: int,
    answer_only: bool = True,
) -> Tokenized[TokenRow]:
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


def tokenize_preferences(
    examples: Sequence[Example], tokenizer: ModelTokenizer, *, max_len: int, pairs: bool, first: int = 0
) -> Tokenized[PreferenceRow]:
    """Turn examples into rows of preferences, each text of at most ``max_len`` tokens.

    Args:
        pairs: whether a row has a chosen and a rejected answer; else each answer is a row, good or bad, and the
            other text in it is the next row's answer to its question.
        first: the number of the first row.
    """
    found: list[tuple[TokenRow, TokenRow | None, bool]] = []
    truncated = dropped = 0
    for example in examples:
        texts = [tokenizer.encode_row(each) for each in (example.segments, example.rejected) if each]
        rows = [TokenRow(row.ids[:max_len], list(row.learnt[:max_len])) for row in texts]
        if not all(row.weight for row in rows) or (pairs and len(rows) < 2):
            dropped += 1
            continue
        truncated += any(len(row.ids) > max_len for row in texts)
        if pairs:
            found.append((rows[0], rows[1], True))
        else:
            goods = (example.good,) if len(rows) == 1 else (True, False)
            found += [(row, None, good) for row, good in zip(rows, goods, strict=True)]
    made = []
    for at, (row, rejected, good) in enumerate(found):
        other = rejected or _answered_by(row, found[(at + 1) % len(found)][0], max_len)
        made.append(PreferenceRow(row, other, good, first + at))
    return Tokenized(made, truncated, dropped)


def _answered_by(row: TokenRow, other: TokenRow, max_len: int) -> TokenRow:
    """A row's question with the answer of another, of which at least a token stays within the limit."""
    start = len(other.prompt)
    ids, trained = row.prompt[: max_len - 1] + other.ids[start:], other.trained[start:]
    trained = [False] * (len(ids) - len(trained)) + trained
    return TokenRow(ids[:max_len], trained[:max_len])


@dataclass(frozen=True)
class TokenBatch:
    """Padded rows on a device.

    Attributes:
        input_ids: [rows, tokens], padded on the right. No attention mask is needed: in a causal model
            no token sees what stands after it, and nothing is learnt at the padding.
        places: [n] flat places (row * tokens + i) whose next token is to be predicted.
        targets: [n] those next tokens.
        counts: how many of them each row has.
    """

    input_ids: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    counts: list[int]


def collate(
    rows: Sequence[TokenRow],
    pad_id: int,
    device: torch.device,
    *,
    width: int = 0,
    count: int = 0,
    learnt: int = 0,
) -> TokenBatch:
    """Pad rows to the longest, or to ``width`` where that is more, and find the places where something is predicted.

    Args:
        count: rows that the batch shall have at least; those beyond ``rows`` are padding.
        learnt: places that it shall have at least; those beyond are such as nothing is learnt at.
    """
    import torch

    width = max(width, *(len(row.ids) for row in rows))
    # Matrix units like multiples of eight, and on a CPU each number of tokens that is new has its code made first.
    width = -(-width // 8) * 8
    padded = [row.ids + [pad_id] * (width - len(row.ids)) for row in rows]
    padded += [[pad_id] * width] * (count - len(rows))
    places, targets = [], []
    for i, row in enumerate(rows):
        for j in range(1, len(row.ids)):
            if row.trained[j]:
                places.append(i * width + j - 1)
                targets.append(row.ids[j])
    targets += [NOTHING] * (learnt - len(places))
    places += [0] * (learnt - len(places))

    def put(data: object) -> torch.Tensor:
        tensor = torch.tensor(data, dtype=torch.long)
        if device.type == "cuda":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)

    return TokenBatch(put(padded), put(places), put(targets), [row.weight for row in rows])


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
