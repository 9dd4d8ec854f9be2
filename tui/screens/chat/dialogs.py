"""The chat's dialogs: which adapter, which settings, which earlier chat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input

from core.language import N_, _, in_use
from core.text import clean
from tui.figures import counted
from tui.screens.dialogs import Dialog
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.form import Form
from tui.widgets.line import Line
from tui.widgets.plain_list import PlainList
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat.transcript import Chat
    from core.recipe import Recipe

STYLES: list[str | PurePath] = ["../dialogs.tcss", "dialogs.tcss"]


class ChooseScreen(Dialog[str | None]):
    """One of a few: gives its key, or None."""

    CSS_PATH = STYLES
    AUTO_FOCUS = "PlainList"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", N_("Close"), show=False)]

    def __init__(
        self, title: str, choices: Sequence[tuple[str, str | Content]], current: str | None = None
    ) -> None:
        """``choices``: (key, text) pairs."""
        super().__init__()
        self._title = title
        self._choices = list(choices)
        self._list = PlainList()
        keys = [key for key, _ in self._choices]
        self._list.index = keys.index(current) if current in keys else 0

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(_("{title}  (Enter chooses, Esc closes)", title=self._title), classes="dialog-title")
            yield self._list

    def on_mount(self) -> None:
        """Fill the list."""
        self._list.styles.height = max(3, min(12, len(self._choices)))
        self._list.show(len(self._choices), self._line)

    def _line(self, index: int) -> Content:
        text = self._choices[index][1]
        return text if isinstance(text, Content) else Content(clean(text, keep_newlines=False))

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """This one."""
        event.stop()
        self.dismiss(self._choices[event.index][0])


class SettingsScreen(Dialog[tuple[dict[str, Any], bool] | None]):
    """How answers are chosen: gives the values, and whether to keep them in ``lab.toml``."""

    CSS_PATH = STYLES
    AUTO_FOCUS = "#set-chat-temperature"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", N_("Close"), show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]
    NAMES = ("temperature", "max_new_tokens", "top_p", "top_k", "repetition_penalty", "seed")

    def __init__(self, recipe: Recipe) -> None:
        """``recipe``: with the values in use now."""
        super().__init__()
        self.form = Form(recipe, [f"chat.{name}" for name in self.NAMES])

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(_("How answers are chosen, from the next one on"), classes="dialog-title")
            yield self.form
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Use"), id="use", key="Enter", primary=True)
                yield Button(_("Use and keep in lab.toml"), id="keep")
                yield Button(_("Close"), id="close", key="Esc")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a field uses all of them."""
        event.stop()
        self._use(False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        if event.button.id == "close":
            self.dismiss(None)
        else:
            self._use(event.button.id == "keep")

    def _use(self, keep: bool) -> None:
        wrong = self.form.first_wrong()
        if wrong is not None:
            wrong.control.focus()
            return
        self.dismiss((self.form.values(), keep))


class ChatsScreen(Dialog[tuple[str, str] | None]):
    """Earlier chats, and this one's name. Gives ("open", file), ("name", text), ("new", "") or ("save", "")."""

    CSS_PATH = STYLES
    AUTO_FOCUS = "PlainList"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", N_("Close"), show=False),
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
    ]

    def __init__(self, chats: Sequence[Chat], name: str, current: Path | None) -> None:
        """``name``: of the present chat; ``current``: its file."""
        super().__init__()
        self._chats = list(chats)
        self._current = current
        self._list = PlainList(empty=_("There are none yet: a chat is kept from its first question on."))
        self._naming = Line(
            name, placeholder=_("a name for this chat, Enter keeps it"), compact=True, id="chat-name"
        )

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(_("Chats of this lab  (Enter opens, Esc closes)"), classes="dialog-title")
            yield self._list
            yield self._naming
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("New chat"), id="new")
                yield Button(_("Save this one as Markdown"), id="save")
                yield Button(_("Close"), id="close", key="Esc")

    def on_mount(self) -> None:
        """Fill the list."""
        self._list.show(len(self._chats), self._line)

    def _line(self, index: int) -> Content:
        chat = self._chats[index]
        here = _("this one:") + " " if self._current is not None and chat.path == self._current else ""
        turns = counted(len(chat.turns), "turn") + (" " if len(chat.turns) == 1 and in_use() == "en" else "")
        # The title comes last: it is the part that may be cut.
        return Content.assemble(
            (f"{clean(chat.created[:10], keep_newlines=False):<10}  {turns:>9}  ", QUIET),
            f"{here}{chat.title}",
        )

    def enter(self) -> str:
        """Open an earlier one, or name this one."""
        if self.focused is self._naming:
            return _("Name it")
        return _("Open") if self.focused is self._list and self._chats else super().enter()

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Open it."""
        event.stop()
        self.dismiss(("open", self._chats[event.index].path.name))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Name this chat."""
        event.stop()
        self.dismiss(("name", event.value))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        self.dismiss(None if event.button.id == "close" else (event.button.id or "", ""))
