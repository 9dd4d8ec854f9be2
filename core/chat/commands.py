"""What can be typed behind a / in a chat, by lines as in the wizard."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from core.errors import RequestError

_USAGE = (
    ("/again", "answer the last question anew"),
    ("/edit [TEXT]", "another in its place"),
    ("/compare [TEXT]", "base and tuned side by side, on or off"),
    ("/adapter [NAME]", "who answers; /base for none"),
    ("/set [NAME VALUE]", "such as /set temperature 0.7"),
    ("/chats, /open CHAT", "earlier chats; go on with one"),
    ("/new, /name TEXT", "begin another chat; name this one"),
    ("/save [FILE]", "write it as Markdown"),
    ("/copy", "copy the last answer"),
    ("/evaluate [N]", "the held-out questions, base and tuned"),
    ("/restart", "start the model again"),
    ("/help, /quit", "this list; end the chat"),
)
_NAMES = frozenset(re.findall(r"(?<!\S)/(\w+)", " ".join(f"{usage} {meaning}" for usage, meaning in _USAGE)))
_SAME = {"regen": "again", "list": "chats", "exit": "quit", "q": "quit"}
"""Other names that are understood."""


@dataclass(frozen=True)
class Command:
    """What to do, and the words behind it."""

    name: str
    words: str = ""


def help_text(without: Container[str] = ()) -> str:
    """The commands, one a line, but for those that a place does not have."""
    lines = [f"{usage:<19}{meaning}" for usage, meaning in _USAGE if usage.split()[0][1:] not in without]
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
    typed, _, words = line[1:].strip().partition(" ")
    name = _SAME.get(typed, typed)
    if name not in _NAMES or name in without:
        raise RequestError(
            f"There is no command /{typed}.",
            hint="/help lists them. A question is typed with //.",
            code="chat.command",
        )
    return Command("adapter", "none") if name == "base" else Command(name, words.strip())


def setting(words: str) -> tuple[str, str]:
    """The name and the value behind ``/set``, each empty if it is not there."""
    name, _, value = words.replace("=", " ", 1).partition(" ")
    return name, value.strip()
