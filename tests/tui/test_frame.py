"""The frame: where you are, getting about, keys of one's own, leaving, sizes, errors of the wizard itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key

from core.lab import Lab
from core.stages import STAGES
from core.user_dirs import config_dir
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in, made
from tui.app import OlivePressApp
from tui.help import TOPICS, HelpScreen
from tui.keys import GLOBAL, LOG, read_settings
from tui.screens.dialogs import CrashScreen, ErrorScreen, LeaveScreen
from tui.steps import Step, steps
from tui.widgets.keybar import KeyBar
from tui.widgets.line import Line


def shows(app: OlivePressApp, step: Step) -> Callable[[], bool]:
    """A condition: that step is on the screen."""
    return lambda: app.current.step is step


def wears(app: OlivePressApp, theme: str) -> Callable[[], bool]:
    """A condition: that theme is on."""
    return lambda: app.theme == theme


async def test_an_empty_folder_opens_on_check_and_enter_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "new") as (app, pilot):
        await until(pilot, lambda: "1 WARN: good to know" in screen_text(app))
        assert not (tmp_path / "new" / "lab.toml").exists(), "looking makes nothing"
        await until(pilot, lambda: app.focused is not None and app.focused.id == "next")
        await pilot.press("enter")
        await until(pilot, lambda: app.current.step.name == "data")
        assert (tmp_path / "new" / "lab.toml").exists()


async def test_every_step_is_reached_by_its_digit_and_by_back_and_next(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        for step in steps():
            app.set_focus(None)
            await pilot.press(str(step.number))
            await until(pilot, shows(app, step))
        for step in reversed(steps()[:-1]):
            await pilot.press("f3")
            await until(pilot, shows(app, step))
        await pilot.press("f3")
        await pilot.pause()
        assert app.current.step.name == "check", "there is nothing before the first"


async def test_a_dialog_closes_once_however_often_its_button_is_pressed(lab: Lab) -> None:
    async with opened(lab.root, "optimize") as (app, pilot):
        app.push_screen(ErrorScreen("Something is in the way."))
        await until(pilot, lambda: isinstance(app.screen, ErrorScreen) and bool(app.screen.query("#close")))
        for _ in range(6):
            app.post_message(Key("space", " "))
        await until(pilot, lambda: not isinstance(app.screen, ErrorScreen))
        await pilot.press("2")
        await until(pilot, lambda: app.current.step.name == "data")
    assert app.return_code in (None, 0)


async def test_the_rail_goes_there_by_mouse(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        await pilot.click("Rail", offset=(24, 0))
        await until(pilot, lambda: app.current.step.name == "quantize")


async def test_the_footer_can_be_clicked(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "F2" in screen_text(app).splitlines()[-1])
        await pilot.click("KeyBar", offset=(2, 0))
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))


async def test_letters_are_text_in_a_field_and_escape_leaves_it(lab: Lab) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        field = app.current.query_one("#set-model-source")
        await until(pilot, lambda: app.focused is not None)
        field.focus()
        await until(pilot, lambda: app.focused is field)
        await pilot.press("end", "q", "2", "x")
        assert field.value == "rehearsalq2x"  # type: ignore[attr-defined]
        await pilot.press("escape", "2")
        await until(pilot, lambda: app.current.step.name == "data")
        await pilot.press("f4")
        await until(pilot, lambda: app.current.step.name == "quantize")
        assert field.value == "rehearsalq2x", "what was typed is still there"  # type: ignore[attr-defined]


async def test_only_keys_that_work_where_the_focus_is_are_told(lab: Lab) -> None:
    def footer() -> str:
        return screen_text(app).splitlines()[-1]

    async with opened(lab.root, "quantize", size=(149, 30)) as (app, pilot):
        await until(pilot, lambda: "  q  Quit" in footer())
        assert "(y copies it)" in screen_text(app)
        app.current.query_one("#set-model-source").focus()
        await until(pilot, lambda: "Esc  Leave field" in footer())
        assert "Quit" not in footer(), "q is text, and Ctrl+Q is VS Code's own"
        assert "(y copies it)" not in screen_text(app), "it would be typed"
        await pilot.press("escape")
        await until(pilot, lambda: "  q  Quit" in footer())
        assert "Leave field" not in footer()
        assert "(y copies it)" in screen_text(app)


async def test_keys_that_lead_nowhere_are_not_told(lab: Lab) -> None:
    made(lab, ("quantize", "finetune", "optimize"))
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "F4" in screen_text(app).splitlines()[-1])
        assert "F3" not in screen_text(app).splitlines()[-1], "there is nothing before the first step"
        await app.go_to("upload")
        await until(pilot, lambda: "F3" in screen_text(app).splitlines()[-1])
        assert "F4" not in screen_text(app).splitlines()[-1], "there is nothing after the last"


async def test_help_lists_every_action(lab: Lab) -> None:
    async with opened(lab.root, "check", size=(100, 60)) as (app, pilot):
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.pause()
        text = str(app.screen.query_one("Scrolled Plain").text)  # type: ignore[attr-defined]
        for action in (*GLOBAL, *LOG):
            assert action.id in text or action.help in text
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.current)


@pytest.mark.parametrize("step", [step.name for step in steps()])
async def test_help_is_about_this_screen(lab: Lab, step: str) -> None:
    async with opened(lab.root, step) as (app, pilot):
        await pilot.press("f2")
        await until(pilot, lambda: app.screen.query("Scrolled Plain"))
        text = str(app.screen.query_one("Scrolled Plain").text)  # type: ignore[attr-defined]
        parts = ("What the numbers mean", "What is good and what is bad", "What to do if it is bad", "Keys")
        places = [text.index(part) for part in parts]
        assert places == sorted(places)
        assert f"{app.current.step.title}: help" in screen_text(app)


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if stage.usual])
def test_help_explains_every_number_of_a_result(stage: str) -> None:
    shown = {figure.label for figure in STAGES[stage].figures if figure.main}
    assert shown <= TOPICS[stage].numbers.keys()


async def test_the_palette_opens_on_a_key_that_arrives(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        await pilot.press("f7")
        await until(pilot, lambda: app.screen is not app.current)
        for letter in "optimize":
            await pilot.press(letter)
        await until(pilot, lambda: "Go to 5 Optimize" in screen_text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.current.step.name == "optimize")


@pytest.mark.parametrize(
    ("size", "line"),
    [((59, 24), "at least 60 by 20"), ((80, 19), "at least 60 by 20"), ((20, 5), ""), ((1, 1), "")],
)
async def test_a_terminal_that_is_too_small_gets_a_line(lab: Lab, size: tuple[int, int], line: str) -> None:
    async with opened(lab.root, "quantize", size=size) as (app, pilot):
        await pilot.pause()
        assert app.current.has_class("-too-small")
        assert line in screen_text(app)
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "Algorithm" in screen_text(app))


async def test_resizing_at_any_moment(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        for size, step in (
            ((200, 60), "finetune"),
            ((60, 20), "check"),
            ((300, 20), "data"),
            ((61, 100), "chat"),
            ((10, 3), "upload"),
            ((1, 1), "finetune"),
            ((80, 24), "quantize"),
        ):
            await pilot.resize_terminal(*size)
            await app.go_to(step)
            await pilot.pause()
        await app.go_to("finetune")
        await until(pilot, lambda: "45 of 100" in screen_text(app))
    job.let_go()


async def test_leaving_while_a_job_runs_says_that_it_goes_on(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "Running" in screen_text(app))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, LeaveScreen))
        await pilot.pause()
        text = screen_text(app)
        assert "it goes on without the wizard" in text
        assert "olivepress" in text
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.current)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, LeaveScreen))
        await pilot.press("enter")
        await until(pilot, lambda: not app.is_running)
    assert "finetune-001 goes on by itself" in app.farewell
    assert "cancel" in app.farewell
    assert job.lab.job("finetune").active, "no harm was done"
    job.let_go()


async def test_leaving_with_nothing_running_just_leaves(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)
    assert app.farewell == ""


async def test_ctrl_c_twice_leaves(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "Ctrl+C again" in screen_text(app))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not app.is_running)


async def test_ctrl_c_in_a_field_copies_what_is_selected_or_leaves(lab: Lab) -> None:
    async with opened(lab.root, "quantize") as (app, pilot):
        field = app.current.query_one("#set-model-source")
        await until(pilot, lambda: app.focused is not None)
        app.current.set_focus(field)
        field.select_all()  # type: ignore[attr-defined]
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app.clipboard == "rehearsal")
        await pilot.press("end", "ctrl+c")
        await until(pilot, lambda: "Ctrl+C again" in screen_text(app))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not app.is_running)


async def test_a_job_that_ends_elsewhere_is_told(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "45%" in screen_text(app))
        job.end("succeeded", {})
        await until(pilot, lambda: "finetune-001: succeeded" in screen_text(app))


async def test_opening_a_lab_with_a_running_job_opens_on_it(lab: Lab) -> None:
    made(lab, ("quantize",))
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root) as (app, _):
        assert app.current.step.name == "finetune"
    job.let_go()


async def test_a_broken_recipe_is_told_with_its_line_and_is_healed(lab: Lab) -> None:
    good = lab.folder.recipe_path.read_text()
    lab.folder.recipe_path.write_text(good.replace("bits = 4", "bits = 5"))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "lab.toml cannot be used" in screen_text(app))
        assert "line" in screen_text(app)
        lab.folder.recipe_path.write_text(good)
        await until(pilot, lambda: "lab.toml cannot be used" not in screen_text(app))


async def test_themes_step_and_are_kept(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        assert app.theme == "olive-dark"
        for theme in ("olive-light", "ansi-dark", "ansi-light", "olive-dark"):
            app.set_focus(None)
            await pilot.press("t")
            await until(pilot, wears(app, theme))
    assert read_settings().theme == "olive-dark"
    (config_dir() / "wizard.toml").unlink()


async def test_every_field_has_an_edge_without_colours(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field begins with a bar and is ruled to its end, also an empty one and one with the words of "auto" in it."""
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(lab.root, "finetune") as (app, pilot):
        assert app.theme == "ansi-dark"
        await until(pilot, lambda: app.screen.query(Line))
        fields = list(app.screen.query(Line))
        assert any(not field.value for field in fields)
        assert any(field.value for field in fields)
        for field in (each for each in fields if each.size):
            line = field.render_line(0)
            assert line.cell_length >= field.size.width
            assert field.styles.border_left[0] == "outer"
            words = field.value or str(field.placeholder)
            assert line.text.replace(" _", "__") == words + "_" * (field.size.width - len(words))


