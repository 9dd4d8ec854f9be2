"""The data screen: files of any size and form, findings, templates, a proposal, and nothing that blocks."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from core.data.background import SurveyState
from core.data.pager import RowPager
from core.data.types import Finding
from core.errors import StageError
from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.surveys import report, survey_that
from tui.app import OlivePressApp
from tui.screens.data import DataScreen
from tui.screens.data.pages import PAGE, PageCache
from tui.screens.pick import PickScreen
from tui.widgets.rail import Word

SURVEY = "core.data.background.BackgroundSurvey"


def rows_of(count: int) -> list[dict[str, Any] | str]:
    """Good rows, all different."""
    return [
        {"prompt": f"What is in town {i}?", "response": f"In town {i} there is a bridge."}
        for i in range(1, count + 1)
    ]


def write_rows(lab: Lab, rows: list[dict[str, Any] | str], name: str = "rows.jsonl") -> Path:
    """A data file in the lab, which the recipe names."""
    path = lab.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows),
        encoding="utf-8",
    )
    lab.set({"data.file": name})
    return path


def screen_of(app: OlivePressApp) -> DataScreen:
    """The data screen."""
    assert isinstance(app.current, DataScreen)
    return app.current


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows were checked at once and found good."""
    monkeypatch.setattr(SURVEY, survey_that(SurveyState("done", report=report())))


def put(app: OlivePressApp, name: str, value: str) -> None:
    """Type a value into a field."""
    app.current.query_one(f"#set-data-{name}").value = value  # type: ignore[attr-defined]


# Rows


async def test_rows_are_listed_checked_and_shown_through_the_template(lab: Lab) -> None:
    write_rows(lab, rows_of(30))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "30 rows" in screen_text(app))
        screen_of(app).rows.focus()
        await pilot.press("down", "down")
        await until(pilot, lambda: "In town 3 there" in screen_text(app))
        await until(pilot, lambda: "27 to learn, 3 held out" in screen_text(app), timeout=60)
        assert "tokens:" in screen_text(app)
        assert "No findings" in screen_text(app)
        # The survey has settled which rows are held out; they are marked now, in the list and in the row.
        source = screen_of(app).state.source
        assert source is not None

        def held() -> list[int]:
            rows = [source.pages.get(i) for i in range(30)]
            return [i for i, row in enumerate(rows) if row is not None and row.held_out]

        await until(pilot, lambda: len(held()) == 3)
        screen_of(app).controller.go(held()[0])
        await until(pilot, lambda: "HELD OUT" in screen_text(app))
        assert "HELD What" in screen_text(app)


async def test_special_tokens_and_the_learnt_part_are_marked(lab: Lab, checked: None) -> None:
    write_rows(lab, rows_of(3))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "What the model sees" in screen_text(app))
        shown = screen_of(app).whole._shown
        styles: dict[str, str] = {}
        for span in shown.spans:  # type: ignore[union-attr]
            styles[shown.plain[span.start : span.end]] = str(span.style)  # type: ignore[union-attr]
        assert styles["<|user|>"] == "reverse"
        assert styles["<|end|>"] == "reverse underline", "the end of the answer is learnt"
        assert styles["In town 1 there is a bridge."] == "underline"


async def test_of_what_is_not_learnt_nothing_is_marked_as_learnt_and_files_are_numbered_through(
    lab: Lab, checked: None
) -> None:
    rows = rows_of(4)
    write_rows(lab, rows[:2], "towns/test.jsonl")
    write_rows(lab, rows[2:], "towns/train.jsonl")
    lab.set({"data.file": "towns"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "HELD OUT: to measure with, not learnt" in screen_text(app))
        await until(pilot, lambda: "3 What is in" in screen_text(app))
        assert "4 What is in" in screen_text(app), "there are two files with two lines each"
        assert "underlined" not in screen_text(app)
        styles = [str(span.style) for span in screen_of(app).whole._shown.spans]  # type: ignore[union-attr]
        assert [style for style in styles if "underline" in style] == []


async def test_a_run_that_does_not_see_all_rows_says_what_to_change(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SURVEY, survey_that(SurveyState("done", report=report(epochs=0.5))))
    write_rows(lab, rows_of(12))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "training sees 6 of 11 rows, more steps see the rest" in screen_text(app))


