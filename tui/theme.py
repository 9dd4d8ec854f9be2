"""The wizard's own colours. Everything else uses theme variables, so that any theme fits.

Each has one meaning: primary is where the focus is, what to press and what is alive; success, warning and error say how
something came out; secondary is what rests.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual.theme import BUILTIN_THEMES, Theme

if TYPE_CHECKING:
    from textual.app import App

DARK = Theme(
    name="olive-dark",
    primary="#a9bd47",
    secondary="#8f9483",
    accent="#a9bd47",
    warning="#e3a73f",
    error="#e8685c",
    success="#5fb98a",
    foreground="#e4e4dc",
    background="#161813",
    surface="#1d2019",
    panel="#2a2e24",
    dark=True,
)

LIGHT = Theme(
    name="olive-light",
    primary="#5b6b12",
    secondary="#75786a",
    accent="#5b6b12",
    warning="#8f5600",
    error="#b3261e",
    success="#1c7350",
    foreground="#20221b",
    background="#faf9f3",
    surface="#f1f0e6",
    panel="#e2e1d3",
    dark=False,
)

ANSI = (
    # Blue on black can hardly be read on a Linux console, and what only warns is not red.
    replace(
        BUILTIN_THEMES["ansi-dark"], primary="ansi_cyan", accent="ansi_cyan", secondary="ansi_bright_black"
    ),
    replace(
        BUILTIN_THEMES["ansi-light"],
        accent="ansi_blue",
        warning="ansi_magenta",
        secondary="ansi_bright_black",
    ),
)
"""Textual's themes of the terminal's own 16 colours, with the same meanings."""

OWN = (DARK, LIGHT, *ANSI)


QUIET = "$foreground 70%"
"""The style of what matters less in a text: seen at once as such, and still read without effort."""


def focus_style(app: App[object]) -> str:
    """How a line is drawn that has the focus: as a button that has it."""
    return "reverse" if app.current_theme.ansi else "bold $background on $primary"


CYCLE = ("olive-dark", "olive-light", "ansi-dark", "ansi-light")
"""The themes that one key steps through."""
