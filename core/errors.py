"""What can go wrong, as data: a title, a detail that names the culprit, and a hint for what to do next.

Each class carries the exit status that the command line gives for it; each kind of fault a stable ``code``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from core.language import Embedded, Told, pieces, shown, told, with_helps
from core.text import command, without_logins


@dataclass(frozen=True)
class Do(Embedded):
    """What helps, as data: a command to who types, a key or a button to who uses the wizard.

    Attributes:
        name: the command, such as ``run``.
        words: what follows the lab's folder.
        lab: that folder; empty for commands that take none.
    """

    name: str
    words: tuple[str, ...] = ()
    lab: str = ""

    @classmethod
    def of(cls, name: str, lab: object = "", *words: str) -> Do:
        """The command ``olivepress NAME LAB WORDS``."""
        return cls(name, words, str(lab))

    def __str__(self) -> str:
        return command(self.name, *([self.lab] if self.lab else []), *self.words)


@dataclass(frozen=True)
class Use(Embedded):
    """A setting that helps, as data.

    Attributes:
        option: ``section.key``.
        value: what to set it to; None where only a person can tell.
        more: further options with their values that have to come with it.
    """

    option: str
    value: str | int | float | None = None
    more: tuple[tuple[str, str | int | float], ...] = ()

    @property
    def values(self) -> dict[str, str | int | float]:
        """What to set, by ``section.key``; empty where only a person can tell."""
        return {} if self.value is None else {self.option: self.value, **dict(self.more)}

    def __str__(self) -> str:
        said = [
            f"{option} = {str(value).lower() if isinstance(value, bool) else value}"
            for option, value in self.values.items()
        ]
        first, rest = said[:1], said[1:]
        return (first[0] if first else self.option) + (f" with {' and '.join(rest)}" if rest else "")


Help = Do | Use
"""What can be done about an error."""

Hint = str | Sequence[str | Help]
"""A hint: words, and between them what can be done. Joined it is what the command line says.

What can be done stands between the words or is a value of a text that was :func:`~core.language.told`:
``told("Set {setting}, or free some memory.", setting=Use("finetune.rank"))``.
"""


def parts_of(hint: Hint) -> tuple[str | Help, ...]:
    """The parts of a hint, without the user names and passwords of addresses."""
    given = (hint,) if isinstance(hint, str) else hint
    return tuple(without_logins(part) if isinstance(part, str) else part for part in given if part != "")


def apart(hint: Hint, *, english: bool = False) -> tuple[str | Help, ...]:
    """A hint's words in the language in use, and apart from them each thing that can be done."""
    parts = (hint,) if isinstance(hint, str) else hint
    found: list[str | Help] = []
    for part in parts:
        for piece in pieces(part, english=english) if isinstance(part, str) else [part]:
            if isinstance(piece, Do | Use):
                found.append(piece)
            elif piece != "":
                found.append(str(piece))
    return tuple(found)


def said(hint: Hint) -> str:
    """A hint in the language in use, with the commands that are to be typed."""
    return "".join(map(str, apart(hint)))


def with_other_helps(parts: Sequence[str | Help], change: Callable[[Help], Help]) -> tuple[str | Help, ...]:
    """A hint in which each thing that can be done is what ``change`` makes of it."""
    return tuple(with_helps(part, change) if isinstance(part, str) else change(part) for part in parts)


def has_help(parts: Sequence[str | Help]) -> bool:
    """Whether a hint names something that can be done."""
    return any(not isinstance(part, str) for part in apart(parts, english=True))


def either(choices: Iterable[Help]) -> tuple[str | Help, ...]:
    """Several that would help, with "or" between them."""
    found: list[str | Help] = []
    for choice in choices:
        found += [*([told(" or ")] if found else []), choice]
    return tuple(found)


def joined(hints: Sequence[Hint]) -> tuple[str | Help, ...]:
    """Several hints, a line each."""
    found: list[str | Help] = []
    for hint in hints:
        found += [*(["\n"] if found else []), *parts_of(hint)]
    return tuple(found)


def as_plain(parts: Sequence[str | Help]) -> list[Any]:
    """Parts of a hint in JSON form, in English."""
    return [part if isinstance(part, str) else _help_as_plain(part) for part in apart(parts, english=True)]


