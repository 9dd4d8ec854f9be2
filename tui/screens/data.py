"""Step 2: the records, as they are and as the model will see them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input

from tui.keys import DATA
from tui.screens.data_base import DataWork
from tui.screens.data_view import DataView
from tui.screens.dialogs import ErrorScreen
from tui.widgets.form import Form
from tui.widgets.plain_list import PlainList
from tui.widgets.push import Push

if TYPE_CHECKING:
    from core.recipe import Recipe
    from tui.snapshot import Snapshot

_WAIT_S = 0.3


class DataScreen(DataView):
    """File, template and fields on top; rows or findings on the left, the chosen one whole on the right."""

    NAME = "data"
    LABELS: ClassVar[Mapping[str, str]] = {"run": "Check"}
    CSS_PATH = "data.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [action.binding() for action in DATA]
    MAIN = ("data.file", "data.template")
    MORE = (
        "data.prompt_field",
        "data.response_field",
        "data.messages_field",
        "data.label_field",
        "data.eval_fraction",
        "data.max_seq_len",
        "data.answer_only",
        "data.seed",
    )

    def __init__(self) -> None:
        super().__init__()
        self._form: Form | None = None
        self._timer: Any = None

    @property
    def form(self) -> Form:
        """The form."""
        if self._form is None:
            self._form = Form(self.session.recipe(), self.MAIN, self.MORE)
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
            recipe = self.session.recipe()
            self._form.put(recipe)
            self._form.follow(self.session.root, recipe)
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
        return self.form.values()

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
