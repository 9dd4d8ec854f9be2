"""What the terminal can do: whether to draw at all, which theme fits, which glyphs it can draw."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Mapping
from pathlib import Path

SPEAKUP = Path("/sys/accessibility/speakup")
"""What Linux has where a screen reader speaks its console."""


def wants_plain(environ: Mapping[str, str] = os.environ, speakup: Path = SPEAKUP) -> bool:
    """Whether to ask by lines in place of drawing: the user says so, the terminal is dumb, or the console is spoken."""
    if environ.get("OLIVEPRESS_PLAIN", "0") not in ("", "0"):
        return True
    term = environ.get("TERM", "")
    if sys.platform != "win32" and term in ("", "dumb", "unknown"):
        return True
    return term == "linux" and speakup.is_dir()


def few_colours(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal has 16 colours at most, or the user wants none."""
    if environ.get("NO_COLOR") is not None:
        return True
    if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return False
    term = environ.get("TERM", "")
    return "256" not in term and "direct" not in term and not environ.get("WT_SESSION")


def light_background(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal says (``COLORFGBG``, set by rxvt, Konsole and others) that it is light."""
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "15")


def default_theme(environ: Mapping[str, str] = os.environ) -> str:
    """The theme to start with where the user has chosen none."""
    shade = "light" if light_background(environ) else "dark"
    return f"ansi-{shade}" if few_colours(environ) else f"olive-{shade}"


def plain_glyphs(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to draw with ASCII alone: the Linux console, or a locale that is not UTF-8."""
    if environ.get("OLIVEPRESS_ASCII"):
        return True
    if environ.get("TERM", "") in ("linux", "vt100", "vt220"):
        return True
    encoding = environ.get("PYTHONIOENCODING") or locale.getpreferredencoding(False)
    return "utf" not in encoding.lower() and not sys.flags.utf8_mode
