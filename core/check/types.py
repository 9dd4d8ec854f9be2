"""What a check is, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from core.folder import LabFolder
from core.recipe import Recipe
from core.stages import default_stages
from core.text import without_logins

OK, WARN, FAIL, SKIP = "OK", "WARN", "FAIL", "SKIP"
"""The states: fine; goes on, but read it; cannot work; could not or need not be looked at."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, short and stable.
        state: OK, WARN, FAIL or SKIP.
        found: what was found there.
        fix: a command or a sentence; empty where there is nothing to do.
        code: the fault's stable code, where it has one.
    """

    name: str
    state: str
    found: str
    fix: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", without_logins(self.found))
        object.__setattr__(self, "fix", without_logins(self.fix))

    def as_dict(self) -> dict[str, Any]:
        """The object that ``check --json`` gives."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What the checks are about.

    Attributes:
        lab: the lab's folder, which need not exist.
        recipe: its recipe, or the defaults where it has none.
        stages: the stages that are to run.
        has_recipe: whether the recipe was read from ``lab.toml``.
        verify: whether every byte of what was made is to be read.
    """

    lab: LabFolder
    recipe: Recipe
    stages: tuple[str, ...] = field(default_factory=default_stages)
    has_recipe: bool = True
    verify: bool = False


CheckFunction = Callable[[Subject], Iterable[Check]]


@dataclass(frozen=True)
class Probe:
    """A function that gives one or more checks.

    Attributes:
        name: the name of the check to blame when the probe hangs or breaks.
        look: gives the checks.
        limit_s: how long it may take.
        stages: the stages that cannot run when one of its checks fails, by default those that work on this
            machine; empty: it stops none.
    """

    name: str
    look: CheckFunction
    limit_s: float = 4.0
    stages: tuple[str, ...] = field(default_factory=default_stages)
