"""Atomic files, clean text, and honest estimates of the time left."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import MachineError, RequestError, error_from
from core.events import JobReporter, TimeLeft, read_events
from core.files import (
    digest,
    folder_bytes,
    folder_stamp,
    publish,
    read_if_whole,
    read_json,
    write_atomic,
    write_json,
)
from core.text import clean, clean_line, json_line
from tests.tui.nasty import harmless


def test_atomic_write_keeps_the_old_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="disk is full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\xff\xfe\x00", b"[" * 100_000], ids=repr)
def test_damaged_json_is_not_taken_for_absent(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    path.write_bytes(data)
    with pytest.raises(RequestError, match=str(path)) as caught:
        read_json(path)
    assert caught.value.code == "file.damaged"
    assert read_if_whole(path) is None


def test_publish_replaces_a_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "models/x"
    for text in ("one", "two"):
        made = tmp_path / "work"
        made.mkdir()
        (made / text).write_text(text)
        publish(made, target, {"result": text})
        assert sorted(p.name for p in target.iterdir()) == sorted([text, "olivepress.json"])
        manifest = json.loads((target / "olivepress.json").read_text())
        assert manifest["result"] == text
        assert list(manifest["files"]) == [text]
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_publish_puts_the_old_folder_back_when_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, made = tmp_path / "x", tmp_path / "new"
    target.mkdir()
    (target / "old").write_text("")
    made.mkdir()
    real = os.rename

    def rename(source: Path, goal: Path) -> None:
        if Path(source) == made:
            raise OSError(errno.EIO, "I/O error")
        real(source, goal)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="I/O"):
        publish(made, target)
    assert (target / "old").exists()


def test_stamps_and_digests_change_with_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first, stamp = digest(tmp_path / "a"), folder_stamp(tmp_path)
    assert folder_stamp(tmp_path) == stamp
    (tmp_path / "a").write_text("22")
    assert digest(tmp_path / "a") != first
    assert folder_stamp(tmp_path) != stamp
    assert folder_bytes(tmp_path) == 2


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("plain [INST] [/INST] text", "plain [INST] [/INST] text"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==\x07", ""),
        ("\x9b31mred", "red"),
        ("a\x00b\x08c", "abc"),
        ("abc\u202etxt.exe", "abctxt.exe"),
        ("سلام دنیا", "سلام دنیا"),
        ("Việt Nam 🇻🇳 👩‍💻", "Việt Nam 🇻🇳 👩‍💻"),
        ("unterminated \x1b]0;title", "unterminated "),
        ("a\tb", "a   b"),
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


def test_clean_line_shows_what_a_terminal_would_have_left() -> None:
    assert clean_line("10%\r50%\r100%\n") == "100%"
    assert len(clean_line("x" * 100_000)) == 2000
    assert clean_line("a\nb") == "a b"


def test_time_left_is_told_once_it_can_be() -> None:
    at = [0.0]
    left = TimeLeft(lambda: at[0])
    assert left.update("a", 0, 10) is None
    at[0] = 2
    assert left.update("a", 1, 10) == pytest.approx(18)
    at[0] = 4
    assert left.update("a", 4, None) is None
    assert left.update("b", 0, 3) is None  # another phase starts anew


def test_time_left_follows_the_recent_speed() -> None:
    at = [0.0]
    left = TimeLeft(lambda: at[0])
    for step in range(100):  # slow, then ten times as fast
        at[0] += 10 if step < 20 else 1
        eta = left.update("a", step, 200)
    assert eta == pytest.approx(101, rel=0.1)


def test_job_reporter_writes_the_contract(tmp_path: Path) -> None:
    reporter = JobReporter(tmp_path, "quantize-001")
    for step in range(1000):
        reporter.progress("training", step, 1000)
    reporter.metric("loss", float("nan"), 3)
    reporter.log("a\nb \u2028 c", "warning")
    reporter.artifact(tmp_path, "folder")
    events, _ = read_events(tmp_path / "events.jsonl")
    assert len([e for e in events if e["type"] == "progress"]) < 100
    assert all(e["v"] == 1 and e["job"] == "quantize-001" and e["t"].endswith("Z") for e in events)
    metric, log, artifact = events[-3:]
    assert (metric["name"], metric["step"], metric["value"]) == ("loss", 3, None)
    assert (log["level"], log["text"]) == ("warning", "a\nb \u2028 c")
    assert set(artifact) == {"v", "t", "job", "type", "path", "bytes", "what"}


def test_errors_survive_the_journey_between_processes(tmp_path: Path) -> None:
    write_json(tmp_path / "e.json", RequestError("t", "d", "h").as_dict())
    back = error_from(json.loads((tmp_path / "e.json").read_text()), 2)
    assert isinstance(back, RequestError)
    assert str(back) == "t\nd\nh"


@given(
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_json_on_a_terminal_is_the_same_and_harmless(data: Any) -> None:
    line = json_line(data)
    assert json.loads(line) == data
    assert harmless(line)
    assert "\n" not in line


def test_a_folder_whose_files_have_names_that_are_no_text_has_a_stamp(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a")
    before = folder_stamp(tmp_path)
    (tmp_path / os.fsdecode(b"\xff\xfe")).write_text("a")
    assert folder_stamp(tmp_path) != before
