"""One declaration for each recipe option: its default, meaning, choices and range.

The recipe file, the command line's ``--set`` and the wizard's forms are all made from these.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_type_hints

from core.language import told

Auto = Literal["auto"]
"""The type of a value that follows the model and the data; see :mod:`core.model.auto`."""

AUTO: Final[Auto] = "auto"

# A path's byte that is no UTF-8 comes as half of a surrogate pair.
_NO_UTF8 = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\([nt\\])")
_MEANT = {"n": "\n", "t": "\t", "\\": "\\"}


@dataclass(frozen=True)
class Option:
    """What may stand under one key of a table of ``lab.toml``.

    Attributes:
        section: the table's name, such as ``quantize``.
        key: the key's name.
        kind: the Python type of its value: str, int, float, bool or dict.
        default: the value where the key is missing.
        help: one line for people.
        choices: the only values allowed, if given.
        words: what a form says for a choice.
        low, high: the range allowed, both ends included.
        advanced: folded away in forms.
        off_form: why no form has it; empty: one does.
        wide: whether its control takes the whole line of a form.
        multiline: text that may have line breaks. Typed on one line, backslash and n stand for a line
            break, backslash and t for a tab, and two backslashes for one.
        auto: whether it may be ``"auto"``: the value then follows the model and the data.
        auto_here: whether it may be ``"auto"``: the value then follows this machine, when the stage begins.
    """

    section: str
    key: str
    kind: type
    default: Any
    help: str
    choices: Collection[Any] = ()
    words: Callable[[Any], str] = str
    low: float | None = None
    high: float | None = None
    advanced: bool = False
    off_form: str = ""
    wide: bool = False
    multiline: bool = False
    auto: bool = False
    auto_here: bool = False

    @property
    def name(self) -> str:
        """``section.key``, as the command line's ``--set`` takes it."""
        return f"{self.section}.{self.key}"

    @property
    def expected(self) -> str:
        """What would be right, in words."""
        return (
            told('{value}, or "auto"', value=self._expected)
            if self.auto or self.auto_here
            else self._expected
        )

    @property
    def _expected(self) -> str:
        if self.choices:
            return told("one of {choices}", choices=", ".join(map(str, self.choices)))
        word = {
            str: told("text in quotes"),
            int: told("a whole number"),
            float: told("a number"),
            bool: told("true or false"),
        }.get(self.kind, told('a table, such as { team = "travel" }'))
        if self.low is not None and self.high is not None:
            return told(
                "{kind} from {low} to {high}",
                kind=word,
                low=_written(self.low),
                high=_written(self.high),
            )
        if self.low is not None:
            return told("{kind}, at least {low}", kind=word, low=_written(self.low))
        return word

    def check(self, value: Any) -> Any:
        """The value in its proper type.

        Raises:
            ValueError: it is of another type, not among the choices, or out of range; the message
                says what was found and what would be right.
        """
        if (self.auto or self.auto_here) and value == AUTO:
            return AUTO
        if self.kind is float and type(value) is int:
            value = float(value)
        fits = type(value) is self.kind
        if fits and self.choices:
            fits = value in self.choices
        if fits and isinstance(value, int | float) and not isinstance(value, bool):
            fits = (
                math.isfinite(value)
                and (self.low is None or value >= self.low)
                and (self.high is None or value <= self.high)
            )
        if fits and isinstance(value, str) and _NO_UTF8.search(value):
            # A file's name may be any bytes; lab.toml may not.
            raise ValueError(told("{found}: not UTF-8", found=repr(value)))
        if not fits:
            raise ValueError(
                told(
                    "{value!r} is not possible here: it must be {expected}",
                    value=value,
                    expected=self.expected,
                )
            )
        return value

    def parse(self, text: str) -> Any:
        """A value from what a person typed on one line.

        Raises:
            ValueError: as :meth:`check`.
        """
        value: Any = _ESCAPED.sub(lambda found: _MEANT[found[1]], text) if self.multiline else text
        if self.auto and text.strip().lower() in ("", AUTO):
            return AUTO
        if self.auto_here and text.strip().lower() == AUTO:
            return AUTO
        try:
            if self.kind is bool:
                value = {"true": True, "false": False, "yes": True, "no": False}[text.strip().lower()]
            elif self.kind is int:
                value = int(text)
            elif self.kind is float:
                value = float(text)
            elif self.kind is dict:
                pairs = (pair.split("=", 1) for pair in text.split(",") if pair.strip())
                value = {key.strip(): item.strip() for key, item in pairs}
        except (ValueError, KeyError):
            raise ValueError(
                told(
                    "{value!r} is not possible here: it must be {expected}{comma}",
                    value=text,
                    expected=self.expected,
                    comma=without_comma(text),
                )
            ) from None
        if self.choices and self.kind is int and value not in self.choices:
            raise ValueError(
                told(
                    "{value!r} is not possible here: it must be {expected}",
                    value=text,
                    expected=self.expected,
                )
            )
        return self.check(value)

    def typed(self, value: Any) -> str:
        """A value as a person would type it on one line: what :meth:`parse` makes the value of."""
        if isinstance(value, dict):
            return ", ".join(f"{key}={item}" for key, item in value.items())
        if isinstance(value, float) and float(f"{value:g}") == value:
            return f"{value:g}"
        if self.multiline and isinstance(value, str):
            return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
        return str(value)


def _written(value: float) -> str:
    """An end of a range as a person writes it: ``1024``, ``1,000,000``, ``0.00000001``."""
    if float(value).is_integer():
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    return f"{value:.12f}".rstrip("0")


def without_comma(text: str) -> str:
    """How to write a number that was typed with commas, as the end of a message; else nothing."""
    text = text.strip()
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        return told("; numbers are written without commas: {number}", number=text.replace(",", ""))
    if re.fullmatch(r"[-+]?\d+,\d+", text):
        return told("; a fraction is written with a point: {number}", number=text.replace(",", "."))
    return ""


def option(
    default: Any,
    help: str,
    *,
    choices: Collection[Any] = (),
    words: Callable[[Any], str] = str,
    low: float | None = None,
    high: float | None = None,
    advanced: bool = False,
    off_form: str = "",
    wide: bool = False,
    multiline: bool = False,
) -> Any:
    """Declare an option as a field of a recipe section; the arguments are those of :class:`Option`."""
    metadata = {
        "help": help,
        "choices": choices,
        "words": words,
        "low": low,
        "high": high,
        "advanced": advanced,
        "off_form": off_form,
        "wide": wide,
        "multiline": multiline,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(section: str, cls: type) -> dict[str, Option]:
    """The options that a section's dataclass declares, by key, in order."""
    hints = get_type_hints(cls)
    found = {}
    for item in dataclasses.fields(cls):
        default = item.default if item.default is not dataclasses.MISSING else {}
        hint = hints[item.name]
        auto = Auto in get_args(hint)
        kind = next((each for each in get_args(hint) if each != Auto), str) if auto else hint
        kind = kind if isinstance(kind, type) else dict
        # What follows the model and the data is "auto" in a new lab; what follows the machine is a number there.
        here = auto and default != AUTO
        found[item.name] = Option(
            section, item.name, kind, default, auto=auto and not here, auto_here=here, **item.metadata
        )
    return found
