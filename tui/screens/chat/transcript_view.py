"""What was said, on the screen: questions, and answers as Markdown that grows while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from core.chat.repetition import warning
from core.chat.settings import Sampling
from core.difference import Spans, difference
from core.language import _, shown
from core.text import StreamCleaner, clean
from tui.glyphs import glyph
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat import Answer, Turn
    from tui.screens.chat.controller import Live


USUAL = Sampling()
LOOK_AGAIN = 200
"""Characters after which it is looked again whether an answer goes round in circles."""
MARK = "underline $text-primary"
"""Words that only one of two answers has."""


def parser() -> MarkdownIt:
    """Markdown without HTML: tags such as ``<think>`` are text, and shown."""
    return MarkdownIt("gfm-like", {"html": False, "linkify": False})


class AnswerView(Vertical):
    """One answer: who gave it, its text, its figures, and what helps if it goes round in circles."""

    class Drawn(Message):
        """An answer that was complete from the first stands there."""

    def __init__(self, adapter: str, answer: Answer | None, settings: Sampling) -> None:
        """``settings``: how answers are chosen; what may help against repetition depends on them."""
        super().__init__()
        self.adapter = adapter
        self.raw = answer.answer if answer else ""
        self._complete = answer is not None
        self._settings = settings
        self._looked_at = 0
        self._who = Plain(Content(clean(adapter or "base", keep_newlines=False)), classes="who")
        self._markdown = Markdown(parser_factory=parser, open_links=False)
        self._figures = Plain(_figures(answer) if answer else "", classes="figures")
        self._circles = Plain("", classes="circles")
        self._cleaner = StreamCleaner()
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._who
        yield self._markdown
        yield self._figures

    async def on_mount(self) -> None:
        """Draw what is known already."""
        if self._complete:
            await self._markdown.update(clean(self.raw))
            self._look_for_circles()
            self.post_message(self.Drawn())

    async def grow(self, text: str, waiting: str = "") -> None:
        """The answer as far as it has come; ``waiting``: what happens before its first word."""
        piece, self.raw = text[len(self.raw) :], text
        if not piece:
            if self._stream is None:
                self._figures.show(waiting)
            return
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
            self._figures.show(_("writing … (F9 stops)"))
        await self._stream.write(self._cleaner.add(piece))
        if len(text) >= self._looked_at + LOOK_AGAIN:
            self._look_for_circles()

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
        self._figures.show(_figures(answer) if answer else _("no more came"))
        self._look_for_circles()

    def _look_for_circles(self) -> None:
        self._looked_at = len(self.raw)
        told = warning(self.raw, self._settings)
        self._circles.display = bool(told)
        self._circles.show(told)
        if (
            told and not self._circles.is_attached
        ):  # seldom: no answer waits for a widget that it does not need
            self.mount(self._circles)

    @property
    def figures(self) -> str:
        """The line below the answer."""
        return self._figures.text

    def _texts(self) -> list[tuple[Static, Content]]:
        """What of the drawn answer is text: paragraphs, list items, cells, code."""
        found = ((each, each.content) for each in self._markdown.query(Static))
        return [(each, text) for each, text in found if isinstance(text, Content) and text.plain]

    @property
    def shown(self) -> str:
        """The answer's words as they are drawn, without what made them bold or a list."""
        return "\n".join(text.plain for _, text in self._texts())

    def mark(self, spans: Spans) -> None:
        """Mark places of :attr:`shown`."""
        begin = 0
        for widget, text in self._texts():
            end = begin + len(text.plain)
            inside = [(max(a, begin) - begin, min(b, end) - begin) for a, b in spans if a < end and b > begin]
            marked = text
            for a, b in inside:
                marked = marked.stylize(MARK, a, b)
            if inside:
                widget.update(marked, layout=False)
            begin = end + 1


class TurnView(Vertical):
    """A question and its answers, side by side where there are two."""

    def __init__(self, turn: Turn, *, coming: bool = False, settings: Sampling = USUAL) -> None:
        """``coming``: the answers will be added piece by piece, from the first."""
        super().__init__()
        self.turn = turn
        self.coming = coming
        self.views = {
            adapter: AnswerView(adapter, None if coming else turn.answers.get(adapter), settings)
            for adapter in turn.adapters
        }
        self._told = Plain("", classes="told")
        self._compared = Plain("", classes="compared")
        self._drawn = 0

    def compose(self) -> ComposeResult:
        asked = Content.assemble((_("You") + "  ", "bold $text-primary"), clean(self.turn.question))
        yield Plain(asked, classes="asked")
        yield self._told
        if len(self.views) == 1:
            yield from self.views.values()
            return
        with Horizontal():
            for place, view in enumerate(self.views.values()):
                view.set_class(place > 0, "-second")
                yield view
        yield self._compared

    def on_mount(self) -> None:
        """No empty line stands where there is nothing to notice."""
        self._show_notices()

    def _show_notices(self) -> None:
        """Such as turns that had to go."""
        self._told.show("\n".join(map(shown, self.turn.notices)))
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
        self._compare()

    def on_answer_view_drawn(self, event: AnswerView.Drawn) -> None:
        """Two answers of an earlier chat stand there."""
        event.stop()
        self._drawn += 1
        if self._drawn == 2:
            self._compare()

    def _compare(self) -> None:
        """Mark the words of two answers in which they differ."""
        if len(self.views) != 2 or len(self.turn.answers) != 2:
            return
        first, second = self.views.values()
        found = difference(first.shown, second.shown)
        first.mark(found.first)
        second.mark(found.second)
        said = (
            _("Word for word the same.")
            if found.same
            else _("They have few words in common.")
            if found.unlike
            else _("Only their punctuation differs.")
            if not (found.first or found.second)
            else Content.assemble((_("Underlined"), MARK), ": " + _("where their words differ."))
        )
        self._compared.show(said)
        self._compared.display = True


class TranscriptView(VerticalScroll, can_focus=False):
    """The newest turns of a conversation, below an introduction and the way to earlier turns."""

    def __init__(self, *above: Widget, id: str) -> None:
        super().__init__(id=id)
        self._above = above

    def compose(self) -> ComposeResult:
        yield from self._above

    async def show(self, turns: Sequence[Turn], live: Live | None, settings: Sampling = USUAL) -> None:
        """Bring what stands here to these turns, of which ``live`` is being answered with these settings."""
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
                new.append(TurnView(turn, coming=turn is coming, settings=settings))
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
    return shown(answer.figures).replace(", ", f" {glyph('dot')} ")
