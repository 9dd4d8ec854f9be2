"""How a record becomes training text: `{field}` templates, and the model's own chat template.

Both give segments, so that the loss can be taken on the answers alone. The chat template is rendered
as Hugging Face transformers renders it (jinja2, immutable sandbox, `trim_blocks`, `lstrip_blocks`):
a template comes with a downloaded model and must not be able to run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from core.data.types import Message, Segment

ANSWER_NAMES = ("response", "answer", "output", "completion", "assistant")
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
# An end-of-turn marker as models write it: <|end|>, </s>, <end_of_turn>, <｜end▁of▁sentence｜>, [/INST].
_MARKER = re.compile(r"\s*(?:<[^<>\s]{1,48}>|\[/?[A-Z_]{2,24}\])")


class TemplateError(ValueError):
    """A template that cannot be used, with the reason in words."""


@dataclass(frozen=True)
class Template:
    """A template with `{field}` places, cut into literal text and field names.

    `{{` and `}}` stand for single braces. Values are put in as they are: no format
    specifications and no attribute access, since both template and rows may be foreign.
    """

    pieces: tuple[tuple[bool, str], ...]  # (is it a field, text or name)

    @classmethod
    def parse(cls, text: str) -> Template:
        """Cut a template into pieces.

        Raises:
            TemplateError: it names no field at all.
        """
        pieces: list[tuple[bool, str]] = []
        literal, at = "", 0
        for match in _PIECE.finditer(text):
            literal += text[at : match.start()]
            at = match.end()
            if match.group(1) is None:
                literal += match.group()[0]
                continue
            if literal:
                pieces.append((False, literal))
                literal = ""
            pieces.append((True, match.group(1).strip()))
        literal += text[at:]
        if literal:
            pieces.append((False, literal))
        if not any(is_field for is_field, _ in pieces):
            raise TemplateError("it has no {field} in it, so every record would give the same text")
        return cls(tuple(pieces))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in the template, in order, each once."""
        return tuple(dict.fromkeys(name for is_field, name in self.pieces if is_field))

    def answer_field(self, named: str = "") -> str:
        """The field that the model learns to write; empty where the template has only one field."""
        fields = self.fields
        if named in fields:
            return named
        for name in reversed(fields):
            if name.lower() in ANSWER_NAMES:
                return name
        return fields[-1] if len(fields) > 1 else ""

    def segments(self, values: Mapping[str, str], answer: str, eos: str = "") -> tuple[Segment, ...]:
        """The text of one record; the part from the answer to its end-of-turn marker is trained.

        Args:
            values: a text for each field of the template.
            answer: the field that is learnt; empty to learn the whole text.
            eos: put after the answer where the template ends with it and has no marker of its own.
        """
        places = [i for i, (is_field, name) in enumerate(self.pieces) if is_field and name == answer]
        texts = [values[name] if is_field else name for is_field, name in self.pieces]
        if not places:
            return _joined([Segment("".join(texts) + eos, True)])
        last = places[-1]
        before, body, after = "".join(texts[:last]), texts[last], "".join(texts[last + 1 :])
        end = _end_of_turn(after, eos)
        rest = after[len(end) :] if after.startswith(end) else after
        return _joined([Segment(before, False), Segment(body + end, True), Segment(rest, False)])


def _end_of_turn(after: str, eos: str) -> str:
    """The marker that ends the answer, from the text behind it; `eos` where there is none."""
    match = _MARKER.match(after)
    if match:
        return match.group()
    return after.rstrip() if after.strip() else eos


def _joined(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments without empty ones, neighbours of one kind made one."""
    result: list[Segment] = []
    for segment in segments:
        if not segment.text:
            continue
        if result and result[-1].trained == segment.trained:
            result[-1] = Segment(result[-1].text + segment.text, segment.trained)
        else:
            result.append(segment)
    return tuple(result)


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    from jinja2 import TemplateError as JinjaError
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # type: ignore[misc]
        """`{% generation %}` marks the answer for training tools; here its body is simply shown."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    def refuse(message: str) -> None:
        raise JinjaError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(text)


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template (jinja2 text) with the special tokens that it may name."""

    text: str
    eos: str = ""
    bos: str = ""

    def render(self, messages: Sequence[Message], *, generate: bool = False) -> str:
        """The conversation as the model reads it; `generate` opens the next answer.

        Raises:
            TemplateError: the template is broken or refuses these messages.
        """
        from jinja2 import TemplateError as JinjaError

        try:
            rendered = _compiled(self.text).render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=generate,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=None,
                documents=None,
            )
        except (
            JinjaError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            RecursionError,
            OverflowError,
        ) as error:
            raise TemplateError(f"the model's chat template refuses this conversation: {error}") from None
        return str(rendered)

    def segments(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """The conversation's text, with each answer up to its end-of-turn marker trained.

        An answer is what the template adds to the opened turn before it. Templates that rewrite
        earlier turns are met by looking for the answer's words behind the last segment.

        Raises:
            TemplateError: the template refuses the messages, or does not show an answer of theirs.
        """
        text = self.render(messages)
        result: list[Segment] = []
        at = 0
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opened = self.render(messages[:index], generate=True) if index else ""
            start = len(opened) if text.startswith(opened) and len(opened) > at else -1
            content = message.content.strip()
            if start < 0 or not text.startswith(content, _skip_space(text, start)):
                start = text.find(content, at)
                if start < 0:
                    raise TemplateError("the model's chat template does not show the whole answer")
            end = _skip_space(text, start) + len(content)
            marker = _MARKER.match(text, end)
            last = not any(later.role == "assistant" for later in messages[index + 1 :])
            if marker:
                end = marker.end()
            elif last and text.endswith(self.eos, end) and self.eos:
                end = len(text)
            result += [Segment(text[at:start], False), Segment(text[start:end], True)]
            at = end
            if last and not marker and self.eos and not text.startswith(self.eos, end):
                result.append(Segment(self.eos, True))
        result.append(Segment(text[at:], False))
        return _joined(result)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
