"""A survey that says what a test wants it to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from core.data.background import SurveyState
from core.data.types import Finding

REPORT: dict[str, Any] = {
    "ok": True,
    "rows": 12,
    "usable": 12,
    "train": 11,
    "eval": 1,
    "epochs": 5.0,
    "padding": 0.08,
    "tokens": {
        "total": 420,
        "p50": 35,
        "p95": 38,
        "max": 39,
        "lost": 0,
        "histogram": [[30, 34, 2], [35, 37, 8], [38, 39, 2]],
    },
    "counts": {},
}


class FakeSurvey:
    """In place of :class:`core.data.background.BackgroundSurvey`; its class attributes say what it tells."""

    now: ClassVar[SurveyState] = SurveyState("done", report=REPORT)
    found: ClassVar[tuple[Finding, ...]] = ()
    made: ClassVar[int] = 0

    def __init__(self, lab_root: Path) -> None:
        type(self).made += 1
        self.cancelled = False

    def poll(self) -> SurveyState:
        """What the test has set."""
        return SurveyState("cancelled") if self.cancelled else type(self).now

    def findings(self, start: int = 0, count: int | None = None) -> list[Finding]:
        """Of those that the test has set."""
        return list(type(self).found[start : None if count is None else start + count])

    def cancel(self) -> None:
        """It stops at once."""
        self.cancelled = True

    def close(self) -> None:
        """Nothing to let go of."""


def survey_that(state: SurveyState, *found: Finding) -> type[FakeSurvey]:
    """A class of its own for one test."""
    return type("Survey", (FakeSurvey,), {"now": state, "found": found, "made": 0})


def report(**more: Any) -> dict[str, Any]:
    """A report with some of its values changed."""
    return {**REPORT, **more}
