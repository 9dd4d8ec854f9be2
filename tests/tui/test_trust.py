"""What is typed is kept, nothing is replaced or stopped by a key too many, and a button does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.lab import Lab
from tests.tiny_models import make_tiny
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in, made
from tui.screens.dialogs import AskScreen
from tui.widgets.button import Button
from tui.widgets.line import Line
from tui.widgets.log_pane import LogLines
from tui.widgets.rail import Rail, Word, state_line


async def test_leaving_a_field_keeps_what_was_typed(lab: Lab) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        app.set_focus(app.current.query_one("#set-finetune-steps"))
        await pilot.press("end", "0", "tab")
        await until(pilot, lambda: lab.recipe.finetune.steps == 1000)
        await pilot.press("shift+tab", "end", "x", "tab")
        await until(pilot, lambda: "a whole number" in screen_text(app))
        assert lab.recipe.finetune.steps == 1000, "what is impossible is not kept"


@pytest.mark.parametrize("way_out", [("f3",), ("ctrl+q",)])
async def test_leaving_the_screen_keeps_it_as_well(lab: Lab, way_out: tuple[str, ...]) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        app.set_focus(app.current.query_one("#set-finetune-steps"))
        await pilot.press("end", "0", *way_out)
        await until(pilot, lambda: lab.recipe.finetune.steps == 1000)


async def test_one_mark_shows_where_the_focus_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without colours: of all labels and buttons the one is reversed that has the focus, wherever Tab goes."""
    monkeypatch.setenv("NO_COLOR", "1")
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        places = []
        for _ in range(8):
            marked = [each for each in app.current.query(".field-name, Button") if each.rich_style.reverse]
            assert len(marked) == 1, f"one mark, on {app.focused!r}: {marked}"
            assert app.focused is not None
            assert marked[0] is app.focused or marked[0].parent is app.focused.parent
            places.append(app.focused)
            await pilot.press("tab")
            await until(pilot, lambda: app.focused is not places[-1])
        assert {type(each) for each in places} >= {Button, Line}


async def test_stop_is_never_where_enter_goes(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, LogLines))
        await pilot.press("enter", "enter", "space", "escape", "enter")
        await pilot.pause()
        assert not (job.folder / "cancel").exists()
        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "keeps a checkpoint" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is app.current)
        assert not (job.folder / "cancel").exists(), "Enter lets it run"
        await pilot.press("f9", "f9")
        await until(pilot, lambda: (job.folder / "cancel").exists())
    job.let_go()


async def test_a_run_that_would_replace_a_result_asks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, **more: started.append(stage))
    job_in(lab, "quantize", "succeeded")
    made(lab, ("quantize",))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Done" in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "A run replaces models/quantized" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is app.current)
        assert not started, "Enter loses nothing"
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("f8")
        await until(pilot, lambda: started == ["quantize"])


@pytest.mark.parametrize(("step", "leads_to"), [("finetune", "quantize"), ("upload", "optimize")])
async def test_next_leads_where_its_button_says(lab: Lab, step: str, leads_to: str) -> None:
    async with opened(lab.root, step) as (app, pilot):
        await until(pilot, lambda: "Go to" in screen_text(app))
        assert "F4  To 3" in screen_text(app) or "F4  To 5" in screen_text(app), "the keys say it as well"
        await pilot.press("f4")
        await until(pilot, lambda: app.current.step.name == leads_to)


@pytest.mark.parametrize(("size", "word"), [((80, 24), "21 found"), ((60, 20), "needs 3")])
async def test_the_rail_cuts_no_word(lab: Lab, size: tuple[int, int], word: str) -> None:
    async with opened(lab.root, "check", size=size) as (app, pilot):
        app.note("data", Word("21 found", "found"))
        await until(pilot, lambda: word in screen_text(app).splitlines()[2])
        rail = app.current.query_one(Rail)
        styles = {str(span.style) for span in rail.render().spans}
        assert "bold $text-warning" in styles, "findings keep rows from being learnt: they are no side note"


@pytest.mark.parametrize("room", [6, 9, 16, 26])
@pytest.mark.parametrize(
    ("word", "look"),
    [
        ("0%", 0.0),
        ("45%", 0.45),
        ("100%", 1.0),
        ("done", "done"),
        ("failed", "failed"),
        ("21 found", "found"),
        ("needs 3", ""),
        ("stopping", "busy"),
        ("", ""),
    ],
)
def test_a_state_has_its_bar_or_sign_where_there_is_room_and_is_never_cut(
    word: str, look: str | float, room: int
) -> None:
    shown = state_line(Word(word, look) if isinstance(look, str) else Word(word, share=look), room)
    assert shown.cell_length <= room
    assert shown.plain.endswith(word[:room])
    bar = shown.plain.removesuffix(word).strip()
    assert (bar == "✗") == (word == "failed" and room >= 8), "red is not all that tells it"


@pytest.mark.parametrize("room", [9, 16, 26])
@pytest.mark.parametrize("share", [0, 45, 100])
def test_the_bar_of_a_state_is_as_long_as_its_share(share: int, room: int) -> None:
    bar = state_line(Word(f"{share}%", share=share / 100), room).plain.removesuffix(f"{share}%").strip()
    assert set(bar) <= {"━", "─"}
    assert abs(bar.count("━") / len(bar) - share / 100) <= 0.5 / len(bar)


async def test_another_model_shows_what_follows_and_can_be_undone(lab: Lab, tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "tiny")
    lab.set({"quantize.group_size": "auto", "finetune.rank": 24, "finetune.alpha": "auto"})
    async with opened(lab.root, "quantize", size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: "auto (128)" in screen_text(app))
        assert "What follows" not in screen_text(app)
        app.set_focus(app.current.query_one("#set-model-source"))
        await pilot.press("home", "shift+end", "delete", *str(tiny), "tab")
        await until(pilot, lambda: lab.recipe.model.source == str(tiny))
        await until(pilot, lambda: "What follows by itself" in " ".join(screen_text(app).split()))
        said = " ".join(screen_text(app).split())
        assert "Another model than rehearsal." in said
        assert "group size 128 → 64" in said
        assert "rank" not in said[said.index("What follows") : said.index("What was set by hand stays.")]
        assert lab.recipe.finetune.rank == 24
        await pilot.press("escape", "u")
        await until(pilot, lambda: lab.recipe.model.source == "rehearsal")
        await until(pilot, lambda: "What follows" not in screen_text(app))
        await until(pilot, lambda: "auto (128)" in screen_text(app))
        assert lab.recipe.finetune.rank == 24
