"""Foreign text on the screen: cleaned, and never read as markup.

Textual reads square brackets in plain strings as markup: a dataset row such as ``[/INST]`` ends the
app, and ``[@click=app.quit]`` becomes a button. Whatever was not written in this program goes
through here: :class:`Plain` for text, :func:`content` for titles, buttons and choices, :func:`cell`
for tables. Texts of the core are in the language in use from here on.
"""

from __future__ import annotations

import re

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from core.language import shown
from core.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.text import Text
    from textual.widget import Widget


def content(text: object, style: str = "") -> Content:
    """``text`` for a title, a button or a choice."""
    words = clean(_words(text))
    return Content.styled(words, style) if style else Content(words)


def harmless(text: Content) -> Content:
    """Styled text that was put together here; should foreign text have got in uncleaned, its styles are given up."""
    cleaned = clean(text.plain)
    return text if cleaned == text.plain else Content(cleaned)


def cell(text: object, longest: int = 120) -> Text:
    """``text`` for one line of a table, cut at ``longest`` characters."""
    from rich.text import Text as RichText

    line = clean(_words(text), keep_newlines=False)
    return RichText(line if len(line) <= longest else line[: longest - 1] + "…", no_wrap=True, end="")


def entitle(widget: Widget, title: str, below: str = "") -> None:
    """Write in a widget's frame, above and below; only another text, as all of the widget is drawn for it."""
    if widget.border_title != title:
        widget.border_title = Content(title)
    if widget.border_subtitle != below and (below or widget.border_subtitle):
        widget.border_subtitle = Content(below)


_PATH_STOP = re.compile(r"(?m)(?<!\S)(\S*[/\\]\S*[^\s.])\.$")


def bare_paths(text: str) -> str:
    """A text of this program without the full stop after a path that ends a line.

    A path too long for the line is folded, and the stop would be all that stands in the next; it is no part of what
    one copies.
    """
    return _PATH_STOP.sub(r"\1", text)


class Plain(Static):
    """Text that is shown as it is. Strings are cleaned; :class:`Content` is taken as made here."""

    DEFAULT_CSS = """
    Plain { height: auto; width: 1fr; }
    """

    def __init__(
        self,
        text: str | Content = "",
        *,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        self._shown: str | Content = text
        super().__init__(_safe(text), markup=False, id=id, classes=classes)

    def show(self, text: str | Content) -> None:
        """Show another text; nothing is sent to the terminal when it is the same."""
        if not _same(text, self._shown):
            self._shown = text
            self.update(_safe(text))

    @property
    def text(self) -> str:
        """What is shown, without styles."""
        return shown(self._shown) if isinstance(self._shown, str) else self._shown.plain


class Hanging(Plain):
    """Lines that each tell of one thing: what does not fit goes on further in, so that it looks like no other thing."""

    def __init__(self, text: str | Content = "", *, id: str | None = None) -> None:
        self._whole = _safe(text)
        self._width = 0
        super().__init__(self._whole, id=id)

    @property
    def text(self) -> str:
        """What is shown, without styles, and as if there were room for it."""
        return self._whole.plain

    def show(self, text: str | Content) -> None:
        """Show another text."""
        self._whole = _safe(text)
        self._hang()

    def on_resize(self) -> None:
        """Other words fit."""
        self._width = self.size.width
        self._hang()

    def _hang(self) -> None:
        super().show(hung(self._whole, self._width) if self._width else self._whole)


_HEAD = re.compile(r" *\S+(?: \S+)* {2,}(?=\S)")
"""What stands in the first of two columns, with the gap behind it."""


def hung(text: Content, width: int) -> Content:
    """A text whose lines go on below their second column; without one, two cells further in than they begin."""
    lines: list[Content] = []
    for line in text.split(allow_blank=True):
        head = _HEAD.match(line.plain)
        begin = len(line.plain) - len(line.plain.lstrip(" "))
        further = cell_len(head[0]) if head is not None else begin + 2 if begin else 0
        first = line.wrap(width)[0] if line.cell_length > width else line
        lines.append(first)
        rest = line[len(first) :]
        rest = rest[len(rest) - len(rest.plain.lstrip(" ")) :]
        if rest:
            # Where the first column takes most of the room, there is none for the second.
            further = further if further <= width // 2 else 0
            lines += [each.pad_left(further) for each in rest.wrap(width - further)]
    return Content("\n").join(lines)


def _same(text: str | Content, other: str | Content) -> bool:
    """Whether both look the same: two contents are equal for Python when their words are, whatever their styles."""
    if isinstance(text, Content) and isinstance(other, Content):
        return text.is_same(other)
    return type(text) is type(other) and text == other


def _safe(text: str | Content) -> Content:
    return harmless(text) if isinstance(text, Content) else Content(clean(shown(text)))


def _words(text: object) -> str:
    return shown(text) if isinstance(text, str) else str(text)
