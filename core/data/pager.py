"""Any page of a data file of any size and form, for a screen: an index made in a process of its own.

Reading parses text and loads pyarrow, which is not for the process that draws the screen.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from core.data.reader import RowIndex
from core.data.types import Problem, Quote, Row
from core.errors import LabError, RequestError, text_as_plain, text_from_plain
from core.language import told
from core.process import Child, Message, Request, serve

PAGE = 200
"""Rows of a page."""
_SLICE = 0.05
_WHOLE = 1 << 24
"""Characters of a page's rows that are sent whole; of the rows behind that the beginnings of texts and lists are."""
_PIECE, _PIECES = 1_000, 100


class RowPager:
    """The rows of a file or folder by number, from 0.

    Opening takes a fraction of a second at any size. `rows` may be called from any thread, also while `index`
    runs in another. Use it as a context manager, or close it.

    Attributes:
        files: the names of the files (or lists in one) whose rows these are, in their order.

    Raises:
        RequestError: there is no such file, or a folder without data files.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise RequestError(
                told("The data file does not exist."),
                told("{path}", path=path),
                told("Set data.file in lab.toml."),
                code="data.missing",
            )
        self._path = path
        self._closed = False
        self._child = Child("core.data.pager", str(path), what=told("The process that reads the data"))
        try:
            self.files = [str(name) for name in self._ask("files")["files"]]
        except BaseException:  # Ctrl-C too: nobody has this object yet who could end its process
            self._child.close(0)
            raise

    def __enter__(self) -> RowPager:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, what: str, **more: Any) -> Message:
        return self._child.ask({"what": what, **more})

    def rows(self, start: int, count: int = PAGE) -> list[Row]:
        """At most `count` rows from number `start`; fewer at the end. A broken row has a `problem`.

        Where the index is not there yet, it is made up to `start` first: some seconds a gigabyte.

        Raises:
            LabError: the file cannot be read any more.
        """
        answer = self._ask("rows", start=max(0, start), count=max(0, count))
        return [_row(each) for each in answer["rows"]]

    def rows_near(self, start: int, count: int = PAGE) -> tuple[list[Row], bool]:
        """As `rows`, but never waiting for the index: what a screen shows while one jumps about.

        True: these are the rows. False: the index is not there yet; these are rows from about that
        place with `line` 0 (plain JSON Lines), or none at all (other forms). Ask again later.
        """
        answer = self._ask("near", start=max(0, start), count=max(0, count))
        return [_row(each) for each in answer["rows"]], bool(answer["sure"])

    def number_of(self, file: str, row: int) -> int | None:
        """The number of a row that a finding names, by its file and its number in there from 1; None: there is none.

        Makes the index up to there first.
        """
        found = self._ask("number", file=file, row=row)["number"]
        return None if found is None else int(found)

    def count_estimate(self) -> tuple[int, bool]:
        """How many rows there are, and whether that is exact or estimated from the indexed part."""
        answer = self._ask("index")
        return int(answer["rows"]), bool(answer["exact"])

    def index(
        self, progress: Callable[[int, int], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> int:
        """Index the whole file, for a thread in the background; returns the rows indexed.

        Args:
            progress: called some twenty times a second with bytes done and bytes in all.
            stop: asked as often; indexing ends when it says true, or when the pager is closed.
        """
        while True:
            try:
                answer = self._ask("index", seconds=_SLICE)
            except LabError:
                if self._closed:
                    return 0
                raise
            if progress is not None:
                progress(answer["done"], answer["total"])
            if answer["exact"] or (stop is not None and stop()):
                return int(answer["rows"])

    def close(self) -> None:
        """Close the file and end the process that reads it."""
        self._closed = True
        self._child.close(0)


def _row(data: dict[str, Any]) -> Row:
    problem, note = (_problem(data.pop(key)) for key in ("problem", "note"))
    return Row(**data, problem=problem, note=note)


def _problem(data: dict[str, Any] | None) -> Problem | None:
    if not data:
        return None
    place = data["quote"]
    message, fix = text_from_plain(data["message"]), text_from_plain(data["fix"])
    return Problem(data["kind"], message, fix, None if place is None else Quote(*place))


# In the process


def _answer(index: RowIndex, request: Request) -> Message:
    ask = request.ask
    if ask["what"] == "files":
        return {"files": [each.name for each in index.files]}
    if ask["what"] == "rows":
        return {"rows": _sent(index.rows(ask["start"], ask["count"]))}
    if ask["what"] == "near":
        rows, sure = index.near(ask["start"], ask["count"])
        return {"rows": _sent(rows), "sure": sure}
    if ask["what"] == "number":
        return {"number": index.number_of(ask["file"], ask["row"])}
    until = time.monotonic() + ask.get("seconds", 0.0)
    while not index.whole and time.monotonic() < until:
        index.step()
    done, total = index.progress()
    return {"rows": index.estimate(), "exact": index.whole, "done": done, "total": total}


def _sent(rows: list[Row]) -> list[Message]:
    """Rows as they are sent: what JSON does not hold as text, and not more of them than a line may be long."""
    result: list[Message] = []
    left = _WHOLE
    for row in rows:
        data = dataclasses.asdict(row)
        for problem in filter(None, (data["problem"], data["note"])):
            problem |= {key: text_as_plain(problem[key]) for key in ("message", "fix")}
        text = json.dumps(data, default=str)
        if len(text) > left and result:
            text = json.dumps(_cut(data), default=str)
        left -= len(text)
        result.append(json.loads(text))
    return result


def _cut(value: Any) -> Any:
    """The beginnings of what is in a row."""
    if isinstance(value, str) and len(value) > _PIECE:
        return f"{value[:_PIECE]} … ({len(value) - _PIECE:,} characters more)"
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in islice(value.items(), _PIECES)}
    if isinstance(value, list | tuple):
        return [_cut(inner) for inner in value[:_PIECES]]
    return value


def main() -> None:
    """Serve the file named on the command line until nobody asks any more."""
    path = Path(sys.argv[1])
    index = cache(lambda: RowIndex(path))

    def answer(request: Request) -> Message:
        try:
            return _answer(index(), request)
        except OSError as error:
            raise RequestError(
                told("The data file cannot be read."),
                told("{path}: {strerror}.", path=path, strerror=error.strerror or error),
                code="data.unreadable",
            ) from None

    serve(answer, grace_s=0)


if __name__ == "__main__":
    main()