async def test_any_row_is_gone_to_by_its_number(lab: Lab, checked: None) -> None:
    write_rows(lab, rows_of(3000))
    async with opened(lab.root, "data") as (app, pilot):
        await until(
            pilot, lambda: "3,000 rows" in screen_text(app) or screen_of(app).state.source is not None
        )
        await pilot.press("g")
        await until(pilot, lambda: "Go to row" in screen_text(app))
        await pilot.press(*"nine", "enter")
        await until(pilot, lambda: "Type a whole number" in screen_text(app))
        app.screen.query_one("#row").value = ""  # type: ignore[attr-defined]
        await pilot.press(*"2500", "enter")
        await until(pilot, lambda: "In town 2500 there" in screen_text(app))
        assert "Row 2,500 of 3,000, line 2500" in screen_text(app)
        await pilot.press("end")
        await until(pilot, lambda: "In town 3000 there" in screen_text(app))
        await pilot.press("g", *"99999", "enter")
        await until(pilot, lambda: "Row 3,000 of 3,000" in screen_text(app))


async def test_a_far_row_is_shown_at_once_and_becomes_exact(
    lab: Lab, checked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    index = RowPager.index

    def late(self: RowPager, progress: Any = None, stop: Any = None) -> int:
        while not go_on.wait(0.02):
            if stop():
                return 0
        return index(self, progress, stop)

    monkeypatch.setattr(RowPager, "index", late)
    long = "and so on " * 100
    write_rows(lab, [{"prompt": f"town {i}?", "response": f"{i} {long}"} for i in range(1, 5001)])
    async with opened(lab.root, "data") as (app, pilot):
        await until(
            pilot, lambda: "about" in screen_of(app).facts.text or screen_of(app).state.source is not None
        )
        source = screen_of(app).state.source
        assert source is not None
        assert not source.exact
        await pilot.press("g", *"4000", "enter")
        await until(pilot, lambda: "just about there" in screen_text(app))
        assert "~4000" in screen_text(app)
        go_on.set()
        await until(pilot, lambda: "Row 4,000 of 5,000, line 4000" in screen_text(app))
        await until(pilot, lambda: "town 4000?" in screen_text(app))


async def test_a_folder_with_other_forms_is_read_by_another_process(lab: Lab, checked: None) -> None:
    write_rows(
        lab, ["question,answer,id", *[f"where is {i},in {i},{i}" for i in range(1, 400)]], "d/train.csv"
    )
    write_rows(lab, [json.dumps([{"question": "held?", "answer": "yes", "id": 1}])], "d/test.json")
    lab.set({"data.file": "d"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(
            pilot, lambda: "400 rows" in screen_text(app) or screen_of(app).state.source is not None, 60
        )
        await until(pilot, lambda: screen_of(app).state.source.exact, 30)  # type: ignore[union-attr]
        screen_of(app).controller.go(0)
        await until(pilot, lambda: "line 1 of test.json" in screen_text(app))
        await until(pilot, lambda: "HELD OUT" in screen_text(app))
        screen_of(app).controller.go(399)
        await until(pilot, lambda: "line 400 of train.csv" in screen_text(app))
        await until(pilot, lambda: "in 399<|end|>" in screen_text(app))


async def test_a_conversation_is_shown_turn_by_turn(lab: Lab, checked: None) -> None:
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
    write_rows(lab, [{"messages": turns}])
    async with opened(lab.root, "data", size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: "assistant: Here." in screen_text(app))
        await until(pilot, lambda: "Here.<|end|>" in screen_text(app))


async def test_of_a_very_long_row_the_beginning_is_drawn(lab: Lab, checked: None) -> None:
    write_rows(lab, [{"prompt": "long?", "response": "z" * 3_000_000}, *rows_of(2)])
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "Row 1 of 3" in screen_of(app).whole.text)
        assert "characters more)" in screen_of(app).whole.text
        assert len(screen_of(app).whole.text) < 60_000


# Findings


async def test_findings_are_listed_by_line_and_lead_to_their_rows(lab: Lab) -> None:
    rows = rows_of(8)
    write_rows(lab, [*rows[:2], "", "", *rows[2:4], "{ not json", *rows[4:], {"prompt": "only half"}])
    async with opened(lab.root, "data") as (app, pilot):
        await until(
            pilot, lambda: "2 findings, 2 BAD: 1 broken-json, 1 missing-field" in screen_text(app), 60
        )
        assert app.notes["data"] == Word("2 BAD", "failed"), "training does not start with them"
        await pilot.press("f")
        await until(pilot, lambda: "broken-json" in screen_of(app).whole.text)
        assert "What to do:" in screen_text(app)
        await pilot.press("down")
        await until(pilot, lambda: "missing-field" in screen_of(app).whole.text)
        await pilot.press("enter")
        # Line 12: two blank lines and a broken one are above it.
        await until(pilot, lambda: "Row 10 of 10, line 12" in screen_text(app))
        assert "It cannot be used" in screen_text(app)
        assert screen_of(app).rows.display
        await pilot.press("c")
        assert "rows.jsonl:7: broken-json" in app.clipboard


async def test_the_broken_line_itself_is_shown_and_the_place_marked(lab: Lab, checked: None) -> None:
    write_rows(lab, [*rows_of(1), '{"prompt": "Where?" "response": "Here."}', *rows_of(1)])
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "BAD" in screen_text(app))
        screen_of(app).controller.go(1)
        await until(pilot, lambda: '{"prompt": "Where?" "response": "Here."}' in screen_of(app).whole.text)
        shown = screen_of(app).whole._shown
        marked = [
            shown.plain[span.start : span.end]  # type: ignore[union-attr]
            for span in shown.spans  # type: ignore[union-attr]
            if str(span.style).startswith("reverse bold")
        ]
        assert marked == ['"']


async def test_control_characters_are_seen_in_the_list_and_in_the_row(lab: Lab, checked: None) -> None:
    write_rows(lab, [{"prompt": "a \x1b[31mred\u202e one?", "response": "a bell\x07 rings"}])
    async with opened(lab.root, "data", size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: r"a \x1b[31mred\u202e one?" in screen_of(app).whole.text)
        assert r"a bell\x07 rings<|end|>" in screen_of(app).whole.text
        assert r"a \x1b[31mred" in "".join(screen_of(app).rows.render_line(0).text)
        assert not {"\x1b", "\u202e", "\x07"} & set(screen_text(app))


async def test_a_clean_copy_is_written_by_a_button_and_used(lab: Lab) -> None:
    rows = rows_of(8)
    write_rows(lab, [*rows[:4], "{ not json", *rows[4:], rows[0]])
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "2 findings" in screen_text(app), 60)
        await pilot.press("f")
        await until(pilot, lambda: "Write a clean copy" in screen_text(app))
        assert all(len(line.rstrip()) <= 80 for line in screen_text(app).splitlines())
        await pilot.click("#clean")
        await until(pilot, lambda: "rows.clean.jsonl" in screen_text(app))
        await pilot.press("a")
        await until(pilot, lambda: "The clean copy is written." in screen_text(app), 60)
        assert "8 rows in rows.clean.jsonl. 2 rows left out" in " ".join(screen_text(app).split())
        await pilot.press("enter")
        await until(pilot, lambda: lab.recipe.data.file == "rows.clean.jsonl")
        await until(pilot, lambda: "No findings: every row can be used." in screen_text(app), 60)
    assert (lab.root / "rows.jsonl").read_text().count("\n") == 10, "the file itself is not changed"


