"""CSV records: a header line, then one record each, quoted text over several lines included.

The `csv` module is given one record's lines at a time: an opened quote that is never closed then costs
one record, and the line where it was opened is known.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from typing import IO

from core.data.json_records import LONGEST_RECORD, TOO_LONG, not_utf8
from core.data.types import Problem, quote
from core.language import told

MOST_LINES = 2_000
"""Lines that one quoted text may go over before the quote counts as forgotten."""

csv.field_size_limit(LONGEST_RECORD)

_NUMBER = re.compile(r"[-+]?[\d.,]+%?")


def _is_sentence(cell: str) -> bool:
    """Whether a cell of the first line is more than a name for a column."""
    return len(cell.split()) > 3 or (len(cell.split()) > 1 and cell.rstrip()[-1:] in tuple(".?!؟。？！"))


def wrong_quote(line: str, delimiter: str) -> int:
    """Where the quotes of a line go wrong: behind one that closes in the middle of a text, or at one left open."""
    opened, at = -1, 0
    while at < len(line):
        if opened < 0:
            opened = at if line[at] == '"' and (at == 0 or line[at - 1] in (delimiter, " ")) else -1
        elif line[at] == '"':
            if line[at + 1 : at + 2] == '"':
                at += 1
            elif line[at + 1 : at + 2] not in (delimiter, "\r", "\n", ""):
                return at + 1
            else:
                opened = -1
        at += 1
    return max(0, opened)


class CsvRecords:
    """The records of a CSV file.

    Iterating gives `(line, record or problem)`. `place` is the line and the byte from which a read can go on.
    """

    def __init__(self, stream: IO[bytes], delimiter: str = ",", *, spaced: bool = False) -> None:
        """`spaced`: there are spaces between a separator and the quote behind it."""
        self._stream = stream
        self._delimiter = delimiter
        self._spaced = spaced
        self._line = 0
        self._next = 0
        self._names: list[str] = []
        self._header_problem: Problem | None = None
        self._to_tell: Problem | None = None
        self._read_header()
        self._first = self.place
        self._to_tell = self._header_problem

    def restart(self, line: int, offset: int) -> None:
        """Go on with the record that begins on this line, at this byte."""
        self._to_tell = None if offset else self._header_problem
        self._go_to((line, offset) if offset else self._first)

    @property
    def place(self) -> tuple[int, int]:
        """Line and byte from which a read can go on; (1, 0) is the first record."""
        return (1, 0) if self._to_tell is not None else (self._line + 1, self._next)

    def _read(self) -> bytes:
        """The next line, a longer one than any record as far as that."""
        raw = piece = self._stream.readline(LONGEST_RECORD)
        self._next += len(raw)
        while len(piece) == LONGEST_RECORD and not piece.endswith(b"\n"):
            piece = self._stream.readline(LONGEST_RECORD)
            self._next += len(piece)
        self._line += bool(raw)
        return raw

    def _go_to(self, place: tuple[int, int]) -> None:
        self._stream.seek(place[1])
        self._line, self._next = place[0] - 1, place[1]

    def _record(self) -> tuple[int, list[str] | Problem] | None:
        raw = self._read()
        if not raw:
            return None
        line, behind, unclosed = self._line, self.place, False

        def texts() -> Iterator[str]:
            """Line after line, while a quote is open."""
            nonlocal unclosed
            yield (raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw).decode()
            size = len(raw)
            while self._line < line + MOST_LINES and size < LONGEST_RECORD and (more := self._read()):
                size += len(more)
                yield more.decode()
            unclosed = True

        try:
            rows = csv.reader(texts(), delimiter=self._delimiter, strict=True, skipinitialspace=self._spaced)
            return line, next(rows, [])
        except UnicodeDecodeError as error:
            return line, not_utf8(error.object, error.start, told("a byte of the row"))
        except csv.Error as error:
            self._go_to(behind)
            if len(raw) >= LONGEST_RECORD:
                return line, TOO_LONG
            text = raw.decode("utf-8", "surrogateescape")
            place = quote(text, wrong_quote(text, self._delimiter))
            if unclosed:
                return line, Problem(
                    "broken-csv",
                    told("a quote is opened here and never closed"),
                    told("close the quote"),
                    place,
                )
            return line, Problem(
                "broken-csv",
                told("its quotes are wrong ({error})", error=error),
                told('write a quote inside quoted text as ""'),
                place,
            )

    def _read_header(self) -> None:
        """Read the names of the columns."""
        while not self._names and self._header_problem is None:
            found = self._record()
            if found is None:
                return
            line, cells = found
            if isinstance(cells, Problem):
                self._header_problem = cells
                return
            if line == 1 and len(cells) <= 2 and "".join(cells).lower().startswith("sep="):
                continue
            if any(cell.strip() for cell in cells):
                # Spreadsheets and pandas leave the name of an index or an empty column out.
                self._names = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, 1)]
                twice = next((name for name in self._names if self._names.count(name) > 1), "")
                if twice:
                    self._header_problem = Problem(
                        "broken-csv",
                        told(
                            "the first line names the columns, and {twice} stands there twice",
                            twice=repr(twice),
                        ),
                        told("give each column a name of its own in the first line"),
                    )
                elif any(map(_is_sentence, cells)) and all(
                    _is_sentence(cell) or not cell.strip() or _NUMBER.fullmatch(cell.strip())
                    for cell in cells
                ):
                    self._names = []
                    self._header_problem = Problem(
                        "broken-csv",
                        told("the first line must name the columns, and this one seems to be a record"),
                        told("put a line with names before it, such as question,answer"),
                    )

    def skip(self) -> bool:
        """Pass over a record; False at the end. As a rule its line alone is looked at, which is quicker."""
        if self._to_tell is not None or not self._names:
            return next(iter(self), None) is not None
        nothing = self._delimiter.encode() + b"\r\n"
        while True:
            place = self.place
            raw = self._read()
            if b'"' not in raw:
                if not raw or raw.strip(nothing):
                    return bool(raw)
                continue
            self._go_to(place)
            found = self._record()
            if found is not None and (isinstance(found[1], Problem) or any(found[1])):
                return True

    def __iter__(self) -> Iterator[tuple[int, dict[str, str | None] | Problem]]:
        if self._to_tell is not None:
            said, self._to_tell = self._to_tell, None
            yield self._line, said
        names = self._names
        while names and (found := self._record()):
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
                        told(
                            "it has {count} values, and the first line names {count2} columns",
                            count=len(cells),
                            count2=len(names),
                        ),
                        told("put text with the separator in it into quotes"),
                        quote(self._delimiter.join(cells), len(self._delimiter.join(cells[: len(names)]))),
                    ),
                )
