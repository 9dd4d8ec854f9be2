"""A job's log: follow or hold, fold long lines, open a traceback, search, first error, the file's path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

from core.language import _, ngettext
from core.log_lines import TRACEBACK, LogBlock, entries, may_go_on, read
from core.text import clean
from tui.figures import number
from tui.glyphs import glyph
from tui.keys import LOG
from tui.log_file import ERROR, LogFile
from tui.theme import QUIET
from tui.widgets.line import Line
from tui.widgets.safe import entitle

if TYPE_CHECKING:
    from pathlib import Path

_ERROR_TEXT = re.compile(ERROR.pattern.decode(), re.IGNORECASE)

LONGEST_TRACEBACK = 400
"""Lines that are looked at to find where a traceback begins or ends."""

_LEVELS = {
    "debug": (QUIET, ""),
    "info": ("", ""),
    "warning": ("$text-warning", "warning"),
    "error": ("$text-error", "error"),
}
"""How a line of each level is drawn: its colour, and the glyph in front of it."""


@dataclass(frozen=True)
class Shown:
    """An entry of the log as it is drawn.

    Attributes:
        entry: the lines that it is of.
        rows: how many rows it takes.
        content: those rows.
    """

    entry: LogBlock
    rows: int
    content: Content


class LogLines(Widget, can_focus=True):
    """The lines that fit, read from the file when they are drawn.

    A traceback is one line until it is opened.
    """

    DEFAULT_CSS = """
    LogLines { height: 1fr; width: 1fr; padding: 0 1; background: $background; color: $foreground; }
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
        self.wrap = False
        self.pattern: re.Pattern[str] | None = None
        self.marked: int | None = None
        self.opened: set[int] = set()
        self.shown: list[Shown] = []

    def open(self, log: LogFile | None) -> None:
        """Show another file, following its end."""
        self.log_file, self.follow, self.top, self.left = log, True, 0, 0
        self.pattern, self.marked, self.opened, self.shown = None, None, set(), []
        self.grown()

    @property
    def count(self) -> int:
        """Lines in the file."""
        return self.log_file.count if self.log_file else 0

    @property
    def folded(self) -> list[LogBlock]:
        """The tracebacks in sight."""
        return [each.entry for each in self.shown if each.entry.traceback]

    def grown(self) -> None:
        """The file has more lines, or there is another room for them."""
        self._look(self.size.height)  # at once: what is told of it beside it is told before it is drawn
        self.refresh()
        self.post_message(self.Changed())

    def on_resize(self) -> None:
        """Others are in sight."""
        self.grown()

    def render(self) -> Content:
        height = self.size.height
        self._look(height)
        if not self.shown:
            return Content.styled(_("The log is empty so far."), QUIET)
        rows = Content("\n").join([each.content for each in self.shown]).split(allow_blank=True)
        return Content("\n").join(rows[-height:] if self.follow else rows[:height])

    # Which entries are in sight

    def _look(self, height: int) -> None:
        """Find the entries that are in sight."""
        if self.log_file is None or not self.count or not height:
            self.shown = []
        elif self.follow:
            self.shown = self._up_to_the_end(height)
            self.top = self.shown[0].entry.first
        else:
            self.top = self._begin_of(self.top)
            self.shown = self._from(self.top, height)

    def _entries(self, first: int, count: int) -> list[LogBlock]:
        """The entries of some lines; the last is whole, however far it goes on."""
        assert self.log_file is not None
        lines = self.log_file.lines(first, count)
        found = list(entries(lines, first))
        if len(lines) < count or not any(each.traceback for each in found):
            return found
        last = max(place for place, each in enumerate(found) if each.traceback)
        if all(may_go_on(each.lines[0]) for each in found[last + 1 :]):
            longer = self.log_file.lines(found[last].first, LONGEST_TRACEBACK)
            found[last:] = [next(entries(longer, found[last].first))]
        return found

    def _begin_of(self, line: int) -> int:
        """The first line of the entry that a line belongs to."""
        before = max(0, line - LONGEST_TRACEBACK)
        assert self.log_file is not None
        lines = self.log_file.lines(before, line - before + 1)
        # Most lines are no part of a traceback, and need not be looked at as one.
        if not any(each.strip() == TRACEBACK for each in lines):
            return line
        return next((each.first for each in self._entries(before, len(lines)) if each.after > line), line)

    def _from(self, first: int, height: int) -> list[Shown]:
        """The entries from a line on that fill so many rows."""
        found: list[Shown] = []
        rows = 0
        while rows < height and first < self.count:
            read = self._entries(first, height)
            if not read:
                break
            for entry in read:
                found.append(self._show(entry))
                rows += found[-1].rows
            first = read[-1].after
        return found

    def _up_to_the_end(self, height: int) -> list[Shown]:
        """The last entries, that fill so many rows."""
        found: list[Shown] = []
        end = self.count
        while end > 0 and sum(each.rows for each in found) < height:
            first = self._begin_of(max(0, end - height))
            earlier = [self._show(each) for each in self._entries(first, end - first) if each.first < end]
            found, end = earlier + found, first
        rows = 0
        for place in range(len(found) - 1, -1, -1):
            rows += found[place].rows
            if rows >= height:
                return found[place:]
        return found

    def _show(self, entry: LogBlock) -> Shown:
        """An entry as it is drawn."""
        width = max(20, self.size.width)
        if entry.traceback and entry.first not in self.opened:
            reason = clean(entry.reason, keep_newlines=False)
            told = f"{reason}  " + ngettext(
                "(traceback of {n} line)", "(traceback of {n} lines)", len(entry.lines)
            )
            rows = [self._row("", glyph("folded"), told, "$text-error", width)]
        elif entry.traceback:
            head = self._row("", glyph("opened"), entry.lines[0], "$text-error", width)
            rows = [head, *(self._row("", " ", each, "$text-error", width) for each in entry.lines[1:])]
        else:
            line = read(entry.lines[0])
            level = line.level if line.level != "info" or not _ERROR_TEXT.search(line.text) else "error"
            style, sign = _LEVELS[level]
            rows = [self._row(line.time, glyph(sign) if sign else " ", line.text, style, width)]
        content = Content("\n").join(rows)
        if self.marked is not None and entry.first <= self.marked < entry.after:
            content = content.stylize("bold underline")
        return Shown(entry, content.plain.count("\n") + 1, content)

    def _row(self, time: str, sign: str, text: str, style: str, width: int) -> Content:
        """Time, sign and text; on as many rows as it takes where lines are folded."""
        before = f"{time:<8} {sign} "
        room = max(10, width - len(before))
        parts = _folded(text, room) if self.wrap else [text[self.left : self.left + room + 1]]
        lines = []
        for place, part in enumerate(parts):
            shown = Content.styled(part, style) if style else Content(part)
            if self.pattern is not None:
                for match in self.pattern.finditer(part):
                    shown = shown.stylize("reverse", match.start(), match.end())
            lead = Content.assemble(
                (before[:9] if place == 0 else " " * 9, QUIET),
                (before[9:] if place == 0 else " " * (len(before) - 9), f"bold {style}".strip()),
            )
            line = Content.assemble(lead, shown)
            if line.cell_length > width:
                line = Content.assemble(line.truncate(width - 1), (glyph("cut"), "bold $text-warning"))
            if self.left and text:  # there is more on this side
                line = Content.assemble(
                    line[: len(before) - 1], (glyph("cut"), "bold $text-warning"), line[len(before) :]
                )
            lines.append(line)
        return Content("\n").join(lines)

    # Moving

    def go(self, top: int) -> None:
        """Show the lines from ``top`` on; at the end the log is followed again."""
        self.top = max(0, min(self.count - 1, top))
        last = (
            self._up_to_the_end(max(1, self.size.height)) if self.log_file is not None and self.count else []
        )
        self.follow = not last or self.top >= last[0].entry.first
        self._look(self.size.height)  # at once: the next key goes on from here
        self.refresh()
        self.post_message(self.Changed())

    def show_line(self, line: int) -> None:
        """Bring a line to the middle and mark it."""
        self.marked = line
        self.go(line - self.size.height // 2)

    def action_move(self, by: int) -> None:
        """Up or down by entries."""
        if by > 0 and self.shown:
            self.go(self.shown[0].entry.after)
        elif self.log_file is not None and self.top > 0:
            self.go(self._begin_of(self.top - 1))

    def action_page(self, by: int) -> None:
        """Up or down by pages."""
        if by > 0 and self.shown:
            self.go(self.shown[-1].entry.first)
        else:
            self.go(self.top - max(1, self.size.height - 1))

    def action_ends(self, end: int) -> None:
        """To the first or the last line."""
        self.go(0 if end < 0 else self.count)

    def action_sideways(self, by: int) -> None:
        """Left or right, for long lines."""
        self.left = 0 if self.wrap else max(0, self.left + by)
        self.refresh()

    def action_wrap(self) -> None:
        """Fold long lines, or cut them."""
        self.wrap, self.left = not self.wrap, 0
        self.grown()

    def action_open(self) -> None:
        """Open the traceback that is marked, else the last in sight; or fold it again."""
        marked = [
            each for each in self.folded if self.marked is not None and each.first <= self.marked < each.after
        ]
        if chosen := (marked or self.folded)[-1:]:
            self._toggle(chosen[0].first)

    def _toggle(self, first: int) -> None:
        self.opened ^= {first}
        if first in self.opened:
            # Its begin has to be seen, or nothing would seem to have happened.
            self.top, self.follow = first, False
        self.grown()

    def on_click(self, event: Click) -> None:
        """Open the traceback under the pointer."""
        row = event.y
        for each in self.shown:
            if row < each.rows:
                if each.entry.traceback:
                    event.stop()
                    self._toggle(each.entry.first)
                return
            row -= each.rows

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


def _folded(text: str, room: int) -> list[str]:
    """A text on lines of so many cells, between words where that can be."""
    lines = []
    while cell_len(text) > room:
        cut = room
        while cell_len(text[:cut]) > room:
            cut -= 1
        space = text.rfind(" ", room // 2, cut + 1)
        cut = space if space > 0 else max(1, cut)
        lines.append(text[:cut])
        text = text[cut:].lstrip(" ") if space > 0 else text[cut:]
    return [*lines, text]


class LogPane(Vertical):
    """The lines, a line about them, and a search field that comes when it is asked for."""

    BINDINGS: ClassVar[list[BindingType]] = [action.binding() for action in LOG]

    DEFAULT_CSS = """
    LogPane { height: 1fr; min-height: 3; }
    LogPane #log-about { height: 1; width: 1fr; color: $text-muted; background: $panel; }
    LogPane:focus-within #log-about { color: $text-primary; background: $primary 24%; text-style: bold; }
    LogPane:ansi:focus-within #log-about { background: ansi_default; text-style: bold reverse; }
    LogPane:ansi:focus-within { border-title-style: bold reverse; }
    LogPane.-searching:ansi:focus-within #log-about { text-style: none; }
    LogPane.-searching:ansi:focus-within { border-title-style: none; }
    LogPane Input { display: none; }
    LogPane.-searching Input { display: block; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="framed")
        self.lines = LogLines()
        self._about = _About(id="log-about")
        self._field = Line(placeholder=_("search the log, Enter to find"), compact=True, id="log-search")
        self._sought = ""
        self._attempt = 0
        self._waiting = False
        self._grows, self._failed, self._large = True, False, False

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
        self.on_log_lines_changed()  # at once, or the whole pane would be drawn a second time for its title

    def on_log_lines_changed(self) -> None:
        """Tell where in the log we are."""
        lines = self.lines
        log = lines.log_file
        if log is None or not log.count:
            self._tell(_("Log"), _("l small") if self._large else "")
            return
        dot = glyph("dot")
        top, count = number(lines.top + 1), number(log.count)
        if not self._grows:
            where = _("Log {dot} line {top} of {count}", dot=dot, top=top, count=count)
        elif lines.follow:
            where = ngettext(
                "Log {dot} {count} line {dot} following",
                "Log {dot} {count} lines {dot} following",
                log.count,
                count=count,
                dot=dot,
            )
        else:
            where = _("Log {dot} line {top} of {count} {dot} held", dot=dot, top=top, count=count)
        # What does not fit is left out from the end: first what this moment asks for.
        keys = [
            _("l small") if self._large else "",
            _("Enter opens {sign}", sign=glyph("folded")) if lines.folded else "",
            *([_("g first error"), _("o path")] if self._failed else []),
            (_("f hold") if lines.follow else _("f follow")) if self._grows else "",
            _("w wrap"),
            _("/ search"),
            _("n next") if lines.pattern is not None else "",
            *([] if self._failed else [_("g first error"), _("o path")]),
        ]
        self._tell(where, "  ".join(filter(None, keys)))

    def tell_of(self, *, grows: bool, failed: bool, large: bool) -> None:
        """Whether the log may grow, tells of a failure, and fills the screen: what is told of it follows."""
        if (grows, failed, large) != (self._grows, self._failed, self._large):
            self._grows, self._failed, self._large = grows, failed, large
            self.on_log_lines_changed()

    def _tell(self, left: str, right: str) -> None:
        """In the line above the log; where it has a frame, in that."""
        self._about.show(left, right)
        if self.screen.has_class("-tall"):  # a new title has the whole pane drawn, frame or not
            entitle(self, left, right)

    def action_follow(self) -> None:
        """Hold still, or follow the end again."""
        self.lines.action_follow()

    def action_wrap(self) -> None:
        """Fold long lines, or cut them."""
        self.lines.action_wrap()

    def action_open(self) -> None:
        """Open a traceback, or fold it again."""
        self.lines.action_open()

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
            what = _("No error is named in the log.") if event.error else _("Not found from here on.")
            self.app.notify(what, markup=False)
        else:
            self.lines.show_line(event.line)

    def action_copy_path(self) -> None:
        """Copy the path of the log file, and show it."""
        if self.lines.log_file is not None:
            path = str(self.lines.log_file.path)
            self.app.copy_to_clipboard(path)
            self.app.notify(clean(path), title=_("Copied the log's path"), markup=False)

    def on_click(self, event: Click) -> None:
        """A click on the line above the log holds or follows."""
        if event.widget is self._about:
            self.lines.action_follow()


class _About(Widget):
    """What is shown of the log, and the keys when the log has the focus."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._texts = (_("Log"), "")

    def show(self, left: str, right: str) -> None:
        """Say where we are on the left, and the keys on the right."""
        if (left, right) != self._texts:
            self._texts = (left, right)
            self.refresh()

    def render(self) -> Content:
        left, right = self._texts
        room = self.size.width - cell_len(left) - 3
        while cell_len(right) > max(0, room):  # whole keys, as many as fit
            right = right.rpartition("  ")[0]
        return Content(
            f" {left}{' ' * max(2, self.size.width - cell_len(left) - cell_len(right) - 2)}{right} "
        )
