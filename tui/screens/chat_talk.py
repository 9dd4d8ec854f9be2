"""What was said, on the screen: questions, and answers as Markdown that grows while it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownStream

from core.text import StreamCleaner, clean
from tui.signs import sign
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat import Answer, Turn


def parser() -> MarkdownIt:
    """Markdown without HTML: tags such as ``<think>`` are text, and shown."""
    return MarkdownIt("gfm-like", {"html": False, "linkify": False})


class AnswerView(Vertical):
    """One answer: who gave it, its text, its figures."""

    DEFAULT_CSS = """
    AnswerView { height: auto; width: 1fr; }
    AnswerView .who { color: $text-secondary; text-style: bold; height: auto; }
    AnswerView .figures { color: $text-muted; height: auto; }
    AnswerView Markdown { margin: 0; padding: 0; background: transparent; }
    AnswerView MarkdownParagraph { margin: 0 0 1 0; }
    AnswerView MarkdownBlock:last-child { margin-bottom: 0; }
    /* Code is wrapped: a long line cannot be scrolled to by keys. */
    AnswerView MarkdownFence > Label { width: 1fr; padding: 0 1; }
    """

    def __init__(self, adapter: str, answer: Answer | None = None) -> None:
        super().__init__()
        self.adapter = adapter
        self.raw = answer.answer if answer else ""
        self._who = Plain(Content(clean(adapter or "base", keep_newlines=False)), classes="who")
        self._markdown = Markdown(clean(self.raw), parser_factory=parser, open_links=False)
        self._figures = Plain(_figures(answer) if answer else "", classes="figures")
        self._cleaner = StreamCleaner()
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._who
        yield self._markdown
        yield self._figures

    async def add(self, piece: str) -> None:
        """More of the answer came."""
        self.raw += piece
        text = self._cleaner.add(piece)
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
            self._figures.show("writing … (F9 stops)")
        await self._stream.write(text)

    async def end(self, answer: Answer | None) -> None:
        """The answer is complete, or as complete as it will be (None)."""
        rest = self._cleaner.flush()
        if self._stream is not None:
            if rest:
                await self._stream.write(rest)
            await self._stream.stop()
            self._stream = None
        self._figures.show(_figures(answer) if answer else "no more came")

    def tell(self, text: str) -> None:
        """What happens before the first word."""
        if self._stream is None:
            self._figures.show(text)

    @property
    def figures(self) -> str:
        """The line below the answer."""
        return self._figures.text


class TurnView(Vertical):
    """A question and its answers, side by side where there are two."""

    DEFAULT_CSS = """
    TurnView { height: auto; margin: 0 0 1 0; }
    TurnView .asked { height: auto; }
    TurnView .told { color: $text-warning; height: auto; }
    TurnView Horizontal { height: auto; }
    TurnView .-second { border-left: solid $panel; padding: 0 0 0 1; margin: 0 0 0 1; }
    """

    def __init__(self, turn: Turn, *, coming: bool = False) -> None:
        """``coming``: the answers will be added piece by piece, from the first.

        A quick model may have answered before this is made: what is in ``turn`` would then stand here twice.
        """
        super().__init__()
        self.turn = turn
        self.views = {
            adapter: AnswerView(adapter, None if coming else turn.answers.get(adapter))
            for adapter in turn.adapters
        }
        self._told = Plain("", classes="told")

    def compose(self) -> ComposeResult:
        asked = Content.assemble(("You  ", "bold $text-accent"), clean(self.turn.question))
        yield Plain(asked, classes="asked")
        yield self._told
        if len(self.views) == 1:
            yield from self.views.values()
            return
        with Horizontal():
            for place, view in enumerate(self.views.values()):
                view.set_class(place > 0, "-second")
                yield view

    def on_mount(self) -> None:
        """No empty line stands for what was not told."""
        self._told.display = False

    def tell(self, text: str) -> None:
        """A notice that belongs to this turn, such as turns that had to go."""
        self._told.show(text)
        self._told.display = True

    @property
    def told(self) -> str:
        """That notice."""
        return self._told.text

    async def end(self) -> None:
        """No more comes to any of the answers."""
        await asyncio.gather(
            *(view.end(self.turn.answers.get(adapter)) for adapter, view in self.views.items())
        )


def _figures(answer: Answer) -> str:
    return answer.figures.replace(", ", f" {sign('dot')} ")
