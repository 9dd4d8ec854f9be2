"""Records of a batch put behind one another, as the turns of a conversation.

A model that is trained on single questions and answers may answer worse from the second turn on, a
small one most of all: what the adapter has learnt to look for is then in the earlier turns too. Trained on
the same records as turns of random conversations it learns that an answer follows from the last question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from core.finetune.rows import TokenRow
from core.model.messages import Message
from core.model.prompt_format import PromptFormat
from core.model.template import TemplateError


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
