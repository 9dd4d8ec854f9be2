"""Conversations in one field: `messages` (role, content) and ShareGPT's `conversations` (from, value)."""

from __future__ import annotations

import json
from typing import Any

from core.data.types import Message

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "question": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "answer": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


class BadMessages(ValueError):
    """A field that should hold a conversation and does not; the message says why."""


def _unpacked(value: Any) -> Any:
    """The list in a text, as CSV and Parquet files carry conversations."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def looks_like_messages(value: Any) -> bool:
    """Whether a value has the form of a conversation."""
    value = _unpacked(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return bool(
        {"role", "from", "speaker"} & value[0].keys() and {"content", "value", "text"} & value[0].keys()
    )


def _content(turn: dict[str, Any], number: int) -> str:
    value = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), None)
    if isinstance(value, list):
        parts = [
            part.get("text")
            for part in value
            if isinstance(part, dict) and part.get("type", "text") == "text"
        ]
        if len(parts) < len(value) or not all(isinstance(part, str) for part in parts):
            raise BadMessages(f"turn {number} has parts that are not text")
        value = "".join(str(part) for part in parts)
    if value is None:
        raise BadMessages(f"turn {number} has no content")
    if not isinstance(value, str):
        raise BadMessages(f"the content of turn {number} is not text")
    if not value.strip():
        raise BadMessages(f"turn {number} is empty")
    return value


def as_messages(value: Any) -> tuple[Message, ...]:
    """The conversation in a field, up to its last answer.

    Raises:
        BadMessages: it is no list of turns, a turn is empty or of an unknown role, or nobody answers.
    """
    value = _unpacked(value)
    if not isinstance(value, list):
        raise BadMessages("it is not a list of turns")
    result: list[Message] = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            raise BadMessages(f"turn {number} is not an object with a role and a content")
        said = next((turn[key] for key in ("role", "from", "speaker") if key in turn), None)
        role = ROLES.get(said.lower()) if isinstance(said, str) else None
        if role is None:
            raise BadMessages(f"turn {number} has the unknown role {said!r}")
        result.append(Message(role, _content(turn, number)))
    answers = [index for index, message in enumerate(result) if message.role == "assistant"]
    if not answers:
        raise BadMessages("nobody answers in it")
    if not any(message.role == "user" for message in result[: answers[-1]]):
        raise BadMessages("it has an answer and no question before it")
    return tuple(result[: answers[-1] + 1])
