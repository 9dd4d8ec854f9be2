"""Output that cannot be written: a full disk, a reader that has left, closed streams; and Ctrl-C. In real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core import Lab
from core.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")

TOLD = {
    "new": ["new", "other"],
    "status": ["status", "lab"],
    "show": ["show", "lab"],
    "completion": ["completion", "bash"],
    "data": ["data", "lab"],
    "logs": ["logs", "lab", "quantize"],
    "export": ["export", "lab", "--to", "script", "lab.py"],
    "logout": ["logout"],
}
"""Commands that have something to print without a model or a network."""

JSON = {
    "new": ["new", "more", "--json"],
    "status": ["status", "lab", "--json"],
    "show": ["show", "lab", "--json"],
    "data": ["data", "lab", "--json"],
    "check": ["check", "lab", "--json"],
    "run": ["run", "lab", "quantize", "--no-check", "--json"],
    "cancel": ["cancel", "lab", "quantize", "--json"],
    "chat": ["chat", "lab", "--prompt", "x", "--json"],
    "upload": ["upload", "lab", "--dry-run", "--json"],
    "login": ["login", "--show", "--json"],
    "logout": ["logout", "--json"],
    "workspaces": ["workspaces", "--json"],
    "models": ["models", "lab", "--json"],
    "fetch": ["fetch", "x", "lab", "--lab", "lab", "--json"],
}
HELP = {name: [name, "--help"] for name in (*COMMANDS, "help")}

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a command beside a lab called ``lab``, in which quantize has run."""
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    Lab.create("lab", settings={"chat.system": "ok"}).run("quantize")

    def begin(words: list[str], shell: str = '"$@"', **options: object) -> subprocess.Popen[bytes]:
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        line = ["sh", "-c", f"exec {shell}", "sh", sys.executable, "-m", "core.cli", *words]
        return subprocess.Popen(line, **given)  # type: ignore[call-overload,no-any-return]

    return begin


def in_pairs(start: Start, many: dict[str, list[str]], **options: object) -> dict[str, tuple[int, str]]:
    """Run these commands, a few at a time; their exit statuses and what they told on standard error."""
    told: dict[str, tuple[int, str]] = {}
    waiting = list(many.items())
    while waiting:
        lot, waiting = waiting[:4], waiting[4:]
        for name, running in [(name, start(words, **options)) for name, words in lot]:
            _, err = running.communicate(timeout=120)
            told[name] = (running.returncode, err.decode())
    return told


@needs_full
@pytest.mark.parametrize("many", [TOLD, JSON, HELP], ids=["words", "json", "help"])
def test_a_full_disk_is_one_sentence_and_4(start: Start, many: dict[str, list[str]]) -> None:
    with FULL.open("wb") as full:
        for name, (status, err) in in_pairs(start, many, stdout=full).items():
            assert status == 4, (name, err)
            assert "error: Standard output cannot be written.\n  No space left on device.\n" in err, name
            assert "Traceback" not in err
            assert "Exception ignored" not in err


@pytest.mark.parametrize("many", [TOLD, JSON, HELP], ids=["words", "json", "help"])
def test_a_reader_that_has_left_is_quiet(start: Start, many: dict[str, list[str]]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for name, (status, err) in in_pairs(start, many, stdout=writing).items():
            assert status == 141, (name, err)
            assert "cannot be written" not in err
            assert "Traceback" not in err
            assert "Exception ignored" not in err
    finally:
        os.close(writing)


def test_closed_standard_output_is_told(start: Start) -> None:
    for name, (status, err) in in_pairs(start, TOLD, shell='"$@" >&-').items():
        assert (status, err.count("error: Standard output cannot be written.")) == (4, 1), (name, err)


def test_what_people_would_read_is_dropped_and_the_result_is_not(start: Start) -> None:
    for shell in ('"$@" 2>&-', '"$@" 2>/dev/full') if FULL.exists() else ('"$@" 2>&-',):
        running = start(["run", "lab", "quantize", "--force", "--no-check"], shell=shell)
        out, _ = running.communicate(timeout=60)
        assert running.returncode == 0
        assert out.decode().startswith("quantize: done\n"), "and nothing else is on standard output"
        running = start(["status", "nowhere", "--json"], shell=shell)
        out, _ = running.communicate(timeout=60)
        assert running.returncode == 2
        assert json.loads(out)["error"]["code"] == "lab.missing"


@needs_full
def test_a_job_goes_on_when_its_events_cannot_be_written(start: Start) -> None:
    lab = Lab.open("lab")
    lab.set({"chat.system": "hang"})
    with FULL.open("wb") as full:
        running = start(["run", "lab", "quantize", "--force", "--no-check", "--json"], stdout=full)
        _, err = running.communicate(timeout=60)
    try:
        assert running.returncode == 4
        assert (
            "quantize-002 goes on by itself. Follow it: olivepress logs lab quantize-002 --follow"
            in err.decode()
        )
        assert lab.job("quantize-002").active
    finally:
        lab.job("quantize-002").cancel()
        lab.job("quantize-002").wait(30)


def test_a_name_that_is_no_text_is_printed_all_the_same(start: Start) -> None:
    out, err = start(["new", os.fsdecode(b"caf\xe9")]).communicate(timeout=60)
    assert b"/caf\\udce9/lab.toml" in out, err
    assert b"olivepress check $'caf\\xe9'" in out
    out, err = start(["new", os.fsdecode(b"th\xe9"), "--json"]).communicate(timeout=60)
    assert json.loads(out)["lab"].endswith("/th\udce9"), err


def test_ctrl_c_is_130_and_no_traceback(start: Start) -> None:
    lab = Lab.open("lab")
    lab.set({"chat.system": "hang"})
    job = lab.start("quantize", force=True)
    try:
        running = start(["logs", "lab", "quantize", "--follow"])
        assert running.stdout is not None
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert (running.returncode, err) == (130, b"cancelled\n")
        assert job.active, "looking on does not stop it"
    finally:
        job.cancel()
        job.wait(30)
