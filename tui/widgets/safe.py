"""Foreign text on the screen: cleaned, and never read as markup.

Textual reads square brackets in plain strings as markup: a dataset row such as ``[/INST]`` ends the
app, and ``[@click=app.quit]`` becomes a button. Whatever was not written in this program goes
through here: :class:`Plain` for text, :func:`content` for titles, buttons and choices, :func:`cell`
for tables. Texts of the core are in the language in use from here on.
"""

from __future__ import annotations

import re

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


def _same(text: str | Content, other: str | Content) -> bool:
    """Whether both look the same: two contents are equal for Python when their words are, whatever their styles."""
    if isinstance(text, Content) and isinstance(other, Content):
        return text.is_same(other)
    return type(text) is type(other) and text == other


def _safe(text: str | Content) -> Content:
    return harmless(text) if isinstance(text, Content) else Content(clean(shown(text)))


def _words(text: object) -> str:
    return shown(text) if isinstance(text, str) else str(text)
