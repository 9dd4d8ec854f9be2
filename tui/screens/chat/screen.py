"""Step 6 on the screen: draws what the controller tells, and gives it what is typed and pushed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.content import Content
from textual.events import Resize, ScreenSuspend
from textual.message import Message

from core.chat.commands import Command, parse, setting
from core.language import N_, _, shown
from core.text import clean
from tui.glyphs import glyph
from tui.labels import STATE_WORDS
from tui.screens.base import StepScreen
from tui.screens.chat.controller import NOT_HERE, ChatController, ChatView, help_of_chat
from tui.screens.chat.question import Offers, Question
from tui.screens.chat.serving import Served, ServeScreen
from tui.screens.chat.transcript_view import USUAL, TranscriptView
from tui.widgets.button import Button
from tui.widgets.problem import ProblemBox
from tui.widgets.rail import Word, rail_labels
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from tui.snapshot import Snapshot

DRAW_S = 0.05

INTRO = N_(
    "[b]Compare   [/]has base and tuned answer side by side: what has changed?\n"
    "[b]Evaluate  [/]puts the held-out questions to both, and measures which is closer."
)
"""What stands where the conversation will be."""


class ChatScreen(StepScreen):
    """Ask in the field, read above it, everything else by buttons, keys, or a line that begins with /.

    The model loads on each visit and is freed when the screen is left.

    Attributes:
        view: what was drawn last.
    """

    NAME = "chat"
    LABELS: ClassVar[Mapping[str, str]] = {"run": N_("Evaluate")}
    CSS_PATH = "chat.tcss"

    class Changed(Message):
        """There is something new to draw. Several that wait are one."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, ChatScreen.Changed)

    def __init__(self) -> None:
        super().__init__()
        self.controller = ChatController(lambda: self.session.lab(), self._changed)
        self.view = ChatView(status="…")  # as no chat's is: the first one is drawn
        self.problem = ProblemBox(id="problem", brief=True)
        self.intro = Plain("", id="intro")
        self.transcript = TranscriptView(
            self.intro, Button(_("Show earlier turns"), id="earlier"), id="transcript"
        )
        self.stale = Plain("", id="chat-stale")
        self.field = Question(self.controller.completions, id="ask")
        self._missing = ""
        self.served = Served(self._served_changed)
        self._actions: dict[str, Callable[[], None]] = {
            "help": self._help,
            "chats": self._choose_chat,
            "copy": self.action_copy_report,
            "run": self.action_run,
            "restart": self._restart,
            "serve": self._serve,
            "stop": self.action_stop,
            "goal": self._go_to_goal,
            "earlier": self.controller.show_earlier,
        }

    def _changed(self) -> None:
        self.post_message(self.Changed())

    def body(self) -> ComposeResult:
        yield self.problem
        yield self.transcript
        yield self.stale
        yield self.field.offers
        yield self.field
        with FlowingRow(classes="buttons"):
            yield Button("", id="goal", primary=True)
            yield Button(_("Stop"), id="stop", key="F9", primary=True)
            yield Button(_("Start again"), id="restart", primary=True)
            yield Button(_("Again"), id="again")
            yield Button(_("Copy"), id="copy")
            yield Button(_("Compare"), id="compare")
            yield Button(_("Adapter"), id="adapter")
            yield Button(_("Set"), id="set")
            yield Button(_("Chats"), id="chats")
            yield Button(_("Evaluate"), id="run", key="F8")
            yield Button(_("Serve"), id="serve")
        yield self.command

    @property
    def is_busy(self) -> bool:
        return self.served.running or self.controller.response is not None

    # Drawing

    def on_mount(self) -> None:
        """Draw what has come at a steady pace, not piece by piece."""
        self._tick = self.set_interval(DRAW_S, self._changed, pause=True)

    def show(self, snapshot: Snapshot) -> None:
        """Load the model when there is one."""
        missing = self.missing(snapshot)
        self.controller.older = snapshot.older
        self._missing = ""
        if missing is not None:
            self._missing = _(
                "Nothing to talk to yet: step {number}, {title}, makes it.",
                number=missing.number,
                title=missing.title,
            )
            self.query_one("#goal", Button).label(
                _("Go to {number} {title}", number=missing.number, title=missing.title)
            )
        elif self.controller.wanted and self.is_current:
            self._in_thread(self.controller.load())
        self._draw_frame(self._look())

    def _look(self) -> ChatView:
        # The row of buttons must not be cut: what is left out on a narrow terminal is a word behind a /.
        return self.controller.view(self._missing, self.size.width >= 78, self.size.width >= 90)

    def _draw_frame(self, view: ChatView) -> None:
        """Draw all but the conversation, if it is other than before: words come twenty times a second."""
        before, self.view = self.view, view
        if replace(view, live=None) == replace(before, live=None):
            return
        self.command.show(self.session.command("chat", *(["--compare"] if view.compare else [])))
        self.field.disabled = bool(self._missing)
        self.problem.tell(view.problem, view.word)
        self.stale.show(view.stale)
        self.stale.display = bool(view.stale)
        self.field.tell(view.status, view.hint, gone=view.gone)
        self.field.offer(view.samples)
        self.intro.show(self.step.about if self._missing else _intro(self.step.about, view.notes))
        self.intro.display = view.intro
        for button in self.query(Button):
            button.display = button.id in view.buttons
        self.query_one("#compare", Button).label(_("Single") if view.compare else _("Compare"))
        (self._tick.resume if view.busy else self._tick.pause)()
        self.refresh_bindings()
        if view.gone != before.gone and self.is_current:
            self._draw_gone(view.gone)

    def _draw_gone(self, gone: bool) -> None:
        """The rail says so, and Enter does what helps, unless something is being typed."""
        if gone:
            self.olive.notes[self.NAME] = Word(_(STATE_WORDS["cancelled"]), "stopped")
        else:
            self.olive.notes.pop(self.NAME, None)
        self.rail.show(rail_labels(self.olive.snapshot, self.olive.notes_now()))
        if not gone or not self.field.text:
            self.focus_first()

    async def draw(self) -> None:
        """Draw the chat as it is now."""
        ended = self.controller.settle()
        before, view = self.view, self._look()
        self._draw_frame(view)
        chat = self.controller.chat
        await self.transcript.show(view.turns, view.live, chat.settings if chat is not None else USUAL)
        if view.notes != before.notes and view.turns:  # the conversation stands where they would
            for note in view.notes:
                self.notify(clean(shown(note), keep_newlines=False)[:300], markup=False, timeout=8)
        if refused := self.controller.take_back():
            self.field.put(self.field.text or refused)
        if ended and self.olive.current is not self:
            self._leave()
        if view.loading != before.loading and self.focused is None:
            self.focus_first()

    async def on_chat_screen_changed(self, event: Changed) -> None:
        """Draw it."""
        event.stop()
        await self.draw()

    @work(thread=True, exit_on_error=False, group="chat")
    def _in_thread(self, wait: Callable[[], None]) -> None:
        wait()

    # The model's life

    def on_screen_suspend(self, event: ScreenSuspend) -> None:
        """Leaving the step frees the model's memory; a dialog over the screen does not."""
        self.call_later(self._leave)

    def _leave(self) -> None:
        if self.olive.current is self:
            return
        self._stop_editing()
        if self.olive.notes.pop(self.NAME, None) is not None:  # the next visit loads it anew
            self.olive.current.refresh_from(self.olive.snapshot)
        wait = self.controller.leave()
        if wait is not None:
            self._in_thread(wait)

    async def on_unmount(self) -> None:
        """The wizard ends: so do the model and the server."""
        self.controller.close()
        await self.served.stop()

    # What is typed and pushed

    async def on_question_sent(self, event: Question.Sent) -> None:
        """Ask, or do what a line that begins with / says."""
        event.stop()
        text = event.text.strip()
        if text and self.controller.chat is None:
            loading = _("The model is still loading. The question stays: press Enter again.")
            gone = _("The model must be loaded again first: Start again does it.")
            self.notify(gone if self.view.gone else loading, markup=False)
        if not text or self.controller.chat is None:
            return
        try:
            command = parse(text, NOT_HERE)
            if isinstance(command, Command):
                self.field.put("")
                self._do(command)
            elif self.controller.response is not None:
                self.notify(_("An answer is on its way: F9 stops it."), markup=False)
                return
            else:
                self.controller.ask(command)
        except Exception as error:  # shown, whatever it was
            self.controller.fail(error, _("NOT ASKED"))
            return
        finally:
            await self.draw()
        if not isinstance(command, Command):
            self.field.put("")

    def on_question_edit_wanted(self, event: Question.EditWanted) -> None:
        """The last question, to be changed."""
        event.stop()
        self._do_safely(Command("edit"))

    def on_offers_chosen(self, event: Offers.Chosen) -> None:
        """What was clicked above the box goes into it."""
        event.stop()
        self.field.choose(event.index)

    async def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        self._do_safely(Command(event.button.id or ""))
        if event.button.id == "earlier":
            await self.draw()
            self.transcript.scroll_home(animate=False)

    def _do_safely(self, command: Command) -> None:
        try:
            self._do(command)
        except Exception as error:  # shown, whatever it was
            self.controller.fail(error)

    def _do(self, command: Command) -> None:
        """Do what was typed behind a /, or what a button stands for. Raises what that raises."""
        name, words = command.name, command.words
        if name == "edit" and not words:
            self.field.put(self.controller.edit() or self.field.text)
            return
        self._stop_editing()
        if name == "adapter":
            self._switch(words) if words else self._choose_adapter()
        elif name == "compare" and not words:
            self._toggle_compare()
        elif name == "set" and not setting(words)[1]:
            self.action_settings()
        elif name == "save":
            self._save(words)
        elif name == "evaluate":
            self._evaluate(int(words) if words.isdecimal() and len(words) < 7 and int(words) else None)
        elif name == "open" and not words:
            self._choose_chat()
        elif name in self._actions:
            self._actions[name]()
        else:
            self.controller.do(command)

    def _help(self) -> None:
        from tui.screens.dialogs import ListScreen

        self.app.push_screen(ListScreen(_("Commands of the chat"), help_of_chat()))

    def _go_to_goal(self) -> None:
        missing = self.missing(self.olive.snapshot)
        if missing is not None:
            self.app.run_worker(self.olive.go_to(missing.name))

    def _restart(self) -> None:
        if not self.controller.loading:
            self._in_thread(self.controller.load())

    def _serve(self) -> None:
        """Begin to serve, if that was not done, and show the address."""
        self.served.start(self.session.root)
        self.app.push_screen(ServeScreen(self.served, self.session.command("serve")))

    def _served_changed(self) -> None:
        """The server is there, or has ended."""
        if not self.is_running:
            return
        if isinstance(self.app.screen, ServeScreen):
            self.app.screen.look()
        elif self.served.error is not None:
            self.notify(_("The server has ended: Serve tells why."), markup=False)
        self.query_one("#serve", Button).label(_("Serving") if self.served.running else _("Serve"))

    def _stop_editing(self) -> None:
        """Something else is done: what was changed of the question stays in the field, to be asked as another."""
        if self.field.text == self.controller.leave_editing():
            self.field.put("")

    def _switch(self, name: str) -> None:
        adapter = None if name in ("", "none", "base") else name
        self._in_thread(lambda: self.controller.switch(adapter))

    def _choose(
        self,
        title: str,
        choices: Sequence[tuple[str, str | Content]],
        then: Callable[[str], object],
        current: str | None = None,
    ) -> None:
        from tui.screens.chat.dialogs import ChooseScreen

        def chosen(key: str | None) -> None:
            if key is not None:
                then(key)

        self.app.push_screen(ChooseScreen(title, choices, current), chosen)

    def _choose_adapter(self) -> None:
        chat = self.controller.chat
        assert chat is not None
        refused = chat.ready.refused if chat.ready else {}
        choices: list[tuple[str, str | Content]] = [("", _("none: the base"))]
        choices += [
            (name, _refused(name, refused[name]) if name in refused else name) for name in chat.adapters()
        ]
        self._choose(_("Who answers?"), choices, self._switch, chat.adapter or "")

    def _toggle_compare(self) -> None:
        chat, tuned = self.controller.chat, self.controller.tuned()
        assert chat is not None
        if self.controller.compare is not None:
            self.controller.compare_with(None)
        elif tuned is None:
            self.notify(_("The model has no adapter to compare the base with."), markup=False)
        elif len(chat.adapters()) == 1:
            self.controller.compare_with((None, tuned))
        else:
            others = [("", _("the base")), *((name, name) for name in chat.adapters() if name != tuned)]
            self._choose(
                _("Compare {tuned} with", tuned=tuned),
                others,
                lambda name: self.controller.compare_with((name or None, tuned)),
            )

    def _choose_chat(self) -> None:
        from core.chat.transcript import list_chats
        from tui.screens.chat.dialogs import ChatsScreen

        chat = self.controller.chat
        assert chat is not None

        def chosen(result: tuple[str, str] | None) -> None:
            if result is not None:
                self._do_safely(Command(*result))

        chats = list_chats(self.session.folder.chats_dir)
        self.app.push_screen(ChatsScreen(chats, chat.history.name, chat.transcript_path), chosen)

    def _save(self, words: str) -> None:
        from core.files import write_atomic
        from tui.screens.dialogs import OverwriteScreen

        chat = self.controller.chat
        assert chat is not None
        stem = chat.transcript_path.stem if chat.transcript_path else "chat"
        path = (
            self.session.root / Path(words).expanduser()
            if words
            else self.session.folder.chats_dir / f"{stem}.md"
        )
        text = chat.markdown()

        def write(agreed: bool | None) -> None:
            if agreed:
                try:
                    write_atomic(path, text)
                except Exception as error:  # a folder, a full disk, whatever it is
                    self.controller.fail(error)
                else:
                    self.notify(_("Wrote {path}", path=path), markup=False)

        if words and path.exists():
            self.app.push_screen(OverwriteScreen(path), write)
        else:
            write(True)

    # Keys

    def action_stop(self) -> None:
        """Stop the answer; the conversation goes on."""
        self.controller.stop()

    def action_copy_report(self) -> None:
        """Copy the last answer: to the terminal's clipboard (OSC 52, also over SSH), and into a file."""
        from core.files import write_atomic

        chat = self.controller.chat
        if chat is None or chat.last is None:
            return
        text = clean(chat.last.answer)
        self.app.copy_to_clipboard(text)
        path = self.session.folder.chats_dir / "copied.txt"
        write_atomic(path, text + "\n")
        self.notify(_("Copied, if your terminal allows it; it is also in {path}", path=path), markup=False)

    def action_run(self) -> None:
        """Measure every form of the model on the held-out records, or show how they did."""
        self._evaluate(None)

    def _evaluate(self, rows: int | None) -> None:
        from tui.screens.chat.evaluation import EvaluationScreen

        chat = self.controller.chat
        if chat is None or self.view.busy or self.view.loading:
            return
        self._stop_editing()
        adapter = self.controller.tuned() or self.session.recipe().finetune.adapter
        self.app.push_screen(EvaluationScreen(self.session.lab(), adapter, rows))

    def action_settings(self) -> None:
        """How answers are chosen."""
        from tui.screens.chat.dialogs import SettingsScreen

        chat = self.controller.chat
        if chat is None:
            return
        self._stop_editing()

        def chosen(result: tuple[dict[str, Any], bool] | None) -> None:
            if result is not None:
                values, keep = result
                chat.set(**{key.removeprefix("chat."): value for key, value in values.items()})
                if keep:
                    self.session.save(values)
                self._changed()

        now = {f"chat.{key}": value for key, value in chat.settings.as_dict().items()}
        self.app.push_screen(SettingsScreen(self.session.recipe().with_values(now)), chosen)

    def focus_first(self) -> None:
        """In the field; without a model on the way to the step that makes it, or on what loads it anew."""
        if self.is_current:
            name = "#goal" if self.field.disabled else "#restart" if self.view.gone else "#ask"
            self.query_one(name).focus()

    def action_leave_field(self) -> None:
        """Esc: give up editing; else leave the field, so that letters are keys; else back into it."""
        if self.view.editing:
            self.controller.leave_editing()
            self.field.put("")
        elif self.focused is self.field:
            self.set_focus(None)
        else:
            self.focus_first()

    def action_scroll_body(self, way: int) -> None:
        """Scroll the conversation by a page."""
        height = max(1, self.transcript.size.height - 2)
        self.transcript.scroll_relative(y=way * height, animate=False)

    def on_resize(self, event: Resize) -> None:
        """The row of buttons has another width."""
        self._draw_frame(self._look())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop while an answer comes; the rest while none does."""
        chat, busy = self.controller.chat, self.view.busy
        if action == "stop":
            return busy
        if action == "run":
            return "run" in self.view.buttons
        if action in ("settings", "copy_report"):
            return chat is not None and not busy
        return super().check_action(action, parameters)


def _refused(name: str, why: str) -> Content:
    """An adapter that cannot be chosen, in the list of those that can."""
    text = _("{name} (does not fit: {why})", name=name, why=shown(why))
    return Content.styled(f"{glyph('error')} {clean(text, keep_newlines=False)}", "$text-error")


def _intro(about: str, notes: Sequence[str]) -> Content:
    """What this step is for, what to press first, and what the model's loading told."""
    lines = [Content(f"{about}\n"), Content.from_markup(_(INTRO))]
    lines += [
        Content.styled(f"\n{clean(shown(note), keep_newlines=False)[:300]}", "$text-warning")
        for note in notes
    ]
    return Content("\n").join(lines)
