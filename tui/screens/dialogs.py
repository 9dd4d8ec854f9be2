"""Dialogs: an error to be read and copied, leaving while a job runs, an error of the wizard itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Input

from core.errors import Hint, LabError, parts_of, said
from core.language import N_, _, shown
from tui.actions import helps_of, in_words
from tui.glyphs import ascii_only
from tui.widgets.button import Button
from tui.widgets.keybar import KeyBar
from tui.widgets.plain_list import PlainList
from tui.widgets.problem import Helps
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Hanging, Plain, bare_paths

Answer = TypeVar("Answer")
"""What a dialog is answered with."""

_MOVES: list[BindingType] = [
    Binding("left,up", "app.focus_previous", show=False),
    Binding("right,down", "app.focus_next", show=False),
]


_KEYS = {"Esc": "escape", "Enter": "enter", **{f"F{number}": f"f{number}" for number in range(1, 13)}}
"""The keys that stand on buttons by another name than Textual's."""


class Scrolled(VerticalScroll, can_focus=True):
    """Text that can be scrolled with the keys when it is long."""


class Dialog(ModalScreen[Answer]):
    """A screen above another that is closed with an answer, once.

    Keys that come in one go, as from a paste or a held key, press its button several times before it is
    gone; each of them would take one more screen away.
    """

    def __init__(self) -> None:
        super().__init__(classes="-ascii" if ascii_only() else None)

    def on_mount(self) -> None:
        """Its keys stand where those of the screen below stood."""
        self.mount(KeyBar())

    def footer(self) -> list[tuple[str, str]]:
        """Its keys and what they do, each once: what Enter does, the buttons, then what has no button."""
        focused = self.focused
        found = {"enter": words} if (words := self.enter()) else {}
        for button in self.query(Button):
            key = _KEYS.get(button.key, button.key)
            # What Enter does now needs no second key beside it.
            if key and button.display and not button.disabled and button.text not in found.values():
                found.setdefault(key, button.text)
        bindings = self.active_bindings
        keys = {_KEYS.get(button.key, button.key) for button in self.query(Button) if button.key}
        told = {bindings[key].binding.action for key in keys if key in bindings}  # whether offered now or not
        for node, binding, enabled, _tip in bindings.values():
            # Textual's own of every screen are known, and are no answer to the dialog.
            own = node is self and not binding.action.startswith(("app.", "screen."))
            if own and binding.description and enabled and binding.action not in told:
                first = binding.key
                if first not in found and _(binding.description) not in found.values():
                    found[first] = _(binding.description)
        typing = isinstance(focused, Input)
        return [(key, words) for key, words in found.items() if not (typing and len(key) == 1)]

    def enter(self) -> str:
        """What Enter does where the focus is; empty for nothing that is worth a word."""
        focused = self.focused
        if isinstance(focused, Button):
            return focused.text
        return _("Choose") if isinstance(focused, PlainList) and focused.count else ""

    def dismiss(self, result: Answer | None = None) -> AwaitComplete:
        """Close it with its answer; what comes after the first answer is not for it."""
        return super().dismiss(result) if self.is_current else AwaitComplete()


