"""The footer: the keys that matter here, as many as fit, each of which can be clicked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content
from textual.events import Click
from textual.filter import LineFilter
from textual.widget import Widget

from core.language import _
from tui.keys import GLOBAL, is_text, key_name
from tui.reading import cell_end, from_the_left

if TYPE_CHECKING:
    from textual.screen import Screen


class KeyBar(Widget):
    """One line that names the keys: those of the wizard that work here, or a dialog's own (its ``footer``).

    Unlike Textual's footer it is a single widget: it costs nothing at start, sends only what changed, and
    drops whole entries in place of cutting one in half.
    """

    DEFAULT_CSS = """
    KeyBar { dock: bottom; height: 1; width: 100%; background: $panel; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[tuple[int, int, str]] = []
        self._shown: tuple[tuple[str, str, str], ...] = ()

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        self._changed(self.screen)

    def _changed(self, screen: Screen[object]) -> None:
        own: Callable[[], list[tuple[str, str]]] | None = getattr(screen, "footer", None)
        shown = (
            [(key_name(key), words, key) for key, words in own()]
            if own is not None
            else self._offered(screen)
        )
        if tuple(shown) != self._shown:
            self._shown = tuple(shown)
            self.refresh()

    def _offered(self, screen: Screen[object]) -> list[tuple[str, str, str]]:
        """The actions that a step's screen offers now: the name of the key, what it does, the key."""
        offered = {
            binding.id: binding
            for _node, binding, enabled, _tip in screen.active_bindings.values()
            if binding.id and enabled
        }
        labels: Mapping[str, str] = getattr(screen, "labels", {})
        shown = []
        typing = is_text(screen, "q")
        for action in GLOBAL:
            # In a field the way out of it is told: outside, letters are keys.
            if (action.show or (typing and action.id == "leave")) and action.id in offered:
                # The first of an action's keys is the one to show; the user's own come before ours. Where that is
                # text, no other is: Ctrl+Q does not reach the wizard in VS Code, but ends VS Code.
                key = self._keymap().get(action.id, action.keys).split(",")[0].strip()
                if is_text(screen, key):
                    continue
                shown.append((key_name(key), _(labels.get(action.id, action.label)), key))
        return shown

    def _keymap(self) -> dict[str, str]:
        settings = getattr(self.app, "settings", None)
        return dict(settings.keymap) if settings is not None else {}

    def get_line_filters(self) -> list[LineFilter]:
        """The cells stand from the left in every language."""
        return from_the_left(super().get_line_filters())

    def render(self) -> Content:
        parts: list[Content] = []
        self._entries = []
        at = 0
        for keys, words, key in self._shown:
            width = len(keys) + cell_len(words) + 4
            if at + width > self.size.width + 1:
                continue
            self._entries.append((at, at + width, key))
            at += width
            # Reversed is what has the focus, and nothing else.
            ansi = self.app.current_theme.ansi
            style = "bold $text-primary" if ansi else "bold $text-primary on $foreground 8%"
            parts += [
                Content.styled(f" {keys} {cell_end()}", style),
                Content.styled(f" {words} {cell_end()}", "$foreground 85%"),
            ]
        return Content.assemble(*parts)

    def on_click(self, event: Click) -> None:
        """Do what the key would do."""
        for start, end, key in self._entries:
            if start <= event.x < end:
                self.app.simulate_key(key)
