"""Bytes, durations and numbers for people: each is written in one way, on screen and off it.

Those with words in them, or with thousands, are English and shown in the reader's language (:mod:`core.language`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from core.language import Nn_, told, told_n


def human_bytes(count: float) -> str:
    """A size, in powers of 1024: ``8.4 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8 s``, ``0.4 s``, ``3 min 05 s``, ``10 min``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        exact = f"{seconds:.1f}".removesuffix(".0")
        return told("{seconds} s", seconds=whole if seconds >= 9.95 else exact)
    if whole < 3600:
        if not whole % 60:
            return told("{minutes} min", minutes=whole // 60)
        return told("{minutes} min {seconds:02d} s", minutes=whole // 60, seconds=whole % 60)
    if whole % 3600 < 60:
        return told("{hours} h", hours=whole // 3600)
    return told("{hours} h {minutes:02d} min", hours=whole // 3600, minutes=whole % 3600 // 60)


def time_left(seconds: float | None) -> str:
    """An estimate, coarse on purpose: a figure that jumps is not believed. Empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return told("a few seconds left")
    if seconds < 55:
        return told("about {seconds} s left", seconds=round(seconds / 10) * 10)
    if seconds < 3540:
        return told("about {minutes} min left", minutes=max(1, round(seconds / 60)))
    return told("about {hours:g} h left", hours=round(seconds / 3600, 1))


def rough_duration(seconds: float) -> str:
    """Seconds that are an estimate: ``20 s``, ``13 min``, ``2.5 h``."""
    if seconds < 90:
        return told("{seconds} s", seconds=max(10, round(seconds / 10) * 10))
    if seconds < 5400:
        return told("{minutes:.0f} min", minutes=seconds / 60)
    return told("{hours:.1f} h", hours=seconds / 3600)


def number(value: float) -> str:
    """A number with as many digits as help, ``11,832``, ``2.612``, ``0.00014``.

    In other languages than English a space divides the thousands, which no language reads as a decimal sign.
    """
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return told("{n:,}", n=int(value))
    size = abs(value)
    if size >= 1000:
        return told("{n:,.0f}", n=value)
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.01:
        return f"{value:.3f}"
    return f"{value:.2g}"


_COUNTED: Mapping[str, tuple[str, str]] = {
    "GPU": Nn_("{count} GPU", "{count} GPUs"),
    "answer": Nn_("{count} answer", "{count} answers"),
    "calibration row": Nn_("{count} calibration row", "{count} calibration rows"),
    "further choice": Nn_("{count} further choice", "{count} further choices"),
    "held-out row": Nn_("{count} held-out row", "{count} held-out rows"),
    "lab": Nn_("{count} lab", "{count} labs"),
    "record": Nn_("{count} record", "{count} records"),
    "seat": Nn_("{count} seat", "{count} seats"),
    "training row": Nn_("{count} training row", "{count} training rows"),
    "choice": Nn_("{count} choice", "{count} choices"),
    "file": Nn_("{count} file", "{count} files"),
    "finding": Nn_("{count} finding", "{count} findings"),
    "held-out answer": Nn_("{count} held-out answer", "{count} held-out answers"),
    "held-out record": Nn_("{count} held-out record", "{count} held-out records"),
    "held-out pair": Nn_("{count} held-out pair", "{count} held-out pairs"),
    "pair": Nn_("{count} pair", "{count} pairs"),
    "question": Nn_("{count} question", "{count} questions"),
    "row": Nn_("{count} row", "{count} rows"),
    "step": Nn_("{count} step", "{count} steps"),
    "token": Nn_("{count} token", "{count} tokens"),
    "turn": Nn_("{count} turn", "{count} turns"),
}


def counted(count: int, what: str) -> str:
    """How many there are of something: ``1 row``, ``2,000 rows``."""
    if what in _COUNTED:
        return told_n(*_COUNTED[what], count, count=number(count))
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def listed(texts: Iterable[str], between: str = ", ") -> str:
    """Some texts one behind the other, each in the reader's language."""
    every = {f"t{number}": text for number, text in enumerate(texts)}
    return told(between.join(f"{{{name}}}" for name in every), **every)


def some(names: Iterable[object], most: int = 3) -> str:
    """The first of some names, and how many more there are: ``a, b, c and 4 more``."""
    every = [str(name) for name in names]
    listed = ", ".join(every[:most])
    if len(every) <= most:
        return listed
    return told("{names} and {count} more", names=listed, count=number(len(every) - most))
