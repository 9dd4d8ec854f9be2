"""What can go wrong, as data: a title, a detail that names the culprit, and a hint for what to do next.

Each class carries the exit status that the command line gives for it; each kind of fault a stable ``code``.
"""

from __future__ import annotations

from typing import ClassVar

from core.text import without_logins


class LabError(Exception):
    """A foreseeable failure. Addresses in its texts lose their user names and passwords.

    Args:
        title: one short sentence, what happened.
        detail: which file, line, key or model, and what was found there.
        hint: what to do next.
        code: the kind of fault, ``area.kind`` (``model.group-size``), for programs: the words may change, it
            does not. Empty where there is none.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, title: str, detail: str = "", hint: str = "", *, code: str = "") -> None:
        super().__init__(without_logins(title))
        self.title = without_logins(title)
        self.detail = without_logins(detail)
        self.hint = without_logins(hint)
        self.code = code

    def as_dict(self) -> dict[str, str]:
        """The error as it stands in events and in ``done.json``."""
        return {"code": self.code, "title": self.title, "detail": self.detail, "hint": self.hint}

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
        self, title: str = "Cancelled.", detail: str = "", hint: str = "", *, code: str = ""
    ) -> None:
        super().__init__(title, detail, hint, code=code or "cancelled")


_BY_STATUS: dict[int, type[LabError]] = {
    kind.exit_status: kind for kind in (RequestError, StageError, MachineError, Cancelled)
}


def error_from(data: dict[str, str], exit_status: int) -> LabError:
    """Rebuild the error that a job wrote, in the process that reads the job's folder."""
    kind = _BY_STATUS.get(exit_status, StageError)
    return kind(
        data.get("title", "The stage failed."),
        data.get("detail", ""),
        data.get("hint", ""),
        code=data.get("code", ""),
    )
