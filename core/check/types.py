"""What a check is and what it looks at, and the probes run side by side, each with its own limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import Help, Hint, LabError, hint_as_dict, merged, parts_of, with_told
from core.folder import LabFolder
from core.language import told
from core.model.faults import Fault
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
        hint: what to do; empty where there is nothing.
        code: the fault's stable code, where it has one.
    """

    name: str
    state: str
    found: str
    hint: Hint = ""
    code: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", without_logins(self.found))

    @classmethod
    def of(cls, name: str, error: LabError | Fault, state: str = FAIL) -> Check:
        """An error that was met, as what was found."""
        found = told("{title} {detail}", title=error.title, detail=error.detail)
        return cls(name, state, found, error.advice, error.code)

    @property
    def advice(self) -> tuple[str | Help, ...]:
        """What to do, in its parts."""
        return parts_of(self.hint)

    @property
    def fix(self) -> str:
        """What to do, as the command line says it."""
        return "".join(map(str, self.advice))

    def as_dict(self) -> dict[str, Any]:
        """The object that ``check --json`` gives."""
        words = {key: getattr(self, key) for key in ("name", "state", "found", "fix", "code")}
        return merged(with_told(words), hint_as_dict(self.advice, "fix"))


@dataclass(frozen=True)
class Subject:
    """What the checks are about.

    Attributes:
        lab: the lab's folder, which need not exist.
        recipe: its recipe, or the defaults where it has none.
        stages: the stages that are to run.
        has_recipe: whether the recipe was read from ``lab.toml``.
        verify: whether every byte of what was made is to be read.
        device: a device that is asked about, cpu, gpu or npu; empty: the recipe's.
    """

    lab: LabFolder
    recipe: Recipe
    stages: tuple[str, ...] = field(default_factory=default_stages)
    has_recipe: bool = True
    verify: bool = False
    device: str = ""


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


def run_probes(
    probes: Sequence[Probe], subject: Subject, on_check: Callable[[Check], object] | None = None
) -> list[Check]:
    """Every probe's checks, in the order of the probes.

    A probe that takes longer than its limit gives a WARN that says so; its thread is left behind
    (no thread can be ended from outside) and does not keep the process alive. One that breaks gives a WARN
    with the exception: a check that cannot look must not stop those that can.

    Args:
        on_check: called with each check as it comes, in the order of arrival, from this thread.
    """
    answers: queue.Queue[tuple[int, list[Check]]] = queue.Queue()

    def look(number: int, probe: Probe) -> None:
        try:
            found = list(probe.look(subject))
        except Exception as error:
            found = [
                Check(
                    probe.name,
                    WARN,
                    told(
                        "It could not be looked at: {kind}: {error}", kind=type(error).__name__, error=error
                    ),
                )
            ]
        answers.put((number, found))

    began = time.monotonic()
    for number, probe in enumerate(probes):
        threading.Thread(target=look, args=(number, probe), name=f"check {probe.name}", daemon=True).start()
    results: dict[int, list[Check]] = {}
    while len(results) < len(probes):
        left = {n: p.limit_s - (time.monotonic() - began) for n, p in enumerate(probes) if n not in results}
        try:
            number, found = answers.get(timeout=max(0.0, min(left.values())))
        except queue.Empty:
            late = [n for n, seconds in left.items() if seconds <= 0.01]
            for n in late:
                results[n] = [
                    Check(
                        probes[n].name,
                        WARN,
                        told("No answer within {limit_s:g} s.", limit_s=probes[n].limit_s),
                        told("Try again, or go on."),
                    )
                ]
                _tell(results[n], on_check)
            continue
        if number not in results:
            results[number] = found
            _tell(found, on_check)
    return [check for number in range(len(probes)) for check in results[number]]


def _tell(checks: Iterable[Check], on_check: Callable[[Check], object] | None) -> None:
    if on_check is not None:
        for check in checks:
            on_check(check)


def overall(checks: Iterable[Check]) -> bool:
    """Whether the lab can run: nothing failed."""
    return all(check.state != FAIL for check in checks)


def as_markdown(checks: Sequence[Check]) -> str:
    """The checks as a Markdown block, to paste into a report of a problem."""
    rows = ["| check | state | found | what to do |", "| --- | --- | --- | --- |"]
    for check in checks:
        cells = [
            text.replace("|", "\\|").replace("\n", " ")
            for text in (check.name, check.state, check.found, check.fix)
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
