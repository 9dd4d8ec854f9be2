"""The search by keys: limits are read, choices are shown as they come, one is picked and taken back."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from core.lab import Lab
from core.searched import write_board
from tests.core.test_searched import BOARD
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob
from tui.screens.search import SearchScreen


async def searching(app: Any, pilot: Any) -> None:
    await pilot.press("s")
    await until(pilot, lambda: isinstance(app.screen, SearchScreen) and app.screen.focused is not None)


async def test_one_is_picked_into_the_settings_and_taken_back(lab: Lab) -> None:
    write_board(lab.folder, BOARD)
    before = lab.folder.recipe_path.read_text()
    async with opened(lab.root, "quantize") as (app, pilot):
        await searching(app, pilot)
        await until(pilot, lambda: "awq, 4 bits" in screen_text(app))
        assert "Limits: at most 3.1 MiB." in screen_text(app)
        lines = screen_text(app).splitlines()
        (head,) = (line for line in lines if "divergence" in line)
        best = next(line for line in lines if "awq, 4 bits" in line)
        ends = [head.index(word) + len(word) for word in ("divergence", "size")]
        assert all(best[end - 1] != " " and best[end] == " " for end in ends), (
            "figures stand below their headings"
        )
        assert re.search(r"Enter +Use ", lines[-1])
        await pilot.press("enter")
        await until(pilot, lambda: lab.recipe.quantize.group_size == 64)
        assert lab.recipe.quantize.algorithm == "awq"
        await until(pilot, lambda: not isinstance(app.screen, SearchScreen))
        await pilot.press("u")
        await until(pilot, lambda: lab.folder.recipe_path.read_text() == before)


async def test_a_wrong_limit_is_said_and_nothing_is_started(lab: Lab) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        await searching(app, pilot)
        app.screen.set_focus(app.screen.query_one("#limit-size"))
        await pilot.press(*"big", "f8")
        await until(pilot, lambda: "An example: 2.5GiB" in screen_text(app))
        assert lab.jobs() == []
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, SearchScreen))


async def test_the_choices_grow_while_it_runs(lab: Lab) -> None:
    write_board(lab.folder, replace(BOARD, tries=BOARD.tries[1:2], best=None, done=False))
    job = FakeJob(lab, "search").run().progress("Trying candidates on some layers", 3, 15)
    async with opened(lab.root, "quantize") as (app, pilot):
        await searching(app, pilot)
        await until(pilot, lambda: "3 of 15" in screen_text(app))
        assert "awq, 4 bits" not in screen_text(app)
        write_board(lab.folder, BOARD)
        await until(pilot, lambda: "awq, 4 bits" in screen_text(app))
        assert "\x1b" not in screen_text(app)
        job.let_go()
