"""The three stage screens in every state that a job can be in."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.records import count
from core.events import Reporter
from core.lab import Lab
from core.stages import assessment
from tests.tiny_models import make_tiny
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import BEFORE, ERROR, RESULTS, job_in, made
from tui.screens.base import StepScreen
from tui.widgets.button import Button

STAGES = ("quantize", "finetune", "optimize")


def buttons(screen: StepScreen) -> set[str]:
    """The buttons that are shown and can be pressed."""
    return {
        str(button.id)
        for button in screen.query(Button)
        if button.display and not button.disabled and button.region
    }


@pytest.mark.parametrize("stage", STAGES)
async def test_empty_shows_the_form_and_one_thing_to_press(lab: Lab, stage: str) -> None:
    made(lab, BEFORE[stage])
    async with opened(lab.root, stage) as (app, pilot):
        screen = app.current
        await until(pilot, lambda: isinstance(app.focused, Button))
        assert app.focused is not None
        assert app.focused.id == "run"
        text = screen_text(app)
        assert f"olivepress run {lab.root} {stage}"[:40] in text
        assert "More settings" in text or stage == "optimize"
        assert buttons(screen) >= {"run"}


@pytest.mark.parametrize("seat", [False, True])
async def test_packages_are_loaded_while_a_stage_is_looked_at_but_not_for_a_seat(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, seat: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("core.jobs.warm.load_ahead", asked.append)
    if seat:
        monkeypatch.setattr("tui.app.workshop_of", lambda root: root)
    async with opened(lab.root, "data") as (app, pilot):
        assert asked == []
        await app.go_to("quantize")
        await until(pilot, lambda: app.current.step.name == "quantize" and app.current.is_current)
        await until(pilot, lambda: bool(asked) != seat)


@pytest.mark.parametrize("stage", STAGES)
async def test_running_shows_progress_time_left_and_stop(lab: Lab, stage: str) -> None:
    job = job_in(lab, stage, "running")
    async with opened(lab.root, stage) as (app, pilot):
        await until(pilot, lambda: "Running" in screen_text(app))
        text = screen_text(app)
        assert "about 2 min left" in text
        assert "%" in text
        await until(pilot, lambda: " 8/" in screen_text(app))
        assert buttons(app.current) >= {"stop"}
        assert "run" not in buttons(app.current)
        await until(pilot, lambda: "GPU 7.3/80" in screen_text(app))
    job.let_go()


@pytest.mark.parametrize(
    ("stage", "words"),
    [("quantize", ("7.1 GiB", "3.3")), ("finetune", ("held out",)), ("optimize", ("7.1 GiB", "3.3"))],
)
async def test_done_shows_numbers_and_the_way_on(lab: Lab, stage: str, words: tuple[str, ...]) -> None:
    job_in(lab, stage, "succeeded")
    async with opened(lab.root, stage) as (app, pilot):
        await until(pilot, lambda: "Done" in screen_text(app))
        await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "next")
        text = screen_text(app)
        assert [word for word in ("in 3 min 20 s", *words) if word not in text] == []
        assert ("Take it with you k" in text) is (stage == "optimize")


@pytest.mark.parametrize("stage", STAGES)
async def test_failed_says_what_where_and_what_to_do(lab: Lab, stage: str) -> None:
    job_in(lab, stage, "failed")
    async with opened(lab.root, stage) as (app, pilot):
        await until(pilot, lambda: "FAILED" in screen_text(app))
        text = screen_text(app)
        assert ERROR["title"] in text
        own = stage == "quantize"
        assert f"What to do: Make it again: {'F8' if own else 'step 3 (Quantize)'}" in text
        assert ("[ Run Quantize ]" in text) is not own, "what F8 does has one name"
        assert "Try again F8" in text
        assert "F8  Try again" in text.splitlines()[-1]
        await until(pilot, lambda: "g first error  o path" in screen_text(app))
        assert "following" not in screen_text(app), "it grows no more"
        await pilot.press("c")
        assert app.clipboard == "\n".join(ERROR[part] for part in ("title", "detail", "hint"))


@pytest.mark.parametrize(
    ("stage", "word"),
    [("quantize", "Run again"), ("finetune", "Go on from step 45"), ("optimize", "Run again")],
)
async def test_cancelled_offers_to_go_on(lab: Lab, stage: str, word: str) -> None:
    job_in(lab, stage, "cancelled")
    async with opened(lab.root, stage) as (app, pilot):
        await until(pilot, lambda: "Stopped" in screen_text(app))
        assert word in screen_text(app)
        assert "FAILED" not in screen_text(app)


async def test_crashed_shows_the_end_of_the_log(lab: Lab) -> None:
    job_in(lab, "finetune", "crashed")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "CRASHED" in screen_text(app))
        await until(pilot, lambda: "training 8/100" in screen_text(app))
        assert "[ Go on from step 40 F8 ]" in screen_text(app)


async def test_a_running_job_is_followed_as_it_goes(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "45 of 100" in screen_text(app))
        job.train(60, first=46).progress("training", 60, 100, 50)
        job.log("a new line of the log\n")
        await until(pilot, lambda: "60 of 100" in screen_text(app))
        await until(pilot, lambda: "a new line of the log" in screen_text(app))
        job.reporter.log("what the stage has to tell", "warning")
        await until(pilot, lambda: "! what the stage has to tell" in screen_text(app))
        await until(pilot, lambda: screen_text(app).splitlines()[2].count("60%") == 1)
        job.end("succeeded", {"loss_last": 0.5})
        made(lab, ("finetune",))
        await until(pilot, lambda: "Next: Optimize" in screen_text(app))
        await until(pilot, lambda: app.focused is not None and app.focused.id == "next")


async def test_a_step_without_its_input_says_which_one_and_leads_there(lab: Lab) -> None:
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "Do Quantize first" in screen_text(app))
        assert "run" not in buttons(app.current)
        await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "next")
        await pilot.press("enter")
        await until(pilot, lambda: app.current.step.name == "quantize")


async def test_run_saves_the_settings_and_starts_a_job(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, bool]] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, force=False, **more: started.append((stage, force)))
    async with opened(lab.root, "quantize") as (app, pilot):
        field = app.current.query_one("#set-quantize-group_size")
        field.value = 64  # type: ignore[attr-defined]
        await pilot.pause()
        await pilot.press("f8")
        await until(pilot, lambda: started)
    assert started == [("quantize", False)]
    assert lab.recipe.quantize.group_size == 64


async def test_an_impossible_value_is_told_and_nothing_starts(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lab, "start", lambda *args, **more: pytest.fail("it must not start"))
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        steps = app.current.query_one("#set-finetune-steps")
        await until(pilot, lambda: isinstance(app.focused, Button))
        steps.focus()
        await until(pilot, lambda: app.focused is steps)
        await pilot.press("end", "x")
        await until(pilot, lambda: "a whole number" in screen_text(app))
        await pilot.press("f8")
        await pilot.pause()
        assert app.focused is steps
    assert lab.recipe.finetune.steps == 100


async def test_a_refusal_is_shown_and_can_be_copied(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "finetune-001 is running" in screen_text(app))
        await pilot.press("f8")
        await until(pilot, lambda: "is running in this lab" in screen_text(app))
        await pilot.press("y")
        assert "olivepress cancel" in app.clipboard
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.current)
    job.let_go()


async def test_stop_asks_the_job_to_stop(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "Running" in screen_text(app))
        await pilot.press("f9", "x")
        await until(pilot, lambda: "Stopping" in screen_text(app))
        assert (job.folder / "cancel").exists()
        job.event("metric", name="checkpoint", step=45, value=45)
        job.end("cancelled", error={"title": "finetune-001 was cancelled."})
        await until(pilot, lambda: "Go on from step 45" in screen_text(app))


async def test_a_run_that_went_on_has_its_whole_curve(lab: Lab) -> None:
    job_in(lab, "finetune", "cancelled")
    from tests.tui.labs import FakeJob

    job = FakeJob(lab, "finetune", 2).run().train(70, first=41)
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "finetune-002" in screen_text(app))
        view = app.snapshot.jobs["finetune"]
        assert [step for step, _ in view.train] == [float(step) for step in range(1, 71)]
    job.let_go()


async def test_settings_changed_by_hand_arrive_in_the_form(lab: Lab) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        lab.set({"finetune.rank": 17})
        await pilot.press("f3", "f4")
        await until(pilot, lambda: app.current.query_one("#set-finetune-rank").value == "17")  # type: ignore[attr-defined]


async def test_what_is_auto_is_shown_with_its_value_and_the_reason(lab: Lab) -> None:
    made(lab, ("quantize",))
    lab.set({"finetune.rank": "auto", "finetune.steps": "auto"})
    count(lab.recipe, lab.root, Reporter())
    async with opened(lab.root, "finetune") as (app, pilot):
        rank, alpha = (app.current.form.fields[f"finetune.{key}"] for key in ("rank", "alpha"))  # type: ignore[attr-defined]
        await until(pilot, lambda: rank.control.placeholder == "auto (32)")
        assert alpha.control.placeholder == "auto (64)"
        assert "narrow" in screen_text(app)
        app.set_focus(rank.control)
        await pilot.press("8")
        await until(pilot, lambda: alpha.control.placeholder == "auto (16)")
        assert "narrow" not in screen_text(app)
        assert rank.value() == 8
        await pilot.press("backspace")
        await until(pilot, lambda: alpha.control.placeholder == "auto (64)")
        await until(pilot, lambda: "narrow" in screen_text(app))
        assert rank.value() == "auto"
        await pilot.press(*"auto")
        assert rank.check()
        assert rank.value() == "auto"


async def test_another_model_changes_what_is_auto_and_no_number(lab: Lab, tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "tiny")
    lab.set({"quantize.group_size": "auto"})
    async with opened(lab.root, "quantize") as (app, pilot):
        group = app.current.form.fields["quantize.group_size"]  # type: ignore[attr-defined]
        await until(pilot, lambda: "auto (128)" in screen_text(app))
        app.session.save({"model.source": str(tiny), "quantize.bits": 8})
        await until(pilot, lambda: "auto (64)" in screen_text(app))
        assert group.value() == "auto"
        assert lab.recipe.quantize.group_size == "auto"
        assert lab.recipe.finetune.steps == 100, "chosen by hand, so it stays"


async def test_settings_that_changed_since_the_run_are_named(lab: Lab) -> None:
    job_in(lab, "finetune", "succeeded")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "Done" in screen_text(app))
        assert "settings have changed" not in screen_text(app)
        lab.set({"finetune.rank": 17})
        await until(pilot, lambda: "settings have changed since" in screen_text(app))
        await pilot.press("e")
        await until(pilot, lambda: "Not as finetune-001 ran: Rank." in screen_text(app))


@pytest.mark.parametrize("stage", STAGES)
async def test_the_sentence_stands_first_and_the_numbers_below_it(lab: Lab, stage: str) -> None:
    job_in(lab, stage, "succeeded")
    async with opened(lab.root, stage) as (app, pilot):
        await until(pilot, lambda: "Done" in screen_text(app))
        text = " ".join(line.strip(" │") for line in screen_text(app).splitlines())
        sentence, done = (
            text.index(assessment(stage, RESULTS[stage]).text[:50]),
            text.index(f"Done  {stage}-001"),
        )
        assert sentence < done
        await pilot.press("c")
        assert app.clipboard.startswith(assessment(stage, RESULTS[stage]).text)


async def test_the_run_button_carries_the_time_and_learns_it_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [780.0, 25.0]
    monkeypatch.setattr("core.check.durations.expected_seconds", lambda root, stage: seconds.pop(0))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "[ Run Quantize, about 13 min F8 ]" in screen_text(app))
        lab.set({"quantize.group_size": 64})
        await until(pilot, lambda: "[ Run Quantize, about 20 s F8 ]" in screen_text(app))
