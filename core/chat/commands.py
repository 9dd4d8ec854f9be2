"""What can be typed behind a / in a chat, by lines as in the wizard; and how it can go on while it is typed."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from core.errors import RequestError
from core.language import N_, _, told

_COMMANDS = (
    ("again", "", N_("answer the last question anew")),
    ("edit", "[TEXT]", N_("put another question in its place")),
    ("compare", "[TEXT]", N_("base and tuned side by side, on or off")),
    ("adapter", "[NAME]", N_("who answers; none for the base")),
    ("set", "[NAME VALUE]", N_("how answers are chosen")),
    ("chats", "", N_("earlier chats")),
    ("open", "CHAT", N_("go on with an earlier chat")),
    ("new", "", N_("begin another chat")),
    ("name", "TEXT", N_("name this chat")),
    ("save", "[FILE]", N_("write it as Markdown")),
    ("copy", "", N_("copy the last answer")),
    ("evaluate", "[N]", N_("every form of the model on the held-out records")),
    ("serve", "", N_("answer other programs: the address")),
    ("restart", "", N_("start the model again")),
    ("help", "", N_("this list")),
    ("quit", "", N_("end the chat")),
)
"""Name, words behind it, meaning."""
_NAMES = frozenset(name for name, _, _ in _COMMANDS)
_SAME = {"regen": "again", "list": "chats", "exit": "quit", "q": "quit"}
"""Other names that are understood."""

Words = Mapping[str, Callable[[], Iterable[tuple[str, str]]]]
"""What can stand behind a command, and what each means; asked for only when that command was typed."""


@dataclass(frozen=True)
class Command:
    """What to do, and the words behind it."""

    name: str
    words: str = ""


@dataclass(frozen=True)
class Completion:
    """A way in which a line that begins with / can go on.

    Attributes:
        line: the line as it would be.
        shown: what it is called in a list of them, and ``meaning`` beside it.
        whole: the line can be done as it is; else more words are needed.
    """

    line: str
    shown: str
    meaning: str
    whole: bool


def help_text(without: Container[str] = ()) -> str:
    """The commands, one a line, but for those that a place does not have."""
    lines = [
        f"{_usage(name, words):<19}{_(meaning)}" for name, words, meaning in _COMMANDS if name not in without
    ]
    return "\n".join(lines)


def parse(line: str, without: Container[str] = ()) -> Command | str:
    """The command on a line, or the question.

    Args:
        without: commands that this place does not have.

    Raises:
        RequestError: there is no such command.
    """
    if not line.startswith("/") or line.startswith("//"):
        return line.removeprefix("/")
    typed, _space, words = line[1:].strip().partition(" ")
    if typed == "base":
        return Command("adapter", "none")
    name = _SAME.get(typed, typed)
    if name not in _NAMES or name in without:
        raise RequestError(
            told("There is no command /{typed}.", typed=typed),
            hint=told("/help lists them. A question is typed with //."),
            code="chat.command",
        )
    return Command(name, words.strip())


def complete(line: str, words: Words, without: Container[str] = ()) -> list[Completion]:
    """How a line that begins with / can go on; nothing for a question.

    Args:
        words: for a command, what can stand behind it.
        without: commands that this place does not have.
    """
    if not line.startswith("/") or line.startswith("//") or "\n" in line:
        return []
    typed, space, begun = line[1:].partition(" ")
    if not space:
        return [
            Completion(
                f"/{name}{' ' if more else ''}",
                _usage(name, more),
                _(meaning),
                not more or more.startswith("["),
            )
            for name, more, meaning in _COMMANDS
            if name.startswith(typed) and name not in without
        ]
    if typed in without or typed not in words:
        return []
    begun = begun.lstrip()
    return [
        Completion(f"/{typed} {word}", word.strip(), meaning, not word.endswith(" "))
        for word, meaning in words[typed]()
        if word.lower().startswith(begun.lower()) and word != begun
    ]


def setting(words: str) -> tuple[str, str]:
    """The name and the value behind ``/set``, each empty if it is not there."""
    name, _equals, value = words.replace("=", " ", 1).partition(" ")
    return name, value.strip()


def _usage(name: str, words: str) -> str:
    return f"/{name} {words}".rstrip()
