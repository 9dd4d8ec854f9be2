"""Bytes, durations and numbers for people: each is written in one way, on screen and off it."""

from __future__ import annotations

import math
from collections.abc import Iterable


def human_bytes(count: float) -> str:
    """A size, in powers of 1024: ``8.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8 s``, ``0.4 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 9.95 else f"{seconds:.1f}".removesuffix(".0") + " s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_left(seconds: float | None) -> str:
    """An estimate, coarse on purpose: a figure that jumps is not believed. Empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 55:
        return f"about {round(seconds / 10) * 10} s left"
    if seconds < 3540:
        return f"about {max(1, round(seconds / 60))} min left"
    return f"about {round(seconds / 3600, 1):g} h left"


def rough_duration(seconds: float) -> str:
    """Seconds that are an estimate: ``20 s``, ``13 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def number(value: float) -> str:
    """A number with as many digits as help, ``11,832``, ``2.612``, ``0.00014``."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.01:
        return f"{value:.3f}"
    return f"{value:.2g}"


def counted(count: int, what: str) -> str:
    """How many there are of something: ``1 row``, ``2,000 rows``."""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def some(names: Iterable[object], most: int = 3) -> str:
    """The first of some names, and how many more there are: ``a, b, c and 4 more``."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")
