"""The dialogs about Azure, what their commands answer written here: what they advise can be done where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from core.azure.signin import Choice
from core.errors import Do, LabError
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import made
from tui.screens.stage.screen import StageScreen
from tui.screens.there import NewClusterScreen
from tui.screens.upload import UploadScreen
from tui.screens.upload_dialogs import SignInScreen, WorkspaceScreen
from tui.screens.where import WhereScreen

REFUSED = LabError("You may not.", "AADSTS", ("Run az login, then: ", Do("login"), "."))
MACHINES = [
    {"name": "works", "usable": True, "size": "D2", "state": "Succeeded"},
    {"name": "broken", "usable": False, "size": "D2", "state": "Failed", "why_not": "its state is Failed"},
]
SIZES = [{"name": "D2", "vcpus": 2, "memory_gb": 8, "price": 1.0, "low_price": 0.2, "currency": "USD"}]

Answers = dict[str, dict[str, Any] | LabError]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What each command answers, by its first word; nobody is signed in."""
    found: Answers = {
        "compute": {"workspace": "ws", "compute": MACHINES, "sizes": SIZES, "location": "here"},
        "workspaces": REFUSED,
    }

    async def answer(commands: object, *words: str, on_line: object = None) -> dict[str, Any]:
        told = found[words[0]]
        if isinstance(told, LabError):
            raise told
        return told

    monkeypatch.setattr("tui.child.Commands.run", answer)
    monkeypatch.setattr("core.azure.signin.remembered", lambda: None)
    monkeypatch.setattr("core.azure.signin.found", lambda: None)
    return found


def footer(app: Any) -> str:
    return re.sub(" +", " ", screen_text(app).splitlines()[-1])


def line(app: Any, word: str) -> str:
    return next(each for each in screen_text(app).splitlines() if word in each)


async def where(app: Any, pilot: Any) -> None:
    await until(pilot, lambda: isinstance(app.screen, StageScreen) and app.focused is not None)
    await pilot.press("a")
    await until(pilot, lambda: isinstance(app.screen, WhereScreen) and "works" in screen_text(app))


@pytest.mark.usefixtures("answers")
async def test_a_machine_on_which_nothing_runs_is_marked_and_refused_with_its_reason(lab: Lab) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        await where(app, pilot)
        assert re.search(r"[✗x] broken", line(app, "broken"))
        assert not re.search(r"[✗x] works", line(app, "works"))
        assert "Enter Choose" in footer(app)
        await pilot.press("end", "enter")
        await until(pilot, lambda: "No job can run on broken now: its state is Failed." in screen_text(app))


@pytest.mark.usefixtures("answers")
async def test_the_key_bar_has_the_priority_that_the_button_has(lab: Lab) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        await where(app, pilot)
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, NewClusterScreen) and "D2" in screen_text(app))
        await until(pilot, lambda: "F5 Priority: dedicated" in footer(app))
        await pilot.press("f5")
        await until(pilot, lambda: "F5 Priority: low" in footer(app))
        assert "0.2 USD/h" in screen_text(app)


@pytest.mark.usefixtures("answers")
async def test_whoever_is_refused_the_workspaces_signs_in_right_there(lab: Lab) -> None:
    made(lab, ("quantize", "finetune", "optimize"))
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, UploadScreen) and app.focused is not None)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, WorkspaceScreen) and "AADSTS" in screen_text(app))
        assert "then: s (Sign in)." in screen_text(app)
        assert "step 7" not in screen_text(app)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, SignInScreen))
        await until(pilot, lambda: "Enter Choose" in footer(app))


@pytest.mark.parametrize("choice", [None, Choice("device", user="you@example.org")])
async def test_signing_out_is_offered_to_whoever_is_signed_in(
    lab: Lab, answers: Answers, monkeypatch: pytest.MonkeyPatch, choice: Choice | None
) -> None:
    remembered: Callable[[], Choice | None] = lambda: choice  # noqa: E731
    monkeypatch.setattr("core.azure.signin.remembered", remembered)
    answers["login"] = REFUSED
    made(lab, ("quantize", "finetune", "optimize"))
    async with opened(lab.root, "upload") as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, UploadScreen) and app.focused is not None)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, SignInScreen) and "az login" in screen_text(app))
        assert ("Sign out" in screen_text(app)) is (choice is not None)
        await pilot.press("enter")
        await until(pilot, lambda: "then: sign in above." in screen_text(app))
        assert "Esc Close" in footer(app)
