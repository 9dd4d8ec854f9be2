"""The screen of a step that runs as a job: a form, a run, its progress, its result."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message

from core.language import _, pgettext
from core.recipe import on_form
from core.searched import KINDS
from core.stages import STAGES
from tui.keys import STAGE
from tui.layout import ROOMY, TALL
from tui.screens.base import StepScreen
from tui.screens.dialogs import AskScreen, ErrorScreen
from tui.screens.stage.controller import StageController, StageState
from tui.screens.stage.texts import TEXTS, StageTexts
from tui.session import value_of
from tui.widgets.button import Button
from tui.widgets.chart import LossChart
from tui.widgets.form import Form
from tui.widgets.log_pane import LogPane
from tui.widgets.problem import ProblemBox
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain, entitle
from tui.widgets.size_bars import SizeBars

if TYPE_CHECKING:
    from textual.events import ScreenResume

    from tui.child import Commands
    from tui.log_file import LogFile
    from tui.snapshot import Snapshot


class StageScreen(StepScreen):
    """Draws the :class:`StageState` that its controller gives, and hands on what the user does."""

    CSS_PATH = "stage.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [action.binding() for action in STAGE]

    class Tried(Message):
        """The attempt to start or stop a job came to an end."""

        def __init__(self, error: Exception | None) -> None:
            super().__init__()
            self.error = error

    class Expected(Message):
        """How long a run will take, for what the recipe and the last run were when it was asked."""

        def __init__(self, key: object, seconds: float | None) -> None:
            super().__init__()
            self.key, self.seconds = key, seconds

    def __init__(self, name: str, texts: StageTexts | None = None) -> None:
        super().__init__(name)
        self.stage = STAGES[name]
        self.texts = texts or TEXTS.get(name, StageTexts())
        self.log_pane = LogPane(id="log")
        self.problem = ProblemBox(id="problem", over_log=True)
        self.assessment = Plain(id="assessment")
        self.headline = Plain(id="headline")
        self.progress = Plain(id="progress")
        self.numbers = Plain(id="numbers")
        self.note = Plain(id="note")
        self.stale = Plain(id="stale")
        self.chart = LossChart(id="loss")
        self.bars = SizeBars(id="sizes")
        self._controller: StageController | None = None
        self._form: Form | None = None
        self._drawn: tuple[object, ...] = ()
        self._seen: Snapshot | None = None
        self._before_search: dict[str, Any] = {}
        self._asked: object = None
        self._machines: Commands | None = None

    @property
    def controller(self) -> StageController:
        """What there is to show and what a key does; made when the lab is known."""
        if self._controller is None:
            self._controller = StageController(self.stage, self.session, self.texts)
        return self._controller

    @property
    def form(self) -> Form:
        """The form; made from the recipe when it is first needed."""
        if self._form is None:
            self._form = Form(self.session.recipe(), *on_form(self.stage.form), self.texts.words())
        return self._form

    def body(self) -> ComposeResult:
        yield self.stale
        with Vertical(id="settings", classes="framed") as settings:
            settings.border_title = _("Settings")
            yield self.form
            yield self.note
        with Vertical(id="job", classes="framed"):
            yield self.assessment
            yield self.headline
            yield self.progress
            yield self.chart
            yield self.bars
            yield self.problem
            yield self.numbers
        with FlowingRow(classes="buttons"):
            yield Button(_("Next"), id="next", key="F4", primary=True)
            yield Button(_("Run"), id="run", key="F8", primary=True)
            yield Button(_("Stop"), id="stop", key="F9")
            yield Button(_("Copy error"), id="copy-error", key="c")
            yield Button(_("Settings"), id="settings-or-job", key="e")
            yield Button(_("Pick a model"), id="pick-model", key="m")
            yield Button(_("Search"), id="search", key="s")
            yield Button(_("Machine"), id="where", key="a")
            yield Button(_("Take it with you"), id="take", key="k")
            yield from self.own_buttons()
        yield self.command

    def own_buttons(self) -> ComposeResult:
        """What only this step has, after what all have."""
        yield from ()

    def side(self) -> ComposeResult:
        yield self.log_pane

    def on_mount(self) -> None:
        """Let the time that a run has taken go on."""
        self.set_interval(1.0, self._tick)

    def on_screen_resume(self, event: ScreenResume) -> None:
        """Whoever looks at a stage may run it."""
        if self.stage.computes:
            self.olive.load_ahead()

    def _tick(self) -> None:
        snapshot = self.olive.snapshot
        job = snapshot.jobs.get(self.stage.name)
        # What has come in since is drawn in a moment anyway. Where the same again cannot succeed, a file that is mended
        # changes that.
        if self.is_current and snapshot is self._seen and job is not None and (job.active or job.hopeless):
            self.draw()

    def lay_out(self) -> None:
        """The state has figures in columns, and pictures, by the size."""
        self.form.show_all(self.size.height >= ROOMY)
        self.draw()

    def state(self) -> StageState:
        """What there is to show now."""
        resolved = self.form.resolved()
        chosen = () if resolved is None else resolved.chosen
        return self.controller.state(
            self.olive.snapshot,
            self.form.typed(),
            {each.option: each.value for each in chosen if each.value is not None},
            self.room,
        )

    def show(self, snapshot: Snapshot) -> None:
        """Everything from what was read; nothing is remembered from before."""
        self._seen = snapshot
        job = self.controller.new_job(snapshot)
        if job is not None:
            self.olive.watch_log(self.log_pane.open(job.log_path))
        recipe = self.session.recipe()
        self.form.put(recipe)
        self.form.follow(self.session.root, recipe)
        self._ask_how_long(snapshot)
        self.draw()

    def _ask_how_long(self, snapshot: Snapshot) -> None:
        """Have the time of a run estimated anew when the recipe, or what an earlier run took, is another."""
        job = snapshot.jobs.get(self.stage.name)
        if not self.stage.computes or (job is not None and job.active):
            return
        key = (self.session.stamp(), job and job.id)
        if key != self._asked:
            self._asked, self.controller.takes = key, None
            # After the screen is drawn: nobody waits for an estimate.
            self.call_after_refresh(self._expect, key)

    @work(thread=True, exit_on_error=False, group="expect")
    def _expect(self, key: object) -> None:
        from core.check.durations import expected_seconds

        self.post_message(self.Expected(key, expected_seconds(self.session.root, self.stage.name)))

    def on_stage_screen_expected(self, event: Expected) -> None:
        """Put the time on the run button."""
        event.stop()
        if event.key == self._asked:
            self.controller.takes = event.seconds
            self.draw()

    def draw(self) -> None:
        """The one place where the state gets onto the screen."""
        if not self._composed:
            return
        state = self.state()
        self._arrange(state)
        self.command.show(self.session.command(*self._words()))
        self.assessment.show(state.assessment.text)
        self.assessment.display = bool(state.assessment.text)
        self.assessment.set_class(state.assessment.poor, "-poor")
        self.headline.show(state.headline)
        self.progress.show(state.progress)
        self.progress.display = bool(state.progress)
        self.numbers.show(state.numbers)
        self.numbers.display = bool(self.numbers.text)
        self.stale.show(state.stale)
        self.stale.display = bool(state.stale) and not state.log
        self.note.show(state.note)
        self.note.set_class(state.blocked, "-stop")
        self.problem.tell(state.error, "", self.stage.name)
        self._draw_pictures(state)
        self._draw_buttons(state)
        # The keys that are offered and the focus follow when another job, or another state of it, is shown.
        drawn = (state.job and (state.job.id, state.job.state), state.can_run, state.goal)
        if drawn != self._drawn:
            fresh, self._drawn = bool(self._drawn), drawn
            self.refresh_bindings()
            if fresh and self.is_current:
                self.call_after_refresh(self.focus_first)

    @property
    def place_for_about(self) -> str:
        """Where the log would be, or below the run."""
        if not self.log_pane.display:
            return "side"
        return "main" if self.in_columns and self.size.height >= ROOMY else ""

    def _words(self) -> tuple[str, ...]:
        """The command that does the same."""
        compute = self.controller.compute(self.olive.snapshot.jobs.get(self.stage.name))
        return ("run", self.stage.name, *(("--on", "azureml", "--compute", compute) if compute else ()))

    def _arrange(self, state: StageState) -> None:
        """Show the form or the run, and the log small, large or not at all.

        Each part is switched by itself: a class on the screen would have Textual style every widget in it
        anew, four times as slow.
        """
        small = not state.log
        self.query_one("#main").display = small
        self.query_one("#settings").display = state.settings
        run = self.query_one("#job")
        run.display = not state.settings
        outcome = state.outcome
        for name in ("good", "bad"):
            run.set_class(name == outcome, f"-{name}")
        entitle(run, _("Result") if outcome == "good" else pgettext("heading", "Run"))
        self.query_one(".about").display = state.settings or self.size.height >= TALL
        self.log_pane.display = state.log or not state.settings
        self.log_pane.tell_of(grows=state.active, failed=state.error is not None, large=state.log)
        self.tell_about()

    def _draw_pictures(self, state: StageState) -> None:
        self.bars.display = bool(state.sizes)
        self.bars.show(*state.sizes)
        job = state.job
        if job is None or not self.stage.curve:
            self.chart.display = False
            return
        self.chart.show(job.train, job.held, state.last_step)
        # On a low terminal the curve gives way to what is to be read: the error, the result.
        low = self.size.height < TALL
        lines = len((state.error or {}).get("detail", "").splitlines())
        self.chart.display = bool(job.train or job.held or job.active) and not (low and lines > 4)
        if low:
            self.chart.styles.height = 10 if job.active else 8 if job.state == "succeeded" else 7
        else:
            # An error stands between it and the log, of which a few lines are to be seen.
            less = state.error is not None and not self.in_columns and self.size.height < ROOMY
            self.chart.styles.height = 10 if less else 16 + max(0, self.size.height - 45) // 2

    def _draw_buttons(self, state: StageState) -> None:
        job = state.job
        done = job is not None and job.state == "succeeded"
        for name, text, disabled in (
            ("#next", state.next, False),
            ("#run", state.run, not state.can_run),
            ("#stop", _("Stop") if state.active else "", job is not None and job.state == "cancelling"),
            ("#copy-error", _("Copy error") if state.error else "", False),
            ("#settings-or-job", state.switch, False),
            ("#pick-model", _("Pick a model") if state.settings and self._has_model else "", False),
            ("#search", _("Search") if state.settings and self._can_search else "", False),
            (
                "#where",
                _("Machine") if state.settings and not state.active and self._has_others else "",
                False,
            ),
            (
                "#take",
                _("Take it with you") if done and self.texts.portable and not state.settings else "",
                False,
            ),
        ):
            button = self.query_one(name, Button)
            button.display = bool(text)
            button.disabled = disabled
            if text:
                button.label(text)
        self.query_one("#run", Button).set_class(not done, "-primary")

    def focus_first(self) -> None:
        """On Next when the step is done, else on what starts it; while it runs, on the log."""
        state = self.state()
        name = state.focus
        if name == "helps" and self.problem.helps.first is not None:
            self.set_focus(self.problem.helps.first)
            return
        if name == "helps" and state.can_run:
            name = "run"
        self.set_focus(self.log_pane.lines if name in ("log", "helps") else self.query_one(f"#{name}"))

    def log_to_watch(self) -> LogFile | None:
        """The newest job's log."""
        return self.log_pane.lines.log_file

    def log_grew(self) -> None:
        """Draw the new lines."""
        self.log_pane.grown()

    # What a person does

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        act = {
            "run": self.action_run,
            "stop": self.action_stop,
            "copy-error": self.action_copy_report,
            "settings-or-job": self.action_settings,
            "next": self._go_on,
            "pick-model": self.action_pick_model,
            "search": self.action_search_settings,
            "where": self.action_where,
            "take": self.olive.action_take,
        }.get(event.button.id or "")
        if act is not None:
            act()

    @property
    def _has_model(self) -> bool:
        """The form says which model it is."""
        return "model.source" in self.form.fields

    @property
    def _may_go(self) -> bool:
        """It is a stage that can run on another machine."""
        from core.remote.asked import STAGES_THERE

        return self.stage.name in STAGES_THERE

    @property
    def _has_others(self) -> bool:
        """The lab knows a workspace, whose machines it could run on."""
        return self._may_go and bool(self.session.recipe().upload.workspace)

    @property
    def _azure(self) -> Commands:
        """The process that asks Azure; begun for the first question."""
        from tui.child import Commands

        self._machines = self._machines or Commands()
        return self._machines

    async def on_unmount(self) -> None:
        """The end of the process that looked for other machines."""
        if self._machines is not None:
            await self._machines.close()

    def action_where(self) -> None:
        """This machine, or one of the workspace."""
        from tui.screens.where import WhereScreen

        state = self.state()
        if not self._may_go or state.active:
            return
        try:
            self.session.lab()
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.app.push_screen(ErrorScreen.of(error))
            return

        def chosen(result: dict[str, Any] | None) -> None:
            if result is not None:
                self.controller.where = str(result.get("compute", ""))
                self.draw()
                self.focus_first()

        now = self.controller.compute(state.job)
        self.app.push_screen(WhereScreen(self._azure, str(self.session.root), now), chosen)

    def action_pick_model(self) -> None:
        """One of the models that are found on this machine."""
        from tui.screens.pick import PickModelScreen

        if not self._has_model or not self.state().settings:
            return

        def picked(source: str | None) -> None:
            if source is not None:
                self.form.set({"model.source": source})
                self.on_form_left(Form.Left({}))
                self.draw()

        current = str(self.form.fields["model.source"].control.value)
        self.app.push_screen(PickModelScreen(self.session.root, current), picked)

    @property
    def _can_search(self) -> bool:
        """There is a search for this stage's settings."""
        return self.stage.name in KINDS

    def action_search_settings(self) -> None:
        """Settings that are the best within limits."""
        from tui.screens.search import SearchScreen

        if not self._can_search or not self.state().settings:
            return

        def picked(values: dict[str, Any] | None) -> None:
            if not values:
                return
            recipe = self.session.recipe()
            before = {name: value_of(recipe, name) for name in values}
            self._put(values)
            self._before_search = before
            self.notify(_("The settings are those of the search. u takes them back."), markup=False)

        self.keep_typed()
        screen = SearchScreen(self.stage.name, self.session, lambda: self.olive.snapshot.jobs.get("search"))
        self.app.push_screen(screen, picked)

    def _put(self, values: Mapping[str, Any]) -> None:
        """Put values into the form, and keep them."""
        self.form.set(values)
        self.on_form_left(Form.Left({}))
        self.draw()

    def _go_on(self) -> None:
        self.app.run_worker(self.olive.action_next())

    def on_form_edited(self, event: Form.Edited) -> None:
        """What has to come with a choice comes with it, and so does the advice."""
        event.stop()
        typed = self.form.typed()
        if typed is not None:
            self.form.choose(self.texts.follows(typed))
        self.draw()

    def on_form_left(self, event: Form.Left) -> None:
        """What was typed is kept."""
        event.stop()
        try:
            self.keep_typed()
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.app.push_screen(ErrorScreen.of(error))

    def keep_typed(self) -> None:
        """Save what stands in the form and is possible."""
        typed = self.form.unsaved()
        if typed:
            self.session.save(typed)
            self.form.follow(self.session.root, self.session.recipe())
            self.olive.look_now()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Run while it can be run, Stop while it runs."""
        if action == "pick_model":
            return self._has_model
        if action == "search_settings":
            return self._can_search
        if action == "where":
            return self._may_go
        if action in ("run", "stop") and self.has_class("-too-small"):
            return False  # nobody starts or stops what is not to be seen
        if action not in ("run", "stop", "log", "settings", "copy_report"):
            return super().check_action(action, parameters)
        if not self.is_attached:
            return False
        job = self.olive.snapshot.jobs.get(self.stage.name)
        active = job is not None and job.active
        if action == "run":
            return bool(self.state().can_run or self.controller.busy)
        if action == "stop":
            return active
        return job is not None and not (action == "copy_report" and active)

    def action_settings(self) -> None:
        """The settings in place of the run, or the run again."""
        self.controller.settings_wanted = not self.state().settings
        self.draw()
        if self.controller.settings_wanted:
            # Not into a field: the same key must lead back, and not be typed.
            self.set_focus(self.query_one("#settings-or-job"))
        else:
            self.focus_first()

    def action_log(self) -> None:
        """The log large, or small again."""
        self.controller.log_large = not self.controller.log_large
        if self.controller.log_large:
            # The focus first: hiding what has it would send it anywhere.
            self.log_pane.display = True
            self.set_focus(self.log_pane.lines)
        self.draw()
        if not self.controller.log_large:
            self.focus_first()
        self.log_pane.grown()

    def action_copy_report(self) -> None:
        """Copy the result or the error."""
        job = self.state().job
        if job is not None:
            self.app.copy_to_clipboard(self.controller.copied(job))
            self.notify(_("Copied (if your terminal allows it)."), markup=False)

    def show_setting(self, option: str) -> bool:
        """The form with the focus in that field."""
        if option not in self.form.fields:
            return False
        if not self.state().settings:
            self.action_settings()
        self.form.show_field(option)
        return True

    def action_undo(self) -> None:
        """The settings that they were before a search's, or the model before it was changed."""
        if self._before_search:
            before, self._before_search = self._before_search, {}
            self._put(before)
        else:
            self.form.undo()

    def action_run(self) -> None:
        """Run it."""
        self.run_now()

    @property
    def labels(self) -> Mapping[str, str]:
        """The word for another run is that of its button."""
        job = self.olive.snapshot.jobs.get(self.stage.name)
        return super().labels if job is None else {**super().labels, "run": self.texts.run(self.step, job)}

    def run_now(self, *, checked: bool = True) -> None:
        """Save the settings and start the job; ask first where it would replace what there is."""
        if self.controller.busy or not self.state().can_run:
            return
        wrong = self.form.first_wrong()
        if wrong is not None:
            if not self.state().settings:
                self.action_settings()
            wrong.control.focus()
            return
        typed = self.form.values()
        replaced = self.controller.would_replace(typed)
        if not replaced or self.olive.snapshot.active is not None:  # while another job runs, it is refused
            self._ask_there(typed, checked, True)
            return
        question = AskScreen(
            _("{title} has a result already.", title=self.step.title),
            _("A run replaces {replaced}, once it has succeeded.", replaced=replaced),
            yes=_("Run and replace"),
            no=_("Keep it"),
            keys=("r", "f8"),
        )
        self.app.push_screen(question, partial(self._ask_there, typed, checked))

    def _ask_there(self, typed: dict[str, Any], checked: bool, go: bool | None) -> None:
        """Where it goes to another machine, show first what would be sent and what it costs."""
        from tui.screens.there import SendScreen

        compute = self.controller.compute(self.olive.snapshot.jobs.get(self.stage.name))
        if not go or not compute or self.olive.snapshot.active is not None:
            self._begin(typed, checked, go)
            return
        try:
            self.session.save(dict(typed))
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.app.push_screen(ErrorScreen.of(error, self.stage.name))
            return
        send = SendScreen(self._azure, str(self.session.root), self.stage.name, compute)
        self.app.push_screen(send, lambda result: self._begin(typed, checked, result is not None))

    def _begin(self, typed: dict[str, Any], checked: bool, go: bool | None) -> None:
        if go:
            self.form.forget_change()
            self.controller.busy = True
            self.draw()
            self._try(partial(self.controller.start, self.olive.snapshot, typed, checked=checked))

    def action_stop(self) -> None:
        """Ask once, then ask the job to stop."""
        job = self.state().job
        if job is not None and job.active and job.state != "cancelling":
            question = AskScreen(
                _("Stop {id}?", id=job.id),
                _(self.texts.stopped),
                yes=_("Stop it"),
                no=_("Let it run"),
                keys=("x", "f9"),
            )
            self.app.push_screen(question, partial(self._stop, job.id))

    def _stop(self, job: str, go: bool | None) -> None:
        if go:
            self._try(partial(self.controller.stop, job))

    @work(thread=True, exit_on_error=False, group="start")
    def _try(self, act: partial[object]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.post_message(self.Tried(error))
        else:
            self.post_message(self.Tried(None))

    def on_stage_screen_tried(self, event: Tried) -> None:
        """Look at the lab now, or tell why it did not start."""
        event.stop()
        self.controller.busy = False
        self.olive.look_now()
        self.refresh_from(self.olive.snapshot)
        if event.error is not None:
            self.app.push_screen(ErrorScreen.of(event.error, self.stage.name))
