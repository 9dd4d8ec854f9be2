"""What a chat and its worker process say to each other: one JSON object a line, over two pipes.

Requests go down, events come back. Each request carries an ``id``; every event about it carries the
same one. JSON is written in ASCII, so that no text, not even a lone surrogate, can break a line.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

VERSION = 1

BASE = ""
"""The lane of the model with no adapter (an adapter's lane has the adapter's name)."""


class ProtocolError(ValueError):
    """A line that is not a message of this protocol."""


@dataclass(frozen=True)
class Message:
    """Base of all requests and events; ``type`` is the name on the wire."""

    type: ClassVar[str] = ""
    id: int


# Requests


@dataclass(frozen=True)
class Load(Message):
    """Load the model. Answered by Progress and Ready.

    Attributes:
        context_tokens: longest conversation wanted, in tokens; the model's own limit holds as well.
        template: how turns are written: "auto", or the recipe's `{field}` template.
        answer: the field of that template that is the answer; empty to find it by its name.
        adapter: the adapter that will be used first; made ready at once. An unfit one is no error here.
    """

    type: ClassVar[str] = "load"
    model_dir: str
    context_tokens: int = 4096
    template: str = "auto"
    adapter: str = BASE
    answer: str = ""


@dataclass(frozen=True)
class Ask(Message):
    """Answer a conversation whose last message is the user's, once for each lane.

    Attributes:
        lanes: [{"adapter": name or "", "messages": [{"role", "content"}, …]}, …]; two lanes are a comparison.
            Messages may have what :class:`core.model.messages.Message` has, and a lane ``tools``.
        settings: the fields of :class:`core.chat.settings.Sampling`.

    Answered by Progress, Dropped, Token and one Done for each lane, and one Finished.
    """

    type: ClassVar[str] = "ask"
    lanes: list[dict[str, Any]]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Stop(Message):
    """End the request with this id after the token in hand. Acts at once, out of order."""

    type: ClassVar[str] = "stop"


@dataclass(frozen=True)
class SetAdapter(Message):
    """Make an adapter ready for use, or none (""). Answered by Adapted."""

    type: ClassVar[str] = "set_adapter"
    adapter: str


@dataclass(frozen=True)
class Score(Message):
    """Measure the loss of a text. Answered by Scored.

    Attributes:
        segments: [[text, counts, cuts], …], as :class:`core.model.messages.Segment`; only tokens of the
            segments that count are measured.
    """

    type: ClassVar[str] = "score"
    adapter: str
    segments: list[list[Any]]


# Events


@dataclass(frozen=True)
class Progress(Message):
    """``done`` of ``total`` units of a phase: ``loading`` (bytes) or ``reading`` (tokens)."""

    type: ClassVar[str] = "progress"
    phase: str
    done: float
    total: float | None = None


@dataclass(frozen=True)
class Ready(Message):
    """The model is loaded.

    Attributes:
        model: the architecture's name, as genai_config.json gives it.
        context_tokens: longest conversation that will be kept.
        model_context_tokens: the longest that the model was made for.
        adapters: names of the adapters that fit this model.
        refused: adapters that do not fit, and what differs.
        seconds: what loading took.
        notes: sentences for the user, such as an end-of-turn token that had to be added.
    """

    type: ClassVar[str] = "ready"
    model: str
    context_tokens: int
    model_context_tokens: int
    adapters: list[str]
    refused: dict[str, str]
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Token(Message):
    """A piece of an answer: whole characters only."""

    type: ClassVar[str] = "token"
    lane: str
    text: str


@dataclass(frozen=True)
class Dropped(Message):
    """The context was full: the ``turns`` oldest turns are not read for this answer."""

    type: ClassVar[str] = "dropped"
    lane: str
    turns: int
    context_tokens: int


@dataclass(frozen=True)
class Done(Message):
    """An answer is complete.

    Attributes:
        prompt_tokens: tokens read for this answer; what the cache still held is not read again.
        context_tokens: tokens of the conversation after the answer.
        new_tokens: tokens of the answer.
        time_to_first_token_s: from the request's arrival to the first token (own time, in a comparison).
        tokens_per_s: decoding speed after the first token; 0 where there was one token or none.
        stop: ``end`` (the model ended its turn), ``length`` or ``cancelled``.
        context_full: ``length`` was the end of the context and not of max_new_tokens.
        dropped_turns: oldest turns left out of the prompt.
    """

    type: ClassVar[str] = "done"
    lane: str
    answer: str
    prompt_tokens: int
    context_tokens: int
    new_tokens: int
    time_to_first_token_s: float
    tokens_per_s: float
    stop: str
    context_full: bool = False
    dropped_turns: int = 0


@dataclass(frozen=True)
class Finished(Message):
    """All lanes of a request are done; the worker is free."""

    type: ClassVar[str] = "finished"


@dataclass(frozen=True)
class Adapted(Message):
    """An adapter is in use from now on."""

    type: ClassVar[str] = "adapted"
    adapter: str
    seconds: float


@dataclass(frozen=True)
class Scored(Message):
    """The mean negative log likelihood, in nats, over the ``tokens`` tokens that counted."""

    type: ClassVar[str] = "scored"
    loss: float
    tokens: int


@dataclass(frozen=True)
class Error(Message):
    """A request failed; the worker goes on unless ``fatal``.

    Attributes:
        kind: ``request`` (the question is at fault), ``machine`` or ``model``.
        code: that of the exception.
    """

    type: ClassVar[str] = "error"
    kind: str
    title: str
    detail: str = ""
    hint: str = ""
    fatal: bool = False
    code: str = ""


_TYPES: dict[str, type[Message]] = {
    kind.type: kind
    for kind in (
        Load, Ask, Stop, SetAdapter, Score,
        Progress, Ready, Token, Dropped, Done, Finished, Adapted, Scored, Error,
    )
}  # fmt: skip
_FIELDS = {kind: dataclasses.fields(kind) for kind in _TYPES.values()}
_CHECKS: dict[type[Message], dict[str, tuple[type, ...]]] = {}


def encode(message: Message) -> bytes:
    """The message as one line of ASCII, newline included."""
    data: dict[str, Any] = {"type": message.type}
    for item in _FIELDS[type(message)]:
        data[item.name] = getattr(message, item.name)
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """The message on a line. Fields it does not know are left aside, so that either side may be newer.

    Raises:
        ProtocolError: not JSON, an unknown type, a missing field or one of a wrong type.
    """
    try:
        data = json.loads(line)
    except ValueError:
        raise ProtocolError(f"not JSON: {line[:80]!r}") from None
    kind = _TYPES.get(data.get("type", "")) if isinstance(data, dict) else None
    if kind is None:
        raise ProtocolError(f"no message of this protocol: {line[:80]!r}")
    checks = _checks(kind)
    values: dict[str, Any] = {}
    for item in _FIELDS[kind]:
        if item.name not in data:
            continue
        value = data[item.name]
        if not isinstance(value, checks[item.name]):
            raise ProtocolError(f"{kind.type}.{item.name} is {type(value).__name__}")
        values[item.name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise ProtocolError(f"{kind.type}: {error}") from None


def _checks(kind: type[Message]) -> dict[str, tuple[type, ...]]:
    """The types that each field of a message may have, found once for each kind."""
    if kind not in _CHECKS:
        found: dict[str, tuple[type, ...]] = {}
        for name, hint in get_type_hints(kind).items():
            kinds = (
                getattr(hint, "__args__", (hint,)) if not hasattr(hint, "__origin__") else (hint.__origin__,)
            )
            found[name] = (*kinds, int) if float in kinds else tuple(kinds)
        _CHECKS[kind] = found
    return _CHECKS[kind]
