"""Conversations in one field, in the forms that they are met in.

`messages` (role, content) with tool calls, thoughts and weights; ShareGPT's `conversations` (from,
value); the same as JSON text, or as one list for each key; two speakers in one text (`Human:`, `Assistant:`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.data.types import Message, Unused
from core.language import told


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_YES = _words(
    """true t yes y 1 1.0 +1 good chosen desirable positive accept accepted approve approved like liked
    up thumbs_up correct right pass 👍 đúng có tốt درست بله خوب 是 好"""
)
_NO = _words(
    """false f no n 0 0.0 -1 -1.0 bad rejected undesirable negative reject dislike disliked down thumbs_down
    incorrect wrong fail 👎 sai không xấu نادرست خیر بد 否 坏"""
)


def verdict(value: Any) -> bool | None:
    """Whether a value says yes (`true`, 1, "good", …) or no (`false`, 0, -1, "bad", …); None: neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return True if value == 1 else False if value in (0, -1) else None
    if isinstance(value, str):
        word = "_".join(value.casefold().split())
        return True if word in _YES else False if word in _NO else None
    return None


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
    "function_call": "assistant",
    "tool_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
_CALLING = ("function_call", "tool_call")
_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text", "parts")
_PAIR_ROLES = {
    **dict.fromkeys(("human", "user", "input", "question", "prompt", "instruction", "query"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "output", "answer", "response"), "assistant"),
    "system": "system",
}
"""Keys of an object that is a question and its answer, perhaps with a system message."""
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_LEARNT_KEYS = ("weight", "train", "training", "loss")
_KNOWN = frozenset(
    (
        *_ROLE_KEYS,
        *_TEXT_KEYS,
        *_REASONING_KEYS,
        *_LEARNT_KEYS,
        "name",
        "tool_calls",
        "function_call",
        "tool_call_id",
    )
)
_PLAIN_KEYS = (frozenset(("role", "content")), frozenset(("from", "value")))
_SPEAKERS = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
_TWO_SPEAKERS = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)


_PRINTED = 1 << 20
"""Characters of a list as Python prints it, up to which it is read: its parser takes a hundred bytes for each."""


class BadMessages(ValueError):
    """A field that should hold a conversation and does not; the message says why."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of a field, and what in them does not reach the model."""

    messages: tuple[Message, ...]
    unused: tuple[Unused, ...] = ()


