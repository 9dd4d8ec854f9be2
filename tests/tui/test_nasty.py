"""Foreign text on every screen that shows any: it is shown as text, and harms nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.lab import Lab
from core.text import clean
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob, job_in, made
from tests.tui.nasty import NASTY, harmless
from tui.screens.dialogs import ErrorScreen
from tui.screens.pick import PickScreen
from tui.widgets.button import Button
from tui.widgets.plain_list import PlainList
from tui.widgets.safe import Plain, cell, content


def visible(text: str, width: int = 24) -> str:
    """A beginning of the text as it must stand on the screen."""
    return clean(text, keep_newlines=False).strip()[:width]


@pytest.mark.parametrize("text", NASTY)
def test_helpers_keep_text_as_text(text: str) -> None:
    assert content(text).plain == clean(text)
    assert not content(text).spans
    assert harmless(cell(text).plain)
    assert len(cell(text).plain) <= 120
    assert Plain(text).text == text


async def test_data_rows_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"q {text}"[:5000], "response": f"a {text}"}) for text in NASTY]
    rows.append("{ this is not json [/broken]")
    lab = Lab.create(tmp_path / "lab")
    (lab.root / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    lab.set({"data.file": "data.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        rows_list = app.current.query_one("#rows", PlainList)
        await until(pilot, lambda: rows_list.count == len(rows))
        rows_list.focus()
        await until(pilot, lambda: "Row 1 of" in screen_text(app))
        for index, text in enumerate(NASTY):
            rows_list.go(index)
            await pilot.pause()
            shown = screen_text(app)
            assert harmless(shown)
            assert visible(text, 12 if text.startswith("[") or "wide" in text else 0) in shown
        rows_list.go(len(rows) - 1)
        await until(pilot, lambda: "cannot be used" in screen_text(app))


async def test_a_log_is_shown_as_text(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    job.log("\n".join(NASTY) + "\nthe last line\n")
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "the last line" in screen_text(app))
        await pilot.press("l")
        await pilot.press("home")
        await until(pilot, lambda: "[INST] <<SYS>>" in screen_text(app))
        shown = screen_text(app)
        assert harmless(shown)
        assert "[/usr/lib] boom" in shown
        assert "[@click=app.quit]press me[/]" in shown
        assert "third" in shown
        assert "firstsecond" not in shown
    job.let_go()


@pytest.mark.parametrize("which", [slice(0, 4), slice(4, 8), slice(8, 12), slice(12, None)])
async def test_errors_of_jobs_are_text(lab: Lab, which: slice) -> None:
    job = job_in(lab, "finetune", "running")
    text = "\n".join(NASTY[which])
    job.progress(text[:300], 1, 10)
    job.end("failed", error={"title": text[:300], "detail": text, "hint": text[:300]})
    async with opened(lab.root, "finetune") as (app, pilot):
        # In the rail: the word above the error is out of sight once the button below it has the focus.
        await until(pilot, lambda: "failed" in screen_text(app).splitlines()[2])
        assert harmless(screen_text(app))
        for each in NASTY[which]:
            app.push_screen(ErrorScreen(each[:300], each, each[:300]))
            await until(pilot, lambda: isinstance(app.screen, ErrorScreen))
            await pilot.pause()
            assert harmless(screen_text(app))
            app.pop_screen()
        assert app.is_running


async def test_phases_metrics_and_results_are_text(lab: Lab) -> None:
    made(lab, ("quantize",))
    job = FakeJob(lab, "quantize").run().progress("[/phase] \x1b[31mred", 1, 3)
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "[/phase] red" in screen_text(app))
        job.end("succeeded", {"[/key]": "[@click=app.quit]x[/]", "algorithm": "[/awq]\x1b[2J"})
        await until(pilot, lambda: "[/awq]" in screen_text(app))
        assert harmless(screen_text(app))


async def test_file_names_are_text(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    names = ["[INST] a.jsonl", "[@click=app.quit]b[/].jsonl", "c\x1b[31m.jsonl", "\u202etxt.jsonl"]
    for name in names:
        (folder / name.replace("/", "_")).write_text("{}\n")
    (folder / "[bold]folder").mkdir()
    async with opened(tmp_path / "lab", "check") as (app, pilot):
        app.push_screen(PickScreen(folder))
        await until(pilot, lambda: "[INST] a.jsonl" in screen_text(app))
        shown = screen_text(app)
        assert "[bold]folder/" in shown
        assert "[@click=app.quit]b[_].jsonl" in shown
        assert harmless(shown)


async def test_a_lab_in_a_folder_with_brackets(tmp_path: Path) -> None:
    async with opened(tmp_path / "[/lab] [@click=app.quit]", "check") as (app, pilot):
        await until(pilot, lambda: "Next: Data" in screen_text(app))
        assert "[@click=app.quit]" in screen_text(app)
        assert harmless(screen_text(app))


async def test_notices_are_text(lab: Lab) -> None:
    async with opened(lab.root, "check") as (app, pilot):
        app.notify("[/boom] [red", title="[/title]", markup=False)
        await until(pilot, lambda: "[/boom] [red" in screen_text(app))


def test_a_label_on_a_button_is_cleaned() -> None:
    button = Button("\x1b[31m[/x]", id="x")
    assert button.text == "[/x]"
