"""Findings: a list of them that stays small in memory, and the checks on the text of a single row."""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import IO

from core.data.types import BLOCKING, Finding, Problem, quote
from core.formats import counted, number
from core.language import _, told

OFTEN = 40
"""Seen more often than this, a record is seen very often: it is twice the rounds that "auto" takes at most."""
IN_MEMORY = 20_000
_LONGEST = 2_000


def passes(rounds: float, rows: int) -> str:
    """What training sees of its rows: ``each row 2.5 times``, or of a part of them ``8 of 60 rows``."""
    if rows and rounds < 1:
        return _("{done} of {total}", done=number(max(1, round(rounds * rows))), total=counted(rows, "row"))
    times = f"{rounds:.{0 if rounds >= 10 else 1}f}".removesuffix(".0")
    return _("each row once") if times == "1" else _("each row {times} times", times=times)


class Findings:
    """All findings of a file, by file and line.

    The first twenty thousand are kept in memory; with more, all further ones lie in a temporary
    file, and the order is that in which they were found.

    Attributes:
        counts: how many there are of each kind.
        of_rows: how many are of a row, and not of a file or the recipe.
        of_usable_rows: how many of these are of rows that can be trained on.
    """

    def __init__(self) -> None:
        self.of_rows = self.of_usable_rows = 0
        self._first: list[Finding] = []
        self._file: IO[str] | None = None
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.counts.total()

    def __iter__(self) -> Iterator[Finding]:
        yield from self._first
        if self._file is not None:
            self._file.seek(0)
            for line in self._file:
                yield Finding.of_row(json.loads(line))
            self._file.seek(0, 2)

    @property
    def blocking(self) -> int:
        """How many of them keep training from starting."""
        return sum(count for kind, count in self.counts.items() if kind in BLOCKING)

    def first(self, count: int) -> list[Finding]:
        """At most `count` findings, from the beginning."""
        return self._first[:count]

    def add(self, finding: Finding) -> None:
        """Append one; of a very long message, which quotes the row, the beginning."""
        if len(finding.message) > _LONGEST:
            finding = replace(finding, message=finding.message[: _LONGEST - 1] + "…")
        self.counts[finding.kind] += 1
        if finding.row:
            self.of_rows += 1
            self.of_usable_rows += finding.kind not in BLOCKING
        if len(self._first) < IN_MEMORY:
            self._first.append(finding)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile("w+", encoding="utf-8", prefix="olivepress-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        self._file.write(json.dumps(finding.as_row()) + "\n")

    def sort(self) -> None:
        """Bring them into the order of files and lines, as far as they are in memory."""
        self._first.sort(key=lambda finding: (finding.file, finding.row or finding.line, finding.line))


# C0 and C1 controls but tab and line breaks, bidirectional overrides and isolates (they make a line read
# other than it is), a byte order mark inside of a text, and the sign that stands for what was not decodable.
# Joiners (U+200C, U+200D) and direction marks (U+200E, U+200F) are part of good Persian and stay.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufffd]")
_FOREIGN = re.compile(
    r"<\|(?:im_start|im_end|user|assistant|system|end|eot_id|start_header_id|end_header_id|begin_of_text)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
)
_NAMES = {
    0x1B: told("an escape code"),
    0xFFFD: told("a replacement character, left by a wrong decoding"),
    0xFEFF: told("a byte order mark inside of the text"),
    0x00: told("a NUL character"),
}


def control_characters(texts: Iterable[str]) -> Problem | None:
    """Characters that do not belong into text, in any of the texts."""
    for text in texts:
        match = _CONTROL.search(text)
        if match:
            code = ord(match.group())
            name = (
                _NAMES.get(code) or unicodedata.name(match.group(), "").lower() or told("a control character")
            )
            message = told(
                "it has {name} (U+{code:04X}) at character {start}",
                name=name,
                code=code,
                start=match.start() + 1,
            )
            return Problem(
                "control-characters", message, told("remove the character"), quote(text, match.start())
            )
    return None


def special_tokens(
    texts: Iterable[str], pattern: re.Pattern[str] | None, *, read: bool = False
) -> Problem | None:
    """Letters inside of a text that look like a special token of the model, or of another one's chat template.

    Args:
        read: whether they become that token: in rows that are nothing but text, whose markers are their own.
    """
    for text in texts:
        match = pattern.search(text) if pattern is not None else None
        if match and read:
            message = told(
                "its text contains {token}, which the model reads as a token of its own", token=match.group()
            )
            return Problem(
                "special-token",
                message,
                told("remove {token} if it is not meant so", token=match.group()),
                quote(text, match.start()),
            )
        if match:
            message = told(
                "its text contains {token}, a token of the model, here learnt as mere letters",
                token=match.group(),
            )
            return Problem(
                "special-token",
                message,
                told("remove {token}; the template writes such tokens", token=match.group()),
                quote(text, match.start()),
            )
        match = _FOREIGN.search(text)
        if match:
            message = told(
                "its text contains {token}, a mark of another model's chat template, here learnt as mere letters",
                token=match.group(),
            )
            fix = told(
                "bring the question and the answer without such marks; the template writes this model's own"
            )
            return Problem(
                "special-token",
                message,
                fix,
                quote(text, match.start()),
            )
    return None


def too_long(tokens: int, limit: int, before_answer: int | None, *, estimated: bool) -> Problem:
    """A row that is cut at `max_seq_len`.

    Args:
        tokens: of the whole row.
        before_answer: tokens in front of the answer, where it has one.
    """
    if before_answer is None or before_answer < limit:
        message = told("it has {tokens} tokens, so {lost} would be lost", tokens=tokens, lost=tokens - limit)
        if estimated:
            message = told(
                "it has about {tokens} tokens, so {lost} would be lost", tokens=tokens, lost=tokens - limit
            )
    else:
        message = told(
            "it has {tokens} tokens, so {lost} would be lost and nothing of the answer is left",
            tokens=tokens,
            lost=tokens - limit,
        )
        if estimated:
            message = told(
                "it has about {tokens} tokens, so {lost} would be lost and nothing of the answer is left",
                tokens=tokens,
                lost=tokens - limit,
            )
    return Problem(
        "too-long",
        message,
        told("shorten the row, or set data.max_seq_len to {tokens} or more", tokens=tokens),
    )
