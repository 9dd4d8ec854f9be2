"""What the command palette offers: every step and every action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from textual.app import SystemCommand

from core.language import LANGUAGES, _, in_use
from tui.keys import GLOBAL
from tui.steps import steps

if TYPE_CHECKING:
    from tui.app import OlivePressApp


def commands(app: OlivePressApp) -> Iterator[SystemCommand]:
    """The steps first, then the actions."""
    for step in steps():
        yield SystemCommand(
            _("Go to {number} {title}", number=step.number, title=step.title),
            step.about,
            lambda number=step.number: app.run_worker(app.action_step(number)),
        )
    yield SystemCommand(
        _("Free some space"),
        _("What takes room on the disk and can go; only what you tick is removed."),
        app.action_free_space,
    )
    for code, name in LANGUAGES.items():
        if code != in_use():
            yield SystemCommand(
                _("Language: {name}", name=name),
                _("Everything on the screen in this language, now and next time."),
                lambda code=code: app.run_worker(app.speak(code)),
            )
    for action in GLOBAL:
        if action.id not in ("commands", "leave"):
            yield SystemCommand(
                _(action.label),
                _(action.help),
                lambda name=action.action: app.run_worker(app.run_action(name, app.current)),
            )
