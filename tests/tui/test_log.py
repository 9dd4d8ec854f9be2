"""The log: any size, any content, followed, held, searched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.lab import Lab
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import FakeJob
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
