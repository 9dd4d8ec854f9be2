"""The questions of a clean copy: which rows it leaves out, and whether the lab goes on with it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from core.language import _
from tui.screens.dialogs import AskScreen, Dialog
from tui.widgets.button import Button
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain


class CleanCopyScreen(Dialog[str | None]):
    """Answers ``all``, ``unusable`` or None.

    Args:
        name: the file that is written.
        unusable, doubtful: how many findings there are of rows that cannot be used, and of others.
    """

    CSS_PATH = "../dialogs.tcss"
    AUTO_FOCUS = "Button.-primary"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
        Binding("escape,n", "answer('')", show=False),
        Binding("a", "answer('all')", show=False),
        Binding("u", "answer('unusable')", show=False),
    ]

    def __init__(self, name: str, unusable: int, doubtful: int) -> None:
        super().__init__()
        self._name, self._unusable, self._doubtful = name, unusable, doubtful

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(_("Write a clean copy"), classes="dialog-title")
            yield Plain(
                _(
                    "It is written to {name}; what is left out, and why, stands in a file beside it. Your file is "
                    "not changed. Of the findings {unusable} are of rows that cannot be used, {doubtful} are worth "
                    "a look, such as duplicates, of which the first is kept.",
                    name=self._name,
                    unusable=self._unusable,
                    doubtful=self._doubtful,
                )
            )
            with FlowingRow(classes="dialog-buttons"):
                if self._unusable:
                    yield Button(_("Leave out the unusable"), id="unusable", key="u", primary=True)
                if self._doubtful:
                    yield Button(_("All with findings"), id="all", key="a", primary=not self._unusable)
                yield Button(_("Cancel"), id="cancel", key="Esc")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """One of them."""
        event.stop()
        self.action_answer("" if event.button.id == "cancel" else event.button.id or "")

    def action_answer(self, which: str) -> None:
        """Close with it, where it was offered."""
        offered = {"unusable": self._unusable, "all": self._doubtful, "": 1}
        if offered[which]:
            self.dismiss(which or None)


class UseCopyScreen(AskScreen):
    """Whether the lab is to go on with the copy; nothing is lost by that."""

    CSS_PATH = "../dialogs.tcss"
    AUTO_FOCUS = "#yes"
