"""The upload screen in its states, from job folders written by hand; no service is asked."""

from __future__ import annotations

import pytest

from core.azure.signin import Choice
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob, job_in, made
from tests.tui.nasty import NASTY, harmless
from tui.screens.upload import UploadScreen
from tui.widgets.button import Button

PLACE = {"upload.subscription": "1-2-3", "upload.resource_group": "rg", "upload.workspace": "ws"}
ERROR = {"title": "You have no right.", "detail": "AuthorizationFailed", "hint": "Ask for the role."}


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.azure.signin.remembered", lambda: Choice("device", user="you@example.org"))


@pytest.fixture(autouse=True)
def _no_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.azure.signin.found", lambda: None)


async def test_empty_without_a_model_it_leads_to_the_step_that_makes_it(lab: Lab) -> None:
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: "Go to 5 Optimize" in screen_text(app))
        await until(pilot, lambda: app.focused is app.current.query_one("#next"))
        assert app.current.query_one("#dry-run", Button).disabled


async def test_enter_does_what_comes_next(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made(lab, ("quantize", "finetune", "optimize"))
    choice: list[Choice | None] = [None]
    monkeypatch.setattr("core.azure.signin.remembered", lambda: choice[0])
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: app.focused is app.current.query_one("#take"))
        assert "Nobody is signed in" in screen_text(app)
        choice[0] = Choice("device", user="you@example.org")
        app.current.focus_first()
        await until(pilot, lambda: app.focused is app.current.query_one("#workspace"))
        lab.set(PLACE)
        app.current.focus_first()
        await until(pilot, lambda: app.focused is app.current.query_one("#run"))


@pytest.mark.usefixtures("signed_in")
async def test_running_shows_bytes_and_offers_stop(lab: Lab) -> None:
    lab.set(PLACE)
    job = job_in(lab, "upload", "running")
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: "1.0 GiB of 2.3 GiB" in screen_text(app))
        assert "about 2 min left" in screen_text(app)
        assert "Stop F9" in screen_text(app)
        assert "Sign in s" not in screen_text(app)
        job.event("state", state="cancelling")
        job.end("cancelled", error={"title": "Cancelled."})
        await until(pilot, lambda: "kept for the next time" in screen_text(app))
        assert "Go on F8" in screen_text(app)


@pytest.mark.usefixtures("signed_in")
async def test_failed_tells_what_to_do_with_every_button_in_sight(lab: Lab) -> None:
    lab.set(PLACE)
    job_in(lab, "upload", "running").end("failed", error=ERROR)
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: "What to do: Ask for the role." in screen_text(app))
        for word in (
            "Try again F8",
            "Copy error c",
            "Take it with you k ]",
            "Sign in s ]",
            "Workspace w ]",
            "Dry run d ]",
        ):
            assert word in screen_text(app)


async def test_the_settings_button_turns_to_the_settings(lab: Lab) -> None:
    FakeJob(lab, "upload").run().end("failed", error=ERROR)
    async with opened(lab.root, "upload") as (app, pilot):
        screen = app.current
        assert isinstance(screen, UploadScreen)
        await until(pilot, lambda: "FAILED" in screen_text(app))
        for shown in (True, False):
            screen.query_one("#settings-or-job", Button).action_press()
            await pilot.pause()
            assert screen.state().settings is shown


@pytest.mark.usefixtures("signed_in")
async def test_done_claims_no_change_where_there_is_none(lab: Lab) -> None:
    lab.set(PLACE)
    job_in(lab, "upload", "succeeded")
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: "ft-for-travel" in screen_text(app))
        assert "https://ml.azure.com" in screen_text(app)
        assert "settings have changed" not in screen_text(app)
        assert app.focused is app.current.query_one("#take"), "one Enter more does not send it again"
        lab.set({"upload.name": "another"})
        app.look_now()
        await until(pilot, lambda: "settings have changed" in screen_text(app))


@pytest.mark.usefixtures("signed_in")
async def test_uploading_again_is_never_forced(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.set(PLACE)
    job_in(lab, "upload", "succeeded")
    started: list[bool] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, force=False, **more: started.append(force))
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: "Upload again" in screen_text(app))
        await pilot.press("f8")
        await until(pilot, lambda: started)
    assert started == [False]


@pytest.mark.usefixtures("signed_in")
@pytest.mark.parametrize("text", NASTY[:-1])
async def test_hostile_places_and_errors_are_text(lab: Lab, text: str) -> None:
    made(lab, ("quantize", "finetune", "optimize"))
    lab.set({**PLACE, "upload.workspace": text, "upload.resource_group": text})
    async with opened(lab.root, "upload") as (app, pilot):
        screen = app.current
        assert isinstance(screen, UploadScreen)
        await pilot.pause()
        assert harmless(screen_text(app))
    FakeJob(lab, "upload").run().end("failed", error={"title": text, "detail": text, "hint": text})
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: "FAILED" in screen_text(app))
        assert harmless(screen_text(app))
    assert lab.recipe.upload.workspace == text, "looking does not change what the file says"
