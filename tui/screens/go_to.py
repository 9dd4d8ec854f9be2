"""Which row to go to."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from core.language import N_, _
from tui.figures import number
from tui.screens.dialogs import Dialog
from tui.widgets.line import Line
from tui.widgets.safe import Plain


class GoToScreen(Dialog[int | None]):
    """Gives the number of a row, from 1, or None.

    Args:
        count: how many rows there are.
        exact: whether that is counted; while it is not, larger numbers are taken as well.
    """

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#row"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", N_("Close"), show=False)]

    def __init__(self, count: int, exact: bool) -> None:
        super().__init__()
        self._count, self._exact = count, exact

    def compose(self) -> ComposeResult:
        count = number(self._count)
        title = (
            _("Go to row  (1 to {count}; Enter goes, Esc closes)", count=count)
            if self._exact
            else _("Go to row  (1 to about {count}; Enter goes, Esc closes)", count=count)
        )
        with Vertical(classes="dialog"):
            yield Plain(
                title,
                classes="dialog-title",
            )
            yield Line(compact=True, id="row", placeholder=_("a number"))
            yield Plain("", id="said")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go, or say what can be typed."""
        event.stop()
        digits = "".join(char for char in event.value if char not in " ,._'")
        row = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else 0
        if row < 1:
            self.query_one("#said", Plain).show(_("Type a whole number, such as 1500."))
        else:
            self.dismiss(min(row, self._count) if self._exact else row)

    def enter(self) -> str:
        """Go there."""
        return _("Go to row")

    def action_close(self) -> None:
        """Stay."""
        self.dismiss(None)
