"""The names of the commands, and which words open the wizard instead. Light: the wizard starts through here."""

from __future__ import annotations

from collections.abc import Sequence

COMMANDS = (
    "new",
    "check",
    "data",
    "run",
    "search",
    "status",
    "show",
    "logs",
    "cancel",
    "chat",
    "serve",
    "evaluate",
    "upload",
    "login",
    "logout",
    "workspaces",
    "compute",
    "deploy",
    "models",
    "fetch",
    "export",
    "workshop",
    "clean",
    "completion",
)


PLAIN = "--plain"
"""The wizard by lines. The one option that is the wizard's and no command's."""
LANGUAGE = "--language"
"""The language to speak: of the wizard and of every command."""


def language_taken(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The words without ``--language CODE``, wherever it stands, and that code; None where it is not given."""
    left: list[str] = []
    chosen: str | None = None
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*left, word, *words], chosen
        if word == LANGUAGE:
            chosen = next(words, "")
        elif word.startswith(f"{LANGUAGE}="):
            chosen = word.partition("=")[2]
        else:
            left.append(word)
    return left, chosen


def wizard_folder(arguments: Sequence[str]) -> str | None:
    """The folder to open the wizard on, or None when a command or another option was given."""
    arguments = [word for word in arguments if word != PLAIN]
    if not arguments:
        return "."
    first = arguments[0]
    if first.startswith("-") or first in (*COMMANDS, "help"):
        return None
    return first if len(arguments) == 1 else None
