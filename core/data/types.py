"""What the data step hands to others: messages, segments, examples, rows and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from core.errors import text_as_plain, text_from_plain, with_told
from core.language import told
from core.model.messages import Message as Message
from core.model.messages import Segment as Segment
from core.text import visible

BLOCKING = frozenset(
    {
        "broken-json",
        "broken-csv",
        "wrong-columns",
        "invalid-utf8",
        "unreadable-file",
        "missing-field",
        "empty-field",
        "wrong-type",
        "bad-messages",
        "template-error",
        "template-field",
        "unmapped",
        "no-rows",
    }
)
"""Kinds with which training does not start; the others are worth a look."""

WARNINGS = frozenset(
    {
        "template-model",
        "too-long",
        "control-characters",
        "special-token",
        "duplicate",
        "near-duplicate",
        "seen-often",
        "in-held-out",
        "same-answers",
        "not-used",
        "key-twice",
        "several-sets",
    }
)
"""The other kinds."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready for training.

    `file` and `line` say where it came from (`line` is the row number in a Parquet file).
    The segments joined are the training text; `rejected` are those of the same text with an answer that was not
    preferred. `good` is False where the answer is one to be avoided.
    """

    file: str
    line: int
    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    tools: tuple[dict[str, Any], ...] = ()
    rejected: tuple[Segment, ...] = ()
    good: bool = True

    @property
    def text(self) -> str:
        """The whole training text."""
        return "".join(segment.text for segment in self.segments)

    @property
    def prompt(self) -> str:
        """What was asked: the user's turns, joined; the text itself where there are none."""
        asked = [message.content for message in self.messages if message.role == "user"]
        return "\n".join(asked) if asked else self.text

    @property
    def answered(self) -> int | None:
        """Which message is the last answer that is learnt; None where there is none."""
        places = [i for i, each in enumerate(self.messages) if each.role == "assistant" and each.learnt]
        return places[-1] if places else None

    @property
    def answer(self) -> str:
        """The last answer that is learnt, without markers; empty where a row is plain text."""
        return "" if self.answered is None else self.messages[self.answered].content

    @property
    def context(self) -> tuple[Message, ...]:
        """What stands before that answer: the system's message, earlier turns and the question."""
        return () if self.answered is None else self.messages[: self.answered]

    @property
    def question(self) -> str:
        """The question that it answers; the text itself where there is none."""
        asked = [message.content for message in self.context if message.role == "user"]
        return asked[-1] if asked else self.text

    def up_to_answer(self) -> tuple[tuple[Segment, ...], Segment | None]:
        """The segments before the last learnt answer, and that answer's own."""
        last = max((i for i, each in enumerate(self.segments) if each.trained), default=None)
        if last is None:
            return self.segments, None
        return self.segments[:last], self.segments[last]


@dataclass(frozen=True, slots=True)
class Split:
    """The rows to train on and the rows held out, each in file order."""

    train: list[Example]
    eval: list[Example]


class Quote(NamedTuple):
    """The piece of a file where something is wrong, harmless: control characters are written as escapes.

    Attributes:
        before: what stands before the place, as far as it helps to find it.
        at: what stands there and behind; "" at the end of a line.
    """

    before: str = ""
    at: str = ""

    def __str__(self) -> str:
        """With a sign at the place."""
        return f"{self.before}>>>{self.at}"


BEFORE, BEHIND = 40, 28


def quote(text: str, place: int) -> Quote:
    """The line around a place in a text, or of a long one the part near it."""
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    end = len(text) if end < 0 else end
    left, right = max(start, place - BEFORE), min(end, place + BEHIND)
    before = visible(text[left:place], on_one_line=True)
    at = visible(text[place:right].removesuffix("\r"), on_one_line=True)
    return Quote(("…" if left > start else "") + before, at + ("…" if right < end else ""))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one row: a `kind` scripts can test, words, what to do, and the place in the file."""

    kind: str
    message: str
    fix: str
    quote: Quote | None = None

    @property
    def words(self) -> str:
        """What is wrong and what to do, in one."""
        return told("{problem}; {fix}", problem=self.message, fix=self.fix)


class UnreadableFile(Exception):
    """A file that holds no records that can be read; `problem` says why."""

    def __init__(self, message: str, fix: str, kind: str = "unreadable-file") -> None:
        super().__init__(message)
        self.problem = Problem(kind, message, fix)


class Noted(NamedTuple):
    """A record that can be read, and what is odd about how it is written."""

    fields: dict[str, Any]
    note: Problem


class Unused(NamedTuple):
    """Something in a record that does not reach the model.

    Attributes:
        what: `column`, `key` (of a turn), `turn`, `list` (of a JSON file) or `file` (of a folder).
        name: the name of the column, key, list or file; whose turn it is.
    """

    what: str
    name: str


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it was read. `fields` is None where it could not be read (`problem` says why).

    Attributes:
        held_out: True for a row of a file (or part of one) that is named as a test or validation part.
        note: what is odd about a row that can be read.
        number: which row of its file it is, from 1; several rows may stand on one line. 0: not counted.
    """

    file: str
    line: int
    fields: dict[str, Any] | None
    problem: Problem | None = None
    held_out: bool = False
    note: Problem | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at in the data: where, what, and what to do.

    `row` is the number of the row in its file, from 1; 0 where the finding is of the file as a whole. `quote`
    is the piece where it is wrong, for what is not seen otherwise.
    """

    file: str
    line: int
    kind: str
    message: str
    fix: str
    row: int = 0
    quote: Quote | None = None

    @property
    def level(self) -> str:
        """`error` where training does not start with it, else `warning`."""
        return "error" if self.kind in BLOCKING else "warning"

    def as_row(self) -> tuple[Any, ...]:
        """Its values in order, for writing many; :meth:`of_row` reads them."""
        message, fix = text_as_plain(self.message), text_as_plain(self.fix)
        return self.file, self.line, self.kind, message, fix, self.row, self.quote

    @classmethod
    def of_row(cls, values: Sequence[Any]) -> Finding:
        """A finding from the values of :meth:`as_row`, which may have gone through JSON."""
        file, line, kind, message, fix, row, place = values
        message, fix = text_from_plain(message), text_from_plain(fix)
        return cls(file, line, kind, message, fix, row, None if place is None else Quote(*place))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, as `olivepress data --json` prints it."""
        place = None if self.quote is None else self.quote._asdict()
        return with_told({**asdict(self), "quote": place, "level": self.level})
