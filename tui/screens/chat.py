"""Step 6: a conversation with the lab's model: adapters, base and tuned side by side, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.events import ScreenSuspend
from textual.message import Message
from textual.widgets import Input

from core.text import clean
from tui.screens.base import StepScreen
from tui.screens.chat_words import HELP, Command, parse, problem_of, state_line
from tui.signs import bar, sign
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain
from tui.words import size

if TYPE_CHECKING:
    from core.chat import ChatEvent, ChatSession, Exchange
    from tui.screens.chat_talk import TurnView
    from tui.snapshot import Snapshot

DRAW_S = 0.05
KEPT = 20
"""Turns on the screen; earlier ones come back with a button."""


class Question(Input):
    """Where questions are typed. Up in an empty field brings the last question back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "last_question", show=False),
        Binding("down", "screen.leave_field_down", show=False),
        Binding("pageup", "screen.scroll_body(-1)", show=False),
        Binding("pagedown", "screen.scroll_body(1)", show=False),
    ]

    class EditLast(Message):
        """The last question is wanted back."""

    def action_last_question(self) -> None:
        """Ask for it, unless something is typed already."""
        if self.value:
            self.screen.focus_previous()
        else:
            self.post_message(self.EditLast())


class ChatScreen(StepScreen):
    """Ask in the field, read above it. The model loads on each visit and is freed when the screen is left."""

    NAME = "chat"
    CSS_PATH = "chat.tcss"

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
        self.problem = Problem(id="problem")
        self.status = Plain("", id="chat-state")
        self.field = Question(
            placeholder="Ask; Enter sends, Up edits the last question, /help lists commands",
            id="ask",
            compact=True,
        )
        self.chat: ChatSession | None = None
        self.exchange: Exchange | None = None
        self.compare: tuple[str | None, str | None] | None = None
        self._view: TurnView | None = None
        self._attempt = 0
        self._loading = False
        self._drawing = False
        self._first_word = False
        self._editing = False
        self._shown = 0

    def body(self) -> ComposeResult:
        yield self.problem
        with VerticalScroll(id="talk", can_focus=False):
            yield Push("Show earlier turns", id="earlier")
        yield self.status
        yield self.field
        with Horizontal(classes="buttons"):
            yield Push("Stop", id="stop", key="F9", primary=True)
            yield Push("Start again", id="restart", primary=True)
            yield Push("Again", id="again")
            yield Push("Copy", id="copy")
            yield Push("Compare", id="compare")
            yield Push("Adapter", id="adapter")
            yield Push("Set", id="set")
            yield Push("Chats", id="chats")
            yield Push("Evaluate", id="run", key="F8")
        yield self.command

    def on_mount(self) -> None:
        """Draw what has come at a steady pace, not piece by piece."""
        super().on_mount()
        self._tick = self.set_interval(DRAW_S, self.draw, pause=True)

    # The model

    def show(self, snapshot: Snapshot) -> None:
        """Load the model when there is one."""
        words = ["--compare"] if self.compare else []
        self.command.show(self.session.command("chat", *words))
        missing = self.missing(snapshot)
        self.field.disabled = missing is not None
        if missing is not None:
            self.status.show(f"Nothing to talk to yet: step {missing.number}, {missing.title}, makes it.")
        elif not self._loading and self.is_current and (self.chat is None or self.chat.closed):
            self._load()
        self._buttons()

    def _load(self) -> None:
        self._loading = True
        self._attempt += 1
        self.problem.tell(None)
        self.status.show("Loading the model …")
        self._open(self._attempt, self.chat)

    @work(thread=True, exit_on_error=False, group="chat")
    def _open(self, attempt: int, chat: ChatSession | None) -> None:
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

    def on_chat_screen_loading(self, event: Loading) -> None:
        """Tell how far it is."""
        event.stop()
        if event.attempt == self._attempt and self._loading:
            done = f"{bar(event.done / event.total, 16)} {size(event.total)}" if event.total else "…"
            self.status.show(f"Loading the model {done}")

    def on_chat_screen_opened(self, event: Opened) -> None:
        """The process is there (questions may be asked already), or it failed."""
        event.stop()
        if event.attempt != self._attempt:
            return
        self.chat = event.chat
        if event.error is not None:
            self._loading = False
            self.problem.tell(problem_of(event.error), "FAILED")
            self.status.show("")
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

    # Asking

    @property
    def busy(self) -> bool:
        """An answer is on its way."""
        return self.exchange is not None

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask, or do what a line that begins with / says."""
        event.stop()
        text = event.value.strip()
        if not text or self.chat is None:
            return
        try:
            command = parse(text)
            if command is not None:
                self.field.value = ""
                await self.do(command)
                return
            if self.busy:
                self.notify("An answer is on its way: F9 stops it.", markup=False)
                return
            question = text[1:] if text.startswith("//") else text
            if self._editing:
                await self.begin(lambda chat, hear: chat.begin_again(question, hear), replace=True)
            elif self.compare is not None:
                lanes = self.compare
                await self.begin(lambda chat, hear: chat.begin_compare(question, lanes, hear))
            else:
                await self.begin(lambda chat, hear: chat.begin(question, hear))
            self.field.value = ""
            self._editing = False
        except Exception as error:
            self.problem.tell(problem_of(error), "NOT ASKED")

    async def begin(
        self, ask: Callable[[ChatSession, Callable[[ChatEvent], None]], Exchange], replace: bool = False
    ) -> None:
        """Start an exchange and show it. Raises what asking raises."""
        from tui.screens.chat_talk import TurnView as Made

        assert self.chat is not None
        self.problem.tell(None)
        self._first_word = True
        self.exchange = ask(self.chat, self._hear)
        talk = self.query_one("#talk", VerticalScroll)
        if replace and talk.query(Made):
            await talk.query(Made).last().remove()
        self._view = Made(self.exchange.turn)
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

    async def on_chat_screen_came(self, event: Came) -> None:
        """Draw at once."""
        event.stop()
        await self.draw()

    async def draw(self) -> None:
        """Draw what has come since the last time."""
        exchange, view = self.exchange, self._view
        if exchange is None or view is None or self._drawing:
            return
        self._drawing = True
        try:
            pieces: dict[str, list[str]] = {}
            ended = False
            for event in exchange.drain():
                if event.type == "token":
                    pieces.setdefault(event.lane, []).append(event.text)  # type: ignore[union-attr]
                elif event.type == "progress":
                    for each in view.views.values():
                        each.tell(f"reading {event.done:g} of {event.total or 0:g} tokens")  # type: ignore[union-attr]
                elif event.type == "dropped":
                    turns = event.turns  # type: ignore[union-attr]
                    many = "turn is" if turns == 1 else f"{turns} turns are"
                    view.tell(f"The context is full: the oldest {many} no longer read.")
                ended = ended or event.type in ("finished", "error")
            for lane, found in pieces.items():
                await view.views[lane].add("".join(found))
            if ended:
                await self._end(exchange, view)
        finally:
            self._drawing = False

    async def _end(self, exchange: Exchange, view: TurnView) -> None:
        self.exchange = None
        self._tick.pause()
        await view.end()
        if exchange.error is not None:
            self.problem.tell(problem_of(exchange.error), "FAILED")
            if exchange.turn not in (self.chat.turns if self.chat else []):
                self.field.value = self.field.value or exchange.turn.question
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
        if self.exchange is not None:
            self.exchange.stop()

    # Everything else that can be done

    async def do(self, command: Command) -> None:
        """Do what was typed behind a /, or what a button stands for. Raises what that raises."""
        chat, name, words = self.chat, command.name, command.words
        if chat is None:
            return
        if name == "help":
            from tui.screens.dialogs import ErrorScreen

            self.app.push_screen(ErrorScreen("Commands of the chat", HELP))
        elif name == "again":
            await self.begin(lambda chat, hear: chat.begin_again(None, hear), replace=True)
        elif name == "edit":
            await self._edit(words)
        elif name == "copy":
            self.action_copy_report()
        elif name == "compare":
            await self._compare(words)
        elif name == "adapter":
            self._choose_adapter() if not words else self._switch(
                None if words in ("none", "base") else words
            )
        elif name == "set":
            self._set(words)
        elif name == "chats":
            self._chats()
        elif name == "new":
            chat.new()
            await self.rebuild()
            self._tell()
        elif name == "open":
            chat.reopen(words)
            await self.rebuild()
            self._tell()
        elif name == "name":
            chat.rename(words)
            self._tell()
        elif name == "save":
            self._save(words)
        elif name == "evaluate":
            self.action_run()
        elif name == "restart":
            self._load()

    async def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        name = event.push.id or ""
        if name == "stop":
            self.action_stop()
        elif name == "earlier":
            self._shown += KEPT
            await self.rebuild()
            self.query_one("#talk", VerticalScroll).scroll_home(animate=False)
        elif name == "restart":
            self._load()
        else:
            try:
                await self.do(Command("evaluate" if name == "run" else name, ""))
            except Exception as error:
                self.problem.tell(problem_of(error), "NOT DONE")

    async def on_question_edit_last(self, event: Question.EditLast) -> None:
        """Up: the last question, to be changed."""
        event.stop()
        await self._edit("")

    async def _edit(self, words: str) -> None:
        assert self.chat is not None
        if not self.chat.turns or self.busy:
            return
        if words:
            await self.begin(lambda chat, hear: chat.begin_again(words, hear), replace=True)
            return
        self._editing = True
        self.field.value = clean(self.chat.turns[-1].question, keep_newlines=False)
        self.field.cursor_position = len(self.field.value)
        self._tell()

    async def _compare(self, words: str) -> None:
        chat = self.chat
        assert chat is not None
        if words and not self.busy:
            lanes = self.compare
            await self.begin(lambda chat, hear: chat.begin_compare(words, lanes, hear))
            return
        if self.compare is not None:
            self.compare = None
        else:
            known = chat.adapters()
            tuned = chat.adapter or next(iter(known), None)
            if tuned is None:
                self.notify("The model has no adapter to compare the base with.", markup=False)
                return
            if len(known) > 1:
                self._choose_other(tuned, known)
                return
            self.compare = (None, tuned)
        self.refresh_from(self.olive.snapshot)
        self._tell()

    def _choose_other(self, tuned: str, known: list[str]) -> None:
        from tui.screens.chat_dialogs import ChooseScreen

        def chosen(key: str | None) -> None:
            if key is not None:
                self.compare = (key or None, tuned)
                self.refresh_from(self.olive.snapshot)
                self._tell()

        choices = [("", "the base"), *((name, name) for name in known if name != tuned)]
        self.app.push_screen(ChooseScreen(f"Compare {tuned} with", choices), chosen)

    def _choose_adapter(self) -> None:
        from tui.screens.chat_dialogs import ChooseScreen

        assert self.chat is not None
        refused = self.chat.ready.refused if self.chat.ready else {}
        choices = [("", "none: the base")]
        choices += [
            (name, f"{name} (does not fit: {refused[name]})" if name in refused else name)
            for name in self.chat.adapters()
        ]

        def chosen(key: str | None) -> None:
            if key is not None:
                self._switch(key or None)

        self.app.push_screen(ChooseScreen("Who answers?", choices, self.chat.adapter or ""), chosen)

    @work(thread=True, exit_on_error=False, group="chat")
    def _switch(self, adapter: str | None) -> None:
        assert self.chat is not None
        try:
            seconds = self.chat.set_adapter(adapter)
        except Exception as error:
            told = problem_of(error)
            self.post_message(self.Done(lambda: self.problem.tell(told, "NOT DONE")))
        else:
            self.post_message(self.Done(lambda: self._switched(seconds)))

    def _switched(self, seconds: float) -> None:
        self.problem.tell(None)
        self._tell(f"switched in {seconds * 1000:.0f} ms")
        self._buttons()

    def on_chat_screen_done(self, event: Done) -> None:
        """What a thread did is shown here."""
        event.stop()
        event.then()

    def _set(self, words: str) -> None:
        assert self.chat is not None
        chat = self.chat
        name, _, value = words.replace("=", " ", 1).partition(" ")
        if name and value.strip():
            chat.set(**{name: value.strip()})
            self._tell()
            return
        from tui.screens.chat_dialogs import SettingsScreen

        now = {f"chat.{key}": value for key, value in chat.settings.as_dict().items()}

        def chosen(result: tuple[dict[str, Any], bool] | None) -> None:
            if result is None:
                return
            values, keep = result
            chat.set(**{key.removeprefix("chat."): value for key, value in values.items()})
            if keep:
                self.session.save(values)
            self._tell()

        self.app.push_screen(SettingsScreen(self.session.recipe().with_values(now)), chosen)

    def _chats(self) -> None:
        from core.chat.transcript import list_chats
        from tui.screens.chat_dialogs import ChatsScreen

        assert self.chat is not None
        chats = list_chats(self.session.folder.chats_dir)

        def chosen(result: tuple[str, str] | None) -> None:
            if result is not None:
                self.run_worker(self._do_safely(Command(*result)), exit_on_error=False)

        self.app.push_screen(ChatsScreen(chats, self.chat.history.name, self.chat.transcript_path), chosen)

    async def _do_safely(self, command: Command) -> None:
        try:
            await self.do(command)
        except Exception as error:
            self.problem.tell(problem_of(error), "NOT DONE")

    def _save(self, words: str) -> None:
        from core.files import write_atomic

        assert self.chat is not None
        stem = self.chat.transcript_path.stem if self.chat.transcript_path else "chat"
        path = self.session.root / words if words else self.session.folder.chats_dir / f"{stem}.md"
        write_atomic(path, self.chat.markdown())
        self.notify(f"Wrote {path}", markup=False)

    def action_copy_report(self) -> None:
        """Copy the last answer: to the terminal's clipboard (OSC 52, also over SSH), and into a file."""
        from core.files import write_atomic

        if self.chat is None or self.chat.last is None:
            return
        text = clean(self.chat.last.answer)
        self.app.copy_to_clipboard(text)
        path = self.session.folder.chats_dir / "copied.txt"
        write_atomic(path, text + "\n")
        self.notify(f"Copied, if your terminal allows it; it is also in {path}", markup=False)

    def action_run(self) -> None:
        """Put the held-out questions to base and tuned model, or show how they did."""
        from core.chat.evaluate import read_evaluation
        from tui.screens.chat_evaluation import EvaluationScreen

        if self.chat is None or self.busy or self._loading:
            return
        adapter = self.chat.adapter or next(iter(self.chat.adapters()), None)
        if adapter is None:
            self.notify("The model has no adapter to compare the base with.", markup=False)
            return
        last = read_evaluation(self.session.folder.chats_dir, adapter)
        self.app.push_screen(EvaluationScreen(self.session.lab(), self.chat, adapter, last))

    def action_settings(self) -> None:
        """How answers are chosen."""
        if self.chat is not None:
            self._set("")

    # Around it

    def focus_first(self) -> None:
        """In the field."""
        if not self.field.disabled and self.is_current:
            self.field.focus()

    def action_leave_field(self) -> None:
        """Esc: give up editing; else leave the field, so that letters are keys; else back into it."""
        if self._editing:
            self._editing = False
            self.field.value = ""
            self._tell()
        elif self.focused is self.field:
            self.set_focus(None)
        else:
            self.focus_first()

    def action_leave_field_down(self) -> None:
        """To the buttons."""
        self.focus_next()

    def action_scroll_body(self, way: int) -> None:
        """Scroll the conversation by a page."""
        talk = self.query_one("#talk", VerticalScroll)
        talk.scroll_relative(y=way * max(1, talk.size.height - 2), animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop while an answer comes; the rest while none does."""
        if action == "stop":
            return self.busy
        if action in ("run", "settings", "copy_report"):
            return self.chat is not None and not self.busy
        return super().check_action(action, parameters)

    def _tell(self, more: str = "") -> None:
        if self.chat is not None and not self._loading:
            dot = f" {sign('dot')} "
            self.status.show(
                state_line(self.chat, self.compare, self._editing, dot) + (dot + more if more else "")
            )

    def _buttons(self) -> None:
        chat = self.chat
        there = chat is not None and not chat.closed
        alive = there and chat is not None and chat.alive
        shown = {
            "stop": self.busy,
            "restart": there and not alive and not self._loading,
            "again": alive and not self.busy and bool(chat and chat.turns),
            "copy": bool(chat and chat.last),
            "compare": alive and not self.busy,
            "adapter": alive and not self.busy,
            "set": alive,
            "chats": alive and not self.busy,
            "run": alive and not self.busy and not self._loading,
            "earlier": bool(chat and len(chat.turns) > self._shown > 0),
        }
        for name, show in shown.items():
            self.query_one(f"#{name}", Push).display = show
        self.query_one("#compare", Push).label("Compare off" if self.compare else "Compare")
        self.refresh_bindings()
