"""The field in which questions are typed."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from tui.widgets.line import Line


class Question(Line):
    """Where questions are typed. Up in an empty field brings the last question back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "last_question", show=False),
        Binding("down", "screen.leave_field_down", show=False),
        Binding("pageup", "screen.scroll_body(-1)", show=False),
        Binding("pagedown", "screen.scroll_body(1)", show=False),
    ]

    class EditLast(Message):
        """The last question is wanted back."""

    def action_last_question(self) -> None:
        """Ask for it, unless something is typed already."""
        if self.value:
            self.screen.focus_previous()
        else:
            self.post_message(self.EditLast())
