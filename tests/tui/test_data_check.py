"""The check and the data screens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.check import Check
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tui.screens.pick import PickScreen
from tui.widgets.plain_list import PlainList


def write_rows(lab: Lab, rows: list[dict[str, Any] | str], name: str = "rows.jsonl") -> Path:
    """A data file in the lab."""
    path = lab.root / name
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return path


ROWS: list[dict[str, Any] | str] = [
    {"prompt": f"What is in town {i}?", "response": f"In town {i} there is a bridge."} for i in range(1, 31)
]


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


async def test_checks_that_break_do_not_break_the_wizard(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*args: object, **more: object) -> list[Check]:
        raise RuntimeError("[/no] driver")

    monkeypatch.setattr("core.check.run_checks", boom)
    async with opened(lab.root, "check") as (app, pilot):
        await until(pilot, lambda: "[/no] driver" in screen_text(app))
        await pilot.press("f4")
        await until(pilot, lambda: app.current.step.name == "data")


async def test_rows_are_listed_and_the_marked_one_is_shown_through_the_template(lab: Lab) -> None:
    write_rows(lab, ROWS)
    lab.set({"data.file": "rows.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "30 rows" in screen_text(app))
        rows = app.current.query_one("#rows", PlainList)
        rows.focus()
        await pilot.press("down", "down")
        await until(pilot, lambda: "In town 3 there" in screen_text(app))
        await until(pilot, lambda: "27 to learn" in screen_text(app), timeout=60)
        assert "tokens:" in screen_text(app)


async def test_bad_rows_are_named_by_line_and_can_be_listed_alone(lab: Lab) -> None:
    rows = [*ROWS[:4], "{ not json", *ROWS[4:8], {"prompt": "only half"}, *ROWS[8:]]
    write_rows(lab, rows)
    lab.set({"data.file": "rows.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "Bad rows (2)" in screen_text(app))
        await pilot.click("#bad")
        rows_list = app.current.query_one("#rows", PlainList)
        await until(pilot, lambda: rows_list.count == 2)
        await until(pilot, lambda: "Line 5 cannot be used" in screen_text(app))
        rows_list.focus()
        await pilot.press("down")
        await until(pilot, lambda: "Line 10 cannot be used" in screen_text(app))


async def test_a_changed_template_is_seen_at_once_and_kept_with_run(lab: Lab) -> None:
    write_rows(lab, ROWS)
    lab.set({"data.file": "rows.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "30 rows" in screen_text(app))
        field = app.current.query_one("#set-data-template")
        field.value = r"Q: {prompt}\nA: {response}"  # type: ignore[attr-defined]
        await until(pilot, lambda: "A: In town 1 there is a bridge." in screen_text(app))
        await pilot.press("f8")
        await until(pilot, lambda: lab.recipe.data.template == "Q: {prompt}\nA: {response}")


async def test_a_template_that_names_no_field_says_so(lab: Lab) -> None:
    write_rows(lab, ROWS)
    lab.set({"data.file": "rows.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "30 rows" in screen_text(app))
        app.current.query_one("#set-data-template").value = "{prompt} {nothing}"  # type: ignore[attr-defined]
        await until(pilot, lambda: "names a field that no row has" in screen_text(app))


async def test_a_missing_file_says_where_it_was_looked_for(lab: Lab) -> None:
    lab.set({"data.file": "nowhere.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "The data file does not exist." in screen_text(app))
        assert "nowhere.jsonl" in screen_text(app)


async def test_a_file_is_picked(lab: Lab, tmp_path: Path) -> None:
    write_rows(lab, ROWS, "mine.jsonl")
    write_rows(lab, ROWS, "aaa.txt")
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "rows" in screen_text(app))
        app.push_screen(PickScreen(lab.root), app.current._picked)  # type: ignore[attr-defined]
        await until(pilot, lambda: "mine.jsonl" in screen_text(app))
        assert "aaa.txt" not in screen_text(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.current.query_one("#set-data-file").value == "mine.jsonl")  # type: ignore[attr-defined]


async def test_a_path_is_typed_into_the_picker(lab: Lab, tmp_path: Path) -> None:
    write_rows(lab, ROWS, "mine.jsonl")
    async with opened(lab.root, "data") as (app, pilot):
        picked: list[Path | None] = []
        app.push_screen(PickScreen(tmp_path), picked.append)
        await until(pilot, lambda: app.screen.query("#typed"))
        field = app.screen.query_one("#typed")
        field.focus()
        field.value = "nothing.jsonl"  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: "There is no" in screen_text(app))
        field.value = "lab/mine.jsonl"  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: picked)
    assert picked == [lab.root / "mine.jsonl"]
