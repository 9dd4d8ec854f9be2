"""The chat screen's inside: the model's life, questions under way, and what is drawn of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual import work
from textual.containers import VerticalScroll
from textual.events import ScreenSuspend
from textual.message import Message

from core.formats import human_bytes
from core.text import clean
from tui.screens.base import StepScreen
from tui.screens.chat_field import Question
from tui.screens.chat_words import intro, problem_of, state_line
from tui.signs import bar, sign
from tui.widgets.problem import Problem
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat import ChatEvent, ChatSession, Response
    from tui.screens.chat_talk import TurnView

DRAW_S = 0.05
KEPT = 20
"""Turns on the screen; earlier ones come back with a button."""


class ChatBase(StepScreen):
    """A conversation on a screen. The model loads on each visit and is freed when the screen is left."""

    class Opened(Message):
        """The model is loaded, or is not."""

        def __init__(self, attempt: int, chat: ChatSession | None, error: Exception | None) -> None:
            super().__init__()
            self.attempt, self.chat, self.error = attempt, chat, error

    class Loading(Message):
        """How far the loading is, in bytes."""

        def __init__(self, attempt: int, done: float, total: float | None) -> None:
            super().__init__()
            self.attempt, self.done, self.total = attempt, done, total

    class Came(Message):
        """The first word of an answer, or its end, is there: draw now and not at the next tick."""

    class Done(Message):
        """Something that was done in a thread is done; ``then`` runs here."""

        def __init__(self, then: Callable[[], None]) -> None:
            super().__init__()
            self.then = then

    def __init__(self) -> None:
        super().__init__()
        self.problem = Problem(id="problem", brief=True)
        self.intro = Plain("", id="intro")
        self.status = Plain("", id="chat-state")
        self.field = Question(
            placeholder="Ask; Enter sends, Up edits the last question, /help lists commands",
            id="ask",
            compact=True,
        )
        self.chat: ChatSession | None = None
        self.response: Response | None = None
        self.compare: tuple[str | None, str | None] | None = None
        self._view: TurnView | None = None
        self._attempt = 0
        self._loading = False
        self._drawing = False
        self._first_word = False
        self._editing = False
        self._shown = 0

    def on_mount(self) -> None:
        """Draw what has come at a steady pace, not piece by piece."""
        self._tick = self.set_interval(DRAW_S, self.draw, pause=True)

    # The model

    def _load(self) -> None:
        self._loading = True
        self._attempt += 1
        self.problem.tell(None)
        self.status.show("Loading the model …")
        self.intro.show(intro(self.step.about, []))
        self._open(self._attempt, self.chat)

    @work(thread=True, exit_on_error=False, group="chat")
    def _open(self, attempt: int, chat: ChatSession | None) -> None:
        import tui.screens.chat_talk  # noqa: F401 - loaded here, so that the first question does not wait for it
        from core.chat import ChatSession as Made
        from core.chat.protocol import Progress

        def on_load(event: Any) -> None:
            if isinstance(event, Progress):
                self.post_message(self.Loading(attempt, event.done, event.total))

        try:
            if chat is None:
                chat = Made.open(self.session.lab(), on_load=on_load)
            else:
                chat.restart()
            if not self.is_running:  # left while it was started
                chat.close()
                return
            self.post_message(self.Opened(attempt, chat, None))
            chat.wait_ready()
        except Exception as error:  # shown, whatever it was
            self.post_message(self.Opened(attempt, chat, error))
        else:
            self.post_message(self.Done(self._loaded))

    def on_chat_base_loading(self, event: Loading) -> None:
        """Tell how far it is."""
        event.stop()
        if event.attempt == self._attempt and self._loading:
            how_far = (
                f"{bar(event.done / event.total, 16)} {human_bytes(event.done)} of {human_bytes(event.total)}"
                if event.total
                else "…"
            )
            self.status.show(f"Loading the model {how_far}")

    def on_chat_base_opened(self, event: Opened) -> None:
        """The process is there (questions may be asked already), or it failed."""
        event.stop()
        if event.attempt != self._attempt:
            return
        self.chat = event.chat
        if event.error is not None:
            self._loading = False
            self.problem.tell(problem_of(event.error), "FAILED")
            self.status.show("")
            self._tell()
        self._buttons()
        self.focus_first()

    def _loaded(self) -> None:
        self._loading = False
        ready = self.chat.ready if self.chat else None
        if self.chat is None or ready is None:
            return
        notes = [
            *ready.notes,
            *(f"The adapter {name} does not fit: {why}" for name, why in ready.refused.items()),
        ]
        self.intro.show(intro(self.step.about, notes))
        if self.chat.turns:  # the place where they would stand has the conversation
            for note in notes:
                self.notify(clean(note, keep_newlines=False)[:300], markup=False, timeout=8)
        self._tell()
        self._buttons()

    def on_screen_suspend(self, event: ScreenSuspend) -> None:
        """Leaving the step frees the model's memory; a dialog over the screen does not."""
        self.call_later(self._free)

    def _free(self) -> None:
        chat = self.chat
        if chat is None or self.busy or self.olive.current is self or chat.closed:
            return
        self._loading = False
        self._attempt += 1
        self._close(chat)

    @work(thread=True, exit_on_error=False, group="close")
    def _close(self, chat: ChatSession) -> None:
        chat.close()

    def on_unmount(self) -> None:
        """The wizard ends: so does the model."""
        if self.chat is not None:
            self.chat.close()

    # Asking and drawing

    @property
    def busy(self) -> bool:
        """An answer is on its way."""
        return self.response is not None

    async def begin(
        self, ask: Callable[[ChatSession, Callable[[ChatEvent], None]], Response], replace: bool = False
    ) -> None:
        """Start an response and show it. Raises what asking raises."""
        from tui.screens.chat_talk import TurnView as Made

        assert self.chat is not None
        self.problem.tell(None)
        self._first_word = True
        self.response = ask(self.chat, self._hear)
        talk = self.query_one("#talk", VerticalScroll)
        if replace and talk.query(Made):
            await talk.query(Made).last().remove()
        self._view = Made(self.response.turn, coming=True)
        for view in self._view.views.values():
            view.tell("reading …")
        await talk.mount(self._view)
        views = list(talk.query(Made))
        for old in views[:-KEPT]:
            await old.remove()
        self._shown = min(len(views), KEPT)
        talk.anchor()
        self._tick.resume()
        self._buttons()
        self._tell()

    def _hear(self, event: ChatEvent) -> None:
        """Called by the reader thread for each event; only the first word and the end are hurried."""
        if event.type in ("done", "finished", "error") or (event.type == "token" and self._first_word):
            self._first_word = False
            self.post_message(self.Came())

    async def on_chat_base_came(self, event: Came) -> None:
        """Draw at once."""
        event.stop()
        await self.draw()

    async def draw(self) -> None:
        """Draw what has come since the last time."""
        response, view = self.response, self._view
        if response is None or view is None or self._drawing:
            return
        self._drawing = True
        try:
            pieces: dict[str, list[str]] = {}
            ended = False
            for event in response.drain():
                if event.type == "token":
                    pieces.setdefault(event.adapter, []).append(event.text)  # type: ignore[union-attr]
                elif event.type == "progress":
                    for each in view.views.values():
                        each.tell(f"reading {event.done:g} of {event.total or 0:g} tokens")  # type: ignore[union-attr]
                elif event.type == "dropped":
                    turns = event.turns  # type: ignore[union-attr]
                    many = "turn is" if turns == 1 else f"{turns} turns are"
                    view.tell(f"The context is full: the oldest {many} no longer read.")
                ended = ended or event.type in ("finished", "error")
            for adapter, found in pieces.items():
                await view.views[adapter].add("".join(found))
            if ended:
                await self._end(response, view)
        finally:
            self._drawing = False

    async def _end(self, response: Response, view: TurnView) -> None:
        self.response = None
        self._tick.pause()
        await view.end()
        if response.error is not None:
            refused = response.turn not in (self.chat.turns if self.chat else [])
            self._fail(response.error, "NOT ASKED" if refused else "FAILED")
            if refused:
                self.field.value = self.field.value or response.turn.question
                await self.rebuild()
        self._tell()
        self._buttons()
        if self.olive.current is not self:
            self._free()

    async def rebuild(self) -> None:
        """Show the conversation as it stands, its newest turns."""
        from tui.screens.chat_talk import TurnView as Made

        talk = self.query_one("#talk", VerticalScroll)
        turns = self.chat.turns if self.chat else []
        await talk.query(Made).remove()
        self._shown = min(max(self._shown, KEPT), len(turns))
        await talk.mount_all([Made(turn) for turn in turns[len(turns) - self._shown :]])
        talk.anchor()
        self._buttons()

    def action_stop(self) -> None:
        """Stop the answer; the conversation goes on."""
        if self.response is not None:
            self.response.stop()

    # Around it

    def focus_first(self) -> None:
        """In the field."""
        if not self.field.disabled and self.is_current:
            self.field.focus()

    def on_chat_base_done(self, event: Done) -> None:
        """What a thread did is shown here."""
        event.stop()
        event.then()

    def _tell(self, more: str = "") -> None:
        if self.chat is not None and not self._loading:
            dot = f" {sign('dot')} "
            self.status.show(state_line(self.chat, self.compare, self._editing, dot, more))

    def _buttons(self) -> None:
        """Show the buttons that make sense now."""

    def _fail(self, error: Exception, word: str = "NOT DONE") -> None:
        """Show what went wrong."""
        self.problem.tell(problem_of(error), word)
        self._buttons()
