"""Shell completion: what fits is read off the parser, and the scripts work in the shells that are here."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import Lab
from core.cli import main
from core.cli.commands import COMMANDS
from core.cli.completion import BY_METAVAR, SCRIPTS, candidates, split_line
from core.cli.parser import actions_of, command_parser
from core.recipe import OPTIONS
from core.stages import STAGES

ROOT = Path(__file__).resolve().parents[3]

TYPED_FREELY = {
    "A,B", "ADDRESS", "CHAT", "ENDPOINT", "H", "ID", "KINDS", "MINUTES", "N", "N,N", "NAME", "NAME[:VERSION]", "ORIGIN",
    "SHARE", "SIZE", "TASK", "TEXT", "TIME",
}  # fmt: skip
"""What a word of the help stands for that only the user, or the network, knows."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two labs, another folder and a file."""
    monkeypatch.chdir(tmp_path)
    Lab.create("my-lab")
    Lab.create("one lab")
    (tmp_path / "elsewhere" / "lab-3").mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


def fitting(line: str) -> set[str]:
    words, begun = split_line(f"olivepress {line}")
    return {value for value, _ in candidates(words, begun) if value.startswith(begun)}


def test_every_word_of_the_help_is_either_found_or_known_to_be_free() -> None:
    strange = {
        (command, word)
        for command in COMMANDS
        for parser in (command_parser(command), *actions_of(command_parser(command)).values())
        for action in parser._actions
        if action.nargs != 0 and action.choices is None and action.help != argparse.SUPPRESS
        for word in (action.metavar if isinstance(action.metavar, tuple) else (action.metavar,))
        if word not in BY_METAVAR and word not in TYPED_FREELY
    }
    assert not strange


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_offered(command: str) -> None:
    parsers = {command: command_parser(command)}
    parsers |= {f"{command} {word}": each for word, each in actions_of(command_parser(command)).items()}
    for words, parser in parsers.items():
        shown = set(re.findall(r"--[a-z-]+", parser.format_usage()))
        assert shown | {"--help"} <= fitting(f"{words} --")
    assert "--line" not in fitting("completion --")


def test_commands_stages_labs_and_settings_are_offered(here: Path) -> None:
    assert set(COMMANDS) <= fitting("")
    assert fitting("sta") == {"status"}
    assert fitting("run ") == {*STAGES, "my-lab", "one lab"}
    assert fitting("run my-lab quantize ") == {*STAGES} - {"quantize"}
    assert fitting("run --force fi") == {"finetune"}
    assert fitting("check el") == {"elsewhere/"}
    assert fitting("check elsewhere/") == {"elsewhere/lab-3/"}
    assert fitting("new x --data r") == {"rows.jsonl"}
    assert fitting("fetch model elsewh") == {"elsewhere/"}
    assert fitting("login --method d") == {"device"}
    assert fitting("export my-lab --to gg") == {"gguf"}
    assert fitting("export my-lab --to olive ro") == {"rows.jsonl"}
    assert fitting("export my-lab --to gguf out --ty") == {"--type"}
    assert fitting("login --method=d") == {"--method=device"}
    assert fitting("completion ") == set(SCRIPTS)
    assert fitting("help ") == set(COMMANDS)
    assert fitting("workshop re") == {"rescue", "reset"}
    assert fitting("workshop rescue room 1 --stage q") == {"quantize"}
    keys = {f"{option.name}=" for section in OPTIONS.values() for option in section.values()}
    assert fitting("new x --set ") == keys
    assert fitting("chat --set temp") == {"temperature="}
    assert fitting("new x --set quantize.algorithm=rt") == {"quantize.algorithm=rtn"}
    assert fitting("status my-lab ") == set()
    assert fitting("nonsense ") == set()


def test_jobs_are_offered_with_the_newest_first(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    lab = Lab.open("my-lab")
    lab.set({"chat.system": "ok"})
    for _ in range(2):
        lab.run("quantize", force=True)
    assert main(["completion", "fish", "--line", "olivepress logs my-lab q"]) == 0
    assert capsys.readouterr().out == "quantize-002\tsucceeded\nquantize-001\tsucceeded\n"


@given(st.text(max_size=40))
def test_any_line_at_all_is_taken(line: str) -> None:
    words, begun = split_line(line)
    assert all(isinstance(value, str) for value, _ in candidates(words[:3], begun[:40]))


@pytest.mark.parametrize(
    ("line", "words", "begun"),
    [
        ("olivepress ", [], ""),
        ("LANG=C olivepress run", [], "run"),
        ("olivepress run my\\ la", ["run"], "my la"),
        ("olivepress run 'my la", ["run"], "my la"),
        ('olivepress run "my lab" ', ["run", "my lab"], ""),
    ],
)
def test_a_line_is_read_as_the_shell_reads_it(line: str, words: list[str], begun: str) -> None:
    assert split_line(line) == (words, begun)


def test_a_name_with_control_characters_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Lab.create("my-\x1b[31m\nlab")
    assert main(["completion", "bash", "--line", "olivepress check my"]) == 0
    assert capsys.readouterr().out == "my-lab\n"


@pytest.fixture
def on_path(here: Path) -> dict[str, str]:
    """An environment in which ``olivepress`` is this one."""
    program = here / "bin" / "olivepress"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m core.cli "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(here),
    }


def run_shell(words: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert not done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="this system has no bash")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("olivepress sta", ["status"]),
        ("olivepress run my-lab fi", ["finetune"]),
        ("olivepress check one", ["one\\ lab"]),
        ("olivepress check 'one", ["one lab"]),
        ("olivepress new x --set quantize.algorithm=rt", ["rtn"]),
        ("olivepress new x --set quantize.algori", ["quantize.algorithm="]),
    ],
)
def test_bash_completes(line: str, replies: list[str], on_path: dict[str, str]) -> None:
    script = (
        'eval "$(olivepress completion bash)"; complete -p olivepress >/dev/null || exit 1;'
        ' COMP_LINE=$1; COMP_POINT=${#1}; _olivepress olivepress; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert run_shell(["bash", "--norc", "-c", script, "bash", line], on_path).splitlines() == replies


@pytest.mark.skipif(shutil.which("fish") is None, reason="this system has no fish")
def test_fish_completes(on_path: dict[str, str]) -> None:
    ask = 'olivepress completion fish | source; complete -C "olivepress run my-lab fi"'
    assert run_shell(["fish", "--no-config", "-c", ask], on_path).startswith("finetune\t")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="this system has no zsh")
def test_zsh_takes_the_script(on_path: dict[str, str]) -> None:
    ask = 'autoload -Uz compinit; compinit -u -D; eval "$(olivepress completion zsh)"; print $_comps[olivepress]'
    assert run_shell(["zsh", "-f", "-c", ask], on_path) == "_olivepress\n"