class ErrorScreen(Dialog[None]):
    """What happened, where, and what to do; scrolled and copied as a whole."""

    LOOK: ClassVar[str] = "dialog -error"
    BODY: ClassVar[type[Plain]] = Plain
    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#close"
    BINDINGS: ClassVar[list[BindingType]] = [
        *_MOVES,
        Binding("escape,q", "close", N_("Close"), show=False),
        Binding("y,c", "copy", N_("Copy"), show=False),
    ]

    def __init__(self, title: str, detail: str = "", hint: Hint = "", stage: str = "") -> None:
        """``stage``: what is to be run once a setting is another."""
        super().__init__()
        self.error = (title, detail)
        self.advice = parts_of(hint)
        self._stage = stage
        self._helps = Helps()

    @classmethod
    def of(cls, error: Exception, stage: str = "") -> ErrorScreen:
        """For an exception; one that was not foreseen is named by its class."""
        if isinstance(error, LabError):
            return cls(error.title, error.detail, error.advice, stage)
        return cls(_("That did not work."), f"{type(error).__name__}: {error}", "")

    @property
    def text(self) -> str:
        """All of it, as it is copied: with commands, for it is read elsewhere."""
        return "\n".join(part for part in (*map(shown, self.error), said(self.advice)) if part)

    def compose(self) -> ComposeResult:
        title, detail = self.error
        hint = in_words(self.advice)
        with Vertical(classes=self.LOOK):
            yield Plain(title, classes="dialog-title")
            with Scrolled(classes="dialog-text"):
                if detail:
                    yield self.BODY(bare_paths(shown(detail)))
                if hint:
                    yield Plain(bare_paths(_("What to do: {hint}", hint=hint)), classes="dialog-hint")
            yield self._helps
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Close"), id="close", key="Esc", primary=True)
                yield Button(_("Copy"), id="copy", key="y")

    def on_mount(self) -> None:
        """Offer what helps."""
        self._helps.offer(helps_of(self.advice, self._stage), self._stage)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Close or copy."""
        event.stop()
        if event.button.id == "copy":
            self.action_copy()
        else:
            self.action_close()

    def action_copy(self) -> None:
        """Copy it all."""
        self.app.copy_to_clipboard(self.text)
        self.notify(_("Copied (if your terminal allows it)."), markup=False)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(None)


class ReadScreen(ErrorScreen):
    """Something to read that is no error; the arrows scroll it."""

    LOOK = "dialog"
    AUTO_FOCUS = ".dialog-text"


class ListScreen(ReadScreen):
    """Something to read that is a list."""

    BODY = Hanging


class AskScreen(Dialog[bool]):
    """A question before something is lost; the answer that loses nothing is the first.

    Args:
        title, text: the question.
        yes, no: the words of the two buttons.
        keys: the keys for yes, the one to show first.
    """

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#no"
    BINDINGS: ClassVar[list[BindingType]] = [*_MOVES, Binding("escape,n", "no", show=False)]

    def __init__(self, title: str, text: str | Content, *, yes: str, no: str, keys: Sequence[str]) -> None:
        super().__init__()
        self._title, self._text, self._yes, self._no, self._keys = title, text, yes, no, keys

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(self._title, classes="dialog-title")
            yield Plain(self._text)
            with FlowingRow(classes="dialog-buttons"):
                no, yes = (self._no, "no", "Esc"), (self._yes, "yes", self._keys[0])
                first, second = (yes, no) if self.AUTO_FOCUS == "#yes" else (no, yes)
                yield Button(first[0], id=first[1], key=first[2], primary=True)
                yield Button(second[0], id=second[1], key=second[2])

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """One of the two."""
        event.stop()
        self.dismiss(event.button.id == "yes")

    def on_key(self, event: Key) -> None:
        """A key for yes."""
        if event.key in self._keys:
            event.stop()
            self.dismiss(True)

    def action_yes(self) -> None:
        """Go on."""
        self.dismiss(True)

    def action_no(self) -> None:
        """Lose nothing."""
        self.dismiss(False)


class OverwriteScreen(AskScreen):
    """A file that would be written is there already."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            _("{name} is there already.", name=path.name),
            _("Overwriting it loses what it holds.\nIt is in {parent}.", parent=path.parent),
            yes=_("Overwrite"),
            no=_("Keep it"),
            keys=("o",),
        )


class LeaveScreen(AskScreen):
    """Leaving while a job runs: it goes on, and this is how to come back."""

    AUTO_FOCUS = "#yes"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+q", "yes", show=False)]

    def __init__(self, job: str, command: str) -> None:
        super().__init__(
            _("{job} is running, and it goes on without the wizard.", job=job),
            Content.assemble(
                _(
                    "You may close this terminal, or lose the connection: the job does not notice.\n"
                    "To come back and see all of it, run:\n\n"
                ),
                (f"  {command}", "bold"),
            ),
            yes=_("Leave"),
            no=_("Stay"),
            keys=("q",),
        )


class CrashScreen(ErrorScreen):
    """An error of the wizard itself. Closing it ends the wizard, with exit status 1."""

    def __init__(self, story: str) -> None:
        title, _end, rest = story.partition("\n")
        super().__init__(
            title, rest, _("Start the wizard again. If it comes back, send the file named above.")
        )

    def action_close(self) -> None:
        """End the wizard."""
        self.app.exit(return_code=1)
