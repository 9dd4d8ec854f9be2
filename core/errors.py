"""What can go wrong, as data: a title, a detail that names the culprit, and a hint for what to do next.

Each class carries the exit status that the command line gives for it; each kind of fault a stable ``code``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from core.text import command, without_logins


@dataclass(frozen=True)
class Do:
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
class Use:
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
        told = [
            f"{option} = {str(value).lower() if isinstance(value, bool) else value}"
            for option, value in self.values.items()
        ]
        first, rest = told[:1], told[1:]
        return (first[0] if first else self.option) + (f" with {' and '.join(rest)}" if rest else "")


Help = Do | Use
"""What can be done about an error."""

Hint = str | Sequence[str | Help]
"""A hint: words, and between them what can be done. Joined it is what the command line says."""


def parts_of(hint: Hint) -> tuple[str | Help, ...]:
    """The parts of a hint, without the user names and passwords of addresses."""
    given = (hint,) if isinstance(hint, str) else hint
    return tuple(without_logins(part) if isinstance(part, str) else part for part in given if part != "")


def has_help(parts: Sequence[str | Help]) -> bool:
    """Whether a hint names something that can be done."""
    return any(not isinstance(part, str) for part in parts)


def either(choices: Iterable[Help]) -> tuple[str | Help, ...]:
    """Several that would help, with "or" between them."""
    found: list[str | Help] = []
    for choice in choices:
        found += [*([" or "] if found else []), choice]
    return tuple(found)


def joined(hints: Sequence[Hint]) -> tuple[str | Help, ...]:
    """Several hints, a line each."""
    found: list[str | Help] = []
    for hint in hints:
        found += [*(["\n"] if found else []), *parts_of(hint)]
    return tuple(found)


def as_plain(parts: Sequence[str | Help]) -> list[Any]:
    """Parts of a hint in JSON form."""
    plain: list[Any] = []
    for part in parts:
        if isinstance(part, Do):
            plain.append({"command": part.name, "lab": part.lab, "words": list(part.words)})
        elif isinstance(part, Use):
            plain.append({"option": part.option, "value": part.value, "more": dict(part.more)})
        else:
            plain.append(part)
    return plain


def from_plain(data: object) -> tuple[str | Help, ...]:
    """What :func:`as_plain` gave; what is no part of a hint is passed over."""
    found: list[str | Help] = []
    for part in data if isinstance(data, list) else []:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict) and isinstance(part.get("command"), str):
            words = part.get("words")
            told = tuple(map(str, words)) if isinstance(words, list) else ()
            found.append(Do(part["command"], told, str(part.get("lab") or "")))
        elif isinstance(part, dict) and isinstance(part.get("option"), str):
            value, more = part.get("value"), part.get("more")
            found.append(
                Use(
                    part["option"],
                    value if isinstance(value, str | int | float) else None,
                    tuple(more.items()) if isinstance(more, dict) else (),
                )
            )
    return tuple(found)


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
        told = {"code": self.code, "title": self.title, "detail": self.detail, "hint": self.hint}
        # The parts beside the words only where they tell more.
        return {**told, "advice": as_plain(self.advice)} if has_help(self.advice) else told

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
        self, title: str = "Cancelled.", detail: str = "", hint: Hint = "", *, code: str = ""
    ) -> None:
        super().__init__(title, detail, hint, code=code or "cancelled")


_BY_STATUS: dict[int, type[LabError]] = {
    kind.exit_status: kind for kind in (RequestError, StageError, MachineError, Cancelled)
}


def error_from(data: Mapping[str, Any], exit_status: int) -> LabError:
    """Rebuild the error that a job wrote, in the process that reads the job's folder."""
    kind = _BY_STATUS.get(exit_status, StageError)
    told = {key: value for key, value in data.items() if isinstance(value, str)}
    return kind(
        told.get("title", "The stage failed."),
        told.get("detail", ""),
        from_plain(data.get("advice")) or told.get("hint", ""),
        code=told.get("code", ""),
    )
