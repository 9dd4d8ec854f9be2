"""The lines between a chat and its worker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.chat.model_process import _chat_error
from core.chat.protocol import (
    Ask,
    ChatError,
    Done,
    Load,
    Notice,
    ProtocolError,
    ProtocolMessage,
    Ready,
    SetAdapter,
    Token,
    from_wire,
    to_wire,
)
from core.errors import LabError, StageError

MESSAGES: list[ProtocolMessage] = [
    Load("/models/onnx", 2048, "{prompt}{response}", "travel"),
    Ask([{"adapter": "", "messages": [{"role": "user", "content": "¿Qué?"}]}], {"temperature": 0.5}),
    Ready("phi3", 4096, 131072, ["travel"], {"old": "rank"}, 1.25, ["a note"]),
    Token("travel", "日本 \x1b[31m שלום\n"),
    Token("", "half a pair: \ud83d"),
    Notice("mind"),
    Done("", "text", 10, 20, 9, 0.01, 34.5, "end"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: item.type)
def test_a_message_comes_back_as_it_was(message: ProtocolMessage) -> None:
    assert from_wire(json.loads(json.dumps(to_wire(message)))) == message


def test_fields_of_a_newer_version_are_left_aside() -> None:
    assert from_wire({"type": "set_adapter", "adapter": "x", "why": "tired"}) == SetAdapter("x")


@pytest.mark.parametrize(
    "data",
    [{}, {"type": 7}, {"type": "shout"}, {"type": "token"}, {"type": "token", "adapter": "", "text": 1},
     {"type": "ask", "prompts": {}, "settings": {}}],
)  # fmt: skip
def test_other_objects_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        from_wire(data)


@pytest.mark.parametrize("code", ["process.died", "process.closed", "area.kind"])
def test_a_failure_of_the_process_says_whether_it_can_be_started_again(code: str) -> None:
    found = _chat_error(StageError("words", code=code))
    assert isinstance(found, ChatError)
    assert (found.code, found.died) == (code, code.startswith("process"))
    assert _chat_error(LabError("other", code=code)).code == code
