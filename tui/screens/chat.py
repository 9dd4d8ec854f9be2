"""Step 6: a conversation with the lab's model: adapters, base and tuned side by side, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.events import Resize
from textual.widgets import Input

from core.text import clean
from tui.screens.chat_base import KEPT, ChatBase
from tui.screens.chat_field import Question
from tui.screens.chat_words import HELP, Command, parse
from tui.widgets.push import Push

if TYPE_CHECKING:
    from tui.snapshot import Snapshot


class ChatScreen(ChatBase):
    """Ask in the field, read above it, everything else by buttons, keys, or a line that begins with /."""

    NAME = "chat"
    LABELS: ClassVar[Mapping[str, str]] = {"run": "Evaluate"}
    CSS_PATH = "chat.tcss"

    def body(self) -> ComposeResult:
        yield self.problem
        with VerticalScroll(id="talk", can_focus=False):
            yield self.intro
            yield Push("Show earlier turns", id="earlier")
        yield self.status
        yield self.field
        with Horizontal(classes="buttons"):
            yield Push("Go to", id="goal", primary=True)
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

    def show(self, snapshot: Snapshot) -> None:
        """Load the model when there is one."""
        words = ["--compare"] if self.compare else []
        self.command.show(self.session.command("chat", *words))
        missing = self.missing(snapshot)
        self.field.disabled = missing is not None
        if missing is not None:
            self.intro.show(self.step.about)
            self.query_one("#goal", Push).label(f"Go to {missing.number} {missing.title}")
            self.status.show(f"Nothing to talk to yet: step {missing.number}, {missing.title}, makes it.")
        elif not self._loading and self.is_current and (self.chat is None or self.chat.closed):
            self._load()
        self._buttons()

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask, or do what a line that begins with / says."""
        event.stop()
        text = event.value.strip()
        if text and self.chat is None:
            self.notify("The model is still loading. The question stays: press Enter again.", markup=False)
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
            self._fail(error, "NOT ASKED")

    # Everything else that can be done

    async def do(self, command: Command) -> None:
        """Do what was typed behind a /, or what a button stands for. Raises what that raises."""
        chat, name, words = self.chat, command.name, command.words
        if chat is None:
            return
        if name == "help":
            from tui.screens.dialogs import ReadScreen

            self.app.push_screen(ReadScreen("Commands of the chat", HELP))
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
        elif name == "goal":
            missing = self.missing(self.olive.snapshot)
            if missing is not None:
                self.app.run_worker(self.olive.go_to(missing.name))
        else:
            try:
                await self.do(Command("evaluate" if name == "run" else name, ""))
            except Exception as error:
                self._fail(error)

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
            failure = error
            self.post_message(self.Done(lambda: self._fail(failure)))
        else:
            self.post_message(self.Done(lambda: self._switched(seconds)))

    def _switched(self, seconds: float) -> None:
        self.problem.tell(None)
        self._tell(f"switched in {seconds * 1000:.0f} ms")
        self._buttons()

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
            self._fail(error)

    def _save(self, words: str) -> None:
        from core.files import write_atomic
        from tui.screens.dialogs import OverwriteScreen

        assert self.chat is not None
        stem = self.chat.transcript_path.stem if self.chat.transcript_path else "chat"
        path = self.session.root / words if words else self.session.folder.chats_dir / f"{stem}.md"
        text = self.chat.markdown()

        def write(agreed: bool | None) -> None:
            if agreed:
                write_atomic(path, text)
                self.notify(f"Wrote {path}", markup=False)

        if words and path.exists():
            self.app.push_screen(OverwriteScreen(path), write)
        else:
            write(True)

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

    def on_resize(self, event: Resize) -> None:
        """The row of buttons has another width."""
        self._buttons()

    def focus_first(self) -> None:
        """In the field; without a model on the way to the step that makes it."""
        super().focus_first()
        if self.field.disabled and self.is_current:
            self.query_one("#goal", Push).focus()

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
        if action == "run":
            return self.chat is not None and self.chat.ready is not None and not self.busy
        if action in ("settings", "copy_report"):
            return self.chat is not None and not self.busy
        return super().check_action(action, parameters)

    def _buttons(self) -> None:
        chat = self.chat
        there = chat is not None and not chat.closed
        alive = there and chat is not None and chat.alive and (self._loading or chat.ready is not None)
        turns = bool(chat and chat.turns)
        # The row must not be cut: what is left out on a narrow terminal is a word behind a /.
        wide = self.size.width >= 78
        self.intro.display = not turns and not self.busy and (alive or self._loading or self.field.disabled)
        shown = {
            "goal": self.field.disabled,
            "stop": self.busy,
            "restart": there and not alive and not self._loading,
            "again": wide and alive and not self.busy and turns,
            "copy": wide and bool(chat and chat.last),
            "compare": alive and not self.busy,
            "adapter": alive and not self.busy,
            "set": alive,
            "chats": alive and not self.busy,
            "run": alive and not self.busy and not self._loading,
            "earlier": bool(chat and len(chat.turns) > self._shown > 0),
        }
        for name, show in shown.items():
            self.query_one(f"#{name}", Push).display = show
        self.query_one("#compare", Push).label("Single" if self.compare else "Compare")
        self.refresh_bindings()
