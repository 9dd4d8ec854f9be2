"""Where questions are typed: a framed box of several lines, and what it offers while one types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click, Key, Paste
from textual.filter import LineFilter
from textual.message import Message
from textual.widget import Widget
from textual.widgets import TextArea

from core.chat.commands import Completion
from core.language import _
from core.text import clean, masked
from tui.figures import human_bytes
from tui.glyphs import ascii_only, glyph
from tui.reading import untouched
from tui.theme import QUIET
from tui.widgets.line import MASK
from tui.widgets.safe import harmless

if TYPE_CHECKING:
    from rich.text import Text

LONGEST_PASTE = 128 << 10
"""Characters; with more in one line each key takes longer than one waits."""
NEW_LINE = ("ctrl+j", "shift+enter", "alt+enter")
"""The first works in every terminal, the others where they reach the program."""
_OURS = ("up", "down", "pageup", "pagedown", "f6", "f7")
"""Keys that mean something else here than in any text area."""


class Offers(Widget):
    """Lines to choose from above the box, one of them marked: the box has the focus all the time."""

    DEFAULT_CSS = """
    Offers { height: auto; max-height: 7; width: 1fr; padding: 0 2; display: none; }
    """
    MOST = 6

    class Chosen(Message):
        """A line was clicked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._title = ""
        self._lines: tuple[Content, ...] = ()
        self.marked: int | None = None
        self._top = 0

    def show(self, lines: Sequence[Content], marked: int | None = None, title: str = "") -> None:
        """Show these lines, or none."""
        wanted = (title, tuple(lines), marked)
        if wanted == (self._title, self._lines, self.marked):
            return
        layout = (bool(title), len(lines)) != (bool(self._title), len(self._lines))
        self._title, self._lines, self.marked = wanted
        self.display = bool(lines)
        self.refresh(layout=layout)

    def render(self) -> Content:
        here = self.marked or 0
        self._top = max(0, min(self._top, here, len(self._lines) - self.MOST))
        self._top = max(self._top, here - self.MOST + 1)
        drawn = [Content.styled(self._title, QUIET)] if self._title else []
        for place in range(self._top, min(len(self._lines), self._top + self.MOST)):
            chosen = place == self.marked
            line = Content.assemble(f"{glyph('here') if chosen else ' '} ", harmless(self._lines[place]))
            line = line.truncate(self.size.width, ellipsis=True)
            drawn.append(line.stylize("bold") if chosen else line)
        return Content("\n").join(drawn)

    def on_click(self, event: Click) -> None:
        """Choose the line under the pointer."""
        place = self._top + event.y - bool(self._title)
        if 0 <= place < len(self._lines):
            self.post_message(self.Chosen(place))