async def test_a_keymap_of_ones_own(lab: Lab) -> None:
    path = config_dir() / "wizard.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('colour = "red"\n[keys]\nhelp = "f12,h"\nfly = "z"\nlog.follow = "w"\nnext = 3\n')
    try:
        async with opened(lab.root, "check") as (app, pilot):
            await until(pilot, lambda: "F12" in screen_text(app).splitlines()[-1])
            await until(pilot, lambda: "'fly'" in screen_text(app))
            assert len(app.settings.problems) == 3
            await pilot.press("f12")
            await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            await until(pilot, lambda: app.screen.query("Scrolled Plain"))
            assert "F12 h" in str(app.screen.query_one("Scrolled Plain").text)  # type: ignore[attr-defined]
    finally:
        path.unlink()


async def test_an_error_of_the_wizard_is_shown_kept_and_told_by_the_exit_status(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_SHOW_CRASH", "1")
    job = job_in(lab, "finetune", "running")
    app = OlivePressApp(lab.root, "finetune")
    with pytest.raises(ValueError, match="made up"):  # noqa: PT012 - the Pilot hands it on at its end
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "Running" in screen_text(app))
            app.call_later(_fail)
            await until(pilot, lambda: isinstance(app.screen, CrashScreen))
            await pilot.pause()
            text = screen_text(app)
            assert "ValueError: made up [/boom]" in text
            assert "No job is harmed" in text
            await pilot.press("y")
            assert "wizard-errors.log" in app.clipboard.replace("\n", "")
            await pilot.press("escape")
            await until(pilot, lambda: not app.is_running)
    assert app.return_code == 1
    kept = (lab.root / "wizard-errors.log").read_text()
    assert "made up" in kept
    assert "secret-value" not in kept, "the values of variables are not kept"
    assert job.lab.job("finetune").active
    job.let_go()


