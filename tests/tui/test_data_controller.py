"""What the data screen knows and does, without a terminal."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.data.background import SurveyState
from core.data.types import Finding
from core.errors import RequestError, StageError
from core.lab import Lab
from tests.tui.surveys import report, survey_that
from tui.screens.data.controller import DataController
from tui.screens.data.formats import row_text, where
from tui.session import Session

SURVEY = "core.data.background.BackgroundSurvey"


def write(lab: Lab, count: int, name: str = "rows.jsonl", **more: object) -> None:
    """A data file in the lab, which the recipe names."""
    rows = [{"prompt": f"What is {i}?", "response": f"It is {i}.", **more} for i in range(1, count + 1)]
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (lab.root / name).write_text(text, encoding="utf-8")
    lab.set({"data.file": name})


class Bench:
    """A controller whose threads' work is done when the test asks for it, in order."""

    def __init__(self, root: Path) -> None:
        self.session = Session(root)
        self.due: deque[Callable[[], None]] = deque()
        self.drawn = 0
        self.came = threading.Event()
        self.controller = DataController(self.session, self.later, self.later, self.draw)

    def later(self, work: Callable[[], None]) -> None:
        """Keep it for :meth:`settle`."""
        self.due.append(work)
        self.came.set()

    def draw(self) -> None:
        """The state was drawn."""
        self.drawn += 1

    def look(self) -> None:
        """Look at what `lab.toml` says."""
        self.controller.look(self.session.recipe())

    def settle(self, done: Callable[[], bool]) -> None:
        """Do what is due until something holds; pages and counts come from threads of their own."""
        for _ in range(600):
            while self.due:
                self.due.popleft()()
            if done():
                return
            self.came.wait(0.05)
            self.came.clear()
        raise AssertionError(self.controller.state)


@pytest.fixture
def bench(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A controller on a lab whose check finds nothing."""
    monkeypatch.setattr(SURVEY, survey_that(SurveyState("done", report=report())))
    made = Bench(lab.root)
    yield made
    made.controller.close()
    while made.due:
        made.due.popleft()()


def test_a_file_is_opened_its_first_row_shown_and_all_checked(lab: Lab, bench: Bench) -> None:
    write(lab, 5)
    bench.look()
    assert bench.controller.state.opening
    bench.settle(lambda: bench.controller.state.report is not None and bench.controller.state.exact)
    bench.settle(lambda: bench.controller.state.whole is not None)
    state = bench.controller.state
    assert (state.count, state.marked, state.findings, state.trouble) == (5, 0, 0, None)
    assert "It is 1." in row_text(state).plain
    assert "Row 1 of 5, line 1" in row_text(state).plain
    assert bench.drawn


def test_another_file_begins_with_its_first_row(lab: Lab, bench: Bench) -> None:
    write(lab, 50)
    bench.look()
    bench.settle(lambda: bench.controller.state.exact)
    bench.controller.go(30)
    assert bench.controller.state.marked == 30
    bench.look()  # the same file: what is marked stays
    bench.settle(lambda: not bench.controller.state.opening)
    assert bench.controller.state.marked == 30
    write(lab, 40, "others.jsonl")
    bench.look()
    bench.settle(lambda: bench.controller.state.count == 40)
    assert bench.controller.state.marked == 0
    bench.settle(lambda: bench.controller.state.whole is not None)
    assert "It is 1." in row_text(bench.controller.state).plain


def test_an_answer_to_an_older_question_is_dropped(lab: Lab, bench: Bench) -> None:
    write(lab, 3)
    bench.look()
    first = bench.session.recipe()
    write(lab, 4, "others.jsonl")
    bench.look()
    bench.settle(lambda: not bench.controller.state.opening)
    assert bench.controller.state.recipe != first
    assert bench.controller.state.count == 4


def test_what_is_wrong_with_the_settings_is_the_trouble(lab: Lab, bench: Bench) -> None:
    lab.set({"data.file": "nowhere.jsonl"})
    bench.look()
    bench.settle(lambda: not bench.controller.state.opening)
    assert isinstance(bench.controller.state.trouble, RequestError)
    assert bench.controller.state.source is None
    assert bench.controller.outdated
    bench.controller.refuse(RequestError("No.", "x"))
    assert bench.controller.state.trouble is not None
    assert bench.controller.state.trouble.title == "No."


def test_a_finding_leads_to_its_row_by_its_number(
    lab: Lab, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("rows.json", 1, "empty-field", "'response' is empty", "fill it in", 7)
    monkeypatch.setattr(
        SURVEY, survey_that(SurveyState("done", report=report(counts={"empty-field": 1})), finding)
    )
    write(lab, 9, "rows.json")
    bench.look()
    bench.settle(lambda: bench.controller.state.findings == 1)
    bench.controller.list_findings(True)
    assert bench.controller.state.listing
    told: list[bool] = []
    bench.controller.look_up(finding, told.append)
    bench.settle(lambda: bool(told))
    state = bench.controller.state
    assert (told, state.marked, state.listing) == ([True], 6, False)
    bench.settle(lambda: "It is 7." in row_text(bench.controller.state).plain)
    assert "What to do: fill it in" in row_text(bench.controller.state).plain
    bench.controller.look_up(Finding("rows.json", 1, "x", "y", "z", 10), told.append)
    bench.settle(lambda: len(told) == 2)
    assert told == [True, False]


def test_columns_that_do_not_reach_the_model_are_marked(lab: Lab, bench: Bench) -> None:
    write(lab, 3, topic="towns")
    bench.look()
    bench.settle(lambda: bench.controller.state.whole is not None)
    text = row_text(bench.controller.state).plain
    assert "topic (not used): towns" in text
    assert "prompt: What is 1?" in text


def test_a_check_that_fails_is_told_and_can_be_made_anew(
    lab: Lab, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = survey_that(SurveyState("failed", error=StageError("It broke.")))
    monkeypatch.setattr(SURVEY, failing)
    write(lab, 3)
    bench.look()
    bench.settle(lambda: bench.controller.state.trouble is not None)
    assert bench.controller.state.survey is not None
    bench.controller.check_anew()
    assert bench.controller.state.survey is None
    failing.now = SurveyState("done", report=report())
    bench.look()
    bench.settle(lambda: bench.controller.state.report is not None)
    assert failing.made == 2


@pytest.mark.parametrize(("line", "number", "shown"), [(5, 5, "5"), (9, 3, "9"), (1, 4, "#4")])
def test_rows_on_one_line_are_told_apart_by_their_number(line: int, number: int, shown: str) -> None:
    assert where(line, number) == shown