def from_plain(data: object) -> tuple[str | Help, ...]:
    """What :func:`as_plain` gave; what is no part of a hint is passed over."""
    found = [_part(part) for part in (data if isinstance(data, list) else [])]
    return tuple(part for part in found if part is not None)


def _help_as_plain(part: Help) -> dict[str, Any]:
    if isinstance(part, Do):
        return {"command": part.name, "lab": part.lab, "words": list(part.words)}
    return {"option": part.option, "value": part.value, "more": dict(part.more)}


def _part(part: object) -> str | Help | None:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("command"), str):
        words = part.get("words")
        return Do(
            part["command"],
            tuple(map(str, words)) if isinstance(words, list) else (),
            str(part.get("lab") or ""),
        )
    if isinstance(part, dict) and isinstance(part.get("option"), str):
        value, more = part.get("value"), part.get("more")
        return Use(
            part["option"],
            value if isinstance(value, str | int | float) else None,
            tuple(more.items()) if isinstance(more, dict) else (),
        )
    return None


DEEPEST = 8
"""How deep texts in texts are read from JSON."""


def with_told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for JSON, and under ``told`` what the texts among them were made from, for whoever shows them.

    ``told`` has an entry for each :class:`~core.language.Told` and for each list or tuple with one; it is left
    out where there is none. :func:`text_of` and :func:`texts_of` read it.
    """
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Told):
            entry = text_as_plain(value)
            if isinstance(entry, dict):
                del entry["text"]  # it stands beside
                kept[key] = entry
        elif isinstance(value, list | tuple) and any(isinstance(part, Told) for part in value):
            kept[key] = [text_as_plain(part) for part in value]
    return {**fields, "told": kept} if kept else dict(fields)


def text_of(data: Mapping[str, Any], key: str) -> str:
    """A text that :func:`with_told` wrote, to be shown in the language in use; empty where there is none.

    Whatever the JSON says, nothing is raised: what was not written so is the English text alone.
    """
    text, kept = data.get(key), data.get("told")
    if not isinstance(text, str):
        return ""
    entry = kept.get(key) if isinstance(kept, dict) else None
    found = _again({**entry, "text": text}, 0) if isinstance(entry, dict) else None
    return found if isinstance(found, Told) else text


def texts_of(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """:func:`text_of` for a list of texts; what is no text is passed over."""
    texts, kept = data.get(key), data.get("told")
    entry = kept.get(key) if isinstance(kept, dict) else None
    plain = [text for text in (texts if isinstance(texts, list) else []) if isinstance(text, str)]
    found = [_again(each, 0) for each in (entry if isinstance(entry, list) else [])]
    again = tuple(text for text in found if isinstance(text, str))
    return again if list(again) == plain else tuple(plain)


def hint_of(data: Mapping[str, Any]) -> tuple[str | Help, ...]:
    """The hint of an error, or of another thing with ``hint`` and ``advice``, that came as JSON."""
    hint, kept = data.get("hint"), data.get("told")
    hint = hint if isinstance(hint, str) else ""
    entry = kept.get("advice") if isinstance(kept, dict) else None
    found = [_again(each, 0) for each in (entry if isinstance(entry, list) else [])]
    again = tuple(part for part in found if isinstance(part, str | Do | Use))
    if again and "".join(map(str, again)) == hint:
        return again
    return from_plain(data.get("advice")) or parts_of(hint)


def hint_as_dict(parts: Sequence[str | Help], key: str = "hint") -> dict[str, Any]:
    """A hint in JSON form: the words under ``key``, ``advice`` where there is something that can be done."""
    plain: dict[str, Any] = {key: "".join(map(str, parts))}
    # The parts beside the words only where they tell more.
    if has_help(parts):
        plain["advice"] = as_plain(parts)
    if any(isinstance(part, Told) for part in parts):
        plain["told"] = {"advice": [_value(part) for part in parts]}
    return plain


def merged(*plain: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for JSON put together, and what they remember under ``told``."""
    kept = {key: value for each in plain for key, value in each.get("told", {}).items()}
    found = {key: value for each in plain for key, value in each.items() if key != "told"}
    return {**found, "told": kept} if kept else found


