"""The language of the command line: chosen for people, and never for what programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import language
from core.cli import main
from core.cli.commands import language_taken
from core.jobs.start import job_environment
from core.language import LANGUAGES

OTHERS = [code for code in LANGUAGES if code != "en"]


@pytest.mark.parametrize(
    ("words", "left", "code"),
    [
        ("--language de status lab", "status lab", "de"),
        ("status lab --language=de", "status lab", "de"),
        ("lab --plain --language de", "lab --plain", "de"),
        ("status -- --language de", "status -- --language de", None),
        ("status --language", "status", ""),
    ],
)
def test_the_option_stands_anywhere(words: str, left: str, code: str | None) -> None:
    assert language_taken(words.split()) == (left.split(), code)


@pytest.mark.parametrize("code", OTHERS)
def test_people_read_their_language_and_programs_english(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    assert main(["--language", code, "status", str(tmp_path)]) == 2
    assert language.in_use() == code
    assert job_environment()[language.VARIABLE] == code
    capsys.readouterr()
    wrong = ["show", "quantize", "--json"]
    assert main(wrong) == main([*wrong, "--language", code]) == 2
    out = capsys.readouterr()
    english, other = out.out.splitlines()
    assert json.loads(english) == json.loads(other)
    assert job_environment()[language.VARIABLE] == code, "a report that it makes is for people"


def test_what_argparse_says_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    from core.cli.parser import HEADINGS, _said_by_argparse, build_parser
    from core.language import Told

    build_parser().print_help()
    shown = capsys.readouterr().out
    assert all(f"{heading}:" in shown for heading in HEADINGS)
    for text in (
        "the following arguments are required: DIR",
        "argument --port: expected one argument",
        "argument --adapter: not allowed with argument --no-adapter",
        "argument --stage: invalid choice: 'x' (choose from 'a', 'b')",
        "argument --traffic: invalid int value: 'x'",
    ):
        said = _said_by_argparse(text)
        assert isinstance(said, Told)
        assert said == text
    assert not isinstance(_said_by_argparse("something new"), Told)


def test_a_language_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--language", "xx", "status"]) == 2
    assert "en, de, es, fa, ru, vi" in capsys.readouterr().err
