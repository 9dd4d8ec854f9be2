"""What is added to a list is on the screen: a stage has its place in the rail, a screen and a form."""

from __future__ import annotations

import pytest

from core.algorithms import ALGORITHMS
from core.lab import Lab
from core.recipe import OPTIONS, on_form
from core.stages import STAGES
from tests.added.entries import ALGORITHM, STAGE
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import made
from tui.screens.chat.dialogs import SettingsScreen
from tui.screens.data import DataScreen
from tui.screens.stage.screen import StageScreen
from tui.steps import steps
from tui.widgets.form import Picker


async def test_a_stage_more_has_its_place_its_screen_and_its_form(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "shrink", STAGE)
    assert [step.name for step in steps()][4:6] == ["optimize", "shrink"], "before the chat"
    started: list[str] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, **more: started.append(stage))
    made(lab, ("quantize",))
    async with opened(lab.root, "optimize", size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: "6 Shrink" in screen_text(app).splitlines()[1])
        await pilot.press("6")
        await until(pilot, lambda: "It is there for a test." in screen_text(app))
        screen = app.current
        assert isinstance(screen, StageScreen)
        assert list(screen.form.fields)[:2] == ["chat.temperature", "chat.max_new_tokens"]
        assert f"olivepress run {lab.root} shrink"[:40] in screen_text(app)
        await pilot.press("f8")
        await until(pilot, lambda: started == ["shrink"])


async def test_an_algorithm_more_is_a_choice_of_the_form(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "half", ALGORITHM)
    async with opened(lab.root, "quantize") as (app, pilot):
        screen = app.current
        assert isinstance(screen, StageScreen)
        control = screen.form.fields["quantize.algorithm"].control
        assert isinstance(control, Picker)
        control.value = "half"
        await until(pilot, lambda: "Half - for a test" in screen_text(app))
        await until(pilot, lambda: "It needs nothing." in screen_text(app))


def test_every_option_is_on_a_form_or_says_why_not() -> None:
    shown = {name for stage in STAGES.values() for names in on_form(stage.form) for name in names}
    shown |= {*DataScreen.MAIN, *DataScreen.MORE}
    shown |= {f"chat.{name}" for name in SettingsScreen.NAMES}
    for group in OPTIONS.values():
        for option in group.values():
            assert (option.name in shown) != bool(option.off_form), option.name
    assert "finetune.turns" in shown
