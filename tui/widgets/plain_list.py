"""A list of any length of which only the visible lines are drawn; its lines may be foreign text."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message
from textual.widget import Widget

from tui.glyphs import glyph
from tui.theme import QUIET, focus_style
from tui.widgets.safe import harmless


class PlainList(Widget, can_focus=True):
    """Lines to move through. ``line(index)`` gives each when it is drawn."""

    DEFAULT_CSS = """
    PlainList { height: 1fr; width: 1fr; background: $background; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000000)", show=False),
        Binding("end", "move(1000000000)", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]

    class Moved(Message):
        """Another line is marked."""

        def __init__(self, source: PlainList, index: int) -> None:
            super().__init__()
            self.source, self.index = source, index

        @property
        def control(self) -> PlainList:
            """The list."""
            return self.source

    class Chosen(Moved):
        """A line was chosen with Enter or a click."""

    def __init__(self, *, id: str | None = None, empty: str = "") -> None:
        super().__init__(id=id)
        self._count = 0
        self._line: Callable[[int], Content | str] = lambda index: ""
        self._empty = empty
        self.index = 0
        self.top = 0

    @property
    def count(self) -> int:
        """How many lines there are."""
        return self._count

    def show(self, count: int, line: Callable[[int], Content | str], empty: str | None = None) -> None:
        """Show these lines; the marked one stays marked where it can."""
        if bool(count) != bool(self._count) and self.is_attached:
            self.screen.refresh_bindings()  # Enter chooses nothing where nothing is
        self._count, self._line = count, line
        if empty is not None:
            self._empty = empty
        self.index = max(0, min(self.index, count - 1))
        self.refresh()

    def render(self) -> Content:
        width, height = self.size
        if not self._count:
            return Content.styled(self._empty, QUIET)
        self.top = max(0, min(self.top, self.index, self._count - height))
        if self.index >= self.top + height:
            self.top = self.index - height + 1
        lines = []
        for index in range(self.top, min(self._count, self.top + height)):
            found = self._line(index)
            text = harmless(found if isinstance(found, Content) else Content(found))
            mark = glyph("here") if index == self.index else " "
            if index == self.index:
                # Dim text, reversed, would be a grey box in the marked line.
                text = Content(text.plain, [span for span in text.spans if span.style != QUIET])
            text = Content.assemble(f"{mark} ", text).truncate(width, ellipsis=True)
            if index == self.index:
                text = text.pad_right(max(0, width - text.cell_length)).stylize(
                    focus_style(self.app) if self.has_focus and self.screen.is_current else "bold"
                )
            lines.append(text)
        return Content("\n").join(lines)

    def on_focus(self) -> None:
        """The mark is drawn stronger."""
        self.refresh()

    def on_blur(self) -> None:
        """And weaker again."""
        self.refresh()

    def go(self, index: int) -> None:
        """Mark a line."""
        index = max(0, min(self._count - 1, index))
        if index != self.index and self._count:
            self.index = index
            self.refresh()
            self.post_message(self.Moved(self, index))

    def action_move(self, by: int) -> None:
        """Up or down; past an end the focus goes to the neighbour."""
        if by == -1 and self.index == 0:
            self.screen.focus_previous()
        elif by == 1 and self.index >= self._count - 1:
            self.screen.focus_next()
        else:
            self.go(self.index + by)

    def action_page(self, by: int) -> None:
        """A page up or down."""
        self.go(self.index + by * max(1, self.size.height - 1))

    def action_choose(self) -> None:
        """Choose the marked line."""
        if self._count:
            self.post_message(self.Chosen(self, self.index))

    def on_click(self, event: Click) -> None:
        """Mark the line under the pointer; choose it when it is marked already."""
        index = self.top + event.y
        if index < self._count:
            if index == self.index:
                self.action_choose()
            else:
                self.go(index)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """Three lines back."""
        event.stop()
        self.go(self.index - 3)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """Three lines on."""
        event.stop()
        self.go(self.index + 3)