def text_as_plain(text: str) -> Any:
    """A text in JSON form where none can stand beside it: a :class:`~core.language.Told` is an object."""
    if not isinstance(text, Told):
        return text
    form = {"many": text.many, "n": text.n} if text.many else {}
    values = {name: _value(each) for name, each in text.values.items()}
    return {"text": str(text), "message": text.message, **form, "values": values}


def text_from_plain(data: object) -> str:
    """What :func:`text_as_plain` gave; empty for anything else."""
    found = _again(data, 0)
    return found if isinstance(found, str) else ""


def _value(value: object) -> Any:
    """A value of a text in JSON form."""
    if isinstance(value, str):
        return text_as_plain(value)
    if isinstance(value, Do | Use):
        return _help_as_plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # no JSON; the text is then shown in English
    return value


def _again(data: object, depth: int) -> str | int | float | Help | None:
    """What :func:`_value` gave; None for anything else."""
    if isinstance(data, str | int | float):
        return data
    if not isinstance(data, dict) or depth > DEEPEST:
        return None
    text, message, values = data.get("text"), data.get("message"), data.get("values")
    if not isinstance(text, str):
        part = _part(data)
        return part if isinstance(part, Do | Use) else None
    if not isinstance(message, str) or not isinstance(values, dict):
        return text
    many, n = data.get("many", ""), data.get("n", 0)
    if not isinstance(many, str) or not isinstance(n, int):
        return text
    found = {name: _again(value, depth + 1) for name, value in values.items()}
    kept = {name: value for name, value in found.items() if value is not None}
    return Told(text, message, kept, many, n) if len(kept) == len(found) else text


class LabError(Exception):
    """A foreseeable failure. Addresses in its texts lose their user names and passwords.

    Args:
        title: one short sentence, what happened.
        detail: which file, line, key or model, and what was found there.
        hint: what to do next; what is a command or a setting stands in it as data (:class:`Do`, :class:`Use`).
        code: the kind of fault, ``area.kind`` (``model.group-size``), for programs: the words may change, it
            does not. Empty where there is none.

    Attributes:
        hint: the hint as the command line says it.
        advice: the same in its parts.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, title: str, detail: str = "", hint: Hint = "", *, code: str = "") -> None:
        super().__init__(without_logins(title))
        self.title = without_logins(title)
        self.detail = without_logins(detail)
        self.advice = parts_of(hint)
        self.code = code

    @property
    def hint(self) -> str:
        """What to do next, as the command line says it."""
        return "".join(map(str, self.advice))

    @hint.setter
    def hint(self, hint: Hint) -> None:
        self.advice = parts_of(hint)

    def as_dict(self) -> dict[str, Any]:
        """The error as it stands in events and in ``done.json``."""
        words = {"code": self.code, "title": self.title, "detail": self.detail}
        return merged(with_told(words), hint_as_dict(self.advice))

    def shown(self) -> str:
        """What :func:`str` gives, in the language in use."""
        return "\n".join(filter(None, (shown(self.title), shown(self.detail), said(self.advice))))

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, self.detail, self.hint) if part)


class RequestError(LabError):
    """The request is wrong: a bad option, recipe, data file, or a missing file."""

    exit_status = 2


class StageError(LabError):
    """A stage ran and failed."""

    exit_status = 3


class MachineError(LabError):
    """This machine cannot do it: no GPU for a GPU-only choice, no disk, no credentials."""

    exit_status = 4


class Cancelled(LabError):
    """The user asked to stop, and it stopped."""

    exit_status = 130

    def __init__(
        self, title: str = told("Cancelled."), detail: str = "", hint: Hint = "", *, code: str = ""
    ) -> None:
        super().__init__(title, detail, hint, code=code or "cancelled")


_BY_STATUS: dict[int, type[LabError]] = {
    kind.exit_status: kind for kind in (RequestError, StageError, MachineError, Cancelled)
}


def error_from(data: Mapping[str, Any], exit_status: int) -> LabError:
    """Rebuild the error that a job wrote, in the process that reads the job's folder."""
    kind = _BY_STATUS.get(exit_status, StageError)
    return kind(
        text_of(data, "title") or told("The stage failed."),
        text_of(data, "detail"),
        hint_of(data),
        code=text_of(data, "code"),
    )
