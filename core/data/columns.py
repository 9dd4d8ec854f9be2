"""What stands in the columns of some rows: sentences, labels, ids, links, lists of turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.data import names
from core.data.messages import looks_like_messages, there, verdict
from core.data.names import plain_name

_QUESTION_END = re.compile(r"[?？؟]\s*$")
_LINK = re.compile(r"(?:https?|s3|gs|file|ftp)://\S*$|(?:\.{0,2}/)?(?:[\w.-]+/)+[\w.-]+\.\w{1,5}$")
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?%?$")
_ID = re.compile(
    r"[A-Za-z]+[-_#:]\d+$|[0-9a-fA-F]{16,}$|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
)
_MOST = 300
_TALKATIVE = 3
"""Words from which a text in a list or an object says something."""


@dataclass(frozen=True, slots=True)
class Column:
    """What the values of a column have in common.

    Attributes:
        filled: share of the rows that have something in it.
        text, turns: share of what is there that is text, or a list of turns.
        asks: share of the texts that end with a question mark.
        length: mean length of the texts in characters.
        variety: share of different texts.
        spaced: share of the texts with a space in them, or of more than a word's length.
        codes, numbers: share of the texts that are links or ids, and that are numbers.
        passages: share of what is there that is a list of texts with sentences.
        nested: share of what is there that is a list or an object with a sentence somewhere in it.
    """

    name: str
    filled: float
    text: float
    turns: float
    asks: float = 0.0
    length: float = 0.0
    variety: float = 0.0
    spaced: float = 0.0
    codes: float = 0.0
    numbers: float = 0.0
    count: int = 0
    passages: float = 0.0
    nested: float = 0.0

    @property
    def is_turns(self) -> bool:
        """Whether it holds conversations."""
        return self.turns > 0.5

    @property
    def is_text(self) -> bool:
        """Whether it holds text that somebody could have said."""
        return self.text > 0.5 and self.codes + self.numbers <= 0.5 and not self.is_turns

    @property
    def is_sentences(self) -> bool:
        """Whether it holds sentences: no labels, and not a word each."""
        return self.is_text and self.spaced >= 0.3 and not self._few

    @property
    def is_repeated(self) -> bool:
        """Whether it holds what could be sentences, but the same few again and again, as labels are."""
        return self.is_text and self.spaced >= 0.3 and self._few

    @property
    def _few(self) -> bool:
        return self.variety < 0.3 and self.count > 5


def look(rows: Sequence[Mapping[str, Any]], names_of: Sequence[str]) -> dict[str, Column]:
    """Each of the columns, by the first few hundred rows."""
    rows = rows[:_MOST]
    return {name: _column(name, [row.get(name) for row in rows]) for name in names_of}


def _column(name: str, values: Sequence[Any]) -> Column:
    full = [value for value in values if there(value) and not (isinstance(value, str) and not value.strip())]
    if not full:
        return Column(name, 0.0, 0.0, 0.0)
    texts = [value.strip() for value in full if isinstance(value, str)]
    turns = sum(map(looks_like_messages, full[:50])) / len(full[:50])
    filled, text = len(full) / len(values), len(texts) / len(full)
    passages = sum(map(_is_passages, full)) / len(full)
    nested = sum(isinstance(value, list | dict) and _talks(value) for value in full) / len(full)
    if not texts:
        return Column(name, filled, text, turns, passages=passages, nested=nested)
    many = len(texts)
    codes = sum(any(form.match(each) for form in (_LINK, _ID)) for each in texts)
    return Column(
        name,
        filled,
        text,
        turns,
        sum(bool(_QUESTION_END.search(each)) for each in texts) / many,
        sum(map(len, texts)) / many,
        len(set(texts)) / many,
        sum(" " in each or len(each) > 12 for each in texts) / many,
        codes / many,
        sum(bool(_NUMBER.match(each)) for each in texts) / many,
        many,
        passages,
        nested,
    )


def _is_passages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and _talks(value)


def _talks(value: Any) -> bool:
    """Whether there is a text of several words in a value, at whatever depth."""
    if isinstance(value, str):
        return len(value.split()) >= _TALKATIVE and not _LINK.match(value)
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(map(_talks, value[:_MOST]))


def words_of(name: str) -> frozenset[str]:
    """The words of a column's name."""
    return frozenset(plain_name(name).split())


def is_about(name: str) -> bool:
    """Whether a longer name is one of something about the record: `question_id`, `num_answers`."""
    found = plain_name(name).split()
    return len(found) > 1 and (
        found[-1] in names.ABOUT or found[0] in ("num", "number", "count", "is", "has")
    )


def is_rejected(name: str) -> bool:
    """Whether a column's name says that it holds answers that are not to be learnt."""
    found = words_of(name)
    if not found.isdisjoint(("non", "not", "un")):
        found |= {f"non{word}" for word in found}
    found |= {word.rstrip("0123456789") for word in found}
    return not found.isdisjoint(names.REJECTED)


def verdicts(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether every value of a column says yes or no."""
    found = [row[name] for row in rows if row.get(name) is not None]
    return bool(found) and all(verdict(value) is not None for value in found)


def may_be_verdict(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column may say how good a record is: yes and no, plus and minus one, or a small rating."""
    found = [row[name] for row in rows if row.get(name) is not None]
    if not found or not words_of(name).isdisjoint(("id", "index", "idx", *names.CHOSEN)):
        return False
    if all(isinstance(value, bool) for value in found):
        return len(set(found)) > 1
    numbers = [value for value in found if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(found):
        rated = not words_of(name).isdisjoint((*names.RATING, *names.LABEL))
        said = {verdict(value) for value in found}
        return said == {True, False} or (rated and None not in said)
    different = set(numbers)
    if not words_of(name).isdisjoint((*names.RATING, *names.LABEL)):
        return len(different) > 1
    small = all(-1 <= value <= 5 and value == int(value) for value in numbers)
    return small and 1 < len(different) < len(numbers)
