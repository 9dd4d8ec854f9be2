"""Bytes, durations and numbers of :mod:`core.formats`, in the language in use."""

from __future__ import annotations

from core import formats
from core.language import shown


def human_bytes(count: float) -> str:
    """A size: ``8.4 MiB``."""
    return shown(formats.human_bytes(count))


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``3 min 05 s``."""
    return shown(formats.duration(seconds))


def time_left(seconds: float | None) -> str:
    """An estimate, coarse on purpose; empty for None."""
    return shown(formats.time_left(seconds))


def rough_duration(seconds: float) -> str:
    """Seconds that are an estimate: ``13 min``."""
    return shown(formats.rough_duration(seconds))


def number(value: float) -> str:
    """A number with as many digits as help: ``11,832``."""
    return shown(formats.number(value))


def counted(count: int, what: str) -> str:
    """How many there are of something: ``2,000 rows``."""
    return shown(formats.counted(count, what))
