"""What is stale is said where it is seen: on the rail, on its step, before it answers, before it is uploaded."""

from __future__ import annotations

import pytest

from core.events import Reporter
from core.lab import Lab
from core.upload.stage import remember
from tests.core.stale_labs import make_anew
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in
from tests.tui.talks import Puppet, with_model
from tui.screens.chat.screen import ChatScreen
from tui.widgets.button import Button


@pytest.fixture
def done(lab: Lab) -> Lab:
    """A lab in which everything was made with the settings that it has."""
    with_model(lab, ("formal", "travel"))
    make_anew(lab, "quantize", "finetune", "optimize")
    for number, stage in enumerate(("quantize", "finetune", "optimize"), 1):
        job_in(lab, stage, "succeeded", number)
    return lab


def rail(text: str) -> list[str]:
    """The words under the steps."""
    return text.splitlines()[2].split()


async def test_a_setting_changed_by_keys_marks_what_was_made_by_the_older_one(done: Lab) -> None:
    async with opened(done.root, "finetune") as (app, pilot):
        await until(pilot, lambda: rail(screen_text(app)).count("done") == 3)
        await until(pilot, lambda: isinstance(app.focused, Button))
        assert "stale" not in screen_text(app)
        await pilot.press("e")
        await until(pilot, lambda: "Last run" in screen_text(app))
        app.set_focus(app.current.query_one("#set-finetune-steps"))
        await pilot.press("end", "0", "tab")
        await until(pilot, lambda: rail(screen_text(app)).count("stale") == 2)
        said = " ".join(screen_text(app).split())
        assert "This result is stale: finetune.steps is 1000, it was 100" in said
        assert "Run it again." in said
        assert "Not as finetune-002 ran" not in said, "once is enough"
        await pilot.press("escape", "5")
        await until(pilot, lambda: app.current.step.name == "optimize")
        await until(pilot, lambda: "Run step 4 again first" in " ".join(screen_text(app).split()))
        await pilot.press("7")
        await until(pilot, lambda: app.current.step.name == "upload")
        await until(pilot, lambda: "The result of step 5 is stale" in " ".join(screen_text(app).split()))


async def test_the_chat_says_that_the_adapter_is_older_before_it_answers_and_where_to_go(
    done: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.chat.model_process.Child", Puppet().begin)
    async with opened(done.root, "chat") as (app, pilot):
        screen = app.current
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.controller.chat is not None and not screen.controller.loading)
        await until(pilot, lambda: "travel" in screen_text(app))
        assert "older" not in screen_text(app)
        done.set({"finetune.steps": 120})
        make_anew(done, "finetune")
        await until(
            pilot,
            lambda: (
                "This adapter is older than your last finetune. Press Esc, then 5"
                in " ".join(screen_text(app).split())
            ),
        )
        await pilot.press(*"/adapter none", "enter")
        await until(pilot, lambda: "older" not in screen_text(app))
        await pilot.press("escape", "5")
        await until(pilot, lambda: app.current.step.name == "optimize")
        await until(pilot, lambda: "the adapter was trained anew" in " ".join(screen_text(app).split()))


async def test_an_upload_of_an_older_model_is_marked_on_the_rail_and_on_its_step(done: Lab) -> None:
    job_in(done, "upload", "succeeded", 4)
    remember(done.folder, {"name": "x", "version": "1"}, Reporter())
    async with opened(done.root, "upload") as (app, pilot):
        await until(pilot, lambda: rail(screen_text(app)).count("done") == 4)
        make_anew(done, "optimize")
        await until(pilot, lambda: rail(screen_text(app))[-1] == "stale")
        await until(
            pilot,
            lambda: (
                "This upload is stale: the ONNX model was made anew since. Run it again."
                in " ".join(screen_text(app).split())
            ),
        )
        assert rail(screen_text(app)).count("done") == 3