def type_words(value: Any) -> str:
    """What a value is, in words: "a number", "null", "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return told("true or false")
    if isinstance(value, int | float):
        return told("a number ({value})", value=value) if len(str(value)) < 24 else told("a number")
    names: dict[type, str] = {str: "text", dict: told("an object"), list: told("a list"), bytes: "bytes"}
    return names.get(type(value), told("a value of type {name}", name=type(value).__name__))


def unpacked(value: Any) -> Any:
    """The value in a text, as CSV and Parquet files carry lists and objects; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
        if len(value) > _PRINTED:
            return value
        try:
            return ast.literal_eval(value.strip())  # as Python prints a list into a CSV cell
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def _list_of_turns(value: Any) -> Any:
    """A conversation as a list of objects, whatever it was; a value that is none as it is.

    It may be that list, an object with `messages`, one turn, lists of roles and of contents, or two speakers
    in a text.
    """
    if isinstance(value, str) and _TWO_SPEAKERS.match(value):
        parts = _SPEAKERS.split(value)
        return [
            {"from": who.lower(), "value": said.strip()}
            for who, said in zip(parts[1::2], parts[2::2], strict=True)
        ]
    value = unpacked(value)
    if is_paired(value):
        return _turns_of_pairs(value)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("messages"), list):
        return value["messages"]
    if not value.keys().isdisjoint(_ROLE_KEYS) and all(
        isinstance(value.get(key, ""), str) for key in _ROLE_KEYS
    ):
        return [value]
    if value and all(isinstance(each, list) for each in value.values()):
        lengths = {len(each) for each in value.values()}
        if len(lengths) == 1 and not {*_ROLE_KEYS}.isdisjoint(value):
            return [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    return value


def is_paired(value: Any) -> bool:
    """Whether a value is a list of objects with a question and its answer each, and nothing else."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict) or "role" in value[0]:
        return False
    for each in value:
        if not isinstance(each, dict):
            return False
        roles = [_PAIR_ROLES.get(key, "") for key, said in each.items() if there(said)]
        if sorted(roles) not in (["assistant", "user"], ["assistant", "system", "user"]):
            return False
    return True


def _turns_of_pairs(value: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    order = ("system", "user", "assistant")
    return [
        {"role": role, "content": said}
        for pair in value
        for role in order
        for key, said in pair.items()
        if _PAIR_ROLES[key] == role and there(said)
    ]


def looks_like_messages(value: Any) -> bool:
    """Whether a value has the form of a conversation."""
    value = _list_of_turns(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    keys = value[0].keys()
    return not keys.isdisjoint(_ROLE_KEYS) and not keys.isdisjoint((*_TEXT_KEYS, "tool_calls"))


def _parts(value: list[Any], number: int) -> tuple[str, str]:
    """The text and the thoughts in a content of parts."""
    texts, thoughts = [], []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = type_words(part)
        if isinstance(part, dict):
            kind = part.get("type") or ("text" if "text" in part else next(iter(part), "nothing"))
        if kind == "thinking" and isinstance(part.get("thinking"), str):
            thoughts.append(part["thinking"])
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and "text" in str(kind):
            texts.append(part["text"])
        else:
            raise BadMessages(
                told("turn {number} has a part that is not text ({kind})", number=number, kind=kind)
            )
    return "".join(texts), "\n".join(thoughts)


def _content(turn: Mapping[str, Any], number: int, role: str, calls: bool) -> tuple[str, str]:
    """The text of a turn, and thoughts that stand among its parts."""
    key = next((key for key in _TEXT_KEYS if turn.get(key) is not None), "")
    if not key:
        if calls:
            return "", ""
        key = next((key for key in _TEXT_KEYS if key in turn), "")
        if not key:
            there = ", ".join(map(repr, turn))
            raise BadMessages(
                told(
                    "turn {number} ({role}) has no content; its keys are {there}",
                    number=number,
                    role=role,
                    there=there,
                )
            )
        more = told(", and it calls no tool") if role == "assistant" else ""
        raise BadMessages(
            told(
                "the {key} of turn {number} ({role}) is null{more}",
                key=key,
                number=number,
                role=role,
                more=more,
            )
        )
    value, thoughts = turn[key], ""
    if isinstance(value, list):
        value, thoughts = _parts(value, number)
    if not isinstance(value, str):
        raise BadMessages(
            told(
                "the {key} of turn {number} ({role}) is {type_words}, not text",
                key=key,
                number=number,
                role=role,
                type_words=type_words(value),
            )
        )
    if not value.strip() and not calls and role not in ("system", "tool"):
        raise BadMessages(told("turn {number} ({role}) is empty", number=number, role=role))
    return value, thoughts


def as_call(call: Any, number: int) -> tuple[dict[str, Any], list[str]]:
    """A tool call in OpenAI's form with its arguments as an object, and the keys that are not in it.

    Raises:
        BadMessages: it names no function, or its arguments are no object.
    """
    call = unpacked(call)
    function = call.get("function") if isinstance(call, dict) else None
    inner = function if isinstance(function, dict) else call
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise BadMessages(told("a tool call in turn {number} names no function", number=number))
    given = next((inner[key] for key in ("arguments", "parameters") if inner.get(key) is not None), None)
    arguments = unpacked(given)
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadMessages(
            told(
                "the arguments of {name} in turn {number} are no JSON object",
                name=repr(inner["name"]),
                number=number,
            )
        )
    result: dict[str, Any] = {"type": "function"}
    if call.get("id"):
        result["id"] = call["id"]
    result["function"] = {"name": inner["name"], "arguments": arguments}
    known = ("type", "id", "name", "arguments", "parameters", "function", "index")
    left = {**call, **inner}
    return result, [str(name) for name, value in left.items() if name not in known and there(value)]


def there(value: Any) -> bool:
    """Whether a value says anything: not null, no empty text, list or object."""
    return value is not None and value not in ("", [], {})


def _calls(
    turn: Mapping[str, Any], number: int, said: str, unused: list[Unused]
) -> tuple[dict[str, Any], ...]:
    if said in _CALLING:
        found = unpacked(next((turn[key] for key in _TEXT_KEYS if turn.get(key) is not None), None))
        found = found if isinstance(found, list) else [found]
    else:
        found = unpacked(turn.get("tool_calls"))
        if not there(found):
            legacy = turn.get("function_call")
            found = [legacy] if there(legacy) else []
        if not isinstance(found, list):
            raise BadMessages(
                told(
                    "the tool_calls of turn {number} are {type_words}, not a list",
                    number=number,
                    type_words=type_words(found),
                )
            )
    result = []
    for each in found:
        call, left = as_call(each, number)
        unused += [Unused("key", f"tool_calls.{name}") for name in left]
        result.append(call)
    return tuple(result)


def _learnt(turn: Mapping[str, Any], number: int, role: str, unused: list[Unused]) -> bool:
    """Whether a turn is to be learnt, by its weight or mark."""
    result = True
    for key in _LEARNT_KEYS:
        value = turn.get(key)
        if value is None:
            continue
        found = verdict(value)
        if found is None or value == -1:
            raise BadMessages(
                told(
                    "the {key} of turn {number} is {value}; it can be 0 or 1 (false or true)",
                    key=key,
                    number=number,
                    value=repr(value),
                )
            )
        if role == "assistant":
            result = result and found
        elif found and key != "weight":
            unused.append(Unused("key", f"{key} of a turn that is not the assistant's"))
    return result


def _turn(turn: Any, number: int, unused: list[Unused]) -> Message | None:
    """One turn; None for a system's turn that says nothing."""
    if not isinstance(turn, dict):
        raise BadMessages(
            told(
                "turn {number} is {type_words}, not an object with a role and a content",
                number=number,
                type_words=type_words(turn),
            )
        )
    key = next((key for key in _ROLE_KEYS if turn.get(key) is not None), "")
    if not key:
        there_are = ", ".join(map(repr, turn)) or "none"
        raise BadMessages(
            told("turn {number} has no role; its keys are {there_are}", number=number, there_are=there_are)
        )
    said = turn[key].strip().lower() if isinstance(turn[key], str) else ""
    role = ROLES.get(said)
    if role is None:
        known = told("system, user, assistant, tool, and the usual other names of these")
        raise BadMessages(
            told(
                "turn {number} has the unknown role {turn}; known are {known}",
                number=number,
                turn=repr(turn[key]),
                known=known,
            )
        )
    if turn.keys() in _PLAIN_KEYS and said not in _CALLING:
        content, thoughts = _content(turn, number, role, False)
        return Message(role, content, reasoning=thoughts) if content or role != "system" else None
    calls = _calls(turn, number, said, unused) if role == "assistant" else ()
    content, thoughts = ("", "") if said in _CALLING else _content(turn, number, role, bool(calls))
    if role == "system" and not content:
        return None
    reasoning = next((turn[key] for key in _REASONING_KEYS if there(turn.get(key))), thoughts)
    if not isinstance(reasoning, str):
        raise BadMessages(
            told(
                "the thoughts of turn {number} are {type_words}, not text",
                number=number,
                type_words=type_words(reasoning),
            )
        )
    for same in (_ROLE_KEYS, _TEXT_KEYS, _REASONING_KEYS):  # of several keys for one thing the first is read
        unused += [Unused("key", key) for key in [key for key in same if there(turn.get(key))][1:]]
    for name, value in turn.items():
        misplaced = name in ("tool_calls", "function_call") and role != "assistant"
        if (name not in _KNOWN or misplaced) and there(value):
            unused.append(Unused("key", str(name)))
    if reasoning and role != "assistant":
        unused.append(Unused("key", "thoughts of a turn that is not the assistant's"))
        reasoning = ""
    name, answers = turn.get("name"), turn.get("tool_call_id")
    if there(name) and not isinstance(name, str):
        unused.append(Unused("key", "name"))
        name = ""
    return Message(
        role,
        content,
        name or "",
        reasoning,
        calls,
        str(answers) if there(answers) else "",
        _learnt(turn, number, role, unused),
    )


def as_turns(value: Any) -> Turns:
    """The turns in a field, whoever speaks first and last.

    Raises:
        BadMessages: it is no list of turns, or a turn is empty, of an unknown role or otherwise unusable.
    """
    unused: list[Unused] = []
    whole, value = value, _list_of_turns(value)
    if not isinstance(value, list):
        raise BadMessages(told("it is {type_words}, not a list of turns", type_words=type_words(value)))
    if not value:
        raise BadMessages(told("it is a list without a turn"))
    if isinstance(whole, dict) and "messages" in whole:
        unused += [
            Unused("key", str(name)) for name, more in whole.items() if name != "messages" and there(more)
        ]
    found = (_turn(turn, number, unused) for number, turn in enumerate(value, 1))
    return Turns(tuple(message for message in found if message is not None), tuple(unused))


def conversation(turns: Turns) -> Turns:
    """The turns up to the last answer; what comes behind it is not used.

    Raises:
        BadMessages: nobody answers, or nobody asks before the answer.
    """
    messages = turns.messages
    last = next(
        (index for index in range(len(messages) - 1, -1, -1) if messages[index].role == "assistant"), -1
    )
    if last < 0:
        raise BadMessages(told("nobody answers in it: it has no turn of the assistant"))
    if not any(message.role == "user" for message in messages[:last]):
        raise BadMessages(told("it has an answer and no question before it"))
    if last == len(messages) - 1:
        return turns
    cut = tuple(Unused("turn", message.role) for message in messages[last + 1 :])
    return Turns(messages[: last + 1], (*turns.unused, *cut))


def shown_only(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, none of them learnt."""
    return tuple(replace(each, learnt=False) if each.role == "assistant" else each for each in messages)


def as_history(value: Any) -> Turns:
    """Earlier turns beside a question: a list of turns, or of pairs of a question and its answer.

    Raises:
        BadMessages: it is neither.
    """
    value = unpacked(value)
    if not isinstance(value, list):
        raise BadMessages(
            told("it is {type_words}, not a list of earlier turns", type_words=type_words(value))
        )
    if value and isinstance(value[0], dict):
        return as_turns(value)
    messages: list[Message] = []
    for number, pair in enumerate(value, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadMessages(
                told("its element {number} is no pair of a question and an answer", number=number)
            )
        for role, text in zip(("user", "assistant"), pair, strict=True):
            if not isinstance(text, str) or not text.strip():
                what = "empty" if isinstance(text, str) else type_words(text)
                raise BadMessages(
                    told(
                        "in its pair {number} the {role}'s text is {what}",
                        number=number,
                        role=role,
                        what=what,
                    )
                )
            messages.append(Message(role, text))
    return Turns(tuple(messages))


def as_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """The tools that a row offers, in OpenAI's form.

    Raises:
        BadMessages: it is no list of descriptions.
    """
    value = unpacked(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise BadMessages(told("it is {type_words}, not a list of tools", type_words=type_words(value)))
    result: list[dict[str, Any]] = []
    for number, each in enumerate(value, 1):
        tool = unpacked(each)
        if not isinstance(tool, dict):
            raise BadMessages(
                told(
                    "its tool {number} is {type_words}, not an object",
                    number=number,
                    type_words=type_words(tool),
                )
            )
        bare = "name" in tool and "function" not in tool
        result.append({"type": "function", "function": tool} if bare else tool)
    return tuple(result)
