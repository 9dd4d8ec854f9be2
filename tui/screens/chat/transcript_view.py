"""What was said, on the screen: questions, and answers as Markdown that grows while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownStream

from core.text import StreamCleaner, clean
from tui.glyphs import glyph
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat import Answer, Turn
    from tui.screens.chat.controller import Live


def parser() -> MarkdownIt:
    """Markdown without HTML: tags such as ``<think>`` are text, and shown."""
    return MarkdownIt("gfm-like", {"html": False, "linkify": False})


class AnswerView(Vertical):
    """One answer: who gave it, its text, its figures."""

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

    async def grow(self, text: str, waiting: str = "") -> None:
        """The answer as far as it has come; ``waiting``: what happens before its first word."""
        piece, self.raw = text[len(self.raw) :], text
        if not piece:
            if self._stream is None:
                self._figures.show(waiting)
            return
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
            self._figures.show("writing … (F9 stops)")
        await self._stream.write(self._cleaner.add(piece))

    async def end(self, answer: Answer | None) -> None:
        """The answer is complete, or as complete as it will be (None)."""
        if answer is not None:
            await self.grow(answer.answer)
        rest = self._cleaner.flush()
        if self._stream is not None:
            if rest:
                await self._stream.write(rest)
            await self._stream.stop()
            self._stream = None
        self._figures.show(_figures(answer) if answer else "no more came")

    @property
    def figures(self) -> str:
        """The line below the answer."""
        return self._figures.text


class TurnView(Vertical):
    """A question and its answers, side by side where there are two."""

    def __init__(self, turn: Turn, *, coming: bool = False) -> None:
        """``coming``: the answers will be added piece by piece, from the first."""
        super().__init__()
        self.turn = turn
        self.coming = coming
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
        """No empty line stands where there is nothing to notice."""
        self._show_notices()

    def _show_notices(self) -> None:
        """Such as turns that had to go."""
        self._told.show("\n".join(self.turn.notices))
        self._told.display = bool(self.turn.notices)

    async def grow(self, live: Live) -> None:
        """The answers as far as they have come."""
        self._show_notices()
        for adapter, view in self.views.items():
            await view.grow(live.texts[adapter], live.waiting)

    async def end(self) -> None:
        """No more comes to any of the answers."""
        self._show_notices()
        self.coming = False
        await asyncio.gather(
            *(view.end(self.turn.answers.get(adapter)) for adapter, view in self.views.items())
        )


class TranscriptView(VerticalScroll, can_focus=False):
    """The newest turns of a conversation, below an introduction and the way to earlier turns."""

    def __init__(self, *above: Widget, id: str) -> None:
        super().__init__(id=id)
        self._above = above

    def compose(self) -> ComposeResult:
        yield from self._above

    async def show(self, turns: Sequence[Turn], live: Live | None) -> None:
        """Bring what stands here to these turns, of which ``live`` is being answered."""
        there = {id(view.turn): view for view in self.query(TurnView)}
        wanted = {id(turn) for turn in turns}
        coming = None if live is None else live.turn
        for key, view in there.items():
            if key not in wanted:
                await view.remove()
            elif view.coming and view.turn is not coming:
                await view.end()
        new: list[TurnView] = []
        for turn in turns:
            if id(turn) not in there:
                new.append(TurnView(turn, coming=turn is coming))
            elif new:
                await self.mount_all(new, before=there[id(turn)])
                new = []
        if new:
            await self.mount_all(new)
            self.anchor()
        if live is not None:
            for view in self.query(TurnView):
                if view.turn is coming:
                    await view.grow(live)


def _figures(answer: Answer) -> str:
    return answer.figures.replace(", ", f" {glyph('dot')} ")
