"""What is typed behind a / is one command, whatever it is called."""

from __future__ import annotations

import pytest

from core.chat.commands import Command, complete, help_text, parse, setting
from core.errors import RequestError


@pytest.mark.parametrize(
    ("typed", "name"),
    [("/regen", "again"), ("/again", "again"), ("/list", "chats"), ("/chats", "chats"), ("/q", "quit")],
)
def test_old_and_short_names_are_understood(typed: str, name: str) -> None:
    assert parse(typed) == Command(name)


def test_commands_and_questions_are_told_apart() -> None:
    assert parse("What?") == "What?"
    assert parse("//etc is what?") == "/etc is what?"
    assert parse("/base") == Command("adapter", "none")
    assert parse("/set temperature 0.7 ") == Command("set", "temperature 0.7")


@pytest.mark.parametrize("line", ["/flub", "/", "/copy"])
def test_what_is_no_command_is_refused_by_its_name(line: str) -> None:
    with pytest.raises(RequestError, match=line):
        parse(line, without=("copy",))


def test_the_list_has_what_a_place_has() -> None:
    assert "/copy" in help_text()
    assert "/copy" not in help_text(without=("copy",))


@pytest.mark.parametrize(
    ("words", "found"),
    [("top_k = 5", ("top_k", "5")), ("top_k=5", ("top_k", "5")), ("top_k 5", ("top_k", "5"))],
)
def test_a_setting_is_a_name_and_a_value(words: str, found: tuple[str, str]) -> None:
    assert setting(words) == found


def test_a_setting_without_a_value_has_none() -> None:
    assert setting("top_k") == ("top_k", "")
    assert setting("") == ("", "")


WORDS = {
    "adapter": lambda: [("formal", ""), ("travel", "in use"), ("none", "the base")],
    "set": lambda: [("temperature ", "now 0"), ("top_k ", "now 50")],
}


def lines(typed: str, *without: str) -> list[str]:
    return [each.line for each in complete(typed, WORDS, without)]


def test_commands_are_completed_as_they_are_typed() -> None:
    assert lines("/re") == ["/restart"]
    assert lines("/co") == ["/compare ", "/copy"]
    assert lines("/co", "copy") == ["/compare "]
    assert lines("/again") == ["/again"]
    assert lines("/regen") == []
    assert lines("What?") == lines("//etc") == lines("/a\nb") == lines("/flub") == []


def test_what_stands_behind_a_command_is_completed() -> None:
    assert lines("/adapter ") == ["/adapter formal", "/adapter travel", "/adapter none"]
    assert lines("/adapter T") == ["/adapter travel"]
    assert lines("/adapter travel") == []
    assert lines("/set te") == ["/set temperature "]
    assert lines("/name te") == []


def test_each_completion_says_whether_it_can_be_done_as_it_is() -> None:
    whole = {each.shown: each.whole for each in complete("/", WORDS)}
    assert whole["/again"]
    assert whole["/edit [TEXT]"]
    assert not whole["/open CHAT"]
    assert not complete("/set te", WORDS)[0].whole
    assert complete("/adapter f", WORDS)[0].whole


def test_what_is_completed_is_understood() -> None:
    for each in complete("/", WORDS):
        found = parse(each.line)
        assert isinstance(found, Command)
        assert each.line.strip() == f"/{found.name}"
