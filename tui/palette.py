"""What the command palette offers: every step and every action."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from textual.app import SystemCommand

from tui.keys import GLOBAL
from tui.steps import steps

if TYPE_CHECKING:
    from tui.app import OlivePressApp


def commands(app: OlivePressApp) -> Iterator[SystemCommand]:
    """The steps first, then the actions."""
    for step in steps():
        yield SystemCommand(
            f"Go to {step.number} {step.title}",
            step.about,
            lambda number=step.number: app.run_worker(app.action_step(number)),
        )
    yield SystemCommand(
        "Free some space",
        "What takes room on the disk and can go; only what you tick is removed.",
        app.action_free_space,
    )
    for action in GLOBAL:
        if action.id not in ("commands", "leave"):
            yield SystemCommand(
                action.label,
                action.help,
                lambda name=action.action: app.run_worker(app.run_action(name, app.current)),
            )
