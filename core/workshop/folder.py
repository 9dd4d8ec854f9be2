"""Where everything lies in a workshop's folder, and what its host asked for."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError
from core.files import write_atomic
from core.folder import REFERENCE_NAME, WORKSHOP_NAME, LabFolder
from core.jobs.gpu import LINE
from core.lab import Lab
from core.language import told

MOST_SEATS = 200
MINUTES = 35
"""How long the published lab takes."""

_SEAT = re.compile(r"seat-(\d{2,3})")


@dataclass(frozen=True)
class Workshop:
    """A workshop: its folder, and what stands in its ``workshop.toml``.

    Attributes:
        root: its folder.
        seats: how many labs there are to be.
        at_once: how many jobs may compute at once where there is no GPU; 0: no limit.
        minutes: how long the lab may take.
        own_accounts: whether the attendees have accounts of their own on the machine.
    """

    root: Path
    seats: int
    at_once: int = 0
    minutes: int = MINUTES
    own_accounts: bool = False

    @classmethod
    def open(cls, root: str | Path) -> Workshop:
        """The workshop in a folder.

        Raises:
            RequestError: there is none, or its file is wrong.
        """
        folder = Path(os.path.expanduser(root)).resolve()
        path = folder / WORKSHOP_NAME
        try:
            noted = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RequestError(
                told("There is no workshop here."),
                told("{path} does not exist.", path=path),
                told(
                    "Make one with: {workshop}",
                    workshop=Do("workshop", ("prepare", str(folder), "--seats", "8")),
                ),
                code="workshop.missing",
            ) from None
        except (OSError, ValueError) as error:
            raise RequestError(
                told("The workshop's file cannot be read."),
                told("{path}: {error}.", path=path, error=error),
                told("Mend it."),
                code="workshop.file",
            ) from None
        return cls(folder, **_checked(noted, path))

    def save(self) -> None:
        """Write ``workshop.toml``."""
        import tomlkit

        document = tomlkit.document()
        for name, meaning in _MEANINGS.items():
            entry = tomlkit.item(getattr(self, name))
            entry.comment(meaning)
            document.add(name, entry)
        write_atomic(self.root / WORKSHOP_NAME, tomlkit.dumps(document))

    @property
    def model_dir(self) -> Path:
        """The one copy of the model, which every seat reads."""
        return self.root / "model"

    @property
    def data_dir(self) -> Path:
        """The one copy of the records."""
        return self.root / "data"

    @property
    def line_dir(self) -> Path:
        """The line in which jobs wait for their turn."""
        return self.root / LINE

    @property
    def handouts_dir(self) -> Path:
        """A page for each seat."""
        return self.root / "handouts"

    @property
    def aside_dir(self) -> Path:
        """The labs of seats that were reset."""
        return self.root / "set-aside"

    @property
    def collected_dir(self) -> Path:
        """What was collected last."""
        return self.root / "collected"

    @property
    def reference(self) -> LabFolder:
        """The lab whose recipe every seat begins with, and whose results are the prepared ones."""
        return LabFolder(self.root / REFERENCE_NAME)

    def seat_names(self) -> list[str]:
        """The seats there are to be, in their order."""
        return [f"seat-{number:02d}" for number in range(1, self.seats + 1)]

    def seat(self, name: str) -> Lab:
        """A seat's lab, by its name or its number.

        Raises:
            RequestError: there is no such seat.
        """
        wanted = f"seat-{int(name):02d}" if name.isascii() and name.isdigit() else name
        if wanted not in self.seat_names():
            raise RequestError(
                told("There is no seat {name!r}.", name=name),
                told(
                    "{root} has {seats}, seat-01 to {seat_names}.",
                    root=self.root,
                    seats=self.seats,
                    seat_names=self.seat_names()[-1],
                ),
                code="workshop.seat",
            )
        return Lab(LabFolder(self.root / wanted))


_MEANINGS = {
    "seats": told("how many labs there are, seat-01 and so on"),
    "at_once": told("jobs that may compute at once where there is no GPU; 0: no limit"),
    "minutes": told("how long the lab may take"),
    "own_accounts": told("whether the attendees have accounts of their own on this machine"),
}
_RANGES = {"seats": (1, MOST_SEATS), "at_once": (0, 1000), "minutes": (1, 24 * 60)}


def _checked(noted: dict[str, Any], path: Path) -> dict[str, Any]:
    kinds = {each.name: each.type for each in dataclasses.fields(Workshop)}
    for name, value in noted.items():
        problem = ""
        if name not in _MEANINGS:
            problem = told("there is no setting {name!r}", name=name)
        elif kinds[name] == "bool":
            problem = "" if isinstance(value, bool) else told("{name} must be true or false", name=name)
        else:
            low, high = _RANGES[name]
            good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
            problem = (
                ""
                if good
                else told("{name} must be a whole number from {low} to {high}", name=name, low=low, high=high)
            )
        if problem:
            raise RequestError(
                told("The workshop's file is wrong."),
                told("{path}: {problem}.", path=path, problem=problem),
                code="workshop.file",
            )
    if "seats" not in noted:
        raise RequestError(
            told("The workshop's file is wrong."),
            told("{path}: seats is missing.", path=path),
            code="workshop.file",
        )
    return noted
