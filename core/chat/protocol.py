"""What a chat and its worker process say to each other: typed messages over the pipes of :mod:`core.process`.

A request is answered by events and one result, or by an error.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from core.errors import Hint, LabError, StageError, text_of, texts_of, with_told
from core.language import told, told_n

BASE = ""
"""Where an adapter is named: the model with none."""


class ChatError(StageError):
    """The model could not answer: it did not load, it failed, or its process is gone.

    Attributes:
        died: the worker process is gone; the chat can be started again and has lost nothing.
    """

    def __init__(
        self, title: str, detail: str = "", hint: Hint = "", *, code: str = "", died: bool = False
    ) -> None:
        super().__init__(title, detail, hint, code=code)
        self.died = died


class ProtocolError(StageError):
    """What was sent is not a message of this protocol."""

    def __init__(self, what: str) -> None:
        super().__init__(
            told("The model's process and the chat do not understand each other."),
            told("{what}.", what=what),
            code="chat.protocol",
        )


@dataclass(frozen=True)
class ProtocolMessage:
    """Base of all requests, events and results; ``type`` is the name on the wire."""

    type: ClassVar[str] = ""


# Requests


@dataclass(frozen=True)
class Load(ProtocolMessage):
    """Load the model. Answered by Ready.

    Attributes:
        context_tokens: longest conversation wanted, in tokens; the model's own limit holds as well.
        template: how turns are written: "auto", or the recipe's `{field}` template.
        answer: the field of that template that is the answer; empty to find it by its name.
        adapter: the adapter that will be used first; made ready at once. An unfit one is no error here.
        cache_bytes: what the conversations kept may take; 0 for two of them.
    """

    type: ClassVar[str] = "load"
    model_dir: str
    context_tokens: int = 4096
    template: str = "auto"
    adapter: str = BASE
    answer: str = ""
    cache_bytes: int = 0


@dataclass(frozen=True)
class Ask(ProtocolMessage):
    """Answer a conversation whose last message is the user's, by one adapter or by two.

    Attributes:
        prompts: [{"adapter": name or "", "messages": [{"role", "content"}, …]}, …]; two are a comparison.
            Messages may have what :class:`core.model.messages.Message` has. A prompt may have ``tools``; ``text``
            in place of the messages, to go on with as it is; ``stop``, texts that end the answer and are no part of
            it; ``logprobs``, how many alternatives each token is told with; ``whole``, to be refused rather
            than cut where it is longer than the context.
        settings: the fields of :class:`core.chat.settings.Sampling`.

    Answered by Progress, Notice, Dropped, Token and one Done for each adapter.
    """

    type: ClassVar[str] = "ask"
    prompts: list[dict[str, Any]]
    settings: dict[str, Any]


@dataclass(frozen=True)
class SetAdapter(ProtocolMessage):
    """Make an adapter ready for use, or none (""). Answered by Adapted."""

    type: ClassVar[str] = "set_adapter"
    adapter: str


@dataclass(frozen=True)
class Score(ProtocolMessage):
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
class Progress(ProtocolMessage):
    """``done`` of ``total`` units of a phase: ``loading`` (bytes; told by the parent) or ``reading`` (tokens)."""

    type: ClassVar[str] = "progress"
    phase: str
    done: float
    total: float | None = None


@dataclass(frozen=True)
class Ready(ProtocolMessage):
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
class Token(ProtocolMessage):
    """A piece of an answer: whole characters only.

    Attributes:
        tokens: where they were asked for, the tokens it is made of: [bytes, log probability, [[bytes, log
            probability], …]], the likeliest alternative first. The probabilities are the model's own, before
            temperature and penalties. A token whose characters came earlier may be among them.
    """

    type: ClassVar[str] = "token"
    adapter: str
    text: str
    tokens: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Dropped(ProtocolMessage):
    """The context was full: the ``turns`` oldest turns are not read for this answer."""

    type: ClassVar[str] = "dropped"
    adapter: str
    turns: int
    context_tokens: int

    @property
    def text(self) -> str:
        """The same as a sentence for the user."""
        return told_n(
            "The context is full: the oldest turn is no longer read.",
            "The context is full: the oldest {n} turns are no longer read.",
            self.turns,
        )


@dataclass(frozen=True)
class Notice(ProtocolMessage):
    """A sentence for the user about the question that is being answered."""

    type: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True)
class Done(ProtocolMessage):
    """An answer is complete.

    Attributes:
        prompt_tokens: tokens read for this answer; what the cache still held is not read again.
        context_tokens: tokens of the conversation after the answer.
        new_tokens: tokens of the answer.
        time_to_first_token_s: from the request's arrival to the first token (own time, in a comparison).
        tokens_per_s: decoding speed after the first token; 0 where there was one token or none.
        stop: ``end`` (the model ended its turn), ``text`` (one of the stop texts came), ``length`` or ``cancelled``.
        context_full: ``length`` was the end of the context and not of max_new_tokens.
        dropped_turns: oldest turns left out of the prompt.
    """

    type: ClassVar[str] = "done"
    adapter: str
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
class Adapted(ProtocolMessage):
    """An adapter is in use from now on."""

    type: ClassVar[str] = "adapted"
    adapter: str
    seconds: float


@dataclass(frozen=True)
class Scored(ProtocolMessage):
    """The mean negative log likelihood, in nats, over the ``tokens`` tokens that counted."""

    type: ClassVar[str] = "scored"
    loss: float
    tokens: int


# Events that the parent adds for whoever listens to a response


@dataclass(frozen=True)
class Finished(ProtocolMessage):
    """All answers to a question are complete."""

    type: ClassVar[str] = "finished"


@dataclass(frozen=True)
class Error(ProtocolMessage):
    """The question, or the loading, failed."""

    type: ClassVar[str] = "error"
    error: LabError


_TYPES: dict[str, type[ProtocolMessage]] = {
    kind.type: kind
    for kind in (Load, Ask, SetAdapter, Score, Progress, Ready, Token, Dropped, Notice, Done, Adapted, Scored)
}
_CHECKS: dict[type[ProtocolMessage], dict[str, tuple[type, ...]]] = {}


def to_wire(message: ProtocolMessage) -> dict[str, Any]:
    """The message as a JSON object."""
    fields = dataclasses.fields(message)
    return {"type": message.type, **with_told({item.name: getattr(message, item.name) for item in fields})}


def from_wire(data: dict[str, Any]) -> ProtocolMessage:
    """The message that :func:`to_wire` gave. Fields it does not know are left aside, so that either side may be newer.

    Raises:
        ProtocolError: an unknown type, a missing field or one of a wrong type.
    """
    kind = _TYPES.get(str(data.get("type")))
    if kind is None:
        raise ProtocolError(told("no message of this protocol: {data}", data=str(data)[:80]))
    values = {name: _value(data, name) for name in _checks(kind) if name in data}
    for name, value in values.items():
        if not isinstance(value, _checks(kind)[name]):
            raise ProtocolError(
                told("{type}.{name} is {found}", type=kind.type, name=name, found=type(value).__name__)
            )
    try:
        return kind(**values)
    except TypeError as error:
        raise ProtocolError(told("{type}: {error}", type=kind.type, error=error)) from None


def _value(data: dict[str, Any], name: str) -> Any:
    """A field as it was before it went over the wire: texts in the reader's language are that again."""
    value, kept = data[name], data.get("told")
    if isinstance(value, str):
        return text_of(data, name)
    return list(texts_of(data, name)) if isinstance(kept, dict) and name in kept else value


def _checks(kind: type[ProtocolMessage]) -> dict[str, tuple[type, ...]]:
    """The types that each field of a message may have, found once for each kind."""
    if kind not in _CHECKS:
        hints = get_type_hints(kind)
        found: dict[str, tuple[type, ...]] = {}
        for item in dataclasses.fields(kind):
            hint = hints[item.name]
            kinds = (
                getattr(hint, "__args__", (hint,)) if not hasattr(hint, "__origin__") else (hint.__origin__,)
            )
            found[item.name] = (*kinds, int) if float in kinds else tuple(kinds)
        _CHECKS[kind] = found
    return _CHECKS[kind]
