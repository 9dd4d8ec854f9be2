"""Every command on hostile words and hostile labs.

Never a traceback, a hang, memory beyond a limit, a file elsewhere, or an escape code. The commands and their options
are those of the program itself: a new one is covered by being there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from core import Lab, LabError
from core.cli import main
from core.cli.commands import COMMANDS
from core.cli.parser import command_parser
from tests.hostile import NAMES, SHORT, hostile_lab
from tests.refusing import refuse
from tests.tui.nasty import harmless

STATUSES = {0, 2, 3, 4, 130}
LONGEST_S = 120
MOST_MEMORY = 1 << 30
EXAMPLES = {"check": 3, "data": 6, "run": 3, "upload": 3, "export": 3, "chat": 6}
"""Those that take longer: a process, a look at the whole machine, a tokenizer. The others get more."""

ALWAYS = {"login": ["--show"]}
"""Without it there is nobody to answer."""

_writing: list[str] = []
_watched: list[bool] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _writing.append(os.fsdecode(path))
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
        _writing.append(os.fsdecode(arguments[0]))
    elif event in ("os.rename", "os.link", "os.symlink"):
        _writing.append(os.fsdecode(arguments[1]))


sys.addaudithook(_watch)


@contextmanager
def only_below(*places: Path) -> Iterator[None]:
    """Fail if something is written elsewhere."""
    _writing.clear()
    _watched.append(True)
    try:
        yield
        allowed = [str(place.resolve()) for place in places]
        found = [os.path.abspath(each) for each in _writing if not each.startswith("/dev/")]
        outside = [
            each for each in found if not any(os.path.realpath(each).startswith(place) for place in allowed)
        ]
    finally:
        _watched.clear()
    assert outside == []


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Fail where the work goes on for longer."""

    def late(*_: object) -> None:
        raise AssertionError(f"it hangs: not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def words_for(name: str, lab: Path, chance: random.Random) -> list[str]:
    """Words for a command: its own options and places, hostile values in some."""

    def word(action: argparse.Action) -> str:
        if action.choices and chance.random() < 0.7:
            return str(chance.choice(list(action.choices)))
        if action.metavar == "DIR" and chance.random() < 0.7:
            return str(lab)
        usual = [
            "quantize-001",
            "quantize",
            "3",
            "travel:latest",
            "finetune.steps=1e999",
            "data.template={x}",
        ]
        found = chance.choice([*usual, *NAMES, *SHORT]).replace("\0", "")
        return found if chance.random() < 0.8 else f"../{lab.parent.name}/{found[:50]}"

    found = list(ALWAYS.get(name, ()))
    for action in command_parser(name)._actions:
        if action.dest == "help" or (
            not action.option_strings and action.nargs == "*" and chance.random() < 0.3
        ):
            continue
        if not action.option_strings:
            found.append(word(action))
        elif action.required or chance.random() < 0.25:
            option = chance.choice(action.option_strings)
            found += [option] if action.nargs == 0 else [option, word(action)]
    if chance.random() < 0.1:
        found.insert(chance.randrange(len(found) + 1), chance.choice(NAMES))
    return [each for each in found if each != "--follow"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_meets_whatever_it_meets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    refuse(monkeypatch, tmp_path / "refusing")
    monkeypatch.setattr(socket.socket, "connect", _refused)
    monkeypatch.setattr(socket, "getaddrinfo", _refused)
    monkeypatch.setattr(socket.socket, "bind", _refused)
    here = tmp_path / "here"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MOST_MEMORY

    @settings(
        max_examples=EXAMPLES.get(name, 15),
        deadline=None,
        phases=[Phase.generate],  # the words and the lab's files are told as they are
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(chance=st.randoms(use_true_random=False))
    def meets(chance: random.Random) -> None:
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        monkeypatch.chdir(here)
        lab = hostile_lab(here / chance.choice(["lab", "[bold]l\x1b[31mab"]), chance)
        words = [name, *words_for(name, lab, chance)]
        typed = chance.choice(["", *SHORT]).encode("utf-8", "surrogatepass")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8"))
        out, err = _stream(), _stream()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        try:
            with in_time(LONGEST_S), only_below(here, Path.home(), Path(tempfile.gettempdir())):
                status = _status(words)
            assert status in STATUSES, (words, status)
            for stream in (out, err):
                shown = _text(stream)
                assert harmless(shown.replace("\t", " ")), (words, shown[-2000:])
                assert "Traceback" not in shown, (words, shown[-2000:])
            if "--json" in words and status == 0:
                for line in _text(out).splitlines():
                    json.loads(line)
        finally:
            _stop(lab)

    meets()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < most


def _stream() -> io.TextIOWrapper:
    """A stream as the program's own are (``core.cli.output``)."""
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", newline="")


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _refused(*_: object, **__: object) -> None:
    raise ConnectionRefusedError(111, "refused by the test")


def _status(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as left:  # --help and --version
        return left.code if isinstance(left.code, int) else 1


def _stop(root: Path) -> None:
    """End what the command has started."""
    for job in Lab.at(root).jobs() if (root / "jobs").is_dir() else ():
        try:
            job.cancel()
            job.wait(timeout=60)
        except LabError:
            continue