def _fail() -> None:
    token = "secret-value"
    raise ValueError("made up [/boom]" if token else "")


async def test_under_a_dialog_the_footer_has_the_dialogs_keys(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: "Running" in screen_text(app))
        assert "Stop" in screen_text(app).splitlines()[-1]
        await pilot.press("f9")
        await until(pilot, lambda: "Let it run" in screen_text(app).splitlines()[-1])
        footer = screen_text(app).splitlines()[-1]
        assert re.findall(r"Enter +Let it run +x +Stop it *$", footer)
        assert "F4" not in footer
        await pilot.press("tab")
        await until(pilot, lambda: "Enter  Stop it" in screen_text(app).splitlines()[-1])
        await pilot.click(KeyBar, offset=(22, 0))  # Esc, as a key would
        await until(pilot, lambda: app.screen is app.current)
        assert not (job.folder / "cancel").exists()
        await pilot.press("f2")
        await until(pilot, lambda: "Close" in screen_text(app).splitlines()[-1])
        await pilot.press("escape")
        await until(pilot, lambda: "F4" in screen_text(app).splitlines()[-1])
    job.let_go()


@pytest.mark.parametrize("step", ["check", "data", "quantize", "finetune", "optimize", "upload"])
async def test_a_screen_laid_out_again_is_as_one_opened_at_that_size(lab: Lab, step: str) -> None:
    for number, stage in enumerate(("quantize", "finetune", "optimize", "upload"), 1):
        job_in(lab, stage, "succeeded", number)

    async def settled(pilot: Any) -> str:
        """What is on the screen once it stands still: files are read, the log is drawn at a pace."""
        last, since = "", 0.0

        def still() -> bool:
            nonlocal last, since
            at, text = asyncio.get_running_loop().time(), screen_text(pilot.app)
            if text != last or any(not worker.is_finished for worker in pilot.app.workers):
                last, since = text, at
            return at - since > 1

        await until(pilot, still)
        return last

    sizes = [(140, 44), (80, 24)]
    told: dict[tuple[int, int], str] = {}
    async with opened(lab.root, step, (100, 30)) as (_, pilot):
        await settled(pilot)
        for size in sizes:
            await pilot.resize_terminal(*size)
            told[size] = await settled(pilot)
    # The second one is waited for: what a thread reads may come later than a second after the first screen.
    for size in sizes:
        async with opened(lab.root, step, size) as (app, pilot):
            await until(pilot, partial(_shows_exactly, app, told[size]))


def _shows_exactly(app: OlivePressApp, text: str) -> bool:
    return screen_text(app) == text
