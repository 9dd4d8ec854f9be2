"""Step 2: the records, as they are and as the model will see them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input

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
    unescape,
)
from tui.keys import DATA
from tui.rows import View
from tui.screens.data_base import DataWork
from tui.screens.dialogs import ErrorScreen
from tui.widgets.form import Form
from tui.widgets.plain_list import PlainList
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain
from tui.words import number

if TYPE_CHECKING:
    from core.data.types import Finding
    from core.recipe import Recipe
    from tui.rows import ShownRow
    from tui.snapshot import Snapshot

_WAIT_S = 0.3


class DataScreen(DataWork):
    """File, template and fields on top; rows or findings on the left, the chosen one whole on the right."""

    NAME = "data"
    CSS_PATH = "data.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [action.binding() for action in DATA]
    MAIN = ("data.file", "data.template", "data.chat_template")
    MORE = (
        "data.prompt_field",
        "data.response_field",
        "data.messages_field",
        "data.eval_fraction",
        "data.max_seq_len",
        "data.answer_only",
        "data.seed",
    )

    def __init__(self) -> None:
        super().__init__()
        self.facts = Plain("Reading …", id="facts")
        self.checked = Plain("", id="checked")
        self.problem = Problem(id="problem")
        self.columns = Plain("", id="columns")
        self.rows = PlainList(id="rows", empty="No records.")
        self.found = PlainList(id="found", empty="No findings.")
        self.whole = Plain(id="whole")
        self._form: Form | None = None
        self._timer: Any = None
        self._goal: int | None = None
        self._went: int | None = None
        self._jumped: tuple[int, Finding] | None = None
        self._told: tuple[int, ShownRow, View, bool] | None = None
        self._offered: object = None
        self._asks = (False, False)

    @property
    def form(self) -> Form:
        """The form."""
        if self._form is None:
            self._form = Form(
                self.session.recipe(),
                self.MAIN,
                self.MORE,
                {"data.chat_template": {}},
                ("data.file", "data.template"),
            )
        return self._form

    def body(self) -> ComposeResult:
        yield self.form
        yield self.facts
        yield self.checked
        yield self.problem
        with Horizontal(classes="buttons"):
            yield Push("Use the proposal", id="accept", key="a", primary=True)
            yield Push("Next: Quantize", id="next", key="F4", primary=True)
            yield Push("Check", id="run", key="F8")
            yield Push("Browse", id="browse", key="o")
            yield Push("Go to", id="goto", key="g")
            yield Push("Findings", id="findings", key="f")
        yield self.command
        with Horizontal(id="records"):
            with Vertical(id="left"):
                yield self.columns
                yield self.rows
                yield self.found
            with VerticalScroll(id="detail", can_focus=True), Vertical(id="detail-inner"):
                yield self.whole

    def on_mount(self) -> None:
        """Open the file, and check it all."""
        for name in ("accept", "findings"):
            self.query_one(f"#{name}", Push).display = False
        self.found.display = False
        self.look()

    def show(self, snapshot: Snapshot) -> None:
        """The recipe may have been changed by hand."""
        self.command.show(self.session.command("data"))
        if self._form is not None and self.session.exists:
            self._form.put(self.session.recipe())
        if self.session.broken is not None:
            self.tell_problem()

    def focus_first(self) -> None:
        """On what a person most likely wants: the proposal, where one waits; a file; else the next step."""
        lost = self.source is None and not self.opening
        name = "accept" if self.proposed else "browse" if lost else "next"
        self.set_focus(self.query_one(f"#{name}", Push))

    def recipe(self) -> Recipe:
        """The recipe with what stands in the form. Raises ValueError or LabError."""
        return self.session.recipe().with_values(self.values())

    def values(self) -> dict[str, Any]:
        """What stands in the form. Raises ValueError."""
        values = self.form.values()
        values["data.template"] = unescape(values["data.template"])
        return values

    # What is shown

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

    # Moving about

    def on_plain_list_moved(self, event: PlainList.Moved) -> None:
        """Show the marked row or finding whole."""
        event.stop()
        self.query_one("#detail", VerticalScroll).scroll_home(animate=False)
        if event.source is self.found:
            self.tell_finding(event.index)
            return
        if event.index != self._went:
            self._goal = self._went = None
        self.tell_row(event.index)

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Enter on a finding goes to its row; on a row, to the whole of it."""
        event.stop()
        if event.source is self.found:
            finding = self.finding(event.index)
            if finding is not None and finding.file == "lab.toml":
                self.show_findings(False)
                self.set_focus(self.form.fields["data.template"].control)
            elif finding is not None:
                self.look_up(finding)
        else:
            self.set_focus(self.query_one("#detail", VerticalScroll))

    def on_data_work_found(self, event: DataWork.Found) -> None:
        """The row of a finding."""
        event.stop()
        if event.index is None:
            self.notify(f"No row begins at line {event.finding.line}.", markup=False, timeout=4)
            return
        self._jumped = (event.index, event.finding)
        self.show_findings(False)
        self.go(event.index)
        self.set_focus(self.rows)

    def go(self, index: int) -> None:
        """Mark a row by its number from 0; one that is not counted yet is gone to when it is."""
        source = self.source
        if source is None or not source.count:
            return
        self._goal = index if index >= source.count and not source.exact else None
        self.rows.show(source.count, self._row_line)
        self._went = max(0, min(index, source.count - 1))
        self.rows.go(self._went)
        self._told = None
        self.tell_row(self.rows.index)

    def action_goto(self) -> None:
        """Ask for a row's number."""
        from tui.screens.go_to import GoToScreen

        if self.source is not None and self.source.count:
            self.app.push_screen(GoToScreen(self.source.count, self.source.exact), self._goto)

    def _goto(self, row: int | None) -> None:
        if row is not None:
            self.show_findings(False)
            self.go(row - 1)
            self.set_focus(self.rows)

    def action_findings(self) -> None:
        """Show the findings in place of the rows, or the rows again."""
        if self.finding_count:
            self.show_findings(not self.found.display)
            self.set_focus(self.found if self.found.display else self.rows)

    def show_findings(self, wanted: bool) -> None:
        """Show findings, or rows."""
        if self.found.display != wanted:
            self.found.display = wanted
            self.rows.display = self.columns.display = not wanted
            self._told = None
            self.tell()

    # What a person does

    def on_form_edited(self, event: Form.Edited) -> None:
        """Show it at once, when the typing has paused."""
        event.stop()
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_WAIT_S, self.look)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a field keeps the settings."""
        event.stop()
        self.action_run()

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        name = event.push.id
        if name == "next":
            if self.save():
                self.app.run_worker(self.olive.go_to("quantize"))
        elif name in ("run", "browse", "goto", "findings", "accept"):
            getattr(self, f"action_{name}")()

    def save(self, more: dict[str, Any] | None = None) -> bool:
        """Write the settings to ``lab.toml``; tells why if they cannot be."""
        try:
            self.session.save({**self.values(), **(more or {})})
        except Exception as error:
            self.app.push_screen(ErrorScreen.of(error))
            return False
        return True

    def action_run(self) -> None:
        """Keep the settings and check every row."""
        if self.save():
            self.check_anew()
            self.look()

    def action_accept(self) -> None:
        """Use what the rows suggest: one choice, kept at once."""
        if self.proposed is None:
            return
        if self.save(settings := self.proposed.settings()):
            self.form.set(settings)
            self.look()

    def action_browse(self) -> None:
        """Pick a file."""
        from tui.screens.pick import PickScreen

        start = self.source.path.parent if self.source is not None else self.session.root
        self.app.push_screen(PickScreen(start if start.is_dir() else Path.cwd()), self._picked)

    def _picked(self, path: Path | None) -> None:
        if path is None:
            return
        root = self.session.root
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        self.form.set({"data.file": name})
        if self.save():
            self.look()

    def action_copy_report(self) -> None:
        """Copy what was found, as text."""
        self.app.copy_to_clipboard(
            "\n".join(part for part in (self.facts.text, self.checked.text, *self.finding_words()) if part)
        )
        self.notify("Copied (if your terminal allows it).", markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys for what cannot be done now are not offered."""
        if action == "stop":
            return self.checking
        if action == "accept":
            return self.proposed is not None
        return super().check_action(action, parameters)

    def on_unmount(self) -> None:
        """Let go of the file, and end the checking: it is of no use any more."""
        source, self.source = self.source, None
        if source is not None:
            threading.Thread(target=source.close, daemon=True).start()
        self.end_survey()