async def test_a_clean_copy_may_leave_out_only_what_cannot_be_used_or_not_be_written(lab: Lab) -> None:
    rows = rows_of(4)
    write_rows(lab, [*rows, "{ not json", rows[0]])
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "2 findings" in screen_text(app), 60)
        await pilot.press("w", "escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert not (lab.root / "rows.clean.jsonl").exists()
        await pilot.press("w")
        await until(pilot, lambda: "Leave out the unusable" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "The clean copy is written." in screen_text(app), 60)
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
    assert lab.recipe.data.file == "rows.jsonl"
    assert (lab.root / "rows.clean.jsonl").read_text().count("\n") == 5


async def test_the_marked_row_stays_when_the_file_is_written_anew(lab: Lab, checked: None) -> None:
    write_rows(lab, rows_of(30))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: screen_of(app).state.exact)
        screen_of(app).controller.go(20)
        await until(pilot, lambda: "Row 21 of 30" in screen_text(app))
        write_rows(lab, rows_of(25))
        screen_of(app).look()
        await until(pilot, lambda: "Row 21 of 25" in screen_text(app))
        write_rows(lab, rows_of(5))
        screen_of(app).look()
        await until(pilot, lambda: "Row 5 of 5" in screen_text(app))
        write_rows(lab, rows_of(9), "other.jsonl")
        screen_of(app).controller.look(lab.recipe)
        await until(pilot, lambda: "Row 1 of 9" in screen_text(app))


