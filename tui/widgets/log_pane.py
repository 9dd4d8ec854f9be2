"""A job's log: follow or hold, search, first error, the file's path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from core.formats import number
from core.text import clean
from tui.glyphs import glyph
from tui.keys import LOG
from tui.log_file import ERROR, LogFile
from tui.widgets.line import Line

if TYPE_CHECKING:
    from pathlib import Path

_ERROR_TEXT = re.compile(ERROR.pattern.decode(), re.IGNORECASE)


class LogLines(Widget, can_focus=True):
    """The lines that fit, read from the file when they are drawn."""

    DEFAULT_CSS = """
    LogLines { height: 1fr; width: 1fr; padding: 0 1; background: $surface; color: $foreground; }
    LogLines:focus { background-tint: $foreground 4%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "ends(-1)", show=False),
        Binding("end", "ends(1)", show=False),
        Binding("left", "sideways(-8)", show=False),
        Binding("right", "sideways(8)", show=False),
    ]

    class Changed(Message):
        """The part that is shown, or how, is another."""

    def __init__(self) -> None:
        super().__init__()
        self.log_file: LogFile | None = None
        self.follow = True
        self.top = 0
        self.left = 0
        self.pattern: re.Pattern[str] | None = None
        self.marked: int | None = None

    def open(self, log: LogFile | None) -> None:
        """Show another file, following its end."""
        self.log_file, self.follow, self.top, self.left = log, True, 0, 0
        self.pattern, self.marked = None, None
        self.grown()

    @property
    def count(self) -> int:
        """Lines in the file."""
        return self.log_file.count if self.log_file else 0

    def grown(self) -> None:
        """The file has more lines."""
        if self.follow:
            self.top = max(0, self.count - self.size.height)
        self.refresh()
        self.post_message(self.Changed())

    def render(self) -> Content:
        width, height = self.size
        if self.log_file is None or not self.count:
            return Content.styled("The log is empty so far.", "$foreground 60%")
        if self.follow:
            self.top = max(0, self.count - height)
        lines = []
        for place, line in enumerate(self.log_file.lines(self.top, height), self.top):
            text = line[self.left : self.left + width]
            style = "$text-error" if _ERROR_TEXT.search(line) else ""
            shown = Content.styled(text, style) if style else Content(text)
            if self.pattern is not None:
                for match in self.pattern.finditer(text):
                    shown = shown.stylize("reverse", match.start(), match.end())
            if place == self.marked:
                shown = shown.stylize("bold underline")
            lines.append(shown.truncate(width, ellipsis=False))
        return Content("\n").join(lines)

    def go(self, top: int) -> None:
        """Show the lines from ``top`` on; at the end the log is followed again."""
        last = max(0, self.count - self.size.height)
        self.top = max(0, min(last, top))
        self.follow = self.top >= last
        self.refresh()
        self.post_message(self.Changed())

    def show_line(self, line: int) -> None:
        """Bring a line to the middle and mark it."""
        self.marked = line
        self.go(line - self.size.height // 2)

    def action_move(self, by: int) -> None:
        """Up or down by lines."""
        self.go(self.top + by)

    def action_page(self, by: int) -> None:
        """Up or down by pages."""
        self.go(self.top + by * max(1, self.size.height - 1))

    def action_ends(self, end: int) -> None:
        """To the first or the last line."""
        self.go(0 if end < 0 else self.count)

    def action_sideways(self, by: int) -> None:
        """Left or right, for long lines."""
        self.left = max(0, self.left + by)
        self.refresh()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """Three lines back."""
        event.stop()
        self.go(self.top - 3)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """Three lines on."""
        event.stop()
        self.go(self.top + 3)

    def action_follow(self) -> None:
        """Hold still, or follow the end again."""
        self.follow = not self.follow
        self.grown()


class LogPane(Vertical):
    """The lines, a line about them, and a search field that comes when it is asked for."""

    BINDINGS: ClassVar[list[BindingType]] = [action.binding() for action in LOG]

    DEFAULT_CSS = """
    LogPane { height: 1fr; min-height: 3; }
    LogPane #log-about { height: 1; width: 1fr; color: $text-muted; background: $panel; }
    LogPane Input { display: none; }
    LogPane.-searching Input { display: block; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines = LogLines()
        self._about = _About(id="log-about")
        self._field = Line(placeholder="search the log, Enter to find", compact=True, id="log-search")
        self._sought = ""
        self._attempt = 0
        self._waiting = False

    def compose(self) -> ComposeResult:
        yield self._about
        yield self._field
        yield self.lines

    def open(self, path: Path | None) -> LogFile | None:
        """Show the log at ``path``; the same path again keeps the place."""
        now = self.lines.log_file
        if path is None or now is None or now.path != path:
            self.lines.open(LogFile(path) if path else None)
        return self.lines.log_file

    def grown(self) -> None:
        """More lines are there.

        They are drawn at most four times a second, less often when the pane is large, so that a flood of
        lines does not fill a slow link.
        """
        if not self._waiting and self.is_attached:
            self._waiting = True
            cells = self.lines.size.width * self.lines.size.height
            self.set_timer(max(0.25, cells / 2500), self._draw)

    def _draw(self) -> None:
        self._waiting = False
        self.lines.grown()

    def on_log_lines_changed(self) -> None:
        """Tell where in the log we are."""
        lines = self.lines
        log = lines.log_file
        if log is None or not log.count:
            self._about.show("Log", "")
            return
        if lines.follow:
            where = f"{number(log.count)} line{'s' if log.count > 1 else ''} {glyph('dot')} following"
            keys = "f hold  / search  g first error  o path"
        else:
            where = f"line {number(lines.top + 1)} of {number(log.count)} {glyph('dot')} held"
            keys = "f follow  / search  n next  g first error  o path"
        self._about.show(f"Log {glyph('dot')} {where}", keys)

    def action_follow(self) -> None:
        """Hold still, or follow the end again."""
        self.lines.action_follow()

    def action_search(self) -> None:
        """Show the search field."""
        self.add_class("-searching")
        self._field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Look for what was typed, from where we are."""
        event.stop()
        self.remove_class("-searching")
        self.lines.focus()
        self._sought = event.value
        if self._sought:
            self.lines.pattern = re.compile(re.escape(clean(self._sought)), re.IGNORECASE)
            self.find(re.compile(re.escape(self._sought.encode()), re.IGNORECASE), self.lines.top, False)

    def action_found(self, way: int) -> None:
        """Next or previous place."""
        if not self._sought:
            self.action_search()
            return
        at = self.lines.marked if self.lines.marked is not None else self.lines.top
        self.find(re.compile(re.escape(self._sought.encode()), re.IGNORECASE), at + way, way < 0)

    def action_first_error(self) -> None:
        """The first line that tells of an error."""
        self.find(ERROR, 0, False)

    def find(self, what: re.Pattern[bytes], line: int, backwards: bool) -> None:
        """Search the file in a thread; a newer search makes an older one's answer void."""
        self._attempt += 1
        if self.lines.log_file is not None:
            self._search(self.lines.log_file, what, line, backwards, self._attempt)

    @work(thread=True, exit_on_error=False, group="log-search")
    def _search(
        self, log: LogFile, what: re.Pattern[bytes], line: int, backwards: bool, attempt: int
    ) -> None:
        try:
            found = log.find(what, line, backwards=backwards)
        except OSError:
            found = None
        self.post_message(self.Found(found, attempt, what is ERROR))

    class Found(Message):
        """A search is over."""

        def __init__(self, line: int | None, attempt: int, error: bool) -> None:
            super().__init__()
            self.line, self.attempt, self.error = line, attempt, error

    def on_log_pane_found(self, event: Found) -> None:
        """Go there, or say that there is none."""
        event.stop()
        if event.attempt != self._attempt:
            return
        if event.line is None:
            what = "No error is named in the log." if event.error else "Not found from here on."
            self.app.notify(what, markup=False)
        else:
            self.lines.show_line(event.line)

    def action_copy_path(self) -> None:
        """Copy the path of the log file, and show it."""
        if self.lines.log_file is not None:
            path = str(self.lines.log_file.path)
            self.app.copy_to_clipboard(path)
            self.app.notify(clean(path), title="Copied the log's path", markup=False)

    def on_click(self, event: Click) -> None:
        """A click on the line above the log holds or follows."""
        if event.widget is self._about:
            self.lines.action_follow()


class _About(Widget):
    """What is shown of the log, and the keys when the log has the focus."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._texts = ("Log", "")

    def show(self, left: str, right: str) -> None:
        """Say where we are on the left, and the keys on the right."""
        if (left, right) != self._texts:
            self._texts = (left, right)
            self.refresh()

    def render(self) -> Content:
        left, right = self._texts
        room = self.size.width - len(left) - 3
        if len(right) > room:
            right = right[: max(0, room)]
        return Content(f" {left}{' ' * max(2, self.size.width - len(left) - len(right) - 2)}{right} ")
