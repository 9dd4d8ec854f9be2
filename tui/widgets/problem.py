"""An error where it happened: what, where, what to do, and the buttons that do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content

from core.errors import Help, text_of
from core.language import _, ngettext, shown
from core.text import clean
from tui.actions import MOST, advice_of, do, helps_of, in_words, runs
from tui.widgets.button import Button
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain, bare_paths

if TYPE_CHECKING:
    from tui.app import OlivePressApp


class Helps(FlowingRow):
    """A button for each thing that helps; none while there is none.

    Pressing one does it: in the step that is shown, whatever stands above it.
    """

    DEFAULT_CSS = """
    Helps { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._helps: list[tuple[str, Help]] = []
        self._stage = ""

    def offer(self, helps: list[tuple[str, Help]], stage: str) -> None:
        """Offer these, for a stage that is to be run with what was changed, or for none."""
        self._helps, self._stage = helps, stage
        self.display = bool(helps)
        if (
            helps and self.is_attached and not self.children
        ):  # the buttons are made when they are first needed
            self.mount(*(Button("", id=f"help-{number}", primary=number == 0) for number in range(MOST)))
        for number, button in enumerate(self.query(Button)):
            button.display = number < len(helps)
            if number < len(helps):
                button.label(helps[number][0])

    def on_mount(self) -> None:
        """What was offered before there was a place for buttons."""
        self.offer(self._helps, self._stage)

    @property
    def first(self) -> Button | None:
        """The one to take; None where there is none."""
        return self.query_one("#help-0", Button) if self._helps else None

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do it."""
        event.stop()
        place = int((event.button.id or "").rpartition("-")[2])
        if place < len(self._helps):
            app = cast("OlivePressApp", self.app)
            # Of the app: it goes on where the screen that this stands in is left.
            app.run_worker(do(app, self._helps[place][1], self._stage))


class ProblemBox(Vertical):
    """Title, the end of the detail, the advice with its buttons; nothing while there is no error."""

    DEFAULT_CSS = """
    ProblemBox { height: auto; border-left: outer $error; padding: 0 1; display: none; }
    ProblemBox.-shown { display: block; }
    """

    LINES = 8

    def __init__(self, *, id: str | None = None, brief: bool = False, over_log: bool = False) -> None:
        """Make it.

        Args:
            brief: the place is low, so what to do stands before the detail, whose end may be cut off.
            over_log: the log stands below, so that its end, which a crash has as its detail, is not said twice.
        """
        super().__init__(id=id)
        self._brief = brief
        self._over_log = over_log
        self._text = Plain(classes="problem-text")
        self.helps = Helps()

    def compose(self) -> ComposeResult:
        yield self._text
        yield self.helps

    @property
    def text(self) -> str:
        """What is said."""
        return self._text.text

    def tell(self, error: Mapping[str, Any] | None, word: str = "FAILED", stage: str = "") -> None:
        """Show this error, or none; ``stage``: what is to be run once a setting is another."""
        self.set_class(error is not None, "-shown")
        if error is None:
            self.helps.offer([], "")
            return
        advice = advice_of(error)
        title, detail = (bare_paths(clean(shown(text_of(error, key)))) for key in ("title", "detail"))
        hint = bare_paths(clean(in_words(advice, stage)))
        lines = [] if self._over_log and error.get("code") == "job.crashed" else detail.splitlines()
        if len(lines) > self.LINES and not self._brief:
            left = len(lines) - self.LINES
            what = ngettext(
                "({n} line before this is in the log)", "({n} lines before these are in the log)", left
            )
            lines = [what, *lines[-self.LINES :]]
        parts: list[Content | tuple[str, str]] = [
            (f"{word}  " if word else "", "bold $text-error"),
            (title, "bold $text-error"),
        ]
        told: list[Content | tuple[str, str]] = [Content("\n" + "\n".join(lines))] if lines else []
        told_to_do: list[Content | tuple[str, str]] = (
            [("\n" + _("What to do:") + " ", "bold"), Content(hint)] if hint else []
        )
        parts += [*told_to_do, *told] if self._brief else [*told, *told_to_do]
        self._text.show(Content.assemble(*parts))
        # The button that runs the stage stands below, with its key: one name for one act.
        others = [each for each in helps_of(advice, stage) if not runs(each[1], stage)]
        self.helps.offer(others, stage)
