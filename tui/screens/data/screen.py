"""The data screen: its widgets, and the one place where the state is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import ScreenResume
from textual.message import Message
from textual.widgets import Input

from core.errors import LabError
from core.language import N_, _
from core.text import clean
from tui.figures import counted
from tui.keys import DATA
from tui.layout import ROOMY
from tui.screens.base import StepScreen
from tui.screens.data.controller import DataController, DataState
from tui.screens.data.formats import (
    bad_words,
    blocking,
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
    where,
)
from tui.screens.dialogs import ErrorScreen
from tui.steps import steps
from tui.theme import QUIET, focus_style
from tui.widgets.button import Button
from tui.widgets.form import Form
from tui.widgets.plain_list import PlainList
from tui.widgets.problem import ProblemBox
from tui.widgets.rail import Word
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain, entitle

if TYPE_CHECKING:
    from core.data.clean import Cleaned
    from core.recipe import Recipe
    from tui.snapshot import Snapshot

_WAIT_S = 0.3


def _found(counts: Mapping[str, int]) -> Word:
    if bad := blocking(counts):
        return Word(bad_words(bad), "failed")
    findings = sum(counts.values())
    return Word(_("{count} found", count=findings), "found") if findings else Word("OK", "done")


class DataScreen(StepScreen):
    """File, template and fields on top; rows or findings on the left, the chosen one whole on the right."""

    NAME = "data"
    LABELS: ClassVar[Mapping[str, str]] = {"run": N_("Check")}
    CSS_PATH = "data.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [action.binding() for action in DATA]
    MAIN = ("data.file", "data.template")
    MORE = (
        "data.prompt_field",
        "data.response_field",
        "data.messages_field",
        "data.label_field",
        "data.rejected_field",
        "data.eval_fraction",
        "data.max_seq_len",
        "data.answer_only",
        "data.seed",
    )

    class Due(Message):
        """Something is to be done in the screen's own thread."""

        def __init__(self, work: Callable[[], None]) -> None:
            super().__init__()
            self.work = work

    def __init__(self) -> None:
        super().__init__()
        self.facts = Plain("Reading …", id="facts")
        self.checked = Plain("", id="checked")
        self.problem = ProblemBox(id="problem")
        self.columns = Plain("", id="columns")
        self.rows = PlainList(id="rows", empty=_("No records."))
        self.found = PlainList(id="found", empty=_("No findings."))
        self.whole = Plain(id="whole")
        self._form: Form | None = None
        self._controller: DataController | None = None
        self._typing: Any = None
        self._marked = 0
        self._shown: object = None
        self._drawn = DataState()
        self._offered: tuple[object, ...] = ()

    @property
    def form(self) -> Form:
        """The form."""
        if self._form is None:
            self._form = Form(self.session.recipe(), self.MAIN, self.MORE)
            self._form.add_class("framed")
            self._form.border_title = _("Settings")
        return self._form

    @property
    def controller(self) -> DataController:
        """What the screen knows and does."""
        if self._controller is None:
            self._controller = DataController(self.session, _in_thread, self._in_screen, self.draw)
        return self._controller

    @property
    def state(self) -> DataState:
        """All that is shown."""
        return self.controller.state

    def _in_screen(self, work: Callable[[], None]) -> None:
        if self.is_running:
            self.post_message(self.Due(work))

    def on_data_screen_due(self, event: Due) -> None:
        """Do it."""
        event.stop()
        if self.is_mounted:
            event.work()

    def body(self) -> ComposeResult:
        yield self.form
        yield self.facts
        yield self.checked
        yield self.problem
        with FlowingRow(classes="buttons"):
            yield Button(_("Use the proposal"), id="accept", key="a", primary=True)
            yield Button(_("Next: {title}", title=steps()[2].title), id="next", key="F4", primary=True)
            yield Button(_("Check"), id="run", key="F8")
            yield Button(_("Stop"), id="stop", key="F9")
            yield Button(_("Browse"), id="browse", key="o")
            yield Button(_("Go to"), id="goto", key="g")
            yield Button(_("Findings"), id="findings", key="f")
            yield Button(_("Write a clean copy"), id="clean", key="w")
        yield self.command

    def side(self) -> ComposeResult:
        with Horizontal(id="records"):
            with Vertical(id="left", classes="framed"):
                yield self.columns
                yield self.rows
                yield self.found
            with VerticalScroll(id="detail", classes="framed", can_focus=True), Vertical(id="detail-inner"):
                yield self.whole

    def on_mount(self) -> None:
        """Open the file, and check it all."""
        for name in ("accept", "findings", "clean", "stop"):
            self.query_one(f"#{name}", Button).display = False
        self.set_interval(_WAIT_S, self.controller.follow)
        self.look()

    def on_screen_resume(self, event: ScreenResume) -> None:
        """The file may have been changed meanwhile, or be there now."""
        if self._controller is not None and self.controller.outdated:
            self.look()

    def on_unmount(self) -> None:
        """Let go of the file and the check."""
        self.controller.close()

    def show(self, snapshot: Snapshot) -> None:
        """The recipe may have been changed by hand."""
        self.command.show(self.session.command("data"))
        if self._form is not None and self.session.exists:
            recipe = self.session.recipe()
            self._form.put(recipe)
            self._form.follow(self.session.root, recipe)
        if self.session.broken is not None:
            self.draw()

    def focus_first(self) -> None:
        """On what a person most likely wants: the proposal, where one waits; a file; else the next step."""
        name = "accept" if self.state.proposed else "browse" if self.state.lost else "next"
        self.set_focus(self.query_one(f"#{name}", Button))

    def look(self) -> None:
        """Show what stands in the form."""
        try:
            recipe = self.recipe()
        except LabError as error:
            self.controller.refuse(error)
        except ValueError:
            return  # the field itself says what is wrong
        else:
            self.controller.look(recipe)

    def recipe(self) -> Recipe:
        """The recipe with what stands in the form. Raises ValueError or LabError."""
        return self.session.recipe().with_values(self.values())

    def values(self) -> dict[str, Any]:
        """What stands in the form. Raises ValueError."""
        return self.form.values()

    # Drawing

    def lay_out(self) -> None:
        """Figures and lists are written by the width."""
        self.form.show_all(self.size.height >= ROOMY)
        self.draw()

    @property
    def place_for_about(self) -> str:
        return "main" if self.in_columns else ""

    def draw(self) -> None:
        """Draw the state, all of it."""
        if not self.is_mounted:
            return
        state, before = self.state, self._drawn
        self._drawn = state
        if state.report is not None and state.report is not before.report:
            self.olive.note("data", _found(state.report.get("counts") or {}))
        elif state.trouble is not None and state.trouble is not before.trouble and state.proposed is None:
            self.olive.note("data", Word("FAIL", "failed"))
        offered = (state.checking, state.proposed, self._may_check)
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()
        self._draw_problem(state, before)
        self._draw_figures(state)
        self._draw_lists(state)
        self._draw_whole(state)

    def _draw_problem(self, state: DataState, before: DataState) -> None:
        """What is wrong, and the proposal where there is one."""
        trouble = self.session.broken or state.trouble
        told = trouble.as_dict() if trouble is not None else None
        if told is not None and state.proposed is not None:
            told = proposal_error(told, state.proposed)
        self.problem.tell(told, _("CONFIRM") if state.proposed else "FAIL")
        self.query_one("#accept", Button).display = state.proposed is not None
        # With the findings before one's eyes a clean copy is what is near; all would not fit into 80 columns.
        clean_copy = state.listing and self.controller.cleanable
        self.query_one("#clean", Button).display = clean_copy
        self.query_one("#browse", Button).display = not clean_copy
        self.query_one("#next", Button).set_class(told is None, "-primary")
        self.query_one("#browse", Button).set_class(state.lost, "-primary")
        self.query_one("#goto", Button).display = state.proposed is None and not clean_copy
        run, stop = self.query_one("#run", Button), self.query_one("#stop", Button)
        run.display, stop.display = self._may_check, state.checking
        if self.focused in (run, stop) and not self.focused.display:
            self.set_focus(stop if run is self.focused else run)  # it stands in the same place
        findings = self.query_one("#findings", Button)
        findings.display = state.findings > 0 and state.proposed is None
        findings.label(_("Rows") if state.listing else _("Findings"))
        asked = [(each.proposed is not None, each.lost) for each in (state, before)]
        here = self.focused.id if self.focused is not None else ""
        if here in ("accept", "next", "browse") and self.is_current and asked[0] != asked[1]:
            self.focus_first()  # what Enter should do has changed

    def _draw_figures(self, state: DataState) -> None:
        """Counts and lengths; how far the check is, or what it found."""
        wide = self.room
        source, report = state.source, state.report
        if report is not None:
            self.facts.show(report_lines(report, self.session.recipe(), wide))
            listed = state.listing or state.proposed is not None
            self.checked.show(counts_line(report.get("counts") or {}, listed))
        elif source is not None:
            self.facts.show(file_line(state.count, state.exact, source.bytes, source.columns))
            warned = ""
            if state.checking and state.survey is not None:
                self.checked.show(progress_line(state.survey, wide))
            elif state.survey is not None and state.survey.state == "cancelled":
                warned = _("Checking was stopped. F8 starts it again.")
            elif not self.controller.kept and not state.opening:
                warned = _("F8 keeps these settings and checks all rows.")
            if not state.checking:
                self.checked.show(Content.styled(warned, "$text-warning"))
        else:
            self.facts.show("Reading …" if state.opening else "")
            self.checked.show("")
        crowded = state.proposed is not None and self.has_class("-low")
        self.checked.display = bool(self.checked.text) and not crowded
        self.facts.display = bool(self.facts.text) and not crowded

    def _draw_lists(self, state: DataState) -> None:
        """The rows, or the findings."""
        self.set_class(state.listing, "-findings")
        entitle(self.query_one("#left"), _("Findings") if state.listing else _("Records"))
        source = state.source
        many = source is not None and source.path.is_dir()
        marked = source.pages.get(state.marked) if source is not None and state.count else None
        # A row may stand far below its number, where rows go over several lines.
        longest = len(where(marked.row.line, marked.row.number)) if marked is not None and not many else 0
        digits = max(2, len(str(state.count)) + (not state.exact), longest)

        def line(index: int) -> Content:
            assert source is not None
            row = source.pages.get(index)
            return row_line(row, index, source.pages.sure(index), self.rows.size.width - 2, digits, many)

        self.rows.show(state.count, line)
        if state.marked != self._marked:
            self._marked = state.marked
            self.rows.go(state.marked)
        if source is not None:
            room = max(10, self.rows.size.width - 2 - digits - 1)
            head = Content("").join(
                side_by_side([clean(name) for name in source.view.ordered(source.columns)[:4]], room)
            )
            word = _("row") if many else _("line")
            room = digits + 2  # of the mark and the numbers
            number = Content.styled(f"{word if len(word) <= room else '':>{room}} ", QUIET)
            self.columns.show(number + head.stylize(f"bold {QUIET}"))
        finding = self.controller.finding
        self.found.show(state.findings, lambda index: finding_line(finding(index), index, many, digits))

    def _draw_whole(self, state: DataState) -> None:
        """The marked finding or row whole, where it is another one than was drawn: it may be long."""
        finding = self.controller.finding(state.marked_finding) if state.listing else None
        if state.listing and finding is None:
            return
        # Where no colour tells, the first line does, as the marked one of a list does.
        marked = self.app.current_theme.ansi and self.query_one("#detail").has_focus
        shown = (finding, state.whole, state.count, state.exact, state.jumped, state.proposed, marked)
        if shown == self._shown:
            return
        self._shown = shown
        text = row_text(state) if state.whole is not None else Content("")
        if finding is not None:
            text = finding_text(finding)
        self.whole.show(
            text.stylize(focus_style(self.app), 0, (text.plain + "\n").index("\n")) if marked else text
        )

    def on_descendant_focus(self) -> None:
        """The marked record is marked, where it is scrolled."""
        self._draw_whole(self.state)

    def on_descendant_blur(self) -> None:
        """And no more."""
        self._draw_whole(self.state)

    # Moving about

    def on_plain_list_moved(self, event: PlainList.Moved) -> None:
        """Show the marked row or finding whole."""
        event.stop()
        self.query_one("#detail", VerticalScroll).scroll_home(animate=False)
        if event.source is self.found:
            self.controller.mark_finding(event.index)
        else:
            self._marked = event.index
            self.controller.mark(event.index)

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Enter on a finding goes to its row; on a row, to the whole of it."""
        event.stop()
        if event.source is not self.found:
            self.set_focus(self.query_one("#detail", VerticalScroll))
            return
        finding = self.controller.finding(event.index)
        if finding is None:
            return
        if finding.file == "lab.toml":
            self.controller.list_findings(False)
            self.set_focus(self.form.fields["data.template"].control)
            return

        def found(there: bool) -> None:
            if there:
                self.set_focus(self.rows)
            else:
                self.notify(_("No row begins at line {line}.", line=finding.line), markup=False, timeout=4)

        self.controller.look_up(finding, found)

    def action_goto(self) -> None:
        """Ask for a row's number."""
        from tui.screens.go_to import GoToScreen

        if self.state.count:
            self.app.push_screen(GoToScreen(self.state.count, self.state.exact), self._goto)

    def _goto(self, row: int | None) -> None:
        if row is not None:
            self.controller.go(row - 1)
            self.set_focus(self.rows)

    def action_findings(self) -> None:
        """Show the findings in place of the rows, or the rows again."""
        if self.state.findings:
            self.controller.list_findings(not self.state.listing)
            self.set_focus(self.found if self.state.listing else self.rows)

    # What a person does

    def on_form_edited(self, event: Form.Edited) -> None:
        """Show it at once, when the typing has paused."""
        event.stop()
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(_WAIT_S, self.look)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a field keeps the settings."""
        event.stop()
        self.action_run()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        name = event.button.id
        if name == "next":
            if self.save():
                self.app.run_worker(self.olive.go_to("quantize"))
        elif name in ("run", "stop", "browse", "goto", "findings", "accept", "clean"):
            getattr(self, f"action_{name}")()

    def save(self, more: dict[str, Any] | None = None) -> bool:
        """Write the settings to ``lab.toml``; tells why if they cannot be."""
        try:
            self.session.save({**self.values(), **(more or {})})
        except Exception as error:
            self.app.push_screen(ErrorScreen.of(error))
            return False
        return True

    @property
    def _may_check(self) -> bool:
        """Whether a check would be another than the one that is under way."""
        return not (self.state.checking and self.controller.kept)

    def action_run(self) -> None:
        """Keep the settings and check every row."""
        if self.save():
            self.controller.check_anew()
            self.look()

    def action_stop(self) -> None:
        """Stop the check."""
        self.controller.stop_checking()

    def action_accept(self) -> None:
        """Use what the rows suggest: one choice, kept at once."""
        proposed = self.state.proposed
        if proposed is not None and self.save(settings := proposed.settings()):
            self.form.set(settings)
            self.look()

    def action_clean(self) -> None:
        """Ask which rows a clean copy is to leave out."""
        from core.data.types import BLOCKING
        from tui.screens.data.clean_copy import CleanCopyScreen

        path = self.controller.clean_path()
        if path is None or not self.controller.cleanable:
            return
        counts = (self.state.report or {}).get("counts", {})
        unusable = sum(count for kind, count in counts.items() if kind in BLOCKING)
        asked = CleanCopyScreen(path.name, unusable, self.state.findings - unusable)
        self.app.push_screen(asked, lambda which: self._write_clean(path, which))

    def _write_clean(self, path: Path, which: str | None) -> None:
        from core.data.types import WARNINGS

        if which is not None:
            keep = WARNINGS if which == "unusable" else ()
            self.controller.write_clean(path, keep, self._cleaned)

    def _cleaned(self, done: Cleaned | LabError) -> None:
        """Tell what was written, and ask whether the lab is to go on with it."""
        from tui.screens.data.clean_copy import UseCopyScreen

        if isinstance(done, LabError):
            self.app.push_screen(ErrorScreen.of(done))
            return
        text = _(
            "{kept} in {file}. {left} left out, with the reason, in {other}.",
            kept=counted(done.kept, "row"),
            file=done.path.name,
            left=counted(done.left_out, "row"),
            other=done.left_out_path.name,
        )
        asked = UseCopyScreen(
            _("The clean copy is written."), text, yes=_("Use it"), no=_("Keep the old file"), keys=("u",)
        )
        self.app.push_screen(asked, lambda use: self._picked(done.path) if use else None)

    def action_browse(self) -> None:
        """Pick a file."""
        from core.resources import data_dir
        from tui.screens.pick import PickScreen

        # Where the present file lies; the bundled one lies where nobody keeps their own.
        source = self.state.source
        bundled = source is None or source.path.parent == data_dir()
        start = Path.cwd() if bundled or source is None else source.path.parent
        self.app.push_screen(PickScreen(start if start.is_dir() else self.session.root), self._picked)

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
        words = (self.facts.text, self.checked.text, *self.controller.finding_words())
        self.app.copy_to_clipboard("\n".join(filter(None, words)))
        self.notify(_("Copied (if your terminal allows it)."), markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys for what cannot be done now are not offered."""
        if action == "stop":
            return self.state.checking
        if action == "run":
            return self._may_check
        if action == "accept":
            return self.state.proposed is not None
        if action == "clean":
            return self.controller.cleanable
        return super().check_action(action, parameters)


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="data", daemon=True).start()
