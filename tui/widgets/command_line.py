"""The command line that does the same as the screen, to be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.events import Click
from textual.widget import Widget

from core.language import _
from core.text import clean
from tui.keys import is_text
from tui.theme import QUIET

if TYPE_CHECKING:
    from textual.screen import Screen


class CommandLine(Widget):
    """One line, ``$ olivepress run . quantize``. A click or the copy key copies it."""

    ALLOW_SELECT = True
    DEFAULT_CSS = """
    CommandLine { height: 1; width: 1fr; padding: 0 1; color: $foreground; }
    """

    def __init__(self, *, id: str = "command") -> None:
        super().__init__(id=id)
        self.command = ""
        self._typing = False

    def show(self, command: str) -> None:
        """Show this command."""
        command = clean(command, keep_newlines=False)
        if command != self.command:
            self.command = command
            self.refresh()

    def on_mount(self) -> None:
        """The key is told where it is one: it follows the focus."""
        self.screen.bindings_updated_signal.subscribe(self, self._focus_moved)

    def _focus_moved(self, screen: Screen[object]) -> None:
        typing = is_text(screen, "y")
        if typing != self._typing:
            self._typing = typing
            self.refresh()

    def render(self) -> Content:
        return Content.assemble(
            (_("Same by command:") + "  ", QUIET),
            (self.command, "$foreground 85%"),
            ("" if self._typing else "  " + _("(y copies it)"), QUIET),
        ).truncate(self.size.width, ellipsis=True)

    def on_click(self, event: Click) -> None:
        """Copy it."""
        event.stop()
        self.copy()

    def copy(self) -> None:
        """Copy it to the clipboard of the terminal (OSC 52), and show it whole."""
        self.app.copy_to_clipboard(self.command)
        self.app.notify(self.command, title=_("Copied (if your terminal allows it)"), markup=False, timeout=6)
