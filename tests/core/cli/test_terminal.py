"""What people see on a real terminal, on a poor one and in a pipe: the same words, with colour where it can be."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest

from core import Lab
from tests.core.cli.test_output import ROOT

Run = Callable[..., tuple[int, str]]


def in_a_terminal(words: list[str], env: dict[str, str], columns: int = 80) -> tuple[int, str]:
    """Run a command with a pseudo-terminal as all its streams; its exit status and all it wrote there."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT) as running:
        os.close(theirs)
        got = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says so when the last writer has left
                break
            if not piece:
                break
            got += piece
        status = running.wait(timeout=60)
    os.close(ours)
    return status, got.decode()


def screen_of(text: str, columns: int = 80) -> list[str]:
    """The lines that stay on a terminal."""
    screen = pyte.Screen(columns, 60)
    pyte.Stream(screen).feed(text)
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a good terminal, beside a lab of quick stages."""
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    Lab.create(tmp_path / "lab", settings={"chat.system": "ok"})
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    return {
        **kept,
        "TERM": "xterm-256color",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
    }


def olivepress(*words: str) -> list[str]:
    return ["-m", "core.cli", *words]


def test_a_run_ends_with_clean_lines_and_colour(env: dict[str, str], tmp_path: Path) -> None:
    status, text = in_a_terminal(olivepress("run", str(tmp_path / "lab"), "finetune", "--no-check"), env)
    assert status == 0
    assert "\x1b[" in text
    lines = screen_of(text)
    assert lines[0] == "Finetune begins, as job finetune-001."
    assert any(re.fullmatch(r"Finetune is done, after [\d.]+ s\.", line) for line in lines)
    assert lines[-2:] == ["finetune: done", "  Size: 10 B"]
    assert not [line for line in lines if "working" in line]


@pytest.mark.parametrize(
    ("more", "redrawn"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False), ({"TERM": ""}, False)]
)
def test_a_plain_terminal_gets_no_escape_code(
    more: dict[str, str], redrawn: bool, env: dict[str, str]
) -> None:
    _, text = in_a_terminal(["-c", PROGRESS], {**env, **more})
    assert "\x1b" not in text
    assert ("\r" in text.replace("\r\n", "")) == redrawn
    assert screen_of(text)[-1] == "  a[red]b[/red]: done in 10 s"


def test_a_pipe_gets_the_same_words_and_nothing_else(env: dict[str, str], tmp_path: Path) -> None:
    words = [sys.executable, *olivepress("run", str(tmp_path / "lab"), "finetune", "--no-check")]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert done.stdout == "finetune: done\n  Size: 10 B\n"
    assert done.stderr.splitlines()[0] == "Finetune begins, as job finetune-001."


def test_json_is_the_same_on_a_terminal(env: dict[str, str], tmp_path: Path) -> None:
    words = olivepress("show", str(tmp_path / "lab"), "--json")
    status, text = in_a_terminal(words, env)
    assert (status, text) == (0, '{"results": [], "takeaway": null}\r\n')


PROGRESS = """
import sys
from core.cli.show import EventPrinter, moving, print_error, say
from core.errors import RequestError

at = 0.0
printer = EventPrinter(lambda: at)
for step in range(1, 1001):
    at += 0.01
    event = {"type": "progress", "phase": "a\\x1b[2J[red]b[/red]\\x07", "done": step, "total": 1000, "eta_s": 5.0}
    printer(event)
    if step == 500:
        printer({"type": "log", "level": "warning", "text": "[bold]not markup[/bold] \\x1b]0;title\\x07:smile:"})
if sys.argv[1:] == ["stop"]:
    moving.show("half way", 0.5)
    print_error(RequestError("It [i]stopped[/i].", "word " * 40, "olivepress " + "long/" * 30))
"""


def test_the_bar_is_one_line_that_is_redrawn_and_taken_away(env: dict[str, str]) -> None:
    status, text = in_a_terminal(["-c", PROGRESS], env)
    assert status == 0
    lines = screen_of(text)
    assert lines == ["  warning: [bold]not markup[/bold] :smile:", "  a[red]b[/red]: done in 10 s"]
    assert "━" in text
    assert "500 of 1,000" in text
    assert 50 < text.count("a[red]b[/red] ") < 130  # ten a second, of ten seconds, not one for each event
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text


def test_no_line_is_wider_than_a_narrow_terminal(env: dict[str, str]) -> None:
    _, text = in_a_terminal(["-c", PROGRESS, "stop"], env, columns=30)
    bar_or_line = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]+", text)]
    hint = "  olivepress " + "long/" * 30
    assert all(len(part.rstrip()) <= 30 for part in bar_or_line if part != hint)
    assert hint in bar_or_line  # a command that is to be copied is never cut
    assert "half way" not in "\n".join(screen_of(text, 30))
    assert [line for line in screen_of(text, 30) if line.startswith("  word word")]


def test_an_error_is_folded_at_words_and_never_read_as_markup(env: dict[str, str]) -> None:
    _, text = in_a_terminal(["-c", PROGRESS, "stop"], env)
    lines = screen_of(text)
    assert "error: It [i]stopped[/i]." in lines
    folded = [line for line in lines if line.startswith("  word")]
    assert len(folded) == 3
    assert sum(line.count("word") for line in folded) == 40
    assert all(line.endswith("word") for line in folded)


def test_rich_is_loaded_for_a_terminal_only() -> None:
    code = (
        "import sys; from core.cli import main; main(['completion', 'bash']); main(['status', 'nowhere']);"
        "sys.exit(any(name == 'rich' or name.startswith(('rich.', 'textual')) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "There is no lab" in done.stderr
