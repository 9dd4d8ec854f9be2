"""A button of one line that can be told from text without colours."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from core.text import clean
from tui.theme import QUIET


class Button(Widget, can_focus=True):
    """``[ Run F8 ]``; reversed while it has the focus. Enter, space or a click presses it.

    Attributes:
        key: another key that does the same, as it is written on the button; empty where there is none.
    """

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    Button { width: auto; height: 1; margin: 0 1 0 0; background: $panel; color: $foreground; }
    Button.-primary { background: $primary 22%; color: $text-primary; text-style: bold; }
    Button:focus { background: $primary; color: $background; text-style: bold; }
    Button:ansi { background: ansi_default; color: ansi_default; }
    Button:ansi.-primary { text-style: bold; }
    Button:ansi:focus { text-style: bold reverse; }
    Button:disabled, Button:ansi:disabled { text-style: dim; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "press", "Press", show=False)]

    class Pressed(Message):
        """The button was pressed."""

        def __init__(self, button: Button) -> None:
            super().__init__()
            self.button = button

        @property
        def control(self) -> Button:
            """The button."""
            return self.button

    def __init__(self, text: str, *, id: str, key: str = "", primary: bool = False) -> None:
        super().__init__(id=id, classes="-primary" if primary else "")
        self._text = clean(text)
        self.key = key

    @property
    def text(self) -> str:
        """What stands on it."""
        return self._text

    def label(self, text: str) -> None:
        """Write something else on it."""
        text = clean(text)
        if text != self._text:
            self._text = text
            self.refresh(layout=True)
            if self.is_attached:
                self.screen.refresh_bindings()  # a dialog's key bar names its buttons

    def render(self) -> Content:
        key = f" {self.key}" if self.key else ""
        # The brackets are for terminals in which a colour tells nothing.
        quiet = "" if self.has_focus or self.app.current_theme.ansi else "$foreground 25%"
        beside = "" if not quiet else f"not bold {QUIET}"
        return Content.assemble(("[ ", quiet), self._text, (key, beside), (" ]", quiet))

    def on_click(self, event: Click) -> None:
        """A click presses it."""
        event.stop()
        self.action_press()

    def action_press(self) -> None:
        """Press it, unless it is disabled."""
        if not self.disabled:
            self.post_message(self.Pressed(self))
