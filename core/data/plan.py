"""How the rows of one file become examples: mapping and template settled, each row checked alike.

Training and the data report use the same plan, so that the report tells what training will meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.data.mapping import FieldMap, Proposal, columns_of, propose_mapping
from core.data.messages import BadMessages, as_messages
from core.data.template import ChatTemplate, Template, TemplateError
from core.data.types import Message, Problem, Segment
from core.errors import RequestError
from core.recipe import TEMPLATE, Recipe

SAMPLE = 1_000
"""Rows that are looked at to know the fields."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row that is fit for training."""

    messages: tuple[Message, ...]
    values: dict[str, str]
    prompt: str
    answer: str


@dataclass(frozen=True)
class Plan:
    """The settled way from a row to training text.

    Attributes:
        mapping: the fields that are read where the template names `prompt`, `response` or `system`,
            or where the chat template is used.
        template: the plain template (unused with `chat`).
        chat: the model's chat template, where the recipe asks for it.
        direct: the names in the template that are fields of the rows themselves.
        answer: the name in the template that is learnt.
    """

    mapping: FieldMap
    template: Template
    chat: ChatTemplate | None
    direct: frozenset[str]
    answer: str
    eos: str = ""
    answer_only: bool = True

    @property
    def mapped(self) -> bool:
        """Whether the mapping is used, not the template's own names alone."""
        return self.chat is not None or not self.direct.issuperset(self.template.fields)

    def convert(self, fields: Mapping[str, Any]) -> Record | list[Problem]:
        """A row as messages and values, or all that is wrong with it."""
        problems: list[Problem] = []
        if self.mapped and self.mapping.messages:
            return self._conversation(fields)
        values: dict[str, str] = {}
        if self.chat is None:
            for name in self.template.fields:
                if name in self.direct:
                    values[name] = _text(fields, name, problems)
                elif name == "response":
                    values[name] = _text(fields, self.mapping.response, problems)
                elif name == "system":
                    values[name] = _text(fields, self.mapping.system, problems, needed=False)
                else:
                    values[name] = self._asked(fields, problems)
            asked = "\n".join(
                values[name] for name in self.template.fields if name not in (self.answer, "system")
            )
            answer = values.get(self.answer, "")
        else:
            asked = self._asked(fields, problems)
            answer = _text(fields, self.mapping.response, problems)
        if problems:
            return problems
        if not answer:
            return Record((), values, asked, "")
        system = _text(fields, self.mapping.system, problems, needed=False) if self.mapped else ""
        opening = (Message("system", system),) if system else ()
        return Record((*opening, Message("user", asked), Message("assistant", answer)), values, asked, answer)

    def _asked(self, fields: Mapping[str, Any], problems: list[Problem]) -> str:
        first, *more = self.mapping.prompt
        parts = [_text(fields, first, problems)]
        parts += [_text(fields, name, problems, needed=False) for name in more]
        return "\n\n".join(part for part in parts if part)

    def _conversation(self, fields: Mapping[str, Any]) -> Record | list[Problem]:
        name = self.mapping.messages
        value = fields.get(name)
        if value is None:
            return [_missing(name, fields)]
        try:
            messages = as_messages(value)
        except BadMessages as error:
            fix = "give each turn a role (user, assistant or system) and a content; end with an answer"
            return [Problem("bad-messages", f"{name!r}: {error}", fix)]
        if self.mapping.system and messages[0].role != "system":
            system = fields.get(self.mapping.system)
            if isinstance(system, str) and system.strip():
                messages = (Message("system", system), *messages)
        asked = "\n".join(message.content for message in messages if message.role == "user")
        return Record(messages, {}, asked, messages[-1].content)

    def segments(self, record: Record) -> tuple[Segment, ...]:
        """The training text of a record.

        Raises:
            TemplateError: the chat template refuses it.
        """
        if self.chat is not None:
            result = self.chat.segments(record.messages)
        elif record.values:
            result = self.template.segments(record.values, self.answer, self.eos)
        else:
            result = self._turns(record.messages)
        return result if self.answer_only else (Segment("".join(each.text for each in result), True),)

    def _turns(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """A conversation in the plain template, which is used once for each question and answer."""
        result: list[Segment] = []
        asked: list[str] = []
        system = ""
        for message in messages:
            if message.role == "system" and "system" in self.template.fields:
                system = message.content
            elif message.role != "assistant":
                asked.append(message.content)
            else:
                values = {"prompt": "\n\n".join(asked), "response": message.content, "system": system}
                if result:
                    result.append(Segment("\n", False))
                result += self.template.segments(values, self.answer, self.eos)
                asked, system = [], ""
        return tuple(result)


def _missing(name: str, fields: Mapping[str, Any]) -> Problem:
    there = ", ".join(repr(each) for each in list(fields)[:8]) or "none"
    return Problem(
        "missing-field", f"it has no {name!r}; its fields are {there}", f"add {name!r}, or remove the row"
    )


def _text(fields: Mapping[str, Any], name: str, problems: list[Problem], *, needed: bool = True) -> str:
    """The text in a field; what is wrong with it is added to `problems`."""
    value = fields.get(name) if name else None
    if value is None:
        if needed:
            problems.append(_missing(name, fields))
        return ""
    if not isinstance(value, str):
        kind = {dict: "an object", list: "a list", bool: "true or false", bytes: "bytes"}.get(
            type(value), "a number"
        )
        problems.append(Problem("wrong-type", f"{name!r} is {kind}, not text", f"write {name!r} in quotes"))
        return ""
    if needed and not value.strip():
        problems.append(Problem("empty-field", f"{name!r} is empty", f"fill in {name!r}, or remove the row"))
    return value


def propose(recipe: Recipe, rows: Sequence[Mapping[str, Any]], chat: ChatTemplate | None) -> Proposal:
    """What the rows suggest, with what the recipe has settled kept: its chat template, its own wording."""
    found = propose_mapping(rows, chat.text if chat else None)
    if found.mapping.text:
        return found
    if recipe.data.chat_template and chat is not None:
        return replace(found, chat_template=True)
    try:
        fields = Template.parse(recipe.data.template).fields
    except TemplateError:
        return found
    if recipe.data.template != TEMPLATE and {"prompt", "response"} <= set(fields) <= {
        "prompt",
        "response",
        "system",
    }:
        return replace(found, template=recipe.data.template, chat_template=False)
    return found


def named_fields(text: str, columns: Sequence[str], key: str) -> tuple[str, ...]:
    """The fields that a recipe value names: one, or several with `+` between them.

    Raises:
        RequestError: no row has such a field.
    """
    if not text:
        return ()
    names = (text,) if text in columns else tuple(part.strip() for part in text.split("+"))
    for name in names:
        if name not in columns:
            raise RequestError(
                "The recipe names a field that no row has.",
                f"data.{key} = {text!r}; the rows have {', '.join(map(repr, columns))}.",
                f"Set data.{key} to one of these, or leave it empty to have it found.",
            )
    return names


def make_plan(
    recipe: Recipe,
    rows: Sequence[Mapping[str, Any]],
    chat: ChatTemplate | None = None,
    *,
    eos: str = "",
    proposal: Proposal | None = None,
) -> Plan:
    """Settle mapping and template for a file, from the recipe and some of its rows.

    Args:
        chat: the model's own chat template; used where the recipe says `chat_template = true`.
        eos: put after an answer whose template has no end marker.
        proposal: what :func:`propose` found, if that is known.

    Raises:
        RequestError: the template is unusable, names a field no row has, or it cannot be told which
            field is the answer; the hint says what to set.
    """
    data = recipe.data
    columns = columns_of(rows)
    proposal = proposal or propose(recipe, rows, chat)
    found = proposal.mapping if proposal.sure else FieldMap()
    mapping = FieldMap(
        named_fields(data.prompt_field, columns, "prompt_field") or found.prompt,
        "".join(named_fields(data.response_field, columns, "response_field")) or found.response,
        found.system,
        "".join(named_fields(data.messages_field, columns, "messages_field"))
        or ("" if data.prompt_field or data.response_field else found.messages),
    )
    try:
        template = Template.parse(data.template)
    except TemplateError as error:
        raise RequestError(
            "The template cannot be used.", f"data.template: {error}.", "Add a field to it."
        ) from None
    if data.chat_template:
        if chat is None:
            raise RequestError(
                "The model has no chat template.",
                "data.chat_template is true, and no template was found among the model's tokenizer files.",
                "Set data.chat_template = false and write data.template.",
            )
        if not (mapping.messages or (mapping.prompt and mapping.response)):
            raise _unmapped(
                proposal, columns, "data.chat_template needs a question and an answer, or a conversation"
            )
        return Plan(mapping, template, chat, frozenset(), "response", eos, data.answer_only)
    return _plain_plan(recipe, template, mapping, proposal, columns, eos)


def _plain_plan(
    recipe: Recipe,
    template: Template,
    mapping: FieldMap,
    proposal: Proposal,
    columns: Sequence[str],
    eos: str,
) -> Plan:
    data = recipe.data
    chosen = {"prompt": data.prompt_field, "response": data.response_field or data.messages_field}
    direct = frozenset(name for name in template.fields if name in columns and not chosen.get(name))
    absent = [name for name in template.fields if name not in direct]
    strange = [name for name in absent if name not in ("prompt", "response", "system")]
    if strange:
        near = f" {proposal.why}." if proposal.sure else ""
        raise RequestError(
            "The template names a field that no row has.",
            f"data.template has {{{strange[0]}}}; the rows have {', '.join(map(repr, columns))}.",
            f"Write one of these in braces, or {{prompt}} and {{response}}.{near}",
        )
    for name in absent:
        there = (
            mapping.messages or name == "system" or (mapping.prompt if name == "prompt" else mapping.response)
        )
        if not there:
            raise _unmapped(proposal, columns, f"data.template has {{{name}}}, which no row has")
    answer = template.answer_field("" if absent else data.response_field)
    return Plan(mapping, template, None, direct, answer, eos, data.answer_only)


def _unmapped(proposal: Proposal, columns: Sequence[str], what: str) -> RequestError:
    there = ", ".join(map(repr, columns)) or "none"
    hint = "Set data.prompt_field and data.response_field in lab.toml."
    if proposal.mapping.complete:
        hint = f"It seems that {proposal.mapping.words()}: accept this with `olivepress data DIR --accept`, or set "
        hint += "data.prompt_field and data.response_field in lab.toml."
    return RequestError("It is not clear which field is the answer.", f"{what}; the rows have {there}.", hint)
