"""CSV records: a header line, then one record each, quoted text over several lines included.

Records are cut from the bytes here, and only then given to the `csv` module: an opened quote that is
never closed then costs one record, and the line where it was opened is known.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import IO

from core.data.files import BOM
from core.data.json_rows import not_utf8
from core.data.types import Problem

MOST_LINES = 2_000
"""Lines that one quoted text may go over before the quote counts as forgotten."""

csv.field_size_limit(1 << 26)


_NUMBER = re.compile(r"[-+]?[\d.,]+%?")


def _is_sentence(cell: str) -> bool:
    """Whether a cell of the first line is more than a name for a column."""
    return len(cell.split()) > 3 or (len(cell.split()) > 1 and cell.rstrip()[-1:] in tuple(".?!؟。？！"))


class CsvReader:
    """The records of a CSV file.

    Iterating gives `(line, record or problem)`. `offset` is the byte at which the record given last
    begins. After `restart` a read goes on from such a place.
    """

    def __init__(self, stream: IO[bytes], delimiter: str = ",", *, spaced: bool = False) -> None:
        """`spaced`: there are spaces between a separator and the quote behind it."""
        self._stream = stream
        self._delimiter = delimiter
        self._spaced = spaced
        self._waiting: deque[bytes] = deque()
        self._line = 0
        self._next = 0
        self.offset = 0
        self.names: list[str] | None = None
        self.header_problem: Problem | None = None

    def restart(self, line: int, offset: int) -> None:
        """Go on with the record that begins on this line, at this byte (the header is kept)."""
        self._stream.seek(offset)
        self._waiting.clear()
        self._line, self._next = line - 1, offset

    def _read(self) -> bytes:
        raw = self._waiting.popleft() if self._waiting else self._stream.readline(1 << 26)
        if raw:
            self._line += 1
            self._next += len(raw)
        return raw

    def _cells(self, raw: bytes) -> list[str] | None:
        """The cells of whole lines; None where a quote is still open.

        Raises:
            csv.Error, UnicodeDecodeError: the text is broken.
        """
        text = raw.decode()
        try:
            rows = list(
                csv.reader([text], delimiter=self._delimiter, strict=True, skipinitialspace=self._spaced)
            )
        except csv.Error as error:
            # The csv module has one class of error for everything; only this one means "the quote is still open".
            if "unexpected end of data" in str(error):
                return None
            raise
        return rows[0] if rows else []

    def _record(self) -> tuple[int, list[str] | Problem] | None:
        self.offset = self._next
        raw = self._read()
        if not raw:
            return None
        line, lines = self._line, [raw]
        if line == 1:
            raw = raw.removeprefix(BOM)
        try:
            cells = self._cells(raw)
            while cells is None:
                more = self._read()
                if not more or len(lines) > MOST_LINES:
                    self._push_back(lines[1:] + ([more] if more else []))
                    return line, Problem(
                        "broken-csv", "a quote is opened here and never closed", "close the quote"
                    )
                lines.append(more)
                if b'"' in more:
                    cells = self._cells(b"".join([raw, *lines[1:]]))
        except UnicodeDecodeError as error:
            bad = b"".join([raw, *lines[1:]])[error.start]
            return line, not_utf8(bad, "a byte of the row")
        except csv.Error as error:
            self._push_back(lines[1:])
            return line, Problem(
                "broken-csv", f"its quotes are wrong ({error})", 'write a quote inside quoted text as ""'
            )
        return line, cells

    def _push_back(self, lines: list[bytes]) -> None:
        for raw in reversed(lines):
            self._waiting.appendleft(raw)
            self._line -= 1
            self._next -= len(raw)

    def read_header(self) -> None:
        """Read the names of the columns; does nothing when they are known."""
        while self.names is None:
            found = self._record()
            if found is None:
                self.names = []
                return
            line, cells = found
            if isinstance(cells, Problem):
                self.names, self.header_problem = [], cells
                return
            if line == 1 and len(cells) <= 2 and "".join(cells).lower().startswith("sep="):
                continue
            if any(cell.strip() for cell in cells):
                # Spreadsheets and pandas leave the name of an index or an empty column out.
                self.names = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, 1)]
                twice = next((name for name in self.names if self.names.count(name) > 1), "")
                if twice:
                    self.header_problem = Problem(
                        "broken-csv",
                        f"the first line names the columns, and {twice!r} stands there twice",
                        "give each column a name of its own in the first line",
                    )
                elif any(map(_is_sentence, cells)) and all(
                    _is_sentence(cell) or not cell.strip() or _NUMBER.fullmatch(cell.strip())
                    for cell in cells
                ):
                    self.names = []
                    self.header_problem = Problem(
                        "broken-csv",
                        "the first line must name the columns, and this one seems to be a record",
                        "put a line with names before it, such as question,answer",
                    )

    @property
    def place(self) -> tuple[int, int]:
        """Line and byte from which a read can go on."""
        return self._line + 1, self._next

    def pass_over(self, count: int) -> int:
        """Go past so many records without taking them apart; returns how many there were."""
        self.read_header()
        nothing = self._delimiter.encode() + b"\r\n"
        passed = 0
        while passed < count and (raw := self._read()):
            if b'"' not in raw:
                passed += bool(raw.strip(nothing))
                continue
            self._push_back([raw])
            found = self._record()
            passed += found is not None and (isinstance(found[1], Problem) or any(found[1]))
        return passed

    def __iter__(self) -> Iterator[tuple[int, dict[str, str | None] | Problem]]:
        self.read_header()
        if self.header_problem:
            yield self._line, self.header_problem
            if not self.names:
                return
        names = self.names or []
        while found := self._record():
            line, cells = found
            if isinstance(cells, Problem):
                yield line, cells
            elif len(cells) == len(names):
                if len(cells) > 1 and not any(cells):
                    continue  # ";;;" as spreadsheets write for empty rows
                if cells != [""]:
                    yield line, dict(zip(names, cells, strict=True))
            elif any(cells):
                yield (
                    line,
                    Problem(
                        "wrong-columns",
                        f"it has {len(cells)} values, and the first line names {len(names)} columns",
                        "put text with the separator in it into quotes",
                    ),
                )
