"""Answers in OpenAI's form: whole, and in pieces."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from core.chat.protocol import Done

ENDED = {"end": "stop", "text": "stop", "length": "length", "cancelled": "length"}
"""Why an answer ended. One that was cancelled is told only where its time was over: it is cut, as by its length."""

_LEAST = -9999.0
"""For a log probability that JSON has no number for."""


@dataclass
class Usage:
    """What the answers took.

    Attributes:
        prompt: tokens of the prompts; ``cached`` of them were in memory from before.
        answer: tokens of the answers.
    """

    prompt: int = 0
    cached: int = 0
    answer: int = 0

    def add(self, done: Done, first: bool) -> None:
        """Count an answer; the prompt counts with its ``first`` answer."""
        if first:
            prompt = done.context_tokens - done.new_tokens
            self.prompt += prompt
            self.cached += max(0, prompt - done.prompt_tokens)
        self.answer += done.new_tokens

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


@dataclass
class _Choice:
    """One answer so far."""

    logprobs: bool
    begun: bool = False
    text: str = ""
    tokens: list[Any] = field(default_factory=list)
    finish: str | None = None


class Reply:
    """The answer to one request, as it grows.

    Attributes:
        usage: what it took so far.
        fingerprint: changes with the model; known when the answer begins.
    """

    def __init__(self, chat: bool, model: str, logprobs: list[bool]) -> None:
        """``logprobs``: whether each of the choices is told with its tokens' probabilities."""
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._choices = [_Choice(each) for each in logprobs]
        self.usage = Usage()
        self.fingerprint = ""

    @property
    def begun(self) -> bool:
        """Whether anything came yet."""
        return any(choice.begun or choice.finish for choice in self._choices)

    def add(self, index: int, text: str, tokens: list[Any]) -> dict[str, Any]:
        """Take a piece of a choice; returns it as a choice of a chunk."""
        choice = self._choices[index]
        found = self._choice(index, tokens, len(choice.text), None) | self._delta(choice, text)
        choice.begun = True
        choice.text += text
        choice.tokens += tokens
        return found

    def end(self, index: int, done: Done, first: bool) -> dict[str, Any]:
        """Take the end of a choice, the ``first`` to its prompt or another; returns it as a choice of a chunk."""
        choice = self._choices[index]
        choice.finish = ENDED[done.stop]
        self.usage.add(done, first)
        found = {"index": index, "finish_reason": choice.finish, "logprobs": None}
        return found | ({"delta": {}} if self._chat and choice.begun else self._delta(choice, ""))

    def _delta(self, choice: _Choice, text: str) -> dict[str, Any]:
        if not self._chat:
            return {"text": text}
        return {"delta": {"content": text} if choice.begun else {"role": "assistant", "content": text}}

    def chunk(self, choices: list[dict[str, Any]], usage: bool, last: bool = False) -> dict[str, Any]:
        """A piece of the answer; where usage was asked for every one has the field, and the last one the numbers."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        found = self._object(kind, choices)
        return {**found, "usage": self.usage.as_dict() if last else None} if usage else found

    def whole(self) -> dict[str, Any]:
        """The answer at once."""
        choices = []
        for index, each in enumerate(self._choices):
            message = {"message": {"role": "assistant", "content": each.text, "refusal": None}}
            found = self._choice(index, each.tokens, 0, each.finish)
            choices.append(found | (message if self._chat else {"text": each.text}))
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._object(kind, choices), "usage": self.usage.as_dict()}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "system_fingerprint": self.fingerprint, "choices": choices}

    def _choice(self, index: int, tokens: list[Any], at: int, finish: str | None) -> dict[str, Any]:
        logprobs = None
        if self._choices[index].logprobs:
            logprobs = _of_chat(tokens) if self._chat else _of_text(tokens, at)
        return {"index": index, "finish_reason": finish, "logprobs": logprobs}


def _of_chat(tokens: list[Any]) -> dict[str, Any]:
    """The probabilities of tokens as chats have them."""

    def told(data: list[int], value: float) -> dict[str, Any]:
        return {"token": _token(data), "logprob": max(value, _LEAST), "bytes": data}

    content = [
        {**told(data, value), "top_logprobs": [told(*other) for other in others]}
        for data, value, others in tokens
    ]
    return {"content": content, "refusal": None}


def _of_text(tokens: list[Any], at: int) -> dict[str, Any]:
    """The probabilities of tokens as text completions have them; ``at`` is where in the answer they begin."""
    offsets = []
    for data, _, _ in tokens:
        offsets.append(at)
        at += len(_token(data))
    return {
        "tokens": [_token(data) for data, _, _ in tokens],
        "token_logprobs": [max(value, _LEAST) for _, value, _ in tokens],
        "top_logprobs": [
            {_token(data): max(value, _LEAST) for data, value in reversed(others)} for _, _, others in tokens
        ],
        "text_offset": offsets,
    }


def _token(data: list[int]) -> str:
    return bytes(data).decode("utf-8", "replace")
