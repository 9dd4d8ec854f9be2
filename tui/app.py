"""The wizard: one Textual app over :class:`core.Lab`, a screen for each step."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message

from core import language
from core.errors import LabError
from core.folder import workshop_of
from core.language import _
from tui.keys import GLOBAL, JUMPS, UserSettings, read_settings
from tui.labels import ENDS
from tui.layout import COLUMNS, TALL, WIDE
from tui.session import Session
from tui.snapshot import Snapshot
from tui.steps import Step, first_step, step_named, steps
from tui.terminal import default_theme
from tui.theme import CYCLE, OWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from textual.app import SystemCommand
    from textual.driver import Driver
    from textual.filter import LineFilter
    from textual.screen import Screen
    from textual.timer import Timer

    from tui.lab_watch import LabWatch
    from tui.log_file import LogFile
    from tui.machine_load import MachineLoad
    from tui.screens.base import StepScreen
    from tui.widgets.rail import Word


LOADED_S = 15 * 60
"""How long the packages of the stages stay loaded after a stage was last looked at."""


class OlivePressApp(App[None]):
    """The app. It owns what outlives a screen: the session, the watch on the lab's folder, the notices.

    Args:
        root: the lab's folder; it is made on the first step that writes.
        step: the step to open on; by default the one where there is something to do.
    """

    TITLE = "OlivePress"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(action.binding() for action in (*GLOBAL, *JUMPS)),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]
    COMMAND_PALETTE_BINDING = "f7"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide"), (COLUMNS, "-columns")]  # noqa: RUF012 - as the base class
    VERTICAL_BREAKPOINTS = [(0, "-low"), (TALL, "-tall")]  # noqa: RUF012
    AGAIN_WITHIN_S = 3.0

    class LabChanged(Message):
        """Something in the lab's folder is new."""

        def __init__(self, snapshot: Snapshot) -> None:
            super().__init__()
            self.snapshot = snapshot

    class LogGrew(Message):
        """The log that is shown has more lines."""

    class LoadRead(Message):
        """The machine's load was read."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, root: Path, step: str = "") -> None:
        language.use(language.wanted())
        self.settings: UserSettings = read_settings()
        language.use(language.wanted(self.settings.language))
        self._language = language.in_use()
        self._made: dict[str, StepScreen] = {}
        self.session = Session(root)
        self.snapshot = Snapshot()
        self._watch: LabWatch | None = None
        self._shown_log: LogFile | None = None
        if self.session.folder.jobs_dir.is_dir() or self.session.folder.models_dir.is_dir():
            self._make_watch().look()
            self.snapshot = self._make_watch().snapshot()
        # The first screen's sheets are read with the app's own: reading them later means parsing all again.
        first = step_named(step) if step else first_step(self.snapshot)
        # Each step is a mode, a stack of screens of its own: its screen is made once and keeps what was typed in it.
        self._first = first
        self.DEFAULT_MODE = self._mode(first.name)  # type: ignore[misc]  # which is first is known here
        super().__init__(css_path=[*stylesheets(OlivePressApp), *stylesheets(first.load())])
        self._add_modes()
        self.notes: dict[str, Word] = {}
        self._noted_at: dict[str, object] = {}
        self.farewell = ""
        self.error_log: Path | None = None
        self._load: MachineLoad | None = None
        self._unload: Timer | None = None
        self._asked_to_quit = False
        self._draw_timer: Timer | None = None
        for theme in OWN:
            self.register_theme(theme)
        wanted = self.settings.theme
        self.theme = wanted if self._fits(wanted) else default_theme()
        self.set_keymap(dict(self.settings.keymap))
        # Less motion is less to send over a slow link, and nothing to wait for.
        self.animation_level = "none"

    def _fits(self, theme: str) -> bool:
        """Whether it is a theme; without colours, one that tells nothing by them alone."""
        found = self.available_themes.get(theme)
        return found is not None and (found.ansi or not self.no_color)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """With NO_COLOR, the filter that sends none at all; and one that orders what is read from the right.

        Textual (8.2.8) chooses the filter before the theme is known, and takes the one that turns the
        terminal's own colours into black on black.
        """
        filters = list(super().get_line_filters())
        if self.no_color:
            from textual.filter import Monochrome, NoColor

            filters = [NoColor() if isinstance(each, Monochrome) else each for each in filters]
        if self._language in language.RIGHT_TO_LEFT:
            from core.from_the_right import ordered_here
            from tui.reading import ordering

            if ordered_here(self.settings.right_to_left):
                filters.append(ordering("R"))
        return filters

    def get_driver_class(self) -> type[Driver]:
        """The terminal's driver, which sends what is seen and no more."""
        from tui.output import lean_driver

        return lean_driver(super().get_driver_class())

    def _post(self, message: Message) -> None:
        """Called in other threads; posting is the one thing that is safe there."""
        if self.is_running:
            self.post_message(message)

    def _make_watch(self) -> LabWatch:
        """The watch on the lab's folder, made when it is first needed."""
        if self._watch is None:
            from tui.lab_watch import LabWatch as Made

            self._watch = Made(
                self.session.folder,
                lambda snapshot: self._post(self.LabChanged(snapshot)),
                lambda: self._post(self.LogGrew()),
            )
        return self._watch

    def get_default_screen(self) -> Screen[None]:
        """The first step's screen. As that of a mode it would be laid out, dropped and laid out again at the start."""
        return self._make(self._first)

    def refresh_css(self, animate: bool = True) -> None:
        """Style everything anew. Before there is a screen only the colours are new: sheets are read once, with it."""
        if self.screen_stack:
            super().refresh_css(animate)
        else:
            self.stylesheet.set_variables(self.get_css_variables())

    def on_mount(self) -> None:
        """Start to watch once the first screen stands."""
        self.add_mode(self._mode(self._first.name), partial(self._make, self._first))
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        if not gc.isenabled():  # switched off by run_wizard
            gc.freeze()
            gc.enable()
        watch = self._make_watch()
        watch.log = self._shown_log
        watch.start()
        self._measure(self.snapshot)
        for problem in self.settings.problems:
            self.notify(problem, title=_("Your settings"), severity="warning", markup=False, timeout=15)

    # Steps

    @property
    def current(self) -> StepScreen:
        """The step's screen that is shown, below any dialog."""
        return self.screen_stack[0]  # type: ignore[return-value]

    async def go_to(self, name: str) -> None:
        """Show a step."""
        while len(self.screen_stack) > 1:
            self.pop_screen()
        await self.switch_mode(self._mode(name))

    def _mode(self, step: str) -> str:
        """The mode of a step: in another language it is another, whose screen is made anew."""
        return f"{step} {self._language}"

    def _add_modes(self) -> None:
        for each in steps():
            # That of the first step is none until its screen stands: see get_default_screen.
            if self.screen_stack or each != self._first:
                self.add_mode(self._mode(each.name), partial(self._make, each))

    def _make(self, step: Step) -> StepScreen:
        """A step's screen, which is remembered."""
        self._made[step.name] = step.make()
        return self._made[step.name]

    async def action_step(self, number: int) -> None:
        """Go to the step with that number. Leaving the first step makes the lab, where there is none."""
        if not 1 <= number <= len(steps()):
            return
        if number > 1 and not self.session.exists:
            try:
                self.session.lab()
            except Exception as error:
                from tui.screens.dialogs import ErrorScreen

                self.push_screen(ErrorScreen.of(error))
                return
            self.look_now()
        await self.go_to(steps()[number - 1].name)

    async def action_next(self) -> None:
        """Where the Next button of the screen leads."""
        goal = self.current.goal
        if goal is not None:
            await self.action_step(goal.number)

    async def action_back(self) -> None:
        """The step before."""
        await self.action_step(self.current.step.number - 1)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that lead nowhere are not offered."""
        if action == "back":
            return self.current.step.number > 1
        if action == "next":
            return self.current.goal is not None
        return super().check_action(action, parameters)

    # What comes in from threads

    def on_olive_press_app_lab_changed(self, event: LabChanged) -> None:
        """Keep what was read and show it."""
        if not self.screen_stack:  # the app is closing
            return
        ended = [
            view
            for name, view in event.snapshot.jobs.items()
            if not view.active and (old := self.snapshot.jobs.get(name)) and old.id == view.id and old.active
        ]
        urgent = event.snapshot.outline != self.snapshot.outline
        self.snapshot = event.snapshot
        self._measure(event.snapshot)
        if urgent:
            self._draw()
        elif self._draw_timer is None:
            # Figures that move are drawn once a second: more tells nobody more and fills a slow link.
            self._draw_timer = self.set_timer(1.0, self._draw)
        if ended and self.settings.bell:
            self.bell()
        for view in ended:
            if view.stage != self.current.step.name:
                self.notify(f"{view.id}: {_(ENDS.get(view.state, view.state))}", markup=False)

    def _draw(self) -> None:
        if self._draw_timer is not None:
            self._draw_timer.stop()
            self._draw_timer = None
        if self.screen_stack:
            self.current.refresh_from(self.snapshot)

    def on_olive_press_app_log_grew(self, event: LogGrew) -> None:
        """Let the screen draw the new lines."""
        if not self.screen_stack:
            return
        self.current.log_grew()

    def on_olive_press_app_load_read(self, event: LoadRead) -> None:
        """Show the machine's load."""
        if not self.screen_stack:
            return
        self.current.show_load(event.text)

    def _measure(self, snapshot: Snapshot) -> None:
        running = snapshot.active is not None
        if self._load is None and running:
            from tui.machine_load import MachineLoad as Made

            self._load = Made(lambda text: self._post(self.LoadRead(text)))
        if self._load is not None:
            self._load.switch(running)

    def look_now(self) -> None:
        """Have the lab's folder read at once."""
        if self._watch is not None:
            self._watch.poke()

    def watch_log(self, log: LogFile | None) -> None:
        """Have this log file (or none) read as it grows."""
        self._shown_log = log
        if self._watch is not None:
            self._watch.log = log
            self._watch.poke()

    def note(self, step: str, word: Word) -> None:
        """Put a word under a step that has no job, such as what its checks gave."""
        self.notes[step] = word
        self._noted_at[step] = self.session.stamp()
        if self.screen_stack:
            self.current.refresh_from(self.snapshot)

    def notes_now(self) -> dict[str, Word]:
        """The words under steps that have no job, but for a failure under settings that are others now."""
        stamp = self.session.stamp()
        return {
            step: word
            for step, word in self.notes.items()
            if word.look != "failed" or self._noted_at.get(step) == stamp
        }

    # Help, themes, leaving

    def action_help(self) -> None:
        """Show what this step is about, and the keys."""
        from tui.help import HelpScreen

        if not any(isinstance(screen, HelpScreen) for screen in self.screen_stack):
            self.push_screen(HelpScreen(self.current.step, dict(self.settings.keymap)))

    def offer_guide(self) -> None:
        """At the first visit of a step its guide opens by itself, where it can stand beside the step.

        On a narrow terminal it would cover what is to be done: there a key opens it.
        """
        if not self.settings.guide or len(self.screen_stack) != 1 or self.size.width < WIDE:
            return
        from tui.guide import is_first_visit

        if is_first_visit(self.current.step.name):
            self.action_guide()

    def action_guide(self) -> None:
        """Show what stands behind this step."""
        from tui.guide import GuideScreen, has_guide

        step = self.current.step
        if has_guide(step.name) and not any(isinstance(screen, GuideScreen) for screen in self.screen_stack):
            self.push_screen(GuideScreen(step), self._go_on)

    async def _go_on(self, action: str | None) -> None:
        """Do what a key in the guide stands for, now that the step is in front again."""
        if action:
            await self.run_action(action, self.screen)

    def action_take(self) -> None:
        """Show what there is to take along, and how."""
        from core.takeaway import TITLE, takeaway
        from tui.screens.dialogs import ReadScreen

        found = takeaway(self.session.folder)
        if found is None:
            self.notify(_("There is nothing to take along yet: step 5 makes it."), markup=False)
        elif not any(isinstance(screen, ReadScreen) for screen in self.screen_stack):
            self.push_screen(ReadScreen(_(TITLE), "\n".join(found.lines())))

    def action_free_space(self) -> None:
        """Show what takes room on the disk and can go."""
        from tui.screens.clean import CleanScreen

        if not any(isinstance(screen, CleanScreen) for screen in self.screen_stack):
            self.push_screen(CleanScreen(self.session.folder), self._after_cleaning)

    def _after_cleaning(self, gone: int | None) -> None:
        if gone:
            self.look_now()
            self.current.refresh_from(self.snapshot)

    def action_next_theme(self) -> None:
        """The next of four themes, kept for next time."""
        from tui.keys import save_setting

        names = [each for each in CYCLE if self._fits(each)]
        place = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(place + 1) % len(names)]
        try:
            save_setting("theme", self.theme)
        except Exception as error:  # a home that cannot be written is no reason to stop
            self.log(error)
        self.notify(_("Theme: {theme}", theme=self.theme), timeout=2, markup=False)

    async def speak(self, code: str) -> None:
        """Speak another language from now on, and next time."""
        from tui.keys import save_setting

        if code == language.in_use():
            return
        if any(screen.is_busy for screen in self._made.values()):
            # Every screen is made anew, and these end with theirs.
            self.notify(
                _("An answer or a server of the chat would end with that: stop it first."), markup=False
            )
            return
        with suppress(LabError):  # told when the field is left by itself, or the step is run
            self.current.keep_typed()
        try:
            save_setting("language", code)
        except Exception as error:  # a home that cannot be written is no reason to stop
            self.log(error)
        here = self.current.step.name
        before = [self._mode(each.name) for each in steps()]
        language.ask(code)
        language.use(code)
        self._language = code
        self.notes.clear()
        self._add_modes()
        self._made.clear()
        await self.go_to(here)
        for mode in before:
            await self.remove_mode(mode)

    def action_ask_quit(self) -> None:
        """Leave; where a job runs, first say that it goes on."""
        active = self.snapshot.active
        if active is None:
            self.leave()
            return
        from tui.screens.dialogs import LeaveScreen

        if not any(isinstance(screen, LeaveScreen) for screen in self.screen_stack):
            self.push_screen(LeaveScreen(active.id, self.session.command(absolute=True)), self._leave_if)

    def _leave_if(self, leave: bool | None) -> None:
        if leave:
            self.leave()

    def action_interrupt(self) -> None:
        """Ctrl+C: copies what is selected; with nothing selected it is on the way to leaving, in a field as well."""
        selected = getattr(self.focused, "selected_text", "") or self.screen.get_selected_text()
        if selected:
            self.copy_to_clipboard(selected)
        else:
            self.action_help_quit()

    def action_help_quit(self) -> None:
        """Ctrl+C: once tells how to leave, twice leaves."""
        if self._asked_to_quit:
            self.leave()
            return
        self._asked_to_quit = True
        self.set_timer(self.AGAIN_WITHIN_S, self._forget_quit)
        self.notify(
            _("Press Ctrl+C again to leave. A running job goes on."),
            timeout=self.AGAIN_WITHIN_S,
            markup=False,
        )

    def _forget_quit(self) -> None:
        self._asked_to_quit = False

    def leave(self) -> None:
        """End the app; what is printed afterwards tells how to come back to a running job."""
        with suppress(LabError):
            self.current.keep_typed()
        active = self.snapshot.active
        if active is not None:
            self.farewell = self.session.goes_on(active.id)
        self.exit()

    def on_unmount(self) -> None:
        """Let the threads end; none is waited for."""
        if self._watch is not None:
            self._watch.close()
        if self._load is not None:
            self._load.close()
        from core.jobs import warm

        warm.let_go()

    def load_ahead(self) -> None:
        """Have the packages of the stages loaded while a person looks at settings: a job begins at once then.

        Not for the seats of a workshop, of whom one machine may have many; and for a while only.
        """
        if workshop_of(self.session.root) is None:
            from core.jobs import warm
            from core.jobs.start import job_environment

            self.run_worker(partial(warm.load_ahead, job_environment()), thread=True, group="load ahead")
            if self._unload is not None:
                self._unload.stop()
            self._unload = self.set_timer(LOADED_S, warm.let_go)

    def action_command_palette(self) -> None:
        """Search all commands by name."""
        from textual.command import CommandPalette

        if not any(isinstance(screen, CommandPalette) for screen in self.screen_stack):
            self.push_screen(CommandPalette(placeholder=_("Search for commands…"), id="--command-palette"))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers: every step and every action."""
        from tui.palette import commands

        return commands(self)

    # Errors of the wizard itself

    def _handle_exception(self, error: Exception) -> None:
        """An error in the wizard: keep the story in a file, show a copyable notice, leave with status 1.

        Textual's own handler prints the traceback with the values of all variables, which may hold
        keys and rows; ours writes it without. Textual (8.2.8) has no public way to be told of such an error.
        """
        from tui.crash import cause, keep

        error = cause(error)
        self._return_code = 1
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
            self.error_log = keep(error, self.session.root)
            try:
                self._show_error(error)
                return
            except Exception as second:  # the notice failed as well: leave at once
                keep(second, self.session.root)
        self._close_messages_no_wait()

    def _show_error(self, error: Exception) -> None:
        from tui.crash import story
        from tui.screens.dialogs import CrashScreen

        self.farewell = story(error, self.error_log, self.session.command_to_open())
        if not self.is_running or self.is_headless_test:
            raise RuntimeError("there is no screen to show it on")
        self.push_screen(CrashScreen(self.farewell))

    @property
    def is_headless_test(self) -> bool:
        """Under a Pilot the test must see the exception; it asks for the notice by OLIVEPRESS_SHOW_CRASH."""
        return self.is_headless and not os.environ.get("OLIVEPRESS_SHOW_CRASH")


def stylesheets(owner: type[App[Any]] | type[Screen[Any]]) -> list[Path]:
    """The style sheets that a class names, beside its module."""
    named = owner.CSS_PATH or []
    folder = Path(sys.modules[owner.__module__].__file__ or "").parent
    return [folder / each for each in ([named] if isinstance(named, str | PurePath) else named)]
