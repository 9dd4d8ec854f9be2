"""Every screen on a lab whose files are hostile: it is drawn, harms nothing, and answers keys.

The screens are those of the program itself: a new one is covered by being there.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.hostile import hostile_lab
from tests.tui.conftest import opened, screen_text
from tests.tui.nasty import harmless
from tui.steps import steps

SEEDS = range(int(os.environ.get("HOSTILE_LABS", "1")))
KEYS = (
    "tab",
    "shift+tab",
    "down",
    "pagedown",
    "end",
    "up",
    "home",
    "f2",
    "escape",
    "l",
    "e",
    "escape",
    "pageup",
)
"""None of them starts anything."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("step", [step.name for step in steps()])
async def test_a_screen_meets_a_hostile_lab(
    step: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    chance = random.Random(f"{step}{seed}")
    name = chance.choice(["lab", "[@click=app.quit]l[/]ab", "l\x1b[31mab"]).replace("/", "")
    lab = hostile_lab(tmp_path / name, chance)
    async with opened(lab, step) as (app, pilot):
        for key in (*chance.sample(KEYS, len(KEYS)), "escape"):
            await pilot.press(key)
            shown = screen_text(app)
            assert harmless(shown), (key, shown)
            assert "Traceback" not in shown
        assert app.is_running
    assert not list(tmp_path.rglob("crash*"))
