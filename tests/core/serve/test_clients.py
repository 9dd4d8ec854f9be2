"""The official client, LangChain's and curl read what the server gives; it is what the chat would say."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from core import Lab
from core.chat import ChatSession
from core.serve.server import ModelServer
from tests.core.chat.conftest import Reference
from tests.core.serve.conftest import client_of

WHERE: list[Any] = [{"role": "user", "content": "Where?"}]


def test_an_answer_has_every_field_and_is_the_models(client: OpenAI, reference: Reference) -> None:
    answer = client.chat.completions.create(model="lab", messages=WHERE)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "lab")
    assert answer.created > 1_700_000_000
    assert answer.system_fingerprint is not None
    assert answer._request_id is not None
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert choice.message.role == "assistant"
    assert choice.message.content == reference.greedy(WHERE, 12)
    assert (choice.message.refusal, choice.message.tool_calls) == (None, None)
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens == len(reference.prompt_ids(WHERE))
    assert (usage.completion_tokens, usage.total_tokens) == (12, usage.prompt_tokens + 12)
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_it_says_what_the_chat_says(client: OpenAI, built_llama: Path) -> None:
    with ChatSession(built_llama, adapter="one") as session:
        session.set(max_new_tokens=30)
        said = session.ask("Où?")
        further = session.ask("And?")
    messages: list[Any] = [{"role": "user", "content": "Où?"}]
    answer = client.chat.completions.create(model="lab:one", messages=messages, max_tokens=30)
    assert answer.choices[0].message.content == said.answer
    messages += [answer.choices[0].message, {"role": "user", "content": "And?"}]
    answer = client.chat.completions.create(model="lab:one", messages=messages, max_completion_tokens=30)
    assert answer.choices[0].message.content == further.answer


def test_adapters_are_models(client: OpenAI, reference: Reference) -> None:
    models = client.models.list()
    assert models.object == "list"
    assert [model.id for model in models] == ["lab", "lab:one", "lab:two"]
    one = client.models.retrieve("lab:one")
    assert (one.object, one.owned_by) == ("model", "olivepress")
    for name in ("one", "two"):
        answer = client.chat.completions.create(model=f"lab:{name}", messages=WHERE)
        assert answer.choices[0].message.content == reference.greedy(WHERE, 12, name)


def pieces(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_stream_is_the_same_in_pieces(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="lab", messages=WHERE, max_tokens=40)
    chunks = list(
        client.chat.completions.create(
            model="lab", messages=WHERE, max_tokens=40, stream=True, stream_options={"include_usage": True}
        )
    )
    assert pieces(chunks) == whole.choices[0].message.content
    assert {(chunk.id, chunk.object, chunk.model) for chunk in chunks} == {
        (chunks[0].id, "chat.completion.chunk", "lab")
    }
    *parts, end, usage = chunks
    assert parts[0].choices[0].delta.role == "assistant"
    assert {chunk.choices[0].finish_reason for chunk in parts} == {None}
    assert end.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert usage.usage is not None
    assert whole.usage is not None
    assert usage.usage.total_tokens == whole.usage.total_tokens
    without = list(client.chat.completions.create(model="lab", messages=WHERE, stream=True))
    assert {chunk.usage for chunk in without} == {None}
    assert all(chunk.choices for chunk in without)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(client: OpenAI, stream: bool) -> None:
    def ask(**more: Any) -> tuple[str, str | None]:
        if stream:
            chunks = list(client.chat.completions.create(model="lab", messages=WHERE, stream=True, **more))
            return pieces(chunks), chunks[-1].choices[0].finish_reason
        answer = client.chat.completions.create(model="lab", messages=WHERE, **more)
        return answer.choices[0].message.content or "", answer.choices[0].finish_reason

    whole, _ = ask(max_tokens=40)
    for start, end in ((5, 9), (1, 2), (len(whole) - 3, len(whole))):
        stop = whole[start:end]
        text, why = ask(max_tokens=40, stop=[stop, "never said"])
        assert (text, why) == (whole[: whole.index(stop)], "stop")
    assert ask(max_tokens=40, stop=whole + "more") == (whole, "length")


def test_a_conversation_goes_on_after_a_stop_text(client: OpenAI, reference: Reference) -> None:
    whole = client.chat.completions.create(model="lab", messages=WHERE).choices[0].message.content or ""
    cut = client.chat.completions.create(model="lab", messages=WHERE, stop=whole[4:6])
    talk = [*WHERE, {"role": "assistant", "content": cut.choices[0].message.content}, *WHERE]
    answer = client.chat.completions.create(model="lab", messages=talk)
    assert answer.choices[0].message.content == reference.greedy(talk, 12)


def test_log_probabilities_are_the_models(client: OpenAI, reference: Reference) -> None:
    answer = client.chat.completions.create(
        model="lab", messages=WHERE, logprobs=True, top_logprobs=3, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content
    assert content is not None
    assert len(content) == 12
    said = b"".join(bytes(token.bytes or []) for token in content).decode("utf-8", "replace")
    assert said == answer.choices[0].message.content
    for token in content:
        best = [other.logprob for other in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert len(best) == 3
        assert token.logprob == best[0] <= 0  # greedy
    assert content[0].logprob == pytest.approx(first_log_probability(reference), abs=1e-4)
    chunks = list(
        client.chat.completions.create(model="lab", messages=WHERE, logprobs=True, temperature=0, stream=True)
    )
    streamed = [
        token.logprob
        for chunk in chunks
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    # The second time what is kept of the conversation is not read again: other sums, in another order.
    assert streamed == pytest.approx([token.logprob for token in content], abs=1e-4)
    text = client.completions.create(model="lab", prompt="Where", logprobs=2, max_tokens=5).choices[0]
    assert text.logprobs is not None
    assert text.logprobs.token_logprobs is not None
    assert text.logprobs.top_logprobs is not None
    assert text.logprobs.text_offset is not None
    assert text.logprobs.tokens is not None
    assert len(text.logprobs.tokens) == len(text.logprobs.text_offset) == 5
    for offset, token_text in zip(text.logprobs.text_offset, text.logprobs.tokens, strict=True):
        assert text.text[offset:].startswith(token_text)


def first_log_probability(reference: Reference) -> float:
    """The log probability of the likeliest first token, from the runtime alone."""
    params = reference._og.GeneratorParams(reference._model)
    generator = reference._og.Generator(reference._model, params)
    generator.append_tokens(np.array(reference.prompt_ids(WHERE), dtype=np.int32))
    logits = np.asarray(generator.get_logits(), dtype=np.float64).reshape(-1)
    return float(logits.max() - logits.max() - math.log(np.exp(logits - logits.max()).sum()))


def test_log_probabilities_end_with_the_text_at_a_stop_text(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="lab", messages=WHERE, logprobs=True)
    assert whole.choices[0].logprobs is not None
    tokens = whole.choices[0].logprobs.content or []
    text = whole.choices[0].message.content or ""
    cut = client.chat.completions.create(model="lab", messages=WHERE, logprobs=True, stop=text[-3:])
    assert cut.choices[0].logprobs is not None
    kept = [token.token for token in cut.choices[0].logprobs.content or []]
    assert kept == [token.token for token in tokens][: len(kept)]
    assert 0 < len(kept) < len(tokens)


def test_several_answers_differ_and_a_seed_gives_them_again(client: OpenAI) -> None:
    def ask(**more: Any) -> list[str | None]:
        answer = client.chat.completions.create(model="lab", messages=WHERE, n=3, temperature=1.0, **more)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage is not None
        assert 3 < answer.usage.completion_tokens <= 36
        return [choice.message.content for choice in answer.choices]

    first = ask(seed=-7)
    assert len(set(first)) == 3
    assert ask(seed=-7) == first
    assert ask() != first
    indices = {
        chunk.choices[0].index
        for chunk in client.chat.completions.create(model="lab", messages=WHERE, n=2, stream=True)
    }
    assert indices == {0, 1}


def test_texts_are_gone_on_with_as_they_are(client: OpenAI) -> None:
    both = client.completions.create(
        model="lab", prompt=["Where", "What is"], n=2, temperature=0, max_tokens=6
    )
    assert both.object == "text_completion"
    assert both.id.startswith("cmpl-")
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text != both.choices[2].text
    alone = client.completions.create(model="lab", prompt="What is", max_tokens=6)
    assert alone.choices[0].text == both.choices[2].text
    assert alone.usage is not None
    chunks = list(client.completions.create(model="lab", prompt="What is", max_tokens=6, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    # What looks like a special token is letters.
    special = client.completions.create(model="lab", prompt="<|end|>", max_tokens=1)
    assert special.usage is not None
    assert special.usage.prompt_tokens > 2


def test_what_was_read_is_not_read_again_though_conversations_take_turns(client: OpenAI) -> None:
    talks: list[list[Any]] = [
        [{"role": "user", "content": f"{name} asks for a way through the town, {number}"}]
        for number, name in enumerate(("Anna", "Bert"))
    ]
    for _ in range(3):
        for talk in talks:
            answer = client.chat.completions.create(model="lab", messages=talk)
            talk += [answer.choices[0].message, {"role": "user", "content": "And then?"}]
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached = answer.usage.prompt_tokens_details.cached_tokens or 0
            read = answer.usage.prompt_tokens - cached
            assert read < 60
    assert cached > 60


async def test_the_asynchronous_client(served: ModelServer, reference: Reference) -> None:
    async with AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="lab", messages=WHERE, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == reference.greedy(WHERE, 12)
        answer = await client.chat.completions.create(model="lab", messages=WHERE)
        assert answer.choices[0].message.content == text
        assert [model.id async for model in await client.models.list()] == ["lab", "lab:one", "lab:two"]


def test_langchain(served: ModelServer, reference: Reference) -> None:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI(model="lab:two", base_url=served.url, api_key="none", max_retries=0)  # type: ignore[arg-type]
    expected = reference.greedy(WHERE, 12, "two")
    answer = chat.invoke([("human", "Where?")])
    assert answer.content == expected
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata["finish_reason"] == "length"
    assert "".join(piece.content for piece in chat.stream("Where?")) == expected
    assert [each.content for each in chat.batch(["Where?", "Where?"])] == [expected, expected]


def test_curl(served: ModelServer, reference: Reference) -> None:
    body = json.dumps({"model": "lab", "messages": WHERE})
    url = f"{served.url}/chat/completions"
    done = subprocess.run(["curl", "-sS", url, "-d", body], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == reference.greedy(WHERE, 12)
    body = json.dumps({"model": "lab", "messages": WHERE, "stream": True})
    done = subprocess.run(["curl", "-sSNi", url, "-d", body], capture_output=True, text=True, check=True)
    assert "content-type: text/event-stream" in done.stdout
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_the_labs_system_message_and_settings_hold_where_the_request_says_nothing(
    own: Lab, reference: Reference
) -> None:
    own.set({"chat.system": "Be brief.", "chat.max_new_tokens": 5})
    system = [{"role": "system", "content": "Be brief."}]
    with ModelServer(own, port=0) as server, client_of(server) as client:
        answer = client.chat.completions.create(model="lab", messages=WHERE)
        assert answer.choices[0].message.content == reference.greedy([*system, *WHERE], 5)
        other: list[Any] = [{"role": "developer", "content": "Be long."}, *WHERE]
        answer = client.chat.completions.create(model="lab", messages=other, max_tokens=7)
        other[0] = {"role": "system", "content": "Be long."}
        assert answer.choices[0].message.content == reference.greedy(other, 7)
