"""Step 6: a conversation with the lab's model, its adapter on or off."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input

from core.text import clean
from tui.screens.base import StepScreen
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain
from tui.words import number

if TYPE_CHECKING:
    from tui.snapshot import Snapshot

_DRAW_S = 0.1
_KEPT = 40


class ChatScreen(StepScreen):
    """Ask in the field, read above it. The model loads on the first visit."""

    NAME = "chat"
    CSS_PATH = "chat.tcss"

    class Ready(Message):
        """The model is loaded, or is not."""

        def __init__(self, session: Any, error: Exception | None) -> None:
            super().__init__()
            self.session, self.error = session, error

    class Answered(Message):
        """An answer came to its end."""

        def __init__(self, error: Exception | None) -> None:
            super().__init__()
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self.problem = Problem(id="problem")
        self.status = Plain("", id="chat-state")
        self.field = Input(placeholder="Ask something, Enter sends", id="ask", compact=True)
        self._session: Any = None
        self._loading = False
        self._busy = False
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._answer = ""
        self._shown: Plain | None = None
        self._adapter: str | None = "auto"

    def body(self) -> ComposeResult:
        yield self.problem
        yield self.status
        yield VerticalScroll(id="talk")
        yield self.field
        with Horizontal(classes="buttons"):
            yield Push("Stop", id="stop", key="F9")
            yield Push("Adapter off", id="adapter")
            yield Push("Next: Upload", id="next", key="F4")
        yield self.command

    def on_mount(self) -> None:
        """Draw what has come at a steady pace, not piece by piece."""
        super().on_mount()
        self.set_interval(_DRAW_S, self._draw)

    def show(self, snapshot: Snapshot) -> None:
        """Load the model when there is one."""
        self.command.show(self.session.command("chat"))
        missing = self.missing(snapshot)
        if missing is not None:
            self.status.show(
                f"There is nothing to talk to yet: step {missing.number}, {missing.title}, makes it."
            )
            self.field.disabled = True
        elif self._session is None and not self._loading and self.is_current:
            self._loading = True
            self.field.disabled = False
            self.status.show("Loading the model …")
            self._open()
        self.query_one("#stop", Push).display = self._busy
        self.query_one("#adapter", Push).display = self._session is not None

    def focus_first(self) -> None:
        """In the field."""
        if not self.field.disabled:
            self.field.focus()

    @work(thread=True, exit_on_error=False, group="chat")
    def _open(self) -> None:
        try:
            session = self.session.lab().chat(adapter=self._adapter)
            session.wait_ready(300)
        except Exception as error:
            self.post_message(self.Ready(None, error))
        else:
            self.post_message(self.Ready(session, None))

    def on_chat_screen_ready(self, event: Ready) -> None:
        """The conversation can begin."""
        event.stop()
        self._loading = event.error is not None
        self._session = event.session
        if event.error is not None:
            self.problem.tell(_told(event.error), "FAILED")
            self.status.show("")
            return
        self._tell_adapter()
        self.refresh_from(self.olive.snapshot)
        self.focus_first()

    def _tell_adapter(self) -> None:
        name = getattr(self._session, "adapter", None)
        self.query_one("#adapter", Push).label("Adapter off" if name else "Adapter on")
        self.status.show(f"Adapter {name} is on." if name else "The base model, without an adapter.")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask."""
        event.stop()
        text = event.value.strip()
        if not text or self._busy or self._session is None:
            return
        self.field.value = ""
        self._busy, self._answer = True, ""
        talk = self.query_one("#talk", VerticalScroll)
        self._shown = Plain("…", classes="answer")
        talk.mount(
            Plain(Content.assemble(("You  ", "bold $text-accent"), clean(text)), classes="asked"), self._shown
        )
        for old in list(talk.children)[:-_KEPT]:
            old.remove()
        talk.anchor()
        self.refresh_from(self.olive.snapshot)
        self._ask(self._session, text)

    @work(thread=True, exit_on_error=False, group="chat")
    def _ask(self, session: Any, text: str) -> None:
        try:
            for piece in session.stream(text):
                self._pieces.put(piece)
        except Exception as error:
            self.post_message(self.Answered(error))
        else:
            self.post_message(self.Answered(None))

    def _draw(self) -> None:
        new = []
        while not self._pieces.empty():
            new.append(self._pieces.get())
        if new and self._shown is not None:
            self._answer += "".join(new)
            self._shown.show(clean(self._answer))

    def on_chat_screen_answered(self, event: Answered) -> None:
        """Tell the figures."""
        event.stop()
        self._draw()
        self._busy = False
        self.problem.tell(_told(event.error) if event.error else None, "FAILED")
        last = getattr(self._session, "last", None)
        if last is not None:
            speed = getattr(last, "tokens_per_s", None)
            self.status.show(f"{number(last.new_tokens)} tokens, {number(speed or 0)} a second")
        self.refresh_from(self.olive.snapshot)

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        if event.push.id == "stop":
            self.action_stop()
        elif event.push.id == "next":
            self.app.run_worker(self.olive.go_to("upload"))
        elif event.push.id == "adapter" and self._session is not None:
            self._switch(self._session)

    @work(thread=True, exit_on_error=False, group="chat")
    def _switch(self, session: Any) -> None:
        try:
            adapters = self.session.lab().adapters()
            session.set_adapter(None if session.adapter else adapters[0] if adapters else None)
        except Exception as error:
            self.post_message(self.Answered(error))
        else:
            self.app.call_later(self._tell_adapter)

    def action_stop(self) -> None:
        """Stop the answer."""
        if self._busy and self._session is not None:
            self._session.stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop while an answer comes."""
        if action == "stop":
            return self._busy
        return super().check_action(action, parameters)

    def on_unmount(self) -> None:
        """Free the model's memory."""
        if self._session is not None:
            self._session.close()


def _told(error: Exception) -> dict[str, str]:
    told = getattr(error, "as_dict", None)
    return told() if told else {"title": "That did not work.", "detail": f"{type(error).__name__}: {error}"}
