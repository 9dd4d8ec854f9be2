"""The wizard's own colours. Everything else uses theme variables, so that any theme fits."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="olive-dark",
    primary="#a3b545",
    secondary="#6f9bb8",
    accent="#d9a441",
    warning="#e0a93b",
    error="#e0675c",
    success="#7fb069",
    foreground="#e4e4dc",
    background="#1a1c17",
    surface="#22251e",
    panel="#2d3127",
    dark=True,
)

LIGHT = Theme(
    name="olive-light",
    primary="#5f6f14",
    secondary="#2f6488",
    accent="#96640a",
    warning="#8a5a00",
    error="#b3261e",
    success="#2e6b1f",
    foreground="#20221b",
    background="#f7f6ef",
    surface="#efeee4",
    panel="#e2e1d3",
    dark=False,
)

CYCLE = ("olive-dark", "olive-light", "ansi-dark", "ansi-light")
"""The themes that one key steps through."""
