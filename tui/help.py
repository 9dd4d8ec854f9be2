"""Every key, with what it does. Made from the one list of actions, so it cannot be out of date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content

from core.user_dirs import config_dir
from tui.keys import DATA, GLOBAL, LOG, Action, key_names
from tui.screens.dialogs import Dialog, Scrolled
from tui.widgets.safe import Plain


class HelpScreen(Dialog[None]):
    """The keys, here and in the log, and where to change them."""

    CSS_PATH = "screens/dialogs.tcss"
    AUTO_FOCUS = "Scrolled"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,f2,question_mark", "close", "Close", show=False)
    ]

    def __init__(self, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -help"):
            yield Plain("Keys  (Esc closes)", classes="dialog-title")
            with Scrolled(classes="dialog-text"):
                yield Plain(self._keys())

    def _keys(self) -> Content:
        lines: list[Content] = [
            _line("Tab, arrows", "from field to field"),
            _line("Enter", "press what has the focus, open a choice"),
            _line("1 to 7", "go to a step"),
            *(self._of(action) for action in GLOBAL),
            Content(""),
            Content.styled("In the log (press l, or Tab to it)", "bold"),
            *(self._of(action) for action in LOG),
            Content(""),
            Content.styled("In the data step", "bold"),
            *(self._of(action) for action in DATA),
            Content(""),
            Content.styled(
                "Letters and digits are text while a field has the focus: Esc leaves it.", "$foreground 60%"
            ),
            Content.styled("Your own keys: put for example", "$foreground 60%"),
            Content('  [keys]\n  run = "f8,g"'),
            Content.styled(f"into {config_dir() / 'wizard.toml'}. Names of actions:", "$foreground 60%"),
            Content("  " + ", ".join(action.id for action in (*GLOBAL, *LOG, *DATA)) + ", step1 to step7"),
        ]
        return Content("\n").join(lines)

    def _of(self, action: Action) -> Content:
        return _line(key_names(self._keymap.get(action.id, action.keys)), action.help)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(None)


def _line(keys: str, help: str) -> Content:
    return Content.assemble((f"  {keys:<14}", "bold"), help)
