"""A conversation as this program knows it, whatever form the data or the screen had it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: one of :data:`ROLES`.
        content: the text; empty where an assistant's turn is nothing but tool calls.
        name: who speaks, for templates that write it.
        reasoning: what the assistant thought before it answered (``reasoning_content``).
        tool_calls: the assistant's calls in OpenAI's form: ``{"type": "function", "function": {"name",
            "arguments"}}``, ``arguments`` as an object.
        tool_call_id: in a tool's turn, the call that it answers.
        learnt: False for an assistant's turn that is shown in training and not learnt.
    """

    role: str
    content: str
    name: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str = ""
    learnt: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As chat templates read it: only what is there."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        more = {
            "name": self.name,
            "reasoning_content": self.reasoning,
            "tool_calls": [dict(call) for call in self.tool_calls],
            "tool_call_id": self.tool_call_id,
        }
        turn.update({key: value for key, value in more.items() if value})
        return turn

    @classmethod
    def of(cls, turn: Mapping[str, Any]) -> Message:
        """What :meth:`as_dict` gave."""
        return cls(
            str(turn["role"]),
            str(turn["content"]),
            str(turn.get("name", "")),
            str(turn.get("reasoning_content", "")),
            tuple(turn.get("tool_calls", ())),
            str(turn.get("tool_call_id", "")),
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of training text.

    Attributes:
        trained: whether it is learnt: an answer with its end-of-turn marker.
        cuts: places in the text where letters that look like a special token of the model are data, and
            must be cut before the text is made into tokens.
    """

    text: str
    trained: bool
    cuts: tuple[int, ...] = ()


def text_of(segments: Sequence[Segment]) -> str:
    """The segments' text, joined."""
    return "".join(segment.text for segment in segments)


def after(segments: Sequence[Segment], at: int) -> tuple[Segment, ...]:
    """What stands behind the first ``at`` characters of the segments."""
    rest = []
    for segment in segments:
        skip = min(at, len(segment.text))
        at -= skip
        if skip < len(segment.text):
            cuts = tuple(cut - skip for cut in segment.cuts if cut > skip)
            rest.append(Segment(segment.text[skip:], segment.trained, cuts))
    return tuple(rest)
