"""What every step's screen has: the top line, the rail, two sentences, the command line, the keys."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.events import Resize, ScreenResume, ScreenSuspend
from textual.screen import Screen

from core.errors import LabError
from core.language import _
from tui.glyphs import ascii_only
from tui.layout import COLUMNS, SMALLEST, TALL
from tui.steps import Step, step_named, steps
from tui.widgets.command_line import CommandLine
from tui.widgets.keybar import KeyBar
from tui.widgets.plain_list import PlainList
from tui.widgets.rail import Rail, rail_labels
from tui.widgets.safe import Hanging, Plain
from tui.widgets.topline import TopLine

if TYPE_CHECKING:
    from textual.widget import Widget

    from tui.app import OlivePressApp
    from tui.log_file import LogFile
    from tui.session import Session
    from tui.snapshot import Snapshot


class Body(VerticalScroll, can_focus=False):
    """What is between the rail and the keys."""


class StepScreen(Screen[None]):
    """The frame of a step. A step's screen fills :meth:`body` and :meth:`side`, and shows the lab in :meth:`show`.

    The side stands below the body, or on a wide terminal beside it.

    Screens keep no state of the lab: :meth:`refresh_from` is called with what was read from its
    folder, and when a screen comes back it is given the newest.
    """

    NAME: ClassVar[str] = ""
    """The step, where the class is the screen of one alone."""
    LABELS: ClassVar[Mapping[str, str]] = {}
    """What actions are called in the footer here, by their ids, where a button has another word for it."""
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "primary", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
        Binding("pageup", "scroll_body(-1)", show=False),
        Binding("pagedown", "scroll_body(1)", show=False),
    ]

    def __init__(self, name: str = "") -> None:
        super().__init__(classes="-ascii" if ascii_only() else None)
        self.step: Step = step_named(name or self.NAME)
        self.rail = Rail(self.step.name)
        self.command = CommandLine()
        self._main = Vertical(id="main")
        self._top: TopLine | None = None
        self._about: VerticalScroll | None = None
        self._composed = False
        self._styled = False

    @property
    def olive(self) -> OlivePressApp:
        """The app, by its own type."""
        return self.app  # type: ignore[return-value]

    @property
    def session(self) -> Session:
        """The lab."""
        return self.olive.session

    def compose(self) -> ComposeResult:
        # The classes that the first resize would set: every widget would be styled a second time for them.
        app = self.olive
        size = {**_classes(self.app.size.width, app.HORIZONTAL_BREAKPOINTS)}
        size |= _classes(self.app.size.height, app.VERTICAL_BREAKPOINTS)
        self.update_classes(size, update=False)
        self._top = TopLine(str(self.session.root))
        yield self._top
        yield self.rail
        with Body(id="body"):
            with self._main:
                yield Plain(self.step.about, classes="about")
                yield from self.body()
            with Vertical(id="side"):
                yield from self.side()
        yield KeyBar()
        yield Plain(_("This terminal is too small for the wizard.\nMake it at least 60 by 20."), id="small")

    def body(self) -> ComposeResult:
        """The step's own widgets."""
        yield from ()

    def side(self) -> ComposeResult:
        """What stands below that, or beside it."""
        yield from ()

    @property
    def in_columns(self) -> bool:
        """Whether the terminal is wide enough for the side to stand beside the body."""
        return self.size.width >= COLUMNS

    @property
    def room(self) -> int:
        """Cells that a line of the body has, within its frame."""
        return max(40, (self._main.size.width or self.size.width - 2) - 4)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that would end with this screen."""
        return False

    def show(self, snapshot: Snapshot) -> None:
        """Show the lab as it was read."""

    def on_mount(self) -> None:
        """Show what is known."""
        self._composed = True
        self.tell_about()
        self.refresh_from(self.olive.snapshot)
        # Before the first picture, so that nobody types into nowhere.
        self.call_next(self.focus_first)

    def on_screen_resume(self, event: ScreenResume) -> None:
        """Be as if we had never left."""
        if not self._styled:  # every widget was, as it was mounted
            self._styled, event.refresh_styles = True, False
        self._lie_below(False)
        self.refresh_from(self.olive.snapshot)
        self.olive.watch_log(self.log_to_watch())
        self.log_grew()
        if self.focused is None:
            self.call_next(self.focus_first)
        self.call_after_refresh(self._offer_guide)

    def _lie_below(self, below: bool) -> None:
        """Without colours to dim it, what lies below a dialog does not show its focus beside the dialog's."""
        if self.app.current_theme.ansi and below != self.has_class("-below"):
            self.set_class(below, "-below")
            for each in self.query(PlainList):
                each.refresh()

    def _offer_guide(self) -> None:
        if self.is_current:
            self.olive.offer_guide()

    def on_screen_suspend(self, event: ScreenSuspend) -> None:
        """A field that has the focus is left with the screen."""
        self._lie_below(True)
        with suppress(LabError):  # told when the field is left by itself, or the step is run
            self.keep_typed()

    def keep_typed(self) -> None:
        """Keep what was typed. Raises LabError where it cannot be."""

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Show what was read from the lab's folder."""
        if not self._composed or not self.is_running:
            return
        self.rail.show(rail_labels(snapshot, self.olive.notes_now()))
        self.show(snapshot)

    def log_to_watch(self) -> LogFile | None:
        """The log file whose growth this screen wants to be told of."""
        return None

    def log_grew(self) -> None:
        """That log has more lines."""

    def show_load(self, text: str) -> None:
        """Show the machine's load in the top line."""
        if self._top is not None:
            self._top.show(text)

    def focus_first(self) -> None:
        """Put the focus where Enter does what most people want here."""

    def missing(self, snapshot: Snapshot) -> Step | None:
        """The step that must be done before this one, if it is not."""
        return self.step.missing(snapshot)

    @property
    def labels(self) -> Mapping[str, str]:
        """What actions are called in the footer now, by their ids."""
        missing = self.missing(self.olive.snapshot)
        return (
            self.LABELS
            if missing is None
            else {**self.LABELS, "next": _("To {number}", number=missing.number)}
        )

    @property
    def goal(self) -> Step | None:
        """Where Next leads: to the step that must be done before this one, else to the one after it."""
        return self.missing(self.olive.snapshot) or next(iter(steps()[self.step.number :]), None)

    def on_resize(self, event: Resize) -> None:
        """Below the smallest useful size a polite line stands in place of the screen."""
        wide, high = SMALLEST
        self.set_class(event.size.width < wide or event.size.height < high, "-too-small")
        if self._composed:
            self.tell_about()
        # Once everything has its new size: what was put together for the older one would stay.
        self.call_after_refresh(self.lay_out)

    @property
    def place_for_about(self) -> str:
        """The part in which, on a high terminal, there is room to tell what the step is about; empty for none."""
        return "side" if self.in_columns else ""

    def tell_about(self) -> None:
        """Tell what the step is about where there is room: what F2 tells. It is made when it is first wanted."""
        place = self.place_for_about if self.size.height >= TALL else ""
        page = self._about
        if page is not None:
            page.display = bool(place)
            if place and page.parent is not None and page.parent.id != place:
                page.remove()
                page = None
        if place and page is None:
            from tui.help import about

            self._about = VerticalScroll(Hanging(about(self.step)), id="about-step", can_focus=False)
            self._about.border_title = _("What this step does")
            self.query_one(f"#{place}").mount(self._about)

    def lay_out(self) -> None:
        """Put together again what depends on the size."""

    async def on_rail_chosen(self, event: Rail.Chosen) -> None:
        """A step was clicked."""
        await self.olive.action_step(event.number)

    def run_now(self, *, checked: bool = True) -> None:
        """Run this step as its button does; ``checked``: look first whether it can be."""

    def show_setting(self, option: str) -> bool:
        """Put the focus into the field of this option, ``section.key``; whether there is one."""
        return False

    def action_primary(self) -> None:
        """Enter with the focus nowhere, as just after a step was opened: press what would have it."""
        from tui.widgets.button import Button

        if self.focused is None:
            self.focus_first()
            self.call_later(lambda: isinstance(self.focused, Button) and self.focused.action_press())

    def action_scroll_body(self, way: int) -> None:
        """Scroll by a page."""
        body = self._main if self.in_columns else self.query_one("#body")
        body.scroll_relative(y=way * max(1, body.size.height - 2), animate=False)

    def action_leave_field(self) -> None:
        """Leave a field, so that letters are keys again."""
        from textual.widgets import Input

        field = self.focused
        self.set_focus(None)
        if isinstance(field, Input):
            self.focus_first()
            # Where the field itself is what most people want, the focus goes nowhere.
            self.call_later(self._unfocus, field)

    def _unfocus(self, field: Widget) -> None:
        if self.focused is field:
            self.set_focus(None)

    def action_copy_command(self) -> None:
        """Copy the command line that does the same."""
        self.command.copy()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys for what this screen cannot do now are not offered."""
        if action in ("run", "stop", "log", "settings", "copy_report"):
            return hasattr(self, f"action_{action}")
        return True


def _classes(cells: int, breakpoints: list[tuple[int, str]] | None) -> dict[str, bool]:
    """Which of the classes that follow the size a screen has, as Textual gives them with each resize."""
    names = [name for _, name in breakpoints or ()]
    reached = [name for least, name in sorted(breakpoints or ()) if cells >= least]
    return {name: name in reached[-1:] for name in names}