async def test_a_finding_in_the_recipe_leads_to_its_field(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(
        "lab.toml", 9, "template-model", "<|x|> is no token of this model", "use the model's tokens"
    )
    state = SurveyState("done", report=report(counts={"template-model": 1}))
    monkeypatch.setattr(SURVEY, survey_that(state, finding))
    write_rows(lab, rows_of(3))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "1 finding: 1 template-model" in screen_text(app))
        await pilot.press("f")
        await until(pilot, lambda: "worth a look" in screen_of(app).whole.text)
        await pilot.press("enter")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "set-data-template")


async def test_of_many_findings_only_pages_are_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("rows.jsonl", i, "duplicate", f"as row {i}", "remove it") for i in range(1, 50_001)]
    state = SurveyState("done", report=report(counts={"duplicate": len(found)}))
    monkeypatch.setattr(SURVEY, survey_that(state, *found))
    write_rows(lab, rows_of(3))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "50,000 findings" in screen_text(app))
        await pilot.press("f", "end")
        await until(pilot, lambda: "line 50000" in screen_of(app).whole.text)
        await pilot.press("enter")
        await until(pilot, lambda: any("No row begins" in n.message for n in app._notifications))


async def test_checking_shows_how_far_it_is_and_can_be_stopped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = SurveyState("running", "reading the rows", 43.0, 100.0, 190.0)
    monkeypatch.setattr(SURVEY, survey := survey_that(running))
    write_rows(lab, rows_of(3))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "43%" in screen_text(app))
        assert "about 3 min left" in screen_text(app)
        assert "[ Stop F9 ]" in screen_text(app)
        assert "Check F8" not in screen_text(app), "one is under way"
        await until(pilot, lambda: "F9" in screen_text(app).splitlines()[-1])
        screen_of(app).query_one("#stop").focus()
        await pilot.press("enter")
        await until(pilot, lambda: "Checking was stopped" in screen_text(app))
        await until(pilot, lambda: app.focused is not None and app.focused.id == "run")
        await until(pilot, lambda: "F9" not in screen_text(app).splitlines()[-1])
        assert survey.made == 1
        survey.now = SurveyState("done", report=report())
        await pilot.press("f8")
        await until(pilot, lambda: "11 to learn" in screen_text(app))


async def test_a_check_that_fails_says_why(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SurveyState("failed", error=StageError("Looking at the data failed.", "[/boom] killed"))
    monkeypatch.setattr(SURVEY, survey_that(failed))
    write_rows(lab, rows_of(3))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "[/boom] killed" in screen_text(app))
        await until(pilot, lambda: "In town 1 there" in screen_text(app))


# Templates and fields


