"""A button of one line that can be told from text without colours."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from core.text import clean


class Push(Widget, can_focus=True):
    """``[ Run F8 ]``; reversed while it has the focus. Enter, space or a click pushes it."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    Push { width: auto; height: 1; margin: 0 1 0 0; background: $panel; color: $foreground; }
    Push.-primary { color: $text-primary; text-style: bold; }
    Push:focus { background: $primary; color: $background; text-style: bold; }
    Push:disabled { text-style: dim; }
    Push:ansi { background: ansi_default; color: ansi_default; }
    Push:ansi.-primary { text-style: bold; }
    Push:ansi:focus { text-style: bold reverse; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "push", "Press", show=False)]

    class Pushed(Message):
        """The button was pushed."""

        def __init__(self, push: Push) -> None:
            super().__init__()
            self.push = push

        @property
        def control(self) -> Push:
            """The button."""
            return self.push

    def __init__(self, text: str, *, id: str, key: str = "", primary: bool = False) -> None:
        super().__init__(id=id, classes="-primary" if primary else "")
        self._text = clean(text)
        self._key = key

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

    def render(self) -> Content:
        key = f" {self._key}" if self._key else ""
        return Content(f"[ {self._text}{key} ]")

    def on_click(self, event: Click) -> None:
        """Push it with the mouse."""
        event.stop()
        self.action_push()

    def action_push(self) -> None:
        """Push it."""
        if not self.disabled:
            self.post_message(self.Pushed(self))
