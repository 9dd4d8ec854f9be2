"""How a figure of a stage's result is written: the same on screen, in the report and on the command line.

The keys of a result are for programs (``--json``, ``olivepress.json``). What people read of them stands
with each stage in :mod:`core.stages`. Lists, such as the curve of the loss, are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from core.formats import duration, human_bytes, number
from core.language import N_, _, shown
from core.text import clean

PREPARED = "prepared"
"""The key of a manifest, and of a result, that says who has put a prepared result into the lab."""


def numbers_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A result as its manifest keeps it, with a word where it is a prepared one."""
    found = manifest.get("result")
    told = dict(found) if isinstance(found, Mapping) else {}
    return {**told, PREPARED: manifest[PREPARED]} if manifest.get(PREPARED) else told


class Figure(NamedTuple):
    """A line of a result.

    Attributes:
        key: where the value stands, with dots into what is nested; ``one|two`` puts two into the line.
        label: what people call it.
        main: whether it is of the few that the stage's screen shows.
        show: how its number is written.
        form: how two values stand in their line.
        zero: whether a value of 0 or an empty one is told.
    """

    key: str
    label: str
    main: bool = False
    show: Callable[[float], str] = number
    form: str = N_("{first} to {second}")
    zero: bool = True

    def text(self, result: Mapping[str, Any]) -> str:
        """The value in words; empty where the result lacks it."""
        values = [_at(result, part) for part in self.key.split("|")]
        if any(value is None for value in values) or not (self.zero or all(values)):
            return ""
        words = [self._word(value) for value in values]
        return words[0] if len(words) == 1 else _(self.form, first=words[0], second=words[1])

    def _word(self, value: Any) -> str:
        if isinstance(value, bool):
            return _("yes") if value else _("no")
        if isinstance(value, int | float):
            return shown(self.show(value))
        return clean(str(value), keep_newlines=False)


def _at(result: Mapping[str, Any], key: str) -> Any:
    found: Any = result
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def percent(value: float) -> str:
    """A share as ``97.3 %``."""
    return f"{100 * value:.1f} %"


def milliseconds(value: float) -> str:
    """Seconds as ``41 ms``."""
    return f"{number(round(1000 * value))} ms"


def gib(value: float) -> str:
    """A size that is counted in GiB."""
    return human_bytes(value * 2**30)


def exact_seconds(value: float) -> str:
    """Seconds with hundredths where they are few."""
    return f"{value:.2f} s" if value < 10 else duration(value)