async def test_a_changed_template_is_seen_at_once_and_kept_with_run(lab: Lab, checked: None) -> None:
    write_rows(lab, rows_of(5))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "11 to learn" in screen_text(app))
        put(app, "template", r"Q: {prompt}\nA: {response}")
        await until(pilot, lambda: "A: In town 1 there is a bridge." in screen_text(app))
        assert "F8 keeps these settings and checks all rows" in screen_text(app)
        await pilot.press("f8")
        await until(pilot, lambda: lab.recipe.data.template == "Q: {prompt}\nA: {response}")
        await until(pilot, lambda: "11 to learn" in screen_text(app))


async def test_a_template_that_names_no_field_says_so_and_comes_back(lab: Lab, checked: None) -> None:
    write_rows(lab, rows_of(5))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "5 rows" in screen_text(app) or "11 to learn" in screen_text(app))
        put(app, "template", "{prompt} {nothing}")
        await until(pilot, lambda: "names a field that no row has" in screen_text(app))
        assert "{nothing}" in screen_text(app)
        await pilot.press("a")
        await until(pilot, lambda: "names a field" not in screen_text(app))
        assert "{nothing}" not in lab.recipe.data.template


async def test_other_field_names_take_one_confirmation(lab: Lab, checked: None) -> None:
    rows: list[dict[str, Any] | str] = [
        {
            "khach": f"Làm ơn cho hỏi đường tới cầu số {i} ở đâu vậy?",
            "chu nha": f"Cầu số {i} nằm bên bờ sông, đi bộ mười phút từ chợ, cạnh nhà thờ cổ.",
        }
        for i in range(1, 21)
    ]
    write_rows(lab, rows, "của tôi.jsonl")
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "CONFIRM" in screen_text(app))
        assert "'chu nha'" in screen_text(app)
        await until(pilot, lambda: app.focused is not None and app.focused.id == "accept")
        await pilot.press("enter")
        await until(pilot, lambda: lab.recipe.data.response_field == "chu nha")
        await until(pilot, lambda: "CONFIRM" not in screen_text(app))
        await until(pilot, lambda: "Cầu số 1 nằm" in screen_text(app))
        assert app.focused is not None
        assert app.focused.id == "next"


async def test_the_list_begins_with_what_is_learnt_and_what_is_not_used_is_named(lab: Lab) -> None:
    """Of a table with numbers and dates before the question, the questions are seen, also on 80 columns."""
    rows: list[dict[str, Any] | str] = [
        {
            "ticket": str(i),
            "opened": "2026-01-01",
            "question": f"Where is gate {i}?",
            "answer": f"In hall {i}.",
        }
        for i in [*range(1, 21), *[7] * 12]
    ]
    write_rows(lab, rows)
    async with opened(lab.root, "data", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "4 Where is gate 4?" in screen_text(app))
        await until(pilot, lambda: "not used: 'ticket', 'opened'" in screen_text(app), 60)
        # A row that training would see very often is a finding of its own.
        await until(pilot, lambda: "1 seen-often" in " ".join(screen_text(app).split()))


# Files that are not there, empty, or something else