class Question(TextArea, inherit_bindings=False):
    """A question of one line or several: Enter sends it, Ctrl+J begins a line, and the box grows with it.

    While a line that begins with / is typed, its completions stand above the box: Tab takes the marked one, and
    Enter does it. What the box shows is masked, as in every field: control characters are never drawn.

    Attributes:
        offers: where completions and questions to begin with are shown.
        samples: questions to begin with, for Up and Down in the empty box.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(each for each in TextArea.BINDINGS if isinstance(each, Binding) and each.key not in _OURS),
        Binding("up", "above", show=False),
        Binding("down", "below", show=False),
        Binding("pageup", "screen.scroll_body(-1)", show=False),
        Binding("pagedown", "screen.scroll_body(1)", show=False),
    ]

    class Sent(Message):
        """The question, or the line that begins with /, as it was typed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class EditWanted(Message):
        """Up in the empty box, and there is nothing to begin with: the last question is to be changed."""

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What is typed is drawn as it is, so that the cursor stands where it says."""
        filters = super().get_line_filters()
        return untouched(filters) if self.text else filters

    def __init__(self, completions: Callable[[str], Sequence[Completion]], *, id: str) -> None:
        super().__init__(
            id=id,
            placeholder=Content(_("Ask the model something")),
            highlight_cursor_line=False,
            soft_wrap=True,
        )
        self.offers = Offers(id=f"{id}-offers")
        self.samples: tuple[str, ...] = ()
        self._completions = completions
        self._hint = ""
        self._open: tuple[Completion, ...] = ()
        self._declined = ""
        self.set_class(ascii_only(), "-ascii")

    def get_line(self, line_index: int) -> Text:
        """As it may be drawn: a sign stands for each control character."""
        line = super().get_line(line_index)
        shown = masked(line.plain, MASK)
        if shown != line.plain:
            line.plain = shown
        return line

    def put(self, text: str) -> None:
        """Another text, with the cursor behind it."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    @property
    def completing(self) -> bool:
        """Completions are shown."""
        return bool(self._open)

    def tell(self, title: str, hint: str, *, gone: bool = False) -> None:
        """What stands in the frame: who answers, and what the keys do now; ``gone``: nobody would answer."""
        self.placeholder = Content(
            _("The model must be loaded again first") if gone else _("Ask the model something")
        )
        self.border_title = Content(title)
        self._hint = hint
        self._tell_keys()

    def _tell_keys(self) -> None:
        words = self._hint
        if self._open:
            place = _("{done} of {total}", done=(self.offers.marked or 0) + 1, total=len(self._open))
            words = f" {glyph('dot')} ".join((place, _("Tab completes"), _("Enter does it"), _("Esc closes")))
        if words != self.border_subtitle:
            self.border_subtitle = Content(words)

    # What is offered

    def offer(self, samples: Sequence[str]) -> None:
        """Questions to begin with, as long as there is no conversation."""
        self.samples = tuple(samples)
        self._look()

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        """What can be offered changes with each key."""
        self._look()

    def _look(self) -> None:
        text = self.text
        if text != self._declined:
            self._declined = ""
        before, self._open = self._open, () if self._declined else tuple(self._completions(text))
        if self._open:
            same = [each.line for each in before] == [each.line for each in self._open]
            self._show_open(self.offers.marked or 0 if same else 0)
        elif self.samples and (not text or text in self.samples):
            marked = self.samples.index(text) if text else None
            lines = [Content(clean(each, keep_newlines=False)) for each in self.samples]
            self.offers.show(
                lines, marked, _("Held-out questions, which the model has not learnt; Up takes one:")
            )
        else:
            self.offers.show(())
        self._tell_keys()

    def _show_open(self, marked: int) -> None:
        width = max(len(each.shown) for each in self._open) + 2
        lines = [
            Content.assemble(
                clean(each.shown, keep_newlines=False).ljust(width),
                (clean(each.meaning, keep_newlines=False), QUIET),
            )
            for each in self._open
        ]
        self.offers.show(lines, marked)
        self._tell_keys()

    def choose(self, index: int) -> None:
        """A line of the offers was clicked."""
        if self._open:
            self.put(self._open[index].line)
        elif index < len(self.samples):
            self.put(self.samples[index])
        self.focus()

    # Keys

    async def _on_key(self, event: Key) -> None:
        if event.key in ("enter", "tab", "escape"):
            self._look()  # keys may come faster than what they changed is told
        if event.key in NEW_LINE:
            self.replace("\n", *self.selection)
        elif event.key == "enter":
            self._enter()
        elif event.key == "tab" and self._open:
            self.put(self._open[self.offers.marked or 0].line)
        elif event.key == "escape" and self._open:
            self._declined = self.text
            self._look()
        else:
            return
        event.stop()
        event.prevent_default()

    def _enter(self) -> None:
        if self._open:
            marked = self._open[self.offers.marked or 0]
            if not marked.whole:
                self.put(marked.line)
                return
            self.put(marked.line.strip())
        self.post_message(self.Sent(self.text))

    async def _on_paste(self, event: Paste) -> None:
        event.stop()
        event.prevent_default()
        if len(event.text) > LONGEST_PASTE:
            self.notify(
                _("That is {size}, too much for a question.", size=human_bytes(len(event.text))), markup=False
            )
            return
        text = event.text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
        self.move_cursor(self.replace(text, *self.selection).end_location)

    def action_above(self) -> None:
        """A line up, or out of the box; in the empty box a question to begin with, or the last one."""
        self._look()
        if self._open:
            self._show_open(((self.offers.marked or 0) - 1) % len(self._open))
        elif not self.text and not self.samples:
            self.post_message(self.EditWanted())
        elif not self.text:
            self.put(self.samples[-1])
        elif self.text in self.samples:
            self.put(self.samples[max(0, self.samples.index(self.text) - 1)])
        elif not self.navigator.is_first_wrapped_line(self.cursor_location):
            self.action_cursor_up()
        elif self.cursor_location != (0, 0):
            self.move_cursor((0, 0))
        else:
            self.screen.focus_previous()

    def action_below(self) -> None:
        """A line down; below the last one out of the box."""
        self._look()
        if self._open:
            self._show_open(((self.offers.marked or 0) + 1) % len(self._open))
        elif self.text and self.text in self.samples:
            rest = self.samples[self.samples.index(self.text) + 1 :]
            self.put(rest[0] if rest else "")
        elif self.navigator.is_last_wrapped_line(self.cursor_location):
            self.screen.focus_next()
        else:
            self.action_cursor_down()
