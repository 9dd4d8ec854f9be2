"""The rows of a data file of any size, for a screen: read and rendered in threads, a page at a time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LabError
from core.language import _
from core.language import shown as in_use
from core.text import visible
from tui.screens.data.pages import PageCache

if TYPE_CHECKING:
    from core.data.pager import RowPager
    from core.data.preview import Previewer
    from core.data.split import HeldOut
    from core.data.types import Row

SAMPLE = 1_000
"""Rows from which names, mapping and template are judged, as :data:`core.data.plan.SAMPLE`."""
CELL = 160
_TOLD_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row as the list shows it.

    Attributes:
        row: as it was read; ``row.line`` is 0 where nobody has counted the lines yet.
        cells: the beginning of each field, on one line.
        problem: why it cannot be used, empty when it can.
        held_out: whether it is kept for measuring.
    """

    row: Row
    cells: tuple[str, ...]
    problem: str
    held_out: bool


@dataclass(frozen=True, slots=True)
class View:
    """By what rows are judged: the recipe's template, and which questions are held out."""

    previewer: Previewer | None = None
    held_out: HeldOut | None = None

    @property
    def used(self) -> frozenset[str] | None:
        """The columns that reach the model; None where that is not known."""
        plan = self.previewer.plan if self.previewer is not None else None
        return plan.used if plan is not None else None

    def ordered(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Those first that reach the model: of a wide file the list shows what is learnt, and not its numbers."""
        used = self.used
        return tuple(columns if used is None else sorted(columns, key=lambda name: name not in used))


class RowSource:
    """An open data file. Made in a thread: opening takes the start of a process, some tenths of a second.

    Attributes:
        count, exact: how many rows there are, and whether that is counted or estimated.
        bytes: the size of the file; 0 of a folder.
        sample: the fields of the first rows.
        unreadable: what is wrong with the very first of them.
        columns: the names of their fields.
        problem: why the file cannot be read any more.

    Args:
        changed: called in other threads when pages, the count or ``problem`` are new.

    Raises:
        LabError: there is no such file, or it cannot be read.
    """

    def __init__(self, path: Path, changed: Callable[[], object]) -> None:
        from core.data.examples import no_rows
        from core.data.pager import RowPager

        self.path = path
        self.stamp = stamp(path)
        self.bytes = path.stat().st_size if path.is_file() else 0
        self.view = View()
        self.problem: LabError | None = None
        self._changed = changed
        self._stop = threading.Event()
        self._pager: RowPager = RowPager(path)
        try:
            first = self._pager.rows(0, SAMPLE)
            self.sample = [row.fields for row in first if row.fields is not None]
            self.unreadable = first[0].problem if first else no_rows(self.bytes)
            self.count, self.exact = self._pager.count_estimate()
        except BaseException:  # whatever ends this, the pager's process shall not outlive it
            self._pager.close()
            raise
        self.columns = tuple(dict.fromkeys(str(name) for fields in self.sample for name in fields))
        self.pages: PageCache[ShownRow] = PageCache(self._load, changed)
        self._told = 0.0
        threading.Thread(target=self._index, name="index", daemon=True).start()

    def look_by(self, view: View) -> None:
        """Judge the rows anew; those on the screen stay until that is done."""
        self.view = view
        self.pages.outdated()

    def close(self) -> None:
        """Close the file. May wait for what is being read, and so belongs into a thread."""
        self._stop.set()
        self.pages.close()
        self._pager.close()

    def _index(self) -> None:
        try:
            self._pager.index(self._progress, self._stop.is_set)
            if self._stop.is_set():
                return
            self.count, self.exact = self._pager.count_estimate()
            self.pages.outdated()  # what was shown from about there can be read exactly now
        except (LabError, OSError, ValueError) as error:
            if not self._stop.is_set():
                self.problem = error if isinstance(error, LabError) else _unreadable(self.path, error)
        self._changed()

    def _progress(self, done: int, total: int) -> None:
        if time.monotonic() - self._told > _TOLD_EVERY_S and not self._stop.is_set():
            self._told = time.monotonic()
            self.count, self.exact = self._pager.count_estimate()
            self._changed()

    def _load(self, start: int, count: int) -> tuple[Sequence[ShownRow], bool]:
        try:
            if start == 0:
                rows, sure = self._pager.rows(0, count), True
            else:
                rows, sure = self._pager.rows_near(start, count)
        except (LabError, OSError, ValueError) as error:
            if not self._stop.is_set():
                self.problem = error if isinstance(error, LabError) else _unreadable(self.path, error)
            return [], True
        view = self.view
        columns = view.ordered(self.columns)
        return [shown(row, view, columns) for row in rows], sure

    def find(self, file: str, row: int) -> int | None:
        """The number, from 0, of a file's row, from 1; None if there is none.

        Waits for the index where it must, and so belongs into a thread.
        """
        return self._pager.number_of(file, row)


def stamp(path: Path) -> tuple[object, ...]:
    """What changes when a file does; of a folder only itself is looked at."""
    try:
        found = path.stat()
    except OSError:
        return (str(path),)
    return (str(path), found.st_mtime_ns, found.st_size)


def shown(row: Row, view: View, columns: Sequence[str]) -> ShownRow:
    """A row with what there is to say of it. Quick, also for very long rows: cells are cut first."""
    problem, held_out = "", row.held_out
    if row.problem is not None:
        problem = in_use(row.problem.words)
    elif view.previewer is not None and view.previewer.plan is not None and row.fields is not None:
        record = view.previewer.plan.convert(row.fields)
        if isinstance(record, list):
            problem = "; ".join(in_use(each.words) for each in record)
        elif view.held_out is not None and not held_out:
            held_out = view.held_out.holds(record.prompt)
    fields: Mapping[str, Any] = row.fields or {}
    cells = tuple(brief(fields.get(name)) for name in columns[:4])
    return ShownRow(row, cells, problem, held_out)


def brief(value: Any) -> str:
    """The beginning of a field on one line."""
    return visible(as_text(value)[: 4 * CELL]).replace("\n", " ").strip()[:CELL]


def as_text(value: Any) -> str:
    """A field as text: the turns of a conversation one by one, other values as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        said = [_turn(turn) for turn in value]
        if all(said):
            return "\n".join(said)
    return json.dumps(value, ensure_ascii=False, default=str)


def _turn(turn: Mapping[str, Any]) -> str:
    who = next((turn[key] for key in ("role", "from", "speaker") if isinstance(turn.get(key), str)), "")
    what = next((turn[key] for key in ("content", "value", "text") if isinstance(turn.get(key), str)), "")
    return f"{who}: {what}" if who else ""


def _unreadable(path: Path, error: Exception) -> LabError:
    from core.errors import RequestError

    return RequestError(_("The data file cannot be read."), f"{path}: {error}.")