async def test_a_missing_file_says_where_it_was_looked_for(lab: Lab) -> None:
    lab.set({"data.file": "nowhere.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "The data file does not exist." in screen_text(app))
        assert "nowhere.jsonl" in screen_text(app)
        assert app.notes["data"] == Word("FAIL", "failed")
        write_rows(lab, rows_of(4), "nowhere.jsonl")
        await pilot.press("f3")
        await until(pilot, lambda: app.current.step.name == "check")
        await pilot.press("f4")
        await until(pilot, lambda: "In town 1 there" in screen_text(app))


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, b"PK\x03\x04"]
)
async def test_what_holds_no_rows_says_so(lab: Lab, content: bytes) -> None:
    (lab.root / "odd.jsonl").write_bytes(content)
    lab.set({"data.file": "odd.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "finding" in screen_of(app).checked.text, 60)
        assert app.is_running
        await pilot.press("f")
        await until(pilot, lambda: "What to do" in screen_of(app).whole.text)


async def test_a_changed_file_is_read_again(lab: Lab, checked: None) -> None:
    path = write_rows(lab, rows_of(4))
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "In town 1 there" in screen_text(app))
        await pilot.press("f3")
        await until(pilot, lambda: app.current.step.name == "check")
        path.write_text(json.dumps({"prompt": "New?", "response": "Quite new."}) + "\n")
        await pilot.press("f4")
        await until(pilot, lambda: "Quite new.<|end|>" in screen_text(app))


async def test_nothing_waits_while_a_file_opens(
    lab: Lab, checked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    opening = RowPager.__init__

    def slow(self: RowPager, path: Path) -> None:
        go_on.wait(30)
        opening(self, path)

    monkeypatch.setattr(RowPager, "__init__", slow)
    write_rows(lab, rows_of(4))
    try:
        async with opened(lab.root, "data") as (app, pilot):
            await until(pilot, lambda: "Reading" in screen_text(app))
            await pilot.press("f2")
            await until(pilot, lambda: "Data: help" in screen_text(app))
            await pilot.press("escape")
            go_on.set()
            await until(pilot, lambda: "In town 1 there" in screen_text(app))
    finally:
        go_on.set()


# The picker


async def test_a_file_is_picked_and_kept(lab: Lab, checked: None) -> None:
    write_rows(lab, rows_of(3), "aaa.txt")
    write_rows(lab, rows_of(7), "mine.jsonl")
    lab.set({"data.file": "data_sample_travel.jsonl"})
    async with opened(lab.root, "data") as (app, pilot):
        await until(pilot, lambda: "rows" in screen_text(app))
        app.push_screen(PickScreen(lab.root), screen_of(app)._picked)
        await until(pilot, lambda: "mine.jsonl" in screen_text(app))
        assert "aaa.txt" not in screen_text(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: lab.recipe.data.file == "mine.jsonl")
        await until(pilot, lambda: "Row 1 of 7" in screen_text(app))


async def test_a_path_is_typed_into_the_picker(lab: Lab, tmp_path: Path, checked: None) -> None:
    write_rows(lab, rows_of(3), "mine.jsonl")
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


# Pages


def test_a_page_is_read_once_and_shown_while_it_is_read_again() -> None:
    came = threading.Semaphore(0)
    asked: list[int] = []

    def load(start: int, count: int) -> tuple[list[str], bool]:
        asked.append(start)
        return [f"{start + i} in round {len(asked)}" for i in range(count)], True

    cache: PageCache[str] = PageCache(load, came.release)
    assert cache.get(PAGE + 3) is None
    assert came.acquire(timeout=5)
    assert cache.get(PAGE + 3) == f"{PAGE + 3} in round 1"
    assert cache.sure(PAGE + 3)
    cache.outdated()
    assert not cache.sure(PAGE + 3)
    assert cache.get(PAGE + 3) == f"{PAGE + 3} in round 1", "it stays until the new one is there"
    assert came.acquire(timeout=5)
    assert cache.get(PAGE + 3) == f"{PAGE + 3} in round 2"
    assert asked == [PAGE, PAGE]
    cache.close()


def test_of_many_wishes_the_newest_are_served_first() -> None:
    began, go_on, came = (threading.Semaphore(0) for _ in range(3))
    asked: list[int] = []

    def load(start: int, count: int) -> tuple[list[int], bool]:
        asked.append(start // PAGE)
        began.release()
        go_on.acquire(timeout=5)
        return list(range(start, start + count)), True

    cache: PageCache[int] = PageCache(load, came.release)
    cache.get(0)
    assert began.acquire(timeout=5)
    for page in range(1, 50):
        cache.get(page * PAGE)
    for _ in range(4):
        go_on.release()
        assert came.acquire(timeout=5)
    assert asked == [0, 49, 48, 47]
    assert cache.get(49 * PAGE) == 49 * PAGE
    assert cache.get(20 * PAGE) is None
    cache.close()
    go_on.release()
