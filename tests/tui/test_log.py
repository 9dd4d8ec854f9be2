"""The log: any size, any content, followed, held, searched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.lab import Lab
from core.log_lines import LEVELS, LogLine, entries, read, written
from core.text import clean
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob
from tui.app import OlivePressApp
from tui.log_file import BLOCK, ERROR, LogFile


def filled(path: Path, text: bytes | str) -> LogFile:
    """A log file with this in it, indexed."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    log = LogFile(path)
    while log.refresh():
        pass
    return log


def test_lines_of_a_small_file(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.txt", "one\ntwo\nthree")
    assert log.count == 3
    assert log.lines(0, 10) == ["one", "two", "three"]
    assert log.lines(1, 1) == ["two"]
    assert log.lines(3, 5) == []


@pytest.mark.parametrize(
    "text", ["", "\n", "a", "a\n", "\n\na", "\r\n\r\n", "x" * BLOCK, "x" * (BLOCK - 1) + "\n"]
)
def test_counts_agree_with_splitting(tmp_path: Path, text: str) -> None:
    log = filled(tmp_path / "log.txt", text)
    expected = text.count("\n") + (1 if text and not text.endswith("\n") else 0)
    assert log.count == expected
    assert len(log.lines(0, 100)) == expected


def test_any_line_of_a_large_file_is_found(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.txt", "".join(f"line {n:07d} {'x' * (n % 173)}\n" for n in range(60_000)))
    assert log.size > 80 * BLOCK
    assert log.count == 60_000
    for number in (0, 1, 59_999, *range(7, 60_000, 4_999)):
        assert log.lines(number, 1)[0].startswith(f"line {number:07d}")
    assert [line[:12] for line in log.lines(30_000, 3)] == ["line 0030000", "line 0030001", "line 0030002"]
    assert len(log._before) < 200, "the index stays small"


def test_it_grows_and_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    log = filled(path, "a\nb")
    assert not log.refresh(), "nothing is new"
    with path.open("a") as stream:
        stream.write("c\nd\n")
    assert log.refresh()
    assert log.lines(0, 9) == ["a", "bc", "d"]
    path.write_text("new\n")
    assert log.refresh()
    assert log.lines(0, 9) == ["new"]


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "nothing.txt")
    assert not log.refresh()
    assert log.count == 0
    assert log.lines(0, 5) == []


def test_a_progress_bar_is_one_line_and_its_last_state_is_shown(tmp_path: Path) -> None:
    bar = b"".join(b"\r%3d%%|###   | %d/1000 [00:01<00:10]" % (n // 10, n) for n in range(1000))
    log = filled(tmp_path / "log.txt", b"start\n" + bar + b"\nend\n")
    assert log.count == 3
    assert log.lines(1, 1) == [" 99%|###   | 999/1000 [00:01<00:10]"]


def test_a_line_of_many_megabytes_is_cut_and_those_after_it_are_found(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.txt", b"before\n" + b"y" * 5_000_000 + b"\nafter\n")
    lines = log.lines(0, 3)
    assert lines[0] == "before"
    assert len(lines[1]) <= 2_000
    assert lines[2] == "after"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.txt", b"\xff\xfe\x00 caf\xc3\xa9 \x1b[31mred\x1b[0m\n")
    assert log.lines(0, 1) == ["\ufffd\ufffd café red"]


def test_search_both_ways_and_past_block_borders(tmp_path: Path) -> None:
    lines = [f"line {n} {'pad' * 20}" for n in range(40_000)]
    for place in (5, 20_000, 39_999):
        lines[place] += " NEEDLE"
    log = filled(tmp_path / "log.txt", "\n".join(lines))
    needle = re.compile(rb"needle", re.IGNORECASE)
    assert log.find(needle, 0) == 5
    assert log.find(needle, 6) == 20_000
    assert log.find(needle, 20_001) == 39_999
    assert log.find(needle, 39_998, backwards=True) == 20_000
    assert log.find(needle, 4, backwards=True) is None
    assert log.find(re.compile(rb"nowhere"), 0) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("RuntimeError: CUDA out of memory", True),
        ("Traceback (most recent call last):", True),
        ("[ERROR] no model", True),
        ("error_rate: 0.1, mirrors, terrors", False),
        ("a fine line", False),
    ],
)
def test_what_counts_as_an_error(line: str, found: bool) -> None:
    assert bool(ERROR.search(line.encode())) is found


async def test_follow_hold_search_first_error_and_path(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    job.log("".join(f"quiet line {n}\n" for n in range(500)))
    job.log("ValueError: a bad thing\n")
    job.log("".join(f"more line {n}\n" for n in range(500)))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "more line 499" in screen_text(app))
        await pilot.press("l")
        await until(pilot, lambda: app.focused is app.current.log_pane.lines)  # type: ignore[attr-defined]
        await until(pilot, lambda: "l small" in screen_text(app))
        await pilot.press("g")
        await until(pilot, lambda: "ValueError: a bad thing" in screen_text(app))
        assert "held" in screen_text(app)
        job.log("the newest line\n")
        await pilot.press("slash")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "log-search")
        await pilot.press(*"line", "space", *"42", "enter")
        await until(pilot, lambda: "more line 42" in screen_text(app))
        await pilot.press("n")
        await until(pilot, lambda: "more line 420" in screen_text(app))
        await pilot.press("o")
        assert app.clipboard == str(job.folder / "log.txt")
        await pilot.press("f")
        await until(pilot, lambda: "the newest line" in screen_text(app))
        assert "following" in screen_text(app)
        await pilot.press("home")
        await until(pilot, lambda: "quiet line 0" in screen_text(app))
        await pilot.press("l")
        await until(pilot, lambda: "Running" in screen_text(app))
    job.let_go()


async def test_nothing_found_is_said(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    job.log("all is well\n")
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "all is well" in screen_text(app))
        await pilot.press("l", "g")
        await until(pilot, lambda: "No error is named in the log." in screen_text(app))
    job.let_go()


async def test_a_flood_is_answered_and_nothing_is_lost(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Running" in screen_text(app))
        for batch in range(20):
            job.log("".join(f"flood {batch * 5000 + n} {'z' * 60}\n" for n in range(5000)))
            await pilot.press("e")
            await pilot.pause()
        log = app.current.log_pane.lines  # type: ignore[attr-defined]
        await until(pilot, lambda: log.count == 100_000)
        assert log.log_file is not None
        assert log.log_file.lines(99_999, 1)[0].startswith("flood 99999 ")
    job.let_go()


# --- as people read it ------------------------------------------------------------------------------

TRACE = """Traceback (most recent call last):
  File "/x/engine.py", line 5, in run
    go()
KeyError: 'weights'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/run.py", line 9, in main
    raise RuntimeError("it did not load") from None
RuntimeError: it did not load
"""


@pytest.mark.parametrize(
    ("line", "time", "level", "text"),
    [
        (
            "[2026-11-27 13:45:11,539] [INFO] [run.py:99:run_engine] Running workflow x",
            "13:45:11",
            "info",
            "Running workflow x",
        ),
        ("[2026-11-27 13:45:11] [WARNING] [7] is odd", "13:45:11", "warning", "[7] is odd"),
        (
            "2026-11-27 13:45:11.53 [W:onnxruntime:, graph.cc:12 Clean] Unused.",
            "13:45:11",
            "warning",
            "Unused.",
        ),
        (
            "/x/y.py:12: FutureWarning: old is old",
            "",
            "warning",
            "FutureWarning: old is old",
        ),
        ("[transformers] `torch_dtype` is deprecated!", "", "info", "`torch_dtype` is deprecated!"),
        ("ERROR:olive.engine:It failed", "", "error", "It failed"),
        ("warning: of an older log", "", "warning", "of an older log"),
        ("[INST] a row that was printed", "", "info", "[INST] a row that was printed"),
    ],
)
def test_a_line_is_a_time_a_level_and_what_it_says(line: str, time: str, level: str, text: str) -> None:
    assert read(line) == LogLine(time, level, text)


@given(st.text(max_size=60), st.sampled_from(LEVELS))
def test_what_is_written_is_read_back(text: str, level: str) -> None:
    line = written(text, level).split("\n")[0]
    found = read(line)
    assert found.level == level
    assert re.fullmatch(r"\d\d:\d\d:\d\d", found.time)
    assert found.text == clean(text).split("\n")[0]


@given(st.lists(st.sampled_from(["a line", "", "  indented", *TRACE.splitlines()]), max_size=30))
def test_entries_leave_no_line_out(lines: list[str]) -> None:
    found = list(entries(lines, 7))
    assert [line for entry in found for line in entry.lines] == lines
    assert [entry.first for entry in found] == [7, *(entry.after for entry in found)][: len(found)]


def test_a_chain_of_tracebacks_is_one_entry_and_ends_with_its_reason() -> None:
    found = list(entries(["before", *TRACE.splitlines(), "after"]))
    assert [entry.traceback for entry in found] == [False, True, False]
    assert found[1].reason == "RuntimeError: it did not load"


async def test_the_log_has_time_sign_and_folded_tracebacks(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    job.reporter.log("it begins")
    job.reporter.log("it is tight", "warning")
    job.log(TRACE)
    job.reporter.log("it ends", "error")
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "it ends" in screen_text(app))
        await pilot.press("l")
        await until(pilot, lambda: app.focused is app.current.log_pane.lines)  # type: ignore[attr-defined]
        await until(pilot, lambda: "Enter opens" in screen_text(app))
        text = screen_text(app)
        assert re.search(r"\d\d:\d\d:\d\d   it begins", text)
        assert re.search(r"\d\d:\d\d:\d\d ! it is tight", text)
        assert re.search(r"\d\d:\d\d:\d\d ✗ it ends", text)
        assert "▸ RuntimeError: it did not load  (traceback of 11 lines)" in text
        assert "engine.py" not in text
        assert "[INFO]" not in text
        await pilot.press("enter")
        await until(pilot, lambda: "engine.py" in screen_text(app))
        assert "▾ Traceback (most recent call last)" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "engine.py" not in screen_text(app))
    job.let_go()


async def test_long_lines_are_folded_on_a_key(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    job.reporter.log(" ".join(f"word{n:03d}" for n in range(40)))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "word000" in screen_text(app))
        assert "word039" not in screen_text(app)
        assert cut(app) == (False, True), "a line that goes on says so"
        await pilot.press("l", "w")
        await until(pilot, lambda: "word039" in screen_text(app))
        assert cut(app) == (False, False)
        await pilot.press("w")
        await until(pilot, lambda: "word039" not in screen_text(app))
        await pilot.press("right", "right")
        await until(pilot, lambda: "word000" not in screen_text(app))
        assert cut(app) == (True, True)
    job.let_go()


def cut(app: OlivePressApp) -> tuple[bool, bool]:
    """Whether a line of the log says that there is more on its left, and on its right."""
    lines = [line.rstrip() for line in screen_text(app).splitlines() if re.search(r"word\d", line)]
    return any("…" in line[:14] for line in lines), any(line.endswith("…") for line in lines)


async def test_every_line_comes_into_sight_on_the_way_down(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    for number in range(30):
        job.log(f"line {number}\n{TRACE}")
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "line 29" in screen_text(app))
        await pilot.press("l", "home")
        await until(pilot, lambda: "line 0" in screen_text(app))
        lines = app.current.log_pane.lines  # type: ignore[attr-defined]
        seen = [each.entry for each in lines.shown]
        for _ in range(30):
            await pilot.press("pagedown")
            seen += [each.entry for each in lines.shown]
        assert lines.follow
        assert {entry.first for entry in seen} == set(range(0, 30 * 12, 12)) | set(range(1, 30 * 12, 12))
        for _ in range(80):
            await pilot.press("up")
        await until(pilot, lambda: lines.top == 0)
    job.let_go()
