"""The lines between a chat and its worker."""

from __future__ import annotations

import pytest

from core.chat.connection import raised
from core.chat.protocol import (
    Ask,
    Done,
    Error,
    Load,
    Message,
    ProtocolError,
    Ready,
    Stop,
    Token,
    decode,
    encode,
)

MESSAGES: list[Message] = [
    Load(1, "/models/onnx", 2048, "{prompt}{response}", "travel"),
    Ask(2, [{"adapter": "", "messages": [{"role": "user", "content": "¿Qué?"}]}], {"temperature": 0.5}),
    Stop(3),
    Ready(4, "phi3", 4096, 131072, ["travel"], {"old": "rank"}, 1.25, ["a note"]),
    Token(5, "travel", "日本 \x1b[31m שלום\n"),
    Token(5, "", "half a pair: \ud83d"),
    Done(6, "", "text", 10, 20, 9, 0.01, 34.5, "end"),
    Error(7, "request", "No.", fatal=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: item.type)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode(line) == message


def test_fields_of_a_newer_version_are_left_aside() -> None:
    assert decode(b'{"type":"stop","id":4,"why":"tired"}') == Stop(4)


@pytest.mark.parametrize(
    "line",
    [b"", b"onnxruntime says hello", b"[1]", b'{"type":"shout","id":1}', b'{"type":"token","id":1}',
     b'{"type":"token","id":"1","lane":"","text":""}', b'{"type":"ask","id":1,"lanes":{},"settings":{}}'],
)  # fmt: skip
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)


@pytest.mark.parametrize("kind", ["request", "machine", "model", "died"])
def test_the_code_of_an_error_crosses_the_pipe(kind: str) -> None:
    error = decode(encode(Error(1, kind, "words", code="area.kind")))
    assert isinstance(error, Error)
    assert raised(error).code == "area.kind"
