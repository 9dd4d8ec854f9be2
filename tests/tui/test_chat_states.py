"""The chat screen in states that a real model cannot be brought into at will: see ``talks.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from core.chat.protocol import Ready
from core.errors import MachineError, StageError
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob, with_evaluation
from tests.tui.nasty import NASTY, harmless
from tests.tui.talks import READY, Puppet, half_loaded, with_model
from tui.app import OlivePressApp
from tui.screens.chat.dialogs import ChooseScreen
from tui.screens.chat.evaluation import EvaluationScreen
from tui.screens.chat.screen import ChatScreen
from tui.screens.chat.transcript_view import AnswerView
from tui.widgets.button import Button


@pytest.fixture
def puppet(monkeypatch: pytest.MonkeyPatch) -> Puppet:
    found = Puppet()
    monkeypatch.setattr("core.chat.model_process.Child", found.begin)
    return found


@asynccontextmanager
async def talking(lab: Lab, **more: Any) -> AsyncIterator[tuple[OlivePressApp, Any, ChatScreen]]:
    async with opened(with_model(lab).root, "chat", **more) as (app, pilot):
        screen = app.current
        assert isinstance(screen, ChatScreen)
        await until(
            pilot, lambda: screen.controller.chat and screen.controller.chat.ready and not screen.view.loading
        )
        yield app, pilot, screen


async def ask(pilot: Any, screen: ChatScreen, text: str) -> None:
    screen.field.focus()
    screen.field.text = text
    await pilot.press("enter")
    await until(pilot, lambda: screen.field.text == "")


def shown(screen: ChatScreen, name: str) -> bool:
    return bool(screen.query_one(f"#{name}", Button).display)


async def test_empty_enter_leads_to_the_step_that_makes_the_model(lab: Lab) -> None:
    async with opened(lab.root, "chat") as (app, pilot):
        await until(pilot, lambda: "Go to 5 Optimize" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.current.step.name == "optimize")


async def test_loading_tells_how_far_and_evaluates_nothing_yet(
    lab: Lab, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet.ready = None
    half_loaded(monkeypatch)
    async with opened(with_model(lab).root, "chat") as (app, pilot):
        await until(pilot, lambda: "1.3 GiB of 2.1 GiB" in screen_text(app))
        assert "Evaluate F8" not in screen_text(app)
        assert not app.current.check_action("run", ())


async def test_a_model_that_does_not_load_is_told_and_loaded_anew(lab: Lab, puppet: Puppet) -> None:
    puppet.ready = MachineError("There is not enough memory.", "2.6 GB are needed.", "Close programs.")
    async with opened(with_model(lab).root, "chat") as (app, pilot):
        screen = app.current
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: "2.6 GB are needed." in screen_text(app))
        assert shown(screen, "restart")
        assert not shown(screen, "compare")
        assert screen.focused is not None
        assert screen.focused.id == "restart"
        assert "Enter sends" not in screen_text(app)
        assert "ready" not in screen_text(app).splitlines()[2]
        puppet.ready = READY
        await pilot.press("enter")
        await until(
            pilot, lambda: screen.controller.chat and screen.controller.chat.ready and not screen.view.loading
        )
        assert not screen.problem.has_class("-shown")
        assert not shown(screen, "restart")
        assert screen.focused is screen.field
        assert screen.olive.notes_now() == {}


async def test_what_loading_told_stands_where_it_hides_nothing(lab: Lab, puppet: Puppet) -> None:
    puppet.ready = Ready("llama", 4096, 4096, ["travel"], {"formal": "rank 8, not 16"}, 1.0)
    async with talking(lab) as (app, pilot, screen):
        await until(pilot, lambda: "The adapter formal does not fit: rank 8, not 16" in screen_text(app))
        assert not app._notifications
        puppet.will_say("Yes.")
        await ask(pilot, screen, "Is it?")
        await until(pilot, lambda: "Yes." in screen_text(app))
        assert "does not fit" not in screen_text(app)


@pytest.mark.parametrize("again", [False, True])
async def test_an_answer_that_comes_at_once_stands_there_once(lab: Lab, puppet: Puppet, again: bool) -> None:
    async with talking(lab) as (_app, pilot, screen):
        puppet.will_say("As quick as that.")
        puppet.will_say("Quicker still.")
        await ask(pilot, screen, "How quick?")
        await until(pilot, lambda: not screen.view.busy)
        if again:
            await ask(pilot, screen, "/again")
            await until(pilot, lambda: not screen.view.busy)
        (view,) = screen.query(AnswerView)
        assert view.raw == ("Quicker still." if again else "As quick as that.")


async def test_running_says_so_below_the_answer_and_stopping_ends_it(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await ask(pilot, screen, "Why?")
        await until(pilot, lambda: "reading …" in screen_text(app))
        puppet.token("Because ")
        await until(pilot, lambda: "writing … (F9 stops)" in screen_text(app))
        assert shown(screen, "stop")
        assert not shown(screen, "again")
        await pilot.press("f9")
        await until(pilot, lambda: "· stopped" in screen_text(app))
        assert "writing" not in screen_text(app)


async def test_a_model_that_fails_keeps_what_came_and_gives_no_figures(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await ask(pilot, screen, "Why?")
        puppet.token("Because ")
        puppet.die()
        await until(pilot, lambda: "broke off: the model failed" in screen_text(app))
        assert "Because" in screen_text(app)
        assert "0 tokens" not in screen_text(app)
        assert "What to do: The conversation is kept." in screen_text(app)
        await until(pilot, lambda: "stopped" in screen_text(app).splitlines()[2])
        assert "Evaluate" not in screen_text(app).splitlines()[-1]
        assert "The model is not there" in screen_text(app)
        assert shown(screen, "restart")


async def test_what_to_do_is_seen_however_long_the_detail(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        await ask(pilot, screen, "Why?")
        puppet.refuse("It failed.", "\n".join(["detail"] * 40), "Do this.", StageError)
        await until(pilot, lambda: "What to do: Do this." in screen_text(app))


async def test_an_adapter_that_does_not_fit_is_named_and_refused(lab: Lab, puppet: Puppet) -> None:
    puppet.ready = Ready("llama", 4096, 4096, ["travel"], {"formal": "rank 8, not 16"}, 1.0)
    async with talking(lab) as (app, pilot, screen):
        await ask(pilot, screen, "/adapter")
        await until(pilot, lambda: isinstance(app.screen, ChooseScreen))
        assert "formal (does not fit: rank 8, not 16)" in screen_text(app)
        await pilot.press("up", "enter")
        await until(pilot, lambda: "The adapter formal does not fit the model." in screen_text(app))
        assert screen.controller.chat is not None
        assert screen.controller.chat.adapter == "travel"


async def test_the_buttons_fit_on_the_smallest_terminal(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab, size=(60, 20)) as (_app, pilot, screen):
        puppet.will_say("Here.")
        await ask(pilot, screen, "Where?")
        await until(pilot, lambda: not screen.view.busy)
        await pilot.pause()
        seen = [button for button in screen.query(Button) if button.display]
        assert {"compare", "adapter", "set", "chats", "run"} == {button.id for button in seen}
        assert all(button.region.right <= 60 for button in seen)


async def evaluation(pilot: Any, app: OlivePressApp) -> EvaluationScreen:
    """The screen of the evaluation, opened by its key."""
    await pilot.press("f8")
    await until(pilot, lambda: isinstance(app.screen, EvaluationScreen))
    assert isinstance(app.screen, EvaluationScreen)
    return app.screen


async def test_evaluation_has_its_figures_then_a_question_a_page(lab: Lab, puppet: Puppet) -> None:
    rows = [
        ("Where is Bruges?", "In Belgium.", "A city.", "It is in Belgium."),
        ("And Ghent?", "Near it.", "No.", "By it."),
    ]
    async with talking(with_evaluation(lab, rows)) as (app, pilot, screen):
        dialog = await evaluation(pilot, app)
        await until(pilot, lambda: "25.4" in screen_text(app) and "77.6" in screen_text(app))
        assert "worth it" in screen_text(app)
        await pilot.press("n")
        await until(pilot, lambda: "Question 1 of 2" in screen_text(app))
        assert "It is in Belgium." in screen_text(app)
        await pilot.press("n", "n", "n")
        await until(pilot, lambda: dialog.index == 2 and "And Ghent?" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)


async def test_evaluation_is_a_job_that_is_started_followed_and_stopped(
    lab: Lab, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, dict[str, Any]]] = []
    jobs: list[FakeJob] = []

    def start(self: Lab, stage: str, **more: Any) -> None:
        started.append((stage, more))
        jobs.append(FakeJob(lab, "evaluate").run().progress("quantized", 10, 40, 30))

    monkeypatch.setattr(Lab, "start", start)
    async with talking(lab) as (app, pilot, _screen):
        dialog = await evaluation(pilot, app)
        await until(pilot, lambda: "Not evaluated yet." in screen_text(app))
        assert not dialog.running
        await pilot.press("f8")
        await until(pilot, lambda: "10 of 40" in screen_text(app))
        assert started == [("evaluate", {"values": {"finetune.adapter": "travel"}, "force": False})]
        await pilot.press("f9")
        await until(pilot, lambda: (jobs[0].folder / "cancel").exists())
        with_evaluation(lab, [("Where?", "There.", "No.", "There.")])
        jobs[0].end("succeeded")
        await until(pilot, lambda: "Run again" in screen_text(app) and "worth it" in screen_text(app))


async def test_hostile_names_and_problems_are_text(lab: Lab, puppet: Puppet) -> None:
    async with talking(lab) as (app, pilot, screen):
        assert screen.controller.chat is not None
        for text in NASTY[:-1]:
            screen.controller.chat.rename(text)
            await ask(pilot, screen, f"Q {text}"[:300])
            puppet.refuse(text[:300] or "-", text[:300], text[:300], StageError)
            await until(pilot, lambda: not screen.view.busy)
            await pilot.pause()
            assert harmless(screen_text(app)), repr(text)
