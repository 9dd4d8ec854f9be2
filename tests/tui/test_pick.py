"""The pickers by keys: typing filters, Tab completes, the arrows choose while the line keeps the focus."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from core.lab import Lab
from core.model.found import FoundModel, _recent
from tests.tiny_models import make_tiny
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import made
from tests.tui.nasty import NASTY, harmless
from tui.screens.pick import Entry, PickModelScreen, PickScreen, list_folder
from tui.widgets.line import Line

MODELS = [
    FoundModel("rehearsal", "rehearsal", "rehearsal", 8_133_992),
    FoundModel("Qwen/Qwen3-0.6B-Base", "hub cache", "Qwen/Qwen3-0.6B-Base", 1_200_000_000),
    FoundModel("/models/smol", "near by", "smol", 270_000_000),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "data"
    (home / "sub" / "deep").mkdir(parents=True)
    for name in ("rows-1.jsonl", "rows-2.jsonl", "towns.csv", "notes.txt", "sub/more.jsonl"):
        (home / name).write_text("{}\n")
    return home


async def picking(app: Any, pilot: Any, screen: Any) -> list[Any]:
    got: list[Any] = []
    app.push_screen(screen, got.append)
    await until(pilot, lambda: app.screen is screen and screen.focused is not None)
    return got


def typed(app: Any) -> str:
    return str(app.screen.query_one("#typed").value)


async def test_typing_filters_and_enter_takes_the_marked_file(lab: Lab, folder: Path) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickScreen(folder))
        await until(pilot, lambda: "towns.csv" in screen_text(app))
        assert "notes.txt" not in screen_text(app)
        await pilot.press(*"row")
        await until(pilot, lambda: "towns.csv" not in screen_text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: got)
        assert got == [folder / "rows-2.jsonl"]


async def test_tab_completes_as_in_a_shell_and_goes_into_folders(lab: Lab, folder: Path) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickScreen(folder))
        await until(pilot, lambda: "towns.csv" in screen_text(app))
        await pilot.press("r", "tab")
        await until(pilot, lambda: typed(app) == "rows-")
        await pilot.press("ctrl+u", *"su", "tab")
        await until(pilot, lambda: typed(app) == "sub/" and "more.jsonl" in screen_text(app))
        await pilot.press("m", "tab")
        await until(pilot, lambda: typed(app) == "sub/more.jsonl")
        await pilot.press("enter")
        await until(pilot, lambda: got)
        assert got == [folder / "sub" / "more.jsonl"]


async def test_folders_are_gone_through_by_enter_and_backspace(lab: Lab, folder: Path) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickScreen(folder / "sub"))
        await until(pilot, lambda: "more.jsonl" in screen_text(app))
        await pilot.press("backspace")
        await until(pilot, lambda: "towns.csv" in screen_text(app))
        await pilot.press(*"sub", "enter")
        await until(pilot, lambda: "more.jsonl" in screen_text(app))
        assert typed(app) == ""
        await pilot.press("escape")
        await until(pilot, lambda: got == [None])


async def test_an_absolute_path_and_the_home_are_typed(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickScreen(lab.root))
        line = app.screen.query_one("#typed", Line)
        line.value = "~/sub/"
        await until(pilot, lambda: "more.jsonl" in screen_text(app))
        line.value = f"{folder}/towns.csv"
        await pilot.press("enter")
        await until(pilot, lambda: got == [folder / "towns.csv"])


async def test_a_folder_that_cannot_be_read_is_told_and_nothing_is_taken(lab: Lab, folder: Path) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickScreen(folder))
        await until(pilot, lambda: "towns.csv" in screen_text(app))
        await pilot.press(*"nowhere/x")
        await until(pilot, lambda: "cannot be read" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "There is no" in screen_text(app))
        assert got == []


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.screens.pick.found_models", lambda root: MODELS)


async def test_a_model_is_filtered_and_taken(lab: Lab, at_hand: None) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickModelScreen(lab.root, "/models/smol"))
        await until(pilot, lambda: "270" in screen_text(app) or "257" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: got == ["/models/smol"])
        got = await picking(app, pilot, PickModelScreen(lab.root))
        await until(pilot, lambda: "hub cache" in screen_text(app))
        await pilot.press(*"hub", "enter")
        await until(pilot, lambda: got == ["Qwen/Qwen3-0.6B-Base"])


async def test_a_hub_id_is_taken_as_it_was_typed_though_a_longer_one_is_there(
    lab: Lab, at_hand: None
) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickModelScreen(lab.root))
        await until(pilot, lambda: "hub cache" in screen_text(app))
        await pilot.press(*"Qwen/Qwen3-0.6B")
        await until(pilot, lambda: "as typed" in screen_text(app))
        assert "Qwen3-0.6B-Base" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: got == ["Qwen/Qwen3-0.6B"])


async def test_a_path_to_a_model_is_completed_and_one_that_leads_nowhere_is_not_taken(
    lab: Lab, at_hand: None, tmp_path: Path
) -> None:
    """Of a path with a letter missing nothing is kept: the step would say so only when it is run."""
    make_tiny("llama", tmp_path / "own" / "my-model")
    (tmp_path / "own" / "my-notes").mkdir()
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Pick a model" in screen_text(app))
        await pilot.press("m")
        await until(
            pilot, lambda: isinstance(app.screen, PickModelScreen) and "hub cache" in screen_text(app)
        )
        line = app.screen.query_one("#typed", Line)
        line.value = f"{tmp_path}/own/my-modle"
        await until(pilot, lambda: "Nothing here fits" in screen_text(app))
        await pilot.press("enter")
        assert isinstance(app.screen, PickModelScreen)
        await pilot.press("backspace", "backspace", "backspace", "tab")
        await until(pilot, lambda: typed(app) == f"{tmp_path}/own/my-model/")
        await until(pilot, lambda: "▸ my-model/" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: lab.recipe.model.source == f"{tmp_path}/own/my-model")


async def test_enter_is_not_lost_while_folders_are_read(
    lab: Lab, at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, listed = threading.Event(), list_folder

    def late(folder: Path, endings: tuple[str, ...]) -> tuple[list[Entry], str]:
        made.wait()
        return listed(folder, endings)

    monkeypatch.setattr("tui.screens.pick.list_folder", late)
    tiny = make_tiny("llama", tmp_path / "tiny")
    async with opened(lab.root, "check") as (app, pilot):
        got = await picking(app, pilot, PickModelScreen(lab.root))
        await until(pilot, lambda: "hub cache" in screen_text(app))
        app.screen.query_one("#typed", Line).value = str(tiny)
        await until(pilot, lambda: "Looking" in screen_text(app))
        await pilot.press("enter")
        assert got == []
        made.set()
        await until(pilot, lambda: got == [str(tiny)])


async def test_hostile_names_are_drawn_harmlessly(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = [FoundModel(text, "near by", text, 1) for text in NASTY[:-1]]
    monkeypatch.setattr("tui.screens.pick.found_models", lambda root: hostile)
    async with opened(lab.root, "check", size=(120, 40)) as (app, pilot):
        await picking(app, pilot, PickModelScreen(lab.root))
        await until(pilot, lambda: "near by" in screen_text(app))
        assert harmless(screen_text(app))


async def test_a_key_of_the_step_with_the_model_picks_one_and_keeps_it(lab: Lab, at_hand: None) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Pick a model" in screen_text(app))
        await pilot.press("m")
        await until(pilot, lambda: "hub cache" in screen_text(app))
        await pilot.press(*"hub", "enter")
        await until(pilot, lambda: lab.recipe.model.source == "Qwen/Qwen3-0.6B-Base")
        assert "Qwen/Qwen3-0.6B-Base" in screen_text(app)
        assert next(_recent(lab.root)).name == "Qwen/Qwen3-0.6B-Base"


async def test_the_steps_without_a_model_have_no_such_key(lab: Lab, at_hand: None) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "Run Finetune" in screen_text(app))
        assert "Pick a model" not in screen_text(app)
        assert not app.current.check_action("pick_model", ())
