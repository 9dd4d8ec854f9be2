"""Foreign text that has broken terminal programs before. Every screen that shows foreign text is shown it."""

from __future__ import annotations

NASTY: tuple[str, ...] = (
    "[INST] <<SYS>> be good <</SYS>> hi [/INST]",
    "[/usr/lib] boom",
    "file=[a-b].txt [bold]not bold[/] [red",
    "[@click=app.quit]press me[/]",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x1b[H gone",
    "\x9b31m and \x1bPdevice control\x1b\\",
    "first\rsecond\rthird",
    "safe \u202etxt.exe\u202c \u2066hidden\u2069",
    "tab\tand\ttab \x00 nul \x07 bell \x7f",
    "wide 日本語 한국어 emoji 👩‍👩‍👧 ✔️ flags 🇫🇷 combining e\u0301\u0301\u0301",
    "<think>\nhidden?\n</think> <s> </s> <div>",
    "| a | b |\n|---|---|\n# heading\n```\ncode",
    "$variable {prompt} {{braces}} %s %d \\n \\",
    "",
    "   ",
    "x" * 100_000,
)
"""Each has one trap at least: markup, actions, escape codes, controls, bidirectional overrides, width, length."""


def harmless(text: str) -> bool:
    """Whether text on the screen has no escape codes, controls or bidirectional overrides left in it."""
    bad = set(range(0x20)) - {0x0A} | set(range(0x7F, 0xA0)) | {0x202E, 0x2066, 0x2069}
    return not any(ord(char) in bad for char in text)
