"""The check screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.check import Check
from core.errors import RequestError
from core.lab import Lab
from core.model.folder import read_config
from tests.tui.conftest import opened, screen_text, until


async def test_checks_tell_state_in_words_and_what_to_do(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "1 WARN: good to know" in screen_text(app))
        text = screen_text(app)
        assert "WARN gpu" in text
        assert "What to do: Update the driver to 550 or newer." in text
        await pilot.press("c")
        assert "| gpu | WARN |" in app.clipboard


async def test_a_failed_check_comes_first_to_the_eye(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("python", "OK", "fine"), Check("disk", "FAIL", "1 GiB free, 9 needed", "Free 8 GiB.")]
    monkeypatch.setattr("core.check.run_checks", lambda root, stages=None, on_check=None: checks)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "1 FAIL" in screen_text(app))
        assert "What to do: Free 8 GiB." in screen_text(app)
        assert "FAIL" in screen_text(app).splitlines()[2], "the rail"
        # Enter looks again, and goes on only once nothing fails any more.
        await until(pilot, lambda: getattr(app.focused, "id", None) == "run")
        checks[1] = Check("disk", "OK", "20 GiB free")
        await pilot.press("enter")
        await until(pilot, lambda: "This machine can run the lab" in screen_text(app))
        await until(pilot, lambda: getattr(app.focused, "id", None) == "next")


async def test_a_model_that_is_not_there_is_changed_from_the_failed_check(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError) as caught:
        read_config(tmp_path / "no-such-model")
    found = [Check.of("model", caught.value)]
    monkeypatch.setattr("core.check.run_checks", lambda root, stages=None, on_check=None: found)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "[ Change model ]" in screen_text(app))
        await until(pilot, lambda: app.focused is not None and app.focused.id == "help-0")
        await pilot.press("enter")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "set-model-source")
        assert app.current.step.name == "quantize"
        # What failed was about another model: the rail does not say so any more.
        assert "FAIL" in screen_text(app).splitlines()[2]
        await pilot.press("end", "x", "tab")
        await until(pilot, lambda: "FAIL" not in screen_text(app).splitlines()[2])


async def test_checks_that_break_do_not_break_the_wizard(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*args: object, **more: object) -> list[Check]:
        raise RuntimeError("[/no] driver")

    monkeypatch.setattr("core.check.run_checks", boom)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "[/no] driver" in screen_text(app))
        await pilot.press("f4")
        await until(pilot, lambda: app.current.step.name == "data")


async def test_it_looks_again_by_itself_when_the_recipe_is_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was typed a moment ago is what the checks are about."""
    looked: list[str] = []

    def look(root: object, stages: object = None, on_check: object = None) -> list[Check]:
        looked.append(lab.recipe.model.source)
        return [Check("model", "OK", lab.recipe.model.source)]

    monkeypatch.setattr("core.check.run_checks", look)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "OK   model  rehearsal" in screen_text(app))
        assert looked == ["rehearsal"]
        await pilot.press("3", "shift+tab")
        await until(pilot, lambda: app.current.step.name == "quantize")
        source = app.current.query_one("#set-model-source")
        app.set_focus(source)
        await pilot.press("home", "x", "-", "tab")
        await until(pilot, lambda: lab.recipe.model.source == "x-rehearsal")
        app.set_focus(None)
        await pilot.press("1")
        await until(pilot, lambda: "OK   model  x-rehearsal" in screen_text(app))
        assert looked == ["rehearsal", "x-rehearsal"]


async def test_the_line_of_the_terminal_follows_its_size(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(environment: object, columns: int, lines: int, encoding: str) -> Check:
        return Check("terminal", "OK", f"it has {columns} by {lines}")

    monkeypatch.setattr("core.check.terminal.judge", judged)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "80x24, xterm" in screen_text(app) and "check" in app.notes)
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: "it has 100 by 30" in screen_text(app))
        assert "80x24, xterm" not in screen_text(app)
