"""Pictures of the data screen in its states, as in ``test_snapshots.py``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from core.data.background import SurveyState
from core.data.types import Finding
from core.lab import Lab
from tests.snapshots.conftest import Compare
from tests.snapshots.test_snapshots import IDS, ROWS, SIZES, pinned
from tests.tui.conftest import until
from tests.tui.nasty import NASTY
from tests.tui.surveys import report, survey_that
from tui.app import OlivePressApp
from tui.screens.data import DataScreen

__all__ = ["pinned"]

SURVEY = "core.data.background.BackgroundSurvey"
STATES = ["done", "missing", "checking", "findings", "proposal", "template", "nasty", "held-out", "not-used"]
FOUND = (
    Finding("towns.jsonl", 4, "broken-json", "a text is not closed (column 40)", "correct the line"),
    Finding("towns.jsonl", 7, "missing-field", "it has no 'response'", "add it, or remove the row"),
    Finding(
        "towns.jsonl", 9, "near-duplicate", "it says nearly the same as line 2", "keep the better of the two"
    ),
)


def ready(app: OlivePressApp) -> bool:
    """Whether all is drawn that will be."""
    screen = app.current
    assert isinstance(screen, DataScreen)
    found = screen.state
    if found.opening or screen.focused is None or screen.form.waiting:
        return False
    if found.source is None:
        return screen.problem.has_class("-shown")
    state = found.survey.state if found.survey is not None else ""
    return state in ("done", "running") and found.exact and "Row 1 of 1" in screen.whole.text


def picture(snap_compare: Compare, lab: Lab, size: tuple[int, int], *keys: str) -> None:
    """Compare the data screen, after these keys."""

    async def steps(pilot: Any) -> None:
        await until(pilot, lambda: ready(pilot.app))
        await pilot.press(*keys)

    assert snap_compare(OlivePressApp(lab.root, "data"), size, steps)


def write(lab: Lab, rows: Sequence[Any], name: str = "towns.jsonl") -> None:
    """The lab's data."""
    path = lab.root / name
    path.parent.mkdir(exist_ok=True)
    text = "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@pytest.mark.parametrize("state", STATES)
def test_data(
    snap_compare: Compare, pinned: Lab, state: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SurveyState("done", report=report())
    found: tuple[Finding, ...] = ()
    keys: tuple[str, ...] = ()
    if state == "missing":
        pinned.set({"data.file": "my-towns.jsonl"})
    elif state == "checking":
        done = SurveyState("running", "reading the rows", 43.0, 100.0, 190.0)
    elif state == "findings":
        write(pinned, [*ROWS[:3], json.dumps(ROWS[3])[:40], *ROWS[4:6], {"prompt": "And Ghent?"}, *ROWS[7:]])
        counts = {"broken-json": 1, "missing-field": 1, "near-duplicate": 1}
        done, found, keys = SurveyState("done", report=report(train=9, counts=counts)), FOUND, ("f", "down")
    elif state == "proposal":
        row = {
            "khach": "Làm ơn cho hỏi đường tới cầu số {} ở đâu vậy?",
            "chu nha": "Cầu số {} nằm bên bờ sông, đi bộ mười phút từ chợ, cạnh nhà thờ cổ.",
        }
        write(pinned, [{name: text.format(i) for name, text in row.items()} for i in range(1, 13)])
        done = SurveyState("done", report=report(counts={"unmapped": 1}))
    elif state == "template":
        pinned.set({"data.template": "Q: {prompt}\nA: {answer}"})
        done = SurveyState("done", report=report(counts={"template-field": 1}))
    elif state == "nasty":
        write(pinned, [{"prompt": text[:5000], "response": f"a {text}"} for text in NASTY])
    elif state == "not-used":
        write(
            pinned,
            [{**row, "id": i, "guide": "A page about it.", "label": i > 1} for i, row in enumerate(ROWS)],
        )
        unused = [
            {"what": "column", "name": name, "rows": rows, "file": "towns.jsonl", "line": 1, "matters": True}
            for name, rows in (("id", 12), ("guide", 9))
        ]
        told = report(not_used=unused, not_learnt={"'label' says no": 2}, counts={"not-used": 1})
        done = SurveyState("done", report=told)
    elif state == "held-out":
        write(pinned, ROWS[:6], "towns/test.jsonl")
        write(pinned, ROWS[6:], "towns/train.jsonl")
        pinned.set({"data.file": "towns"})
    monkeypatch.setattr(SURVEY, survey_that(done, *found))
    picture(snap_compare, pinned, size, *keys)


def test_go_to(snap_compare: Compare, pinned: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SURVEY, survey_that(SurveyState("done", report=report())))
    picture(snap_compare, pinned, (80, 24), "g", "7")
