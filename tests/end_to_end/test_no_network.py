"""The whole rehearsal contacts nobody: every connection is refused and written down, in each process of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.labs import command
from tests.refusing import refuse
from tests.tui.ptys import Terminal
from tui.steps import steps


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return refuse(monkeypatch, tmp_path / "refusing")


def test_the_watch_sees_and_refuses(refused: Path) -> None:
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', sys.argv[1]]); exec(sys.argv[1])"
    )
    connect = "import socket; socket.create_connection(('192.0.2.1', 443))"
    done = subprocess.run([sys.executable, "-c", code, connect], capture_output=True, text=True, check=False)
    assert "refused by the test" in done.stderr
    assert refused.read_text().count("socket.getaddrinfo '192.0.2.1'") == 2, "in the child too"


def test_the_whole_rehearsal_contacts_nobody(
    built_rehearsal_lab: Path, rehearsal_lab: Path, refused: Path, tmp_path: Path
) -> None:
    jobs = built_rehearsal_lab.parent / "refusing" / "refused"  # quantize, finetune and optimize were run so
    assert jobs.read_text() == ""
    lab = str(rehearsal_lab)
    for words in (
        ["new", str(tmp_path / "other"), "--model", "rehearsal"],
        ["check", lab],
        ["data", lab],
        ["status", lab],
        ["chat", lab, "--compare", "--prompt", "What should I see in Chicago?"],
        ["export", lab, "--olive", str(tmp_path / "flow.json")],
    ):
        done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        assert refused.read_text() == "", words
    with Terminal(command(lab), cwd=tmp_path) as terminal:
        terminal.until("F4  Next", 60)
        terminal.send("1")
        for step in steps():
            terminal.until(f"▸{step.number}", 60)
            terminal.send("f4")
    assert refused.read_text() == ""
