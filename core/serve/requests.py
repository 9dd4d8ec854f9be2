"""What clients ask for, in OpenAI's form, read strictly: what cannot be done is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from core.serve.faults import Refusal

MOST_CHOICES = 16
_STOPS = 16
_STOP_CHARACTERS = 256

_NO_EFFECT = {
    "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "parallel_tool_calls",
}  # fmt: skip
"""Fields that are for OpenAI's own bookkeeping, or that say how tools are called where there are none."""

_ONLY: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "audio": (),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""Fields that OpenAI knows and this server does not: the values at which they ask for nothing."""


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    Attributes:
        chat: whether it came as a chat; else as a text to go on with.
        model: who is to answer, as the client named it.
        prompts: for :class:`core.chat.protocol.Ask`, without the adapter.
        choices: how many answers to each prompt.
        settings: what it says of the sampling; the rest is as the lab has it.
        seed: None for one drawn by lot.
        stream: the answer is wanted in pieces, and with ``usage`` the numbers behind them.
    """

    chat: bool
    model: str
    prompts: tuple[dict[str, Any], ...]
    choices: int
    settings: dict[str, Any]
    seed: int | None
    stream: bool
    usage: bool


def _text_of(content: Any) -> Any:
    """Content that is a list of parts as one text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            told = kind if isinstance(kind, str) else "no known type"
            raise PydanticCustomError(
                "unsupported", "only parts of type 'text' can be read, not {kind}", {"kind": repr(told[:40])}
            )
        texts.append(text)
    return "\n".join(texts)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of)]
    name: str = ""
    reasoning_content: str = ""


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


_Stop = Annotated[str, Field(min_length=1, max_length=_STOP_CHARACTERS)]


class _Common(_Strict):
    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, le=100_000)
    repetition_penalty: float | None = Field(None, ge=0.1, le=5)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[_Stop], BeforeValidator(_as_list), Field(max_length=_STOPS)] = []


class _Chat(_Common):
    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)


class _Completion(_Common):
    prompt: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_CHOICES)]
    logprobs: int | None = Field(None, ge=0, le=20)


Kind = TypeVar("Kind", bound=_Common)


def read_chat(body: bytes) -> Wanted:
    """A body of ``POST /v1/chat/completions``. Raises Refusal, which names the field."""
    found = _checked(_Chat, body)
    if found.top_logprobs is not None and not found.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs: true.", "invalid_value", param="top_logprobs")
    prompt: dict[str, Any] = {"messages": [_message(turn) for turn in found.messages]}
    if found.logprobs:
        prompt["logprobs"] = found.top_logprobs or 0
    return _wanted(found, True, [prompt], found.max_completion_tokens or found.max_tokens)


def read_completion(body: bytes) -> Wanted:
    """A body of ``POST /v1/completions``. Raises Refusal, which names the field."""
    found = _checked(_Completion, body)
    prompts: list[dict[str, Any]] = [{"text": text} for text in found.prompt]
    if len(prompts) * found.n > MOST_CHOICES:
        raise Refusal(
            400,
            f"Prompts times n is more than {MOST_CHOICES}: ask in several requests.",
            "invalid_value",
            param="n",
        )
    if found.logprobs is not None:
        prompts = [{**prompt, "logprobs": found.logprobs} for prompt in prompts]
    return _wanted(found, False, prompts, found.max_tokens)


def _message(turn: _Message) -> dict[str, Any]:
    role = "system" if turn.role == "developer" else turn.role
    more = {"name": turn.name, "reasoning_content": turn.reasoning_content}
    return {"role": role, "content": turn.content, **{key: value for key, value in more.items() if value}}


def _wanted(found: _Common, chat: bool, prompts: Sequence[dict[str, Any]], longest: int | None) -> Wanted:
    if found.stream_options is not None and not found.stream:
        raise Refusal(400, "stream_options needs stream: true.", "invalid_value", param="stream_options")
    shared = {"stop": found.stop, "whole": True}
    given = {
        "temperature": found.temperature,
        "top_p": found.top_p,
        "top_k": found.top_k,
        "repetition_penalty": found.repetition_penalty,
        "max_new_tokens": longest,
    }
    return Wanted(
        chat=chat,
        model=found.model,
        prompts=tuple({**prompt, **shared} for prompt in prompts),
        choices=found.n,
        settings={key: value for key, value in given.items() if value is not None},
        seed=None if found.seed is None else found.seed % 2**63,
        stream=found.stream,
        usage=found.stream_options is not None and found.stream_options.include_usage,
    )


def _checked(kind: type[Kind], body: bytes) -> Kind:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise Refusal(400, f"The body is not JSON: {why}.", "invalid_json") from None
    if not isinstance(data, dict):
        raise Refusal(400, "The body must be a JSON object.", "invalid_json")
    if b"\\u" in body and not _writable(data):
        raise Refusal(400, "The body has half of a surrogate pair, which is no character.", "invalid_json")
    try:
        return kind.model_validate(_asked(kind, data))
    except ValidationError as error:
        raise _refusal(error) from None


def _writable(data: Any) -> bool:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _asked(kind: type[_Common], data: dict[str, Any]) -> dict[str, Any]:
    """The fields that ask for something: without those that are null or have no effect here."""
    asked = {}
    for name, value in data.items():
        if value is None or name in _NO_EFFECT:
            continue
        if name in _ONLY and name not in kind.model_fields:
            if value not in _ONLY[name]:
                raise Refusal(
                    400, f"This server does not support {name}.", "unsupported_parameter", param=name
                )
            continue
        asked[name] = value
    if isinstance(asked.get("messages"), list):
        asked["messages"] = [_turn_asked(place, turn) for place, turn in enumerate(asked["messages"])]
    return asked


def _turn_asked(place: int, turn: Any) -> Any:
    """A message without what says nothing: answers are sent back with fields that are empty."""
    if not isinstance(turn, dict):
        return turn
    role = turn.get("role")
    if role in ("tool", "function") or turn.get("tool_calls") or turn.get("function_call"):
        raise Refusal(
            400,
            "This server does not support tool calls.",
            "unsupported_parameter",
            param=f"messages[{place}]",
        )
    return {
        key: value for key, value in turn.items() if value is not None and (value != [] or key == "content")
    }


_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported": "unsupported_value",
}


def _refusal(error: ValidationError) -> Refusal:
    """The first of the faults, in OpenAI's words where it has some."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ""
    for part in first["loc"]:
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else part
    kind = first["type"]
    code = _CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value")
    param = param[:100]
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
    elif kind == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}"
    else:
        message = f"Invalid value for '{param}': {first['msg'][:300]}."
    return Refusal(400, message, code, param=param or None)
