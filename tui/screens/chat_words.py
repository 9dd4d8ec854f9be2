"""The chat's words: what is typed behind a /, and the line that tells how things stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.content import Content

from core.errors import RequestError
from core.text import clean

if TYPE_CHECKING:
    from core.chat import ChatSession

HELP = """\
/again             answer the last question anew (also /regen)
/edit [TEXT]       another in its place (Up in the empty field)
/compare [TEXT]    base and tuned side by side, on or off
/adapter [NAME]    who answers; /base for none
/set [NAME VALUE]  such as /set temperature 0.7
/chats, /open CHAT earlier chats; go on with one
/new, /name TEXT   begin another chat; name this one
/save [FILE]       write it as Markdown
/copy              copy the last answer
/evaluate          the held-out questions, base and tuned
/restart           start the model again

F9 stops an answer, PgUp and PgDn scroll, Esc leaves the field.
A question that begins with / is typed with two."""

INTRO = (
    ("Enter", "sends what you type below; the answer comes here."),
    ("Compare", "has base and tuned answer side by side: what has changed?"),
    ("Evaluate", "puts the held-out questions to both, and measures who is closer."),
)
"""What stands where the conversation will be."""

_SAME = {"regen": "again", "list": "chats", "exit": "quit"}
_KNOWN = ("help", "again", "edit", "copy", "compare", "adapter", "set", "chats", "new", "open", "name", "save",
          "evaluate", "restart", "base")  # fmt: skip


@dataclass(frozen=True)
class Command:
    """What to do, and the words behind it."""

    name: str
    words: str


def parse(text: str) -> Command | None:
    """The command on a line; None for a question.

    Raises:
        RequestError: there is no such command.
    """
    if not text.startswith("/") or text.startswith("//"):
        return None
    name, _, words = text[1:].partition(" ")
    name = _SAME.get(name, name)
    if name not in _KNOWN:
        raise RequestError(
            f"There is no command /{name}.", hint="/help lists them. A question is typed with //."
        )
    if name == "base":
        return Command("adapter", "none")
    return Command(name, words.strip())


def state_line(
    chat: ChatSession, compare: tuple[str | None, str | None] | None, editing: bool, dot: str, news: str = ""
) -> str:
    """Who answers, what has just changed about that, how, and how much of the context is used."""
    if editing:
        return f"Editing the last question{dot}Enter asks it anew{dot}Esc leaves it as it was"
    who = " | ".join(name or "base" for name in compare) if compare is not None else chat.adapter or "base"
    if chat.ready is None or not chat.alive:
        return f"The model is not there{dot}Start again, or /restart, loads it anew"
    settings = chat.settings
    how = f"temperature {settings.temperature:g}" if settings.temperature else "likeliest words"
    # What is cut off on a narrow terminal is what matters least.
    parts = [clean(who, keep_newlines=False)[:30], *([news] if news else []), how]
    if chat.last is not None and chat.ready is not None and chat.last.context_tokens:
        parts.append(f"context {chat.last.context_tokens} of {chat.ready.context_tokens}")
    if chat.history.dropped:
        parts.append(f"{chat.history.dropped} turn{'' if chat.history.dropped == 1 else 's'} dropped")
    parts.append(f"up to {settings.max_new_tokens} tokens")
    if chat.history.name:
        parts.append(clean(chat.history.name, keep_newlines=False))
    return dot.join(parts)


def intro(about: str, notes: Sequence[str]) -> Content:
    """What this step is for, what to press first, and what the model's loading told."""
    width = max(len(name) for name, _ in INTRO) + 2
    lines = [Content(f"{about}\n")]
    lines += [Content.assemble((f"{name:<{width}}", "bold"), text) for name, text in INTRO]
    lines += [
        Content.styled(f"\n{clean(note, keep_newlines=False)[:300]}", "$text-warning") for note in notes
    ]
    return Content("\n").join(lines)


def problem_of(error: Exception) -> dict[str, str]:
    """An exception for the place where problems are shown."""
    told = getattr(error, "as_dict", None)
    found: dict[str, str] = (
        told() if told else {"title": "That did not work.", "detail": f"{type(error).__name__}: {error}"}
    )
    return found
