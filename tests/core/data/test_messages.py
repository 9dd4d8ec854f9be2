"""Turns of conversations: every key is used or named as not used, and what is wrong is said as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.messages import (
    BadMessages,
    as_history,
    as_tools,
    as_turns,
    conversation,
    looks_like_messages,
    verdict,
)
from core.data.types import Unused

CALL = {"id": "c1", "type": "function", "function": {"name": "rain", "arguments": '{"town": 1}'}}
WANTED = {"type": "function", "id": "c1", "function": {"name": "rain", "arguments": {"town": 1}}}


def ask(text: str = "Rain?") -> dict[str, Any]:
    return {"role": "user", "content": text}


def say(text: str | None = "Yes.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


@pytest.mark.parametrize(
    "turn",
    [
        say(None, tool_calls=[CALL]),
        say("", tool_calls=json.dumps([CALL])),
        {"role": "assistant", "tool_calls": [CALL]},
        say(None, tool_calls=[{"id": "c1", "name": "rain", "arguments": {"town": 1}}]),
    ],
)
def test_a_turn_may_be_a_tool_call_alone(turn: dict[str, Any]) -> None:
    found = as_turns([ask(), turn, {"role": "tool", "tool_call_id": "c1", "content": "wet"}, say()])
    assert found.unused == ()
    assert found.messages[1].content == ""
    assert found.messages[1].tool_calls == (WANTED,)
    assert found.messages[2].tool_call_id == "c1"
    assert conversation(found) == found


@pytest.mark.parametrize(
    "turn",
    [
        say(None, function_call={"name": "rain", "arguments": '{"town": 1}'}),
        {"from": "function_call", "value": '{"name": "rain", "arguments": {"town": 1}}'},
    ],
)
def test_older_forms_of_calls(turn: dict[str, Any]) -> None:
    call = as_turns([ask(), turn]).messages[1].tool_calls[0]
    assert call["function"] == WANTED["function"]


def test_parts_names_and_thoughts() -> None:
    found = as_turns(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "Ada", "content": [{"type": "text", "text": "Rain"}, {"text": "?"}]},
            say("Yes.", reasoning_content="Clouds."),
            say([{"type": "thinking", "thinking": "Sun."}, {"type": "text", "text": "No."}]),  # type: ignore[arg-type]
        ]
    )
    system, user, first, second = found.messages
    assert (system.role, user.content, user.name) == ("system", "Rain?", "Ada")
    assert (first.reasoning, second.reasoning, second.content) == ("Clouds.", "Sun.", "No.")


@pytest.mark.parametrize("key", ["weight", "train", "training", "loss"])
@pytest.mark.parametrize(
    ("value", "learnt"), [(0, False), (1, True), (False, False), ("true", True), (0.0, False)]
)
def test_weights_say_what_is_learnt(key: str, value: Any, learnt: bool) -> None:
    assert [message.learnt for message in as_turns([ask(), say(**{key: value})]).messages] == [True, learnt]


def test_what_comes_behind_the_last_answer_is_not_used() -> None:
    found = conversation(as_turns([ask(), say(), ask("And now?")]))
    assert [message.content for message in found.messages] == ["Rain?", "Yes."]
    assert found.unused == (Unused("turn", "user"),)


def test_a_system_turn_without_words_is_none() -> None:
    assert [each.role for each in as_turns([{"role": "system", "content": ""}, ask(), say()]).messages] == [
        "user",
        "assistant",
    ]


WRONG: list[tuple[Any, str]] = [
    ([ask(), say(None)], r"content of turn 2 \(assistant\) is null, and it calls no tool"),
    ([{"role": "user"}, say()], r"turn 1 \(user\) has no content; its keys are 'role'"),
    ([ask(""), say()], r"turn 1 \(user\) is empty"),
    ([ask(5), say()], r"content of turn 1 \(user\) is a number \(5\), not text"),  # type: ignore[arg-type]
    ([ask({"a": 1}), say()], "is an object, not text"),  # type: ignore[arg-type]
    ([{"role": "narrator", "content": "x"}], r"unknown role 'narrator'; known are system, user, assistant"),
    ([{"content": "x"}], "turn 1 has no role; its keys are 'content'"),
    (["x"], "turn 1 is text, not an object"),
    ("hello", "it is text, not a list of turns"),
    ([], "a list without a turn"),
    ([ask([{"type": "image_url", "image_url": {}}]), say()], r"part that is not text \(image_url\)"),  # type: ignore[arg-type]
    ([ask(), say(weight=0.5)], "weight of turn 2 is 0.5; it can be 0 or 1"),
    ([ask(), say(None, tool_calls=[{"function": {}}])], "a tool call in turn 2 names no function"),
    (
        [ask(), say(None, tool_calls=[{"function": {"name": "f", "arguments": "{broken"}}])],
        "arguments of 'f' in turn 2 are no JSON object",
    ),
    ([ask()], "nobody answers in it: it has no turn of the assistant"),
    ([say()], "an answer and no question"),
]


@pytest.mark.parametrize(("value", "words"), WRONG)
def test_what_is_wrong_is_said(value: Any, words: str) -> None:
    with pytest.raises(BadMessages, match=words):
        conversation(as_turns(value))


FORMS: list[Any] = [
    [{"from": "human", "value": "Rain?"}, {"from": "gpt", "value": "Yes."}],
    json.dumps([ask(), say()]),
    str([ask(), say()]),
    {"role": ["user", "assistant"], "content": ["Rain?", "Yes."]},
    "\n\nHuman: Rain?\n\nAssistant: Yes.",
]


@pytest.mark.parametrize("value", FORMS)
def test_other_forms_of_the_same_conversation(value: Any) -> None:
    assert looks_like_messages(value)
    assert as_turns(value) == as_turns([ask(), say()])


def test_two_speakers_in_one_text() -> None:
    text = "\n\nHuman: One?\nTwo lines.\n\nAssistant: A.\n\nHuman: B?\n\nAssistant: C: d."
    assert [(each.role, each.content) for each in as_turns(text).messages] == [
        ("user", "One?\nTwo lines."),
        ("assistant", "A."),
        ("user", "B?"),
        ("assistant", "C: d."),
    ]
    assert not looks_like_messages("Human: alone")


def test_histories_are_pairs_or_turns() -> None:
    assert as_history([["Rain?", "Yes."]]) == as_history([ask(), say()]) == as_turns([ask(), say()])
    assert as_history("[]").messages == ()
    with pytest.raises(BadMessages, match="in its pair 1 the assistant's text is null"):
        as_history([["Rain?", None]])
    with pytest.raises(BadMessages, match="no pair"):
        as_history(["Rain?"])


def test_tools_come_in_openais_form() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert (
        as_tools([tool])
        == as_tools(json.dumps([tool["function"]]))
        == as_tools([json.dumps(tool)])
        == (tool,)
    )
    with pytest.raises(BadMessages, match="is text, not a list of tools"):
        as_tools("weather")


texts = st.text(min_size=1, max_size=12).filter(str.strip)
keys = st.sampled_from(
    "name role_name tool_call_id reasoning_content weight train id emotion tool_calls text value speaker lang".split()  # noqa: SIM905
)
values = st.one_of(st.none(), texts, st.integers(0, 1), st.booleans(), st.just([CALL]), st.just([]))
turns = st.builds(
    lambda role, content, more: {**more, "role": role, "content": content},
    st.sampled_from(["user", "assistant", "system", "tool"]),
    texts,
    st.dictionaries(keys, values, max_size=4),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(turns, min_size=1, max_size=5))
def test_every_key_of_a_turn_is_used_or_named(given_turns: list[dict[str, Any]]) -> None:
    """Or the conversation is refused, in words."""
    try:
        found = as_turns(given_turns)
    except BadMessages:
        return
    assert [each.content for each in found.messages] == [turn["content"] for turn in given_turns]
    named = {each.name.split(" ")[0] for each in found.unused if each.what == "key"}
    for turn, message in zip(given_turns, found.messages, strict=True):
        answers = turn["role"] == "assistant"
        used = {
            "role": True,
            "content": True,
            "name": turn.get("name") == message.name,
            "tool_call_id": str(turn.get("tool_call_id")) == message.tool_call_id,
            "reasoning_content": turn.get("reasoning_content") == message.reasoning or "thoughts" in named,
            "tool_calls": bool(message.tool_calls),
            "weight": not answers or not message.learnt or bool(turn.get("weight")),
            "train": not message.learnt or bool(turn.get("train"))
            if answers
            else verdict(turn.get("train")) is False,
        }
        assert all(
            used.get(key) or key in named for key, value in turn.items() if value not in (None, "", [])
        )
    conversation_of = [each.role for each in found.messages]
    try:
        kept_turns = conversation(found)
    except BadMessages:
        return
    cut = [each.name for each in kept_turns.unused if each.what == "turn"]
    assert [each.role for each in kept_turns.messages] + cut == conversation_of
