"""A guide opens by itself once, for each user; keys of the step work from it; a bell rings when asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.lab import Lab
from core.user_dirs import state_dir
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in
from tui.guide import GuideScreen, has_guide, is_first_visit
from tui.keys import read_settings
from tui.steps import steps


@pytest.fixture(autouse=True)
def _new_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OLIVEPRESS_GUIDE")


def test_every_step_has_a_guide_and_each_opens_once() -> None:
    assert all(has_guide(step.name) for step in steps())
    assert [is_first_visit("data"), is_first_visit("data"), is_first_visit("chat")] == [True, False, True]
    assert json.loads((state_dir() / "guides.json").read_text()) == {"seen": ["data", "chat"]}
    assert not is_first_visit("a step from elsewhere")


@pytest.mark.parametrize("content", ["", "[]", '{"seen": 7}', "\0"])
def test_what_was_seen_may_be_lost(content: str) -> None:
    state_dir().mkdir(parents=True)
    (state_dir() / "guides.json").write_text(content)
    assert [is_first_visit("data"), is_first_visit("data")] == [True, False]


def test_a_home_that_cannot_be_written_does_not_show_it_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert not is_first_visit("data")


async def test_it_opens_at_the_first_visit_and_the_steps_keys_work_from_it(lab: Lab) -> None:
    async with opened(lab.root, "quantize", (120, 40)) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, GuideScreen))
        assert "What stands behind it" in screen_text(app)
        await pilot.press("f3")
        await until(pilot, lambda: app.current.step.name == "data" and isinstance(app.screen, GuideScreen))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is app.current)
        await pilot.press("f4")
        await until(pilot, lambda: app.current.step.name == "quantize")
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, GuideScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.current)


async def test_on_a_narrow_terminal_it_waits_for_its_key(lab: Lab) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Run Quantize" in screen_text(app))
        assert app.screen is app.current
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, GuideScreen))
    assert is_first_visit("quantize"), "nobody was shown it yet, unasked"


async def test_a_bell_rings_when_a_job_ends_if_asked_for(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "wizard.toml").write_text("bell = true\nguide = false\n")
    monkeypatch.setenv("OLIVEPRESS_CONFIG", str(config))
    job = job_in(lab, "quantize", "running")
    async with opened(lab.root, "quantize") as (app, pilot):
        rung: list[bool] = []
        monkeypatch.setattr(app, "bell", lambda: rung.append(True))
        await until(pilot, lambda: "quantize" in app.snapshot.jobs)
        job.end("succeeded", {})
        await until(pilot, lambda: not app.snapshot.jobs["quantize"].active)
        assert rung == [True]
        assert app.screen is app.current


def test_a_switch_is_true_or_false(tmp_path: Path) -> None:
    file = tmp_path / "wizard.toml"
    file.write_text('bell = "yes"\nguide = false\n')
    found = read_settings(file)
    assert (found.bell, found.guide, found.plain) == (False, False, False)
    assert found.problems == (f"{file}: bell must be true or false.",)
