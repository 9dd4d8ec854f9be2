"""What the screens of quantize, finetune and optimize share: a form, a run, its progress, its result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from core.stages import result_lines
from tui.screens.base import StepScreen
from tui.screens.dialogs import ErrorScreen
from tui.screens.stage_words import columns, headline, measured, obstacle, progress
from tui.steps import steps
from tui.widgets.form import Form
from tui.widgets.log_pane import LogPane
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain
from tui.words import label

if TYPE_CHECKING:
    from tui.log_file import LogFile
    from tui.snapshot import JobView, Snapshot

TALL = 32
"""Lines from which there is room for the two sentences while a job is shown."""


class StageScreen(StepScreen):
    """One stage. A subclass names its options and draws what is its own (:meth:`picture`, :meth:`draw`)."""

    CSS_PATH = "stage.tcss"
    MAIN: ClassVar[Sequence[str]] = ()
    MORE: ClassVar[Sequence[str]] = ()
    LONG: ClassVar[Sequence[str]] = ()
    METRICS: ClassVar[Mapping[str, str]] = {}
    FORCED: ClassVar[bool] = True
    """Whether running again with nothing changed means to do it anew."""

    class Started(Message):
        """The attempt to start or stop a job came to an end."""

        def __init__(self, error: Exception | None) -> None:
            super().__init__()
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self.log_pane = LogPane(id="log")
        self.problem = Problem(id="problem")
        self.headline = Plain(id="headline")
        self.progress = Plain(id="progress")
        self.numbers = Plain(id="numbers")
        self.note = Plain(id="note")
        self._form: Form | None = None
        self._busy = False
        self._log_large = False
        self._settings_wanted: bool | None = None
        self._seen: tuple[str, str] = ("", "")
        self._shown_job = ""

    # What a subclass gives

    def choices(self) -> Mapping[str, Mapping[Any, str]]:
        """Words for the choices of an option."""
        return {}

    def picture(self) -> Widget | None:
        """The stage's own drawing."""
        return None

    def draw(self, view: JobView | None) -> None:
        """Fill the stage's own drawing."""

    def advice(self, values: Mapping[str, Any]) -> str:
        """A line about the settings as they stand: what this choice needs here, how long it takes.

        A value is "auto" only where nobody knows yet what it will be.
        """
        return ""

    # The screen

    @property
    def form(self) -> Form:
        """The form; made from the recipe when it is first needed."""
        if self._form is None:
            self._form = Form(self.session.recipe(), self.MAIN, self.MORE, self.choices(), self.LONG)
        return self._form

    def body(self) -> ComposeResult:
        with Vertical(id="settings"):
            yield self.form
            yield self.note
        with Vertical(id="job"):
            yield self.headline
            yield self.progress
            drawing = self.picture()
            if drawing is not None:
                yield drawing
            yield self.problem
            yield self.numbers
        with Horizontal(classes="buttons"):
            yield Push("Next", id="next", key="F4", primary=True)
            yield Push("Run", id="run", key="F8", primary=True)
            yield Push("Stop", id="stop", key="F9")
            yield Push("Copy error", id="copy-error", key="c")
            yield Push("Settings", id="settings-or-job", key="e")
        yield self.command
        yield self.log_pane

    def on_mount(self) -> None:
        """Let the time that a run has taken go on."""
        self.set_interval(1.0, self._tick)

    def _tick(self) -> None:
        view = self.view
        if view is not None and view.active and self.is_current:
            self._tell_headline(view)

    @property
    def view(self) -> JobView | None:
        """The newest job of this stage."""
        return self.olive.snapshot.jobs.get(self.NAME)

    @property
    def settings_shown(self) -> bool:
        """Whether the form stands in place of the run."""
        if self._settings_wanted is not None:
            return self._settings_wanted
        return self.view is None

    def show(self, snapshot: Snapshot) -> None:
        """Everything from what was read; nothing is remembered from before."""
        view = snapshot.jobs.get(self.NAME)
        if view is not None and view.id != self._shown_job:
            self._shown_job = view.id
            self._settings_wanted = None
            self.olive.watch_log(self.log_pane.open(view.log_path))
        missing = self.missing(snapshot)
        recipe = self.session.recipe()
        self.form.put(recipe)
        self.form.follow(self.session.root, recipe)
        form_shown = self.settings_shown
        self._arrange(form_shown)
        self.command.show(self.session.command("run", self.NAME))
        if view is not None:
            self._tell_headline(view)
            self._tell_progress(view)
            # What was stopped on purpose is no problem.
            self.problem.tell(view.error if view.state in ("failed", "crashed") else None, "")
            self.draw(view)
            self._tell_numbers(view)
        self._tell_note(snapshot)
        self._tell_buttons(view, missing)
        state = (view.id if view else "", (view.state if view else "") + ("" if missing is None else "-"))
        if state != self._seen:
            fresh = self._seen != ("", "")
            self._seen = state
            self.refresh_bindings()
            if fresh and self.is_current:
                self.call_after_refresh(self.focus_first)

    def _arrange(self, form_shown: bool) -> None:
        """Show the form or the run, and the log small, large or not at all.

        Each part is switched by itself: a class on the screen would have Textual style every widget in it
        anew, four times as slow.
        """
        large = self._log_large and self.view is not None
        small = not large
        self.query_one("#settings").display = form_shown and small
        self.query_one("#job").display = not form_shown and small
        self.query_one(".buttons").display = small
        self.command.display = small
        self.query_one(".about").display = small and (form_shown or self.size.height >= TALL)
        self.log_pane.display = large or not form_shown

    def _tell_headline(self, view: JobView) -> None:
        self.headline.show(headline(view, time.time(), bool(self.changed(view))))

    def _tell_progress(self, view: JobView) -> None:
        self.progress.display = view.active or view.state == "cancelled"
        if self.progress.display:
            self.progress.show(progress(view))

    def _tell_numbers(self, view: JobView) -> None:
        if view.state == "succeeded" and view.result:
            self.numbers.show(self.result_text(view.result))
        else:
            self.numbers.show(measured(view, self.METRICS) if view.active else "")
        self.numbers.display = bool(self.numbers.text)

    def result_text(self, result: Mapping[str, Any]) -> Content:
        """The numbers that matter most, in columns; all of them are copied and stand in report.md."""
        return columns(result_lines(self.NAME, result, main=True), max(60, self.size.width - 6))

    def _tell_note(self, snapshot: Snapshot) -> None:
        missing, broken = self.missing(snapshot), self.session.broken
        if broken is not None:
            self.note.show(f"lab.toml cannot be used: {broken.title} {broken.detail} {broken.hint}")
        else:
            self.note.show(obstacle(self.NAME, missing, snapshot.active) or self._advice())
        self.note.set_class(broken is not None or missing is not None, "-stop")

    def _advice(self) -> str:
        view = self.view
        if view is not None and view.state == "succeeded":
            changed = self.changed(view)
            if changed:
                return f"Not as {view.id} ran: {', '.join(changed)}. Run again to have it so."
        try:
            values = self.form.values()
        except ValueError:
            return ""
        resolved = self.form.resolved()
        chosen = () if resolved is None else resolved.chosen
        return self.advice(values | {each.option: each.value for each in chosen if each.value is not None})

    def _tell_buttons(self, view: JobView | None, missing: object) -> None:
        active = view is not None and view.active
        done = view is not None and view.state == "succeeded"
        run = self.query_one("#run", Push)
        run.display = not active
        run.label(self._run_word(view))
        run.set_class(not done, "-primary")
        run.disabled = self._busy or missing is not None
        stop = self.query_one("#stop", Push)
        stop.display = active
        stop.disabled = view is not None and view.state == "cancelling"
        following = self.query_one("#next", Push)
        if missing is not None and not active:
            following.display = True
            following.label(f"Go to {missing.number} {missing.title}")  # type: ignore[attr-defined]
        else:
            following.display = done and self.step.number < len(steps())
            if following.display:
                following.label(f"Next: {steps()[self.step.number].title}")
        self.query_one("#copy-error", Push).display = view is not None and view.state in ("failed", "crashed")
        switch = self.query_one("#settings-or-job", Push)
        switch.display = view is not None
        switch.label("Last run" if self.settings_shown else "Settings")

    def _run_word(self, view: JobView | None) -> str:
        if view is None:
            return f"Run {self.step.title}"
        return {"succeeded": "Run again", "cancelled": "Run again"}.get(view.state, "Try again")

    def focus_first(self) -> None:
        """On Next when the step is done, else on what starts or stops it."""
        order = ("#next", "#run", "#stop")
        for name in order:
            push = self.query_one(name, Push)
            if push.display and not push.disabled:
                self.set_focus(push)
                return

    def log_to_watch(self) -> LogFile | None:
        """The newest job's log."""
        return self.log_pane.lines.log_file

    def log_grew(self) -> None:
        """Draw the new lines."""
        self.log_pane.grown()

    # What a person does

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        name = event.push.id
        if name == "run":
            self.action_run()
        elif name == "stop":
            self.action_stop()
        elif name == "copy-error":
            self.action_copy_report()
        elif name == "settings-or-job":
            self.action_settings()
        elif name == "next":
            missing = self.missing(self.olive.snapshot)
            goal = missing or steps()[min(self.step.number, len(steps()) - 1)]
            self.app.run_worker(self.olive.go_to(goal.name))

    def on_form_edited(self, event: Form.Edited) -> None:
        """Advice follows what is chosen."""
        event.stop()
        self._tell_note(self.olive.snapshot)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Run while it can be run, Stop while it runs."""
        view = self.view if self.is_attached else None
        active = view is not None and view.active
        if action == "run":
            return not active and self.missing(self.olive.snapshot) is None
        if action == "stop":
            return active
        if action in ("log", "settings"):
            return view is not None
        if action == "copy_report":
            return view is not None and not active
        return super().check_action(action, parameters)

    def action_settings(self) -> None:
        """The settings in place of the run, or the run again."""
        self._settings_wanted = not self.settings_shown
        self.refresh_from(self.olive.snapshot)
        if self.settings_shown:
            # Not into a field: the same key must lead back, and not be typed.
            self.set_focus(self.query_one("#settings-or-job", Push))
        else:
            self.focus_first()

    def action_log(self) -> None:
        """The log large, or small again."""
        self._log_large = not self._log_large
        if self._log_large:
            # The focus first: hiding what has it would send it anywhere.
            self.log_pane.display = True
            self.set_focus(self.log_pane.lines)
        self._arrange(self.settings_shown)
        if not self._log_large:
            self.focus_first()
        self.log_pane.grown()

    def action_copy_report(self) -> None:
        """Copy the result or the error."""
        view = self.view
        if view is None:
            return
        if view.error:
            text = "\n".join(str(view.error.get(key, "")) for key in ("title", "detail", "hint"))
        else:
            text = "\n".join(f"{name}: {value}" for name, value in result_lines(self.NAME, view.result or {}))
        self.app.copy_to_clipboard(text)
        self.notify("Copied (if your terminal allows it).", markup=False)

    def action_run(self) -> None:
        """Save the settings and start the job."""
        if self._busy:
            return
        wrong = self.form.first_wrong()
        if wrong is not None:
            if not self.settings_shown:
                self.action_settings()
            wrong.control.focus()
            return
        self._busy = True
        view = self.view
        # The same settings would give the same result at once; "Run again" on a finished step means it.
        again = self.FORCED and view is not None and view.state == "succeeded" and not self.changed(view)
        self._start(self.form.values(), force=again)
        self.headline.show("Starting …")

    def changed(self, view: JobView) -> list[str]:
        """The settings of this step that are not what the job ran with."""
        spec = view.spec.get("recipe", {})
        found = []
        try:
            values = self.form.values()
        except ValueError:
            return []
        for name, value in values.items():
            section, _, key = name.partition(".")
            if spec.get(section, {}).get(key, value) != value:
                found.append(label(key))
        return found

    @work(thread=True, exit_on_error=False, group="start")
    def _start(self, values: dict[str, Any], force: bool) -> None:
        try:
            self.session.save(values)
            lab = self.session.lab()
            from core.check import require

            require(lab, [self.NAME])
            lab.start(self.NAME, force=force)
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.post_message(self.Started(error))
        else:
            self.post_message(self.Started(None))

    def action_stop(self) -> None:
        """Ask the job to stop."""
        view = self.view
        if view is not None and view.active and view.state != "cancelling":
            self._stop(view.id)

    @work(thread=True, exit_on_error=False, group="start")
    def _stop(self, job: str) -> None:
        try:
            self.session.lab().job(job).cancel()
        except Exception as error:  # it may have ended by itself a moment before
            self.post_message(self.Started(error))
        else:
            self.post_message(self.Started(None))

    def on_stage_screen_started(self, event: Started) -> None:
        """Look at the lab now, or tell why it did not start."""
        event.stop()
        self._busy = False
        self.olive.look_now()
        self.refresh_from(self.olive.snapshot)
        if event.error is not None:
            self.app.push_screen(ErrorScreen.of(event.error))
