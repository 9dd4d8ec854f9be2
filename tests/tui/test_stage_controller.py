"""What a stage's screen shows and does, without a screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.lab import Lab
from core.stages import STAGES
from tests.tui.labs import made
from tui.screens.stage.controller import StageController
from tui.screens.stage.texts import TEXTS
from tui.session import Session
from tui.snapshot import JobView, Snapshot

DONE = frozenset({"quantize"})


@pytest.fixture
def controller(lab: Lab) -> StageController:
    """That of finetune, on a lab with a quantized model."""
    made(lab, ("quantize",))
    return StageController(STAGES["finetune"], Session(lab.root), TEXTS["finetune"])


def job(state: str, **more: Any) -> JobView:
    """A job of finetune."""
    return JobView("finetune-001", "finetune", state, Path("jobs/finetune-001"), **more)


def snapshot(view: JobView | None = None, made: frozenset[str] = DONE) -> Snapshot:
    """The lab with this job."""
    return Snapshot({"finetune": view} if view else {}, made)


def test_with_nothing_run_it_shows_the_form_and_can_run(controller: StageController) -> None:
    typed = {"finetune.steps": "auto", "finetune.batch_size": 2, "finetune.gradient_accumulation": 1}
    state = controller.state(snapshot(), typed, {"finetune.steps": 10})
    assert state.note.startswith("The model sees 20 records"), "what is auto counts as what it comes to"
    assert (state.settings, state.run, state.can_run, state.next, state.focus) == (
        True,
        "Run Finetune",
        True,
        "",
        "run",
    )


def test_without_its_input_it_leads_to_the_step_that_makes_it(controller: StageController) -> None:
    state = controller.state(snapshot(made=frozenset()), None, {})
    assert state.goal is not None
    assert (state.goal.name, state.next, state.can_run, state.blocked) == (
        "quantize",
        "Go to 3 Quantize",
        False,
        True,
    )


@pytest.mark.parametrize("state", ["queued", "running", "cancelling"])
def test_while_it_runs_nothing_that_has_the_focus_does_harm(controller: StageController, state: str) -> None:
    shown = controller.state(snapshot(job(state)), None, {})
    assert (shown.run, shown.can_run, shown.focus, shown.settings) == ("", False, "log", False)


@pytest.mark.parametrize(
    ("state", "metrics", "word"),
    [
        ("succeeded", {}, "Run again"),
        ("cancelled", {"checkpoint": 17.0}, "Go on from step 17"),
        ("cancelled", {}, "Run again"),
        ("crashed", {"checkpoint": 17.0}, "Go on from step 17"),
        ("crashed", {}, "Try again"),
        ("failed", {"checkpoint": 17.0}, "Try again"),
    ],
)
def test_the_run_button_says_what_it_does_and_that_it_goes_on_where_there_is_something_to_go_on_from(
    controller: StageController, state: str, metrics: dict[str, float], word: str
) -> None:
    view = job(state, train=((1.0, 2.0),), metrics=metrics)
    assert controller.state(snapshot(view), None, {}).run == word


def test_a_new_job_is_shown_whatever_was_shown_before(controller: StageController) -> None:
    first = snapshot(job("succeeded", result={"steps": 3}))
    assert controller.new_job(first) is not None
    controller.settings_wanted = True
    assert controller.new_job(first) is None
    assert controller.state(first, None, {}).settings
    assert controller.new_job(snapshot(job("queued")._replace(id="finetune-002"))) is not None
    assert not controller.state(first, None, {}).settings


def test_settings_that_changed_are_named_by_their_labels(controller: StageController) -> None:
    view = job("succeeded", spec={"recipe": {"finetune": {"rank": 8, "steps": 3}}})
    assert controller.changed(view, {"finetune.rank": 16, "finetune.steps": 3}) == ["Rank"]
    state = controller.state(snapshot(view), {"finetune.rank": 16}, {})
    assert state.note == "Not as finetune-001 ran: Rank. Run again to have it so."


def test_what_a_run_would_replace_is_that_of_the_same_adapter(lab: Lab, controller: StageController) -> None:
    made(lab, ("finetune",))
    adapter = lab.recipe.finetune.adapter
    assert controller.would_replace({"finetune.adapter": adapter}) == f"models/finetuned/{adapter}"
    assert controller.would_replace({"finetune.adapter": "another"}) == ""


def test_the_time_stands_on_the_button_of_a_whole_run_alone(controller: StageController) -> None:
    controller.takes = 9000
    assert controller.state(snapshot(), None, {}).run == "Run Finetune, about 2.5 h"
    kept = job("cancelled", metrics={"checkpoint": 17.0})
    assert controller.state(snapshot(kept), None, {}).run == "Go on from step 17"
    assert controller.state(snapshot(made=frozenset()), None, {}).run == "Run Finetune"
