"""A list of findings that stays small in memory."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import IO

from core.data.types import BLOCKING, Finding

IN_MEMORY = 20_000


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
                yield Finding(*json.loads(line))
            self._file.seek(0, 2)

    @property
    def blocking(self) -> int:
        """How many of them keep training from starting."""
        return sum(count for kind, count in self.counts.items() if kind in BLOCKING)

    def first(self, count: int) -> list[Finding]:
        """At most `count` findings, from the beginning."""
        return self._first[:count]

    def add(self, finding: Finding) -> None:
        """Append one."""
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
