"""What the data screen shows: the trouble or the proposal, the figures, the list, the marked row."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from textual.content import Content

from core.formats import number
from core.text import clean
from tui.data_words import (
    QUIET,
    counts_line,
    file_line,
    finding_line,
    finding_text,
    progress_line,
    proposal_error,
    report_lines,
    row_line,
    row_text,
    side_by_side,
)
from tui.rows import View
from tui.screens.data_base import DataWork
from tui.widgets.plain_list import PlainList
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.data.types import Finding
    from tui.rows import ShownRow

_WAIT_S = 0.3


class DataView(DataWork):
    """The widgets, and what stands in them."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = Plain("Reading …", id="facts")
        self.checked = Plain("", id="checked")
        self.problem = Problem(id="problem")
        self.columns = Plain("", id="columns")
        self.rows = PlainList(id="rows", empty="No records.")
        self.found = PlainList(id="found", empty="No findings.")
        self.whole = Plain(id="whole")
        self._goal: int | None = None
        self._went: int | None = None
        self._jumped: tuple[int, Finding] | None = None
        self._told: tuple[int, ShownRow, View, bool] | None = None
        self._offered: object = None
        self._asks = (False, False)

    def tell(self) -> None:
        """Show everything anew, as far as it changed."""
        if not self.is_mounted:
            return
        self.tell_problem()
        self.tell_figures()
        self.tell_rows()

    def tell_problem(self) -> None:
        """What is wrong, and the proposal where there is one."""
        problem = self.trouble()
        proposed = self.proposed
        if problem is not None and proposed is not None:
            problem = proposal_error(problem, proposed)
        self.problem.tell(problem, "CONFIRM" if proposed else "FAIL")
        self.query_one("#accept", Push).display = bool(proposed)
        self.query_one("#goto", Push).display = not proposed
        here = self.focused.id if self.focused is not None else ""
        if here in ("accept", "next", "browse") and self.is_current and self._asks != self._asked():
            self.focus_first()  # what Enter should do has changed
        self._asks = self._asked()

    def _asked(self) -> tuple[bool, bool]:
        return self.proposed is not None, self.source is None

    def tell_figures(self) -> None:
        """Counts and lengths; how far the checking is, or what it found."""
        if self._offered != (self.checking, self.proposed is not None):
            self._offered = (self.checking, self.proposed is not None)
            self.refresh_bindings()
        wide = max(40, self.size.width - 6)
        source, report, state = self.source, self.report, self.state
        if report is not None:
            self.facts.show(report_lines(report, self.session.recipe(), wide))
        elif source is not None:
            self.facts.show(file_line(source.count, source.exact, source.bytes, source.columns))
        else:
            self.facts.show("Reading …" if self.opening else "")
        if report is not None:
            self.checked.show(counts_line(report.get("counts") or {}))
        elif self.checking and state is not None:
            self.checked.show(progress_line(state, wide))
        elif state is not None and state.state == "cancelled":
            self.checked.show(Content.styled("Checking was stopped. F8 starts it again.", "$text-warning"))
        elif source is not None and not self.kept and not self.opening:
            self.checked.show(Content.styled("F8 keeps these settings and checks all rows.", "$text-warning"))
        else:
            self.checked.show("")
        crowded = self.proposed is not None and self.has_class("-low")
        self.checked.display = bool(self.checked.text) and not crowded
        self.facts.display = bool(self.facts.text) and not crowded
        push = self.query_one("#findings", Push)
        push.display = self.finding_count > 0 and self.proposed is None
        push.label("Rows" if self.found.display else "Findings")
        if self.found.display and not self.finding_count:
            self.show_findings(False)

    def tell_rows(self) -> None:
        """The list, and the marked row where it is another one than was shown."""
        source = self.source
        self.rows.show(source.count if source is not None else 0, self._row_line)
        if source is not None:
            room = max(10, self.rows.size.width - 2 - self._digits - 1)
            head = Content("").join(side_by_side([clean(name) for name in source.columns[:4]], room))
            self.columns.show(
                Content.styled(f"{'line':>{self._digits + 2}} ", QUIET) + head.stylize("bold $foreground 60%")
            )
            if self._goal is not None and source.exact:
                self.go(self._goal)
        if self.found.display:
            self.found.show(self.finding_count, self._finding_line)
            self.tell_finding(self.found.index)
        else:
            self.tell_row(self.rows.index)

    @property
    def _digits(self) -> int:
        return max(5, len(str(self.source.count)) + (not self.source.exact)) if self.source else 5

    def _row_line(self, index: int) -> Content:
        assert self.source is not None
        row = self.source.pages.get(index)
        wide = self.rows.size.width - 2
        return row_line(row, index, self.source.pages.sure(index), wide, self._digits)

    def _finding_line(self, index: int) -> Content:
        many = self.source is not None and self.source.path.is_dir()
        return finding_line(self.finding(index), index, many)

    def tell_row(self, index: int) -> None:
        """Show a row whole; rendered in a thread, as it may be long."""
        row = self.source.pages.get(index) if self.source is not None and self.source.count else None
        if row is None:
            if self.source is None or not self.source.count:
                self._told = None
                self.whole.show("")
            return
        told = (index, row, self.view, self.source is not None and self.source.exact)
        if self._told != told:
            self._told = told
            self.render_row(index, row, self.view)

    def on_data_work_rendered(self, event: DataWork.Rendered) -> None:
        """A row was put through the template."""
        event.stop()
        if self._told is None or self._told[:3] != (event.index, event.row, event.view):
            return
        self.whole.show(
            row_text(
                event.row,
                event.seen,
                self._where(event.index, event.row),
                self._note(event.index),
                proposed=self.proposed is not None,
            )
        )

    def _where(self, index: int, row: ShownRow) -> str:
        source = self.source
        assert source is not None
        total = f"{'' if source.exact else 'about '}{number(source.count)}"
        line = f", line {row.row.line}" if row.row.line else ", just about there"
        file = f" of {row.row.file}" if source.path.is_dir() else ""
        return f"Row {number(index + 1)} of {total}{line}{file}"

    def _note(self, index: int) -> str:
        if self._jumped is None or self._jumped[0] != index:
            return ""
        finding = self._jumped[1]
        return f"{finding.kind}: {finding.message}. What to do: {finding.fix}."

    def tell_finding(self, index: int) -> None:
        """Show a finding whole."""
        finding = self.finding(index)
        self._told = None
        if finding is not None:
            self.whole.show(finding_text(finding))

    @abstractmethod
    def go(self, index: int) -> None:
        """Mark a row by its number from 0."""

    @abstractmethod
    def show_findings(self, wanted: bool) -> None:
        """Show findings, or rows."""
