"""What may be asked, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIStatusError, OpenAI

from core import Lab
from core.serve.faults import Refusal
from core.serve.requests import Wanted, read_chat, read_completion
from core.serve.server import ModelServer
from tests.core.serve.conftest import client_of

USER = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "lab", "messages": [USER]}


def read(body: Any, **more: Any) -> Wanted:
    return read_chat(json.dumps({**body, **more}).encode())


def refused(body: Any, **more: Any) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        read(body, **more)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


def test_what_is_asked_reaches_the_model() -> None:
    wanted = read(
        CHAT,
        messages=[
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
            },
            USER,
            {"role": "assistant", "content": "Hello", "refusal": None, "annotations": [], "tool_calls": None},
            {**USER, "name": "Anna"},
        ],
        temperature=1,
        top_p=0.5,
        top_k=3,
        max_tokens=9,
        max_completion_tokens=7,
        stop="\n",
        seed=-1,
        n=2,
        logprobs=True,
        user="somebody",
        frequency_penalty=0.0,
        tools=[],
        response_format={"type": "text"},
        logit_bias=None,
    )
    (prompt,) = wanted.prompts
    assert prompt["messages"] == [
        {"role": "system", "content": "Be\nbrief."},
        USER,
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Hi", "name": "Anna"},
    ]
    assert (prompt["stop"], prompt["logprobs"], prompt["whole"]) == (["\n"], 0, True)
    assert wanted.settings == {"temperature": 1, "top_p": 0.5, "top_k": 3, "max_new_tokens": 7}
    assert (wanted.choices, wanted.seed, wanted.stream, wanted.usage) == (2, 2**63 - 1, False, False)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"frequency_penalty": 0.5}, "unsupported_parameter", "frequency_penalty"),
        ({"logit_bias": {"5": 100}}, "unsupported_parameter", "logit_bias"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"temprature": 0.5}, "unknown_parameter", "temprature"),
        ({"temperature": 2.5}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"temperature": True}, "invalid_type", "temperature"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 5.5}, "invalid_type", "max_tokens"),
        ({"n": 17}, "invalid_value", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"seed": 2**64}, "invalid_value", "seed"),
        ({"stop": ["a"] * 17}, "invalid_value", "stop"),
        ({"stop": ""}, "invalid_value", "stop[0]"),
        ({"stop": 5}, "invalid_type", "stop"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "Hi"}, "invalid_type", "messages"),
        ({"messages": ["Hi"]}, "invalid_type", "messages[0]"),
        ({"messages": [USER, {"role": "user"}]}, "missing_required_parameter", "messages[1].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unsupported_parameter", "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "unsupported_value",
            "messages[0].content",
        ),
        ({"model": 5}, "invalid_type", "model"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(more: dict[str, Any], code: str, param: str) -> None:
    assert refused(CHAT, **more) == (code, param)


def test_bodies_that_are_no_requests_are_refused() -> None:
    for body in (
        b"",
        b"{",
        b"[]",
        b"nul",
        b"\xff\xfe",
        b'{"a": ' * 100_000,
        b"9" * 10_000,
        b'{"model": NaN}',
    ):
        with pytest.raises(Refusal) as caught:
            read_chat(body)
        assert caught.value.status == 400
    for lone in ({"\ud800": 1}, {"messages": [{"role": "user", "content": "\ud800"}]}, {"stop": "a\udfff"}):
        assert refused(CHAT, **lone) == ("invalid_json", None)
    assert read(CHAT, stop="😀").prompts[0]["stop"] == ["😀"]
    assert refused({"messages": [USER]}) == ("missing_required_parameter", "model")
    with pytest.raises(Refusal) as caught:
        read_completion(b'{"model": "lab", "prompt": [1, 2]}')
    assert caught.value.param == "prompt[0]"
    with pytest.raises(Refusal) as caught:
        read_completion(json.dumps({"model": "lab", "prompt": ["a"] * 8, "n": 3}).encode())
    assert caught.value.param == "n"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = """model messages prompt stream stream_options n temperature top_p max_tokens max_completion_tokens stop seed
logprobs top_logprobs tools response_format logit_bias user metadata functions best_of echo suffix"""
FIELDS = st.sampled_from(NAMES.split())
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", 5]),
        "content": ANYTHING,
        "name": ANYTHING,
    },
)
BODY = st.dictionaries(FIELDS, ANYTHING, max_size=5) | st.fixed_dictionaries(
    {
        "model": st.just("lab") | ANYTHING,
        "messages": st.lists(MESSAGE | ANYTHING, max_size=3),
        "prompt": ANYTHING,
    },
    optional={"stop": ANYTHING, "temperature": ANYTHING, "n": ANYTHING},
)


def outcome(form: Callable[[bytes], Wanted], body: bytes) -> Any:
    """What the model would be given, or what the client would be told."""
    try:
        return form(body).prompts
    except Refusal as error:
        return error.as_dict()["error"] if error.status == 400 else error


@given(BODY)
def test_whatever_comes_is_read_or_refused(body: dict[str, Any]) -> None:
    for form in (read_chat, read_completion):
        assert len(json.dumps(outcome(form, json.dumps(body).encode()), allow_nan=False)) < 5000


@pytest.mark.parametrize(
    ("more", "status", "code", "param"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"model": "lab:three"}, 404, "model_not_found", "model"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        (
            {"messages": [{"role": "user", "content": "word " * 2000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        ({"extra_body": {"mirostat": 2}}, 400, "unknown_parameter", "mirostat"),
    ],
)
def test_the_client_gets_the_error_it_knows(
    client: OpenAI, more: dict[str, Any], status: int, code: str, param: str
) -> None:
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(**{**CHAT, **more})
    error = caught.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type in ("invalid_request_error", "not_found_error")
    assert error.request_id is not None
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(**{**CHAT, **more, "stream": True})
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_an_empty_text_is_refused_and_an_empty_message_is_not(client: OpenAI) -> None:
    with pytest.raises(APIStatusError, match="nothing to go on with") as caught:
        client.completions.create(model="lab", prompt="")
    assert caught.value.status_code == 400
    assert client.chat.completions.create(model="lab", messages=[{"role": "user", "content": ""}]).choices


def test_a_templates_own_refusal_is_told(own: Lab) -> None:
    template = (
        "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('Not this') }}{% endif %}"
    )
    template += "{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}assistant: "
    (own.folder.onnx_dir / "chat_template.jinja").write_text(template)
    with ModelServer(own, port=0) as server, client_of(server) as client:
        assert client.chat.completions.create(
            model="lab", messages=[{"role": "user", "content": "yes"}]
        ).choices
        with pytest.raises(APIStatusError) as caught:
            client.chat.completions.create(model="lab", messages=[{"role": "user", "content": "no"}])
    assert caught.value.status_code == 400
    assert "Not this" in caught.value.message
