"""How the rows of one file become examples: mapping and template settled, each row checked alike.

Training and the data report use the same plan, so that the report tells what training will meet.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from core.data.columns import look
from core.data.mapping import FieldMap, Proposal, columns_of, propose_mapping, rejected_field, side_fields
from core.data.messages import (
    BadMessages,
    Turns,
    as_history,
    as_tools,
    as_turns,
    conversation,
    looks_like_messages,
    shown_only,
    there,
    type_words,
    verdict,
)
from core.data.types import Message, Problem, Segment, Unused
from core.errors import Do, RequestError, Use
from core.language import all_of, told
from core.model.template import PLAIN, ChatTemplate, PlainTurns, Template, TemplateError, all_learnt
from core.model.text import ModelText
from core.options import AUTO
from core.recipe import Recipe

SAMPLE = 1_000
"""Rows that are looked at to know the fields."""

FIELDS = ("data.prompt_field", "data.response_field", "data.messages_field")
"""The options that say outright which field is what."""

_OWN_NAMES = ("prompt", "response", "system")
"""Names in a template that stand for what is found in the rows."""

NO_FIELD = "-"
"""`data.label_field` and `data.rejected_field` where there is no such field."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row that is fit for training.

    Attributes:
        values: a text for each place of a plain template; empty where the messages are put into it.
        tools: what the assistant may call, in OpenAI's form.
        unused: what in its fields does not reach the model; whole columns are in :attr:`Plan.used`.
        learnt: False where it says of itself that nothing of it is to be learnt.
        good: False where its answer is one to be avoided.
        rejected: the same up to the answer, which is the one that was not preferred.
        same: whether it prefers an answer to itself.
    """

    messages: tuple[Message, ...]
    values: dict[str, str]
    prompt: str
    answer: str
    tools: tuple[dict[str, Any], ...] = ()
    unused: tuple[Unused, ...] = ()
    learnt: bool = True
    good: bool = True
    rejected: Record | None = None
    same: bool = False


@dataclass(frozen=True)
class Plan:
    """The settled way from a row to training text.

    Attributes:
        mapping: the fields that are read where the template names `prompt`, `response` or `system`,
            or where the chat template is used.
        template: the plain template (unused with `chat`).
        chat: the model's chat template, where the recipe asks for it and the model has one.
        direct: the names in the template that are fields of the rows themselves.
        answer: the name in the template that is learnt.
        turns: the fields that hold lists of turns.
        labelled: whether an answer that is not good is learnt too, as one to be avoided.
    """

    mapping: FieldMap
    template: Template
    chat: ChatTemplate | None
    direct: frozenset[str]
    answer: str
    eos: str = ""
    special: tuple[str, ...] = ()
    answer_only: bool = True
    turns: frozenset[str] = frozenset()
    labelled: bool = False

    @cached_property
    def mapped(self) -> bool:
        """Whether the mapping is used, not the template's own names alone."""
        return self.chat is not None or not self.direct.issuperset(self.template.fields)

    @cached_property
    def _turnwise(self) -> bool:
        """Whether several turns have a place: in a chat template, and in a plain one of question and answer."""
        return self.mapped and (self.chat is not None or not self.direct)

    @cached_property
    def used(self) -> frozenset[str]:
        """The columns that are read."""
        mapping = self.mapping
        found = {mapping.label, mapping.rejected, *self.direct}
        if self.mapped:
            found |= {mapping.messages, mapping.system, mapping.tools, mapping.history}
            if self.chat is not None or "prompt" in self.template.fields:
                found.update(mapping.prompt)
            if self.chat is not None or "response" in self.template.fields:
                found.add(mapping.response)
        return frozenset(found - {""})

    @cached_property
    def _rejecting(self) -> Plan | None:
        """The plan by which the same rows are read with the rejected answer in place of the preferred one."""
        name = self.mapping.rejected
        if not name:
            return None
        mapping = replace(self.mapping, rejected="", label="")
        if mapping.messages:
            return replace(self, mapping=replace(mapping, messages=name))
        mapping = replace(mapping, response=name)
        if self.answer not in self.direct:
            return replace(self, mapping=mapping)
        pieces = tuple(
            (is_field, name if is_field and word == self.answer else word)
            for is_field, word in self.template.pieces
        )
        return replace(
            self, mapping=mapping, template=Template(pieces), direct=self.direct | {name}, answer=name
        )

    def convert(self, fields: Mapping[str, Any]) -> Record | list[Problem]:
        """A row as messages and values, or all that is wrong with it."""
        found = self._convert(fields)
        if self._rejecting is None:
            return found
        other = self._rejecting._convert(fields)
        if isinstance(found, list) or isinstance(other, list):
            problems = [each for side in (found, other) if isinstance(side, list) for each in side]
            return list(dict.fromkeys(problems))
        return _pair(found, other, self.mapping)

    def _convert(self, fields: Mapping[str, Any]) -> Record | list[Problem]:
        """A row with one answer."""
        problems: list[Problem] = []
        good = self._verdict(fields, problems) if self.mapping.label else True
        if self.mapped and (self.mapping.messages or self._has_turns(fields)):
            record = self._conversation(fields, problems)
            good = good and (record is None or _something_learnt(record.messages))
        else:
            record = self._texts(fields, problems)
        if problems or record is None:
            return problems
        if self.labelled:
            return replace(record, good=good)
        return record if good else replace(record, messages=shown_only(record.messages), learnt=False)

    def _verdict(self, fields: Mapping[str, Any], problems: list[Problem]) -> bool:
        """Whether a row is to be learnt, by its label."""
        name = self.mapping.label
        value = fields.get(name)
        if value is None:
            return True
        found = verdict(value)
        if found is None:
            fix = told("write true or false (or 1 or 0), or set data.label_field to another field or to -")
            problems.append(
                Problem(
                    "wrong-type",
                    told("{name} is {brief}, neither yes nor no", name=repr(name), brief=_brief(value)),
                    fix,
                )
            )
        return found is not False

    def _has_turns(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row has several turns beside one another: its question or answer as a list, or a history."""
        return self._turnwise and (bool(self.turns) or there(fields.get(self.mapping.history)))

    def _texts(self, fields: Mapping[str, Any], problems: list[Problem]) -> Record | None:
        """A row of one question and one answer."""
        values: dict[str, str] = {}
        system = _text(fields, self.mapping.system, problems, needed=False)
        if self.chat is None:
            for name in self.template.fields:
                if name in self.direct:
                    values[name] = _text(fields, name, problems, needed=name != "system")
                elif name == "response":
                    values[name] = _text(fields, self.mapping.response, problems)
                elif name == "system":
                    values[name] = system
                else:
                    values[name] = self._asked(fields, problems)
            asked = "\n".join(
                values[name] for name in self.template.fields if name not in (self.answer, "system")
            )
            answer = values.get(self.answer, "")
            system = values.get("system", "")
        else:
            asked = self._asked(fields, problems)
            answer = _text(fields, self.mapping.response, problems)
        tools = self._tools(fields, problems)
        if problems:
            return None
        if not answer:
            return Record((), values, asked, "")
        opening = (Message("system", system),) if system else ()
        messages = (*opening, Message("user", asked), Message("assistant", answer))
        return Record(messages, values, asked, answer, tools)

    def _asked(self, fields: Mapping[str, Any], problems: list[Problem]) -> str:
        first, *more = self.mapping.prompt
        parts = [_text(fields, first, problems)]
        parts += [_text(fields, name, problems, needed=False) for name in more]
        return "\n\n".join(part for part in parts if part)

    def _tools(self, fields: Mapping[str, Any], problems: list[Problem]) -> tuple[dict[str, Any], ...]:
        name = self.mapping.tools
        value = fields.get(name) if name else None
        if not there(value):
            return ()
        try:
            return as_tools(value)
        except BadMessages as error:
            fix = told("write a list of tools in OpenAI's form, or remove the field")
            problems.append(Problem("wrong-type", told("{name}: {error}", name=repr(name), error=error), fix))
            return ()

    def _conversation(self, fields: Mapping[str, Any], problems: list[Problem]) -> Record | None:
        """A row with turns: in one field, or in its question, its answer and its history."""
        mapping = self.mapping
        unused: list[Unused] = []
        messages: tuple[Message, ...] = ()
        if mapping.messages:
            messages = self._list(fields, mapping.messages, unused, problems)
        else:
            if mapping.history and there(fields.get(mapping.history)):
                messages = self._list(fields, mapping.history, unused, problems)
            asked = self._said(fields, mapping.prompt, "user", unused, problems)
            answer = self._said(fields, (mapping.response,), "assistant", unused, problems)
            messages = (*messages, *_joined(asked, answer))
        tools = self._tools(fields, problems)
        system = fields.get(mapping.system) if mapping.system else None
        if there(system) and not isinstance(system, str):
            _text(fields, mapping.system, problems)
        if problems:
            return None
        if isinstance(system, str) and system.strip():
            if messages and messages[0].role == "system":
                if messages[0].content.strip() != system.strip():
                    unused.append(Unused("column", mapping.system))
            else:
                messages = (Message("system", system), *messages)
        try:
            turns = conversation(Turns(messages, tuple(unused)))
        except BadMessages as error:
            named = mapping.messages or mapping.response
            fix = told("let the user ask and the assistant answer, or remove the row")
            problems.append(
                Problem("bad-messages", told("{named}: {error}", named=repr(named), error=error), fix)
            )
            return None
        question = "\n".join(message.content for message in turns.messages if message.role == "user")
        return Record(turns.messages, {}, question, turns.messages[-1].content, tools, turns.unused)

    def _list(
        self, fields: Mapping[str, Any], name: str, unused: list[Unused], problems: list[Problem]
    ) -> tuple[Message, ...]:
        """The turns in a field."""
        value = fields.get(name)
        if value is None:
            problems.append(_missing(name, fields))
            return ()
        try:
            found = as_history(value) if name == self.mapping.history else as_turns(value)
        except BadMessages as error:
            fix = told("give each turn a role (user, assistant or system) and a content; end with an answer")
            problems.append(
                Problem("bad-messages", told("{name}: {error}", name=repr(name), error=error), fix)
            )
            return ()
        unused += found.unused
        return found.messages

    def _said(
        self,
        fields: Mapping[str, Any],
        named: Sequence[str],
        role: str,
        unused: list[Unused],
        problems: list[Problem],
    ) -> tuple[Message, ...]:
        """The turns of the question or of the answer, which is text or a list of turns."""
        value = fields.get(named[0])
        as_list = not isinstance(value, str) or looks_like_messages(value)
        if named[0] in self.turns and value is not None and as_list:
            found = self._list(fields, named[0], unused, problems)
            unused += [Unused("column", name) for name in named[1:] if there(fields.get(name))]
            return shown_only(found) if role == "user" else found
        text = self._asked(fields, problems) if role == "user" else _text(fields, named[0], problems)
        return (Message(role, text),)

    def rejected_segments(self, record: Record) -> tuple[Segment, ...]:
        """The same text with the rejected answer; empty where there is none. Raises as :meth:`segments`."""
        if record.rejected is None or self._rejecting is None:
            return ()
        return self._rejecting.segments(record.rejected)

    def segments(self, record: Record) -> tuple[Segment, ...]:
        """The training text of a record.

        Raises:
            TemplateError: the template refuses it, or it cannot be told where an answer lies.
        """
        if self.chat is None and record.values:
            result = self.template.segments(
                record.values, self.answer, self.eos, special=self.special, learnt=record.learnt
            )
            return result if self.answer_only else all_learnt(result)
        turns = self.chat or PlainTurns.of(self.template, self.answer, eos=self.eos, special=self.special)
        result = turns.segments(record.messages, record.tools)
        if self.answer_only:
            return result
        # An answer that is marked not to be learnt is not, whatever else is.
        others = [replace(each, learnt=not each.learnt) for each in record.messages]
        shown_only = any(not each.learnt for each in record.messages if each.role == "assistant")
        return all_learnt(result, turns.segments(others, record.tools) if shown_only else ())


def _pair(chosen: Record, rejected: Record, mapping: FieldMap) -> Record | list[Problem]:
    """A record with the answer that was rejected; what stands before the two is only shown."""
    same = 0
    for one, other in zip(chosen.messages, rejected.messages, strict=False):
        if (one.role, one.content.strip(), one.tool_calls) != (
            other.role,
            other.content.strip(),
            other.tool_calls,
        ):
            break
        same += 1
    apart = chosen.messages[same:], rejected.messages[same:]
    if not any(apart):
        return replace(chosen, learnt=False, same=True)
    if any(not side or side[0].role != "assistant" for side in apart):
        names = told(
            "{messages} and {rejected}",
            messages=repr(mapping.messages or mapping.response),
            rejected=repr(mapping.rejected),
        )
        fix = told("let both answer the same question, or remove the row")
        return [
            Problem(
                "bad-messages", told("{names} are not two answers to the same question", names=names), fix
            )
        ]

    def learnt(record: Record) -> Record:
        return replace(record, messages=(*shown_only(record.messages[:same]), *record.messages[same:]))

    return replace(learnt(chosen), rejected=learnt(rejected))


def _something_learnt(messages: Sequence[Message]) -> bool:
    return any(message.learnt for message in messages if message.role == "assistant")


def _joined(asked: tuple[Message, ...], answer: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns of question and answer; an answer that repeats the question's turns is all of it."""
    if any(message.role == "user" for message in answer):
        said = [(message.role, message.content.strip()) for message in answer]
        for skipped in (0, 1):  # the answer may leave out the system message
            before = [(message.role, message.content.strip()) for message in asked[skipped:]]
            if before and said[: len(before)] == before:
                return (*asked[:skipped], *shown_only(answer[: len(before)]), *answer[len(before) :])
            if not asked or asked[0].role != "system":
                break
    return (*asked, *answer)


def _missing(name: str, fields: Mapping[str, Any]) -> Problem:
    if name in fields:
        return Problem(
            "missing-field",
            told("{name} is null", name=repr(name)),
            told("fill in {name}, or remove the row", name=repr(name)),
        )
    shown = ", ".join(repr(each) for each in list(fields)[:8]) or "none"
    return Problem(
        "missing-field",
        told("it has no {name}; its fields are {shown}", name=repr(name), shown=shown),
        told("add {name}, or remove the row", name=repr(name)),
    )


def _brief(value: Any) -> str:
    return repr(value) if len(repr(value)) < 40 else type_words(value)


def _text(fields: Mapping[str, Any], name: str, problems: list[Problem], *, needed: bool = True) -> str:
    """The text in a field; what is wrong with it is added to `problems`.

    Where it is not needed, a list of texts (of passages, say) is taken as one text.
    """
    value = fields.get(name) if name else None
    if value is None:
        if needed:
            problems.append(_missing(name, fields))
        return ""
    if not needed and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n\n".join(value)
    if not isinstance(value, str):
        fix = told(
            "turn {name} into text in all rows, or set data.prompt_field and data.response_field to others",
            name=repr(name),
        )
        problems.append(
            Problem(
                "wrong-type",
                told("{name} is {type_words}, not text", name=repr(name), type_words=type_words(value)),
                fix,
            )
        )
        return ""
    if needed and not value.strip():
        problems.append(
            Problem(
                "empty-field",
                told("{name} is empty", name=repr(name)),
                told("fill in {name}, or remove the row", name=repr(name)),
            )
        )
    return value


def propose(recipe: Recipe, rows: Sequence[Mapping[str, Any]], text: ModelText) -> Proposal:
    """What the rows suggest, with what the recipe has settled kept: its chat template, its own wording."""
    found = propose_mapping(rows, text.template or None)
    if found.mapping.text:
        return found
    if recipe.data.template == AUTO:
        return found
    try:
        fields = Template.parse(recipe.data.template).fields
    except TemplateError:
        return found
    if {"prompt", "response"} <= set(fields) <= {"prompt", "response", "system"}:
        return replace(found, template=recipe.data.template, chat_template=False)
    return found


@dataclass(frozen=True)
class SettledPlan:
    """The plan for a file: the recipe's, or the proposal's where `problem` says why the recipe's does not do."""

    proposal: Proposal
    plan: Plan | None
    problem: RequestError | None = None


def settle(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], text: ModelText, unreadable: Problem | None = None
) -> SettledPlan:
    """Settle the plan for a file from some of its rows, or by what they suggest.

    Args:
        unreadable: what is wrong with its first row, where none of them can be read, or why there is none.
    """
    proposal = propose(recipe, rows, text)
    if not rows:
        wrong = unreadable or Problem("no-rows", told("it holds no record"), told("give a file with records"))
        title = told("The data file has no records.")
        if wrong.kind != "no-rows":
            title = told("No record of the data file can be read.")
        detail = told("data.file = {file}: {message}.", file=repr(recipe.data.file), message=wrong.message)
        hint = f"{wrong.fix[:1].upper()}{wrong.fix[1:]}."
        return SettledPlan(proposal, None, RequestError(title, detail, hint, code="data.no-rows"))
    try:
        return SettledPlan(proposal, make_plan(recipe, rows, text, proposal=proposal))
    except RequestError as error:
        if not proposal.mapping.complete:
            return SettledPlan(proposal, None, error)
        try:
            accepted = recipe.with_values(proposal.settings())
            plan = make_plan(accepted, rows, text, proposal=replace(proposal, confidence=1.0))
        except RequestError:
            return SettledPlan(proposal, None, error)
        return SettledPlan(proposal, plan, error)


def _as_in_rows(name: str, columns: Sequence[str]) -> str:
    """The column that is this name, be its accents signs of their own or not; else the name as it is."""
    if name in columns:
        return name
    form = unicodedata.normalize("NFC", name)
    return next((each for each in columns if unicodedata.normalize("NFC", each) == form), name)


def named_fields(text: str, columns: Sequence[str], key: str) -> tuple[str, ...]:
    """The fields that a recipe value names: one, or for `prompt_field` several with `+` between them.

    Raises:
        RequestError: no row has such a field, or there are several where one is meant.
    """
    if not text:
        return ()
    whole = _as_in_rows(text, columns)
    parts = (whole,) if whole in columns else tuple(part.strip() for part in text.split("+"))
    names = tuple(_as_in_rows(part, columns) for part in parts)
    if len(names) > 1 and key != "prompt_field":
        raise RequestError(
            told("The recipe names several fields where one is meant."),
            told(
                "data.{key} = {text}; only data.prompt_field can be several, joined by +.",
                key=key,
                text=repr(text),
            ),
            told("Write them into one field of the rows, and name that."),
            code="data.fields",
        )
    for name in names:
        if name not in columns:
            raise RequestError(
                told("The recipe names a field that no row has."),
                told(
                    "data.{key} = {text}; the rows have {names}.",
                    key=key,
                    text=repr(text),
                    names=", ".join(map(repr, columns)),
                ),
                told("Set data.{key} to one of these, or leave it empty to have it found.", key=key),
                code="data.template-field",
            )
    return names


def make_plan(
    recipe: Recipe,
    rows: Sequence[Mapping[str, Any]],
    text: ModelText,
    *,
    proposal: Proposal | None = None,
) -> Plan:
    """Settle mapping and template for a file, from the recipe and some of its rows.

    Args:
        text: the text side of the model: its chat template and special tokens.
        proposal: what :func:`propose` found, if that is known.

    Raises:
        RequestError: the template is unusable, names a field no row has, or it cannot be told which
            field is the answer; the hint says what to set.
    """
    data = recipe.data
    columns = columns_of(rows)
    proposal = proposal or propose(recipe, rows, text)
    mapping = _mapping(recipe, rows, columns, proposal)
    _check_objective(recipe, mapping, columns)
    wanted = data.template
    chat = (
        ChatTemplate(text.template, text.eos, text.bos, text.special)
        if wanted == AUTO and text.template
        else None
    )
    misread = "" if wanted == AUTO else Template.misread(wanted, (*columns, *_OWN_NAMES))
    if misread:
        raise RequestError(
            told("The template cannot be used."),
            told(
                "data.template has {misread} not in one brace on each side, so that the word itself "
                "would be learnt.",
                misread=repr(misread),
            ),
            told("Write {field}, and the field is put there.", field=f"{{{misread}}}"),
            code="data.template",
        )
    try:
        template = Template.parse(PLAIN if wanted == AUTO else wanted)
    except TemplateError as error:
        raise RequestError(
            told("The template cannot be used."),
            told("data.template: {error}.", error=error),
            told("Add a field to it."),
            code="data.template",
        ) from None
    pieces = [
        (is_field, _as_in_rows(word, columns) if is_field else word) for is_field, word in template.pieces
    ]
    template = Template(tuple(pieces))
    if chat is not None:
        if not (mapping.messages or (mapping.prompt and mapping.response)):
            raise _unmapped(
                proposal, columns, told("the chat template needs a question and an answer, or a conversation")
            )
        turns = _turn_fields(rows, mapping)
        return Plan(
            mapping,
            template,
            chat,
            frozenset(),
            "response",
            text.eos,
            text.special,
            data.answer_only,
            turns,
            recipe.finetune.objective == "kto",
        )
    return _plain_plan(recipe, template, mapping, proposal, rows, text)


def _mapping(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], proposal: Proposal
) -> FieldMap:
    """The fields that the recipe names, and those found where it names none."""
    data = recipe.data
    found = proposal.mapping if proposal.sure else FieldMap()
    prompt = named_fields(data.prompt_field, columns, "prompt_field")
    response = "".join(named_fields(data.response_field, columns, "response_field"))
    messages = "".join(named_fields(data.messages_field, columns, "messages_field"))
    label = "" if data.label_field == NO_FIELD else data.label_field
    label = "".join(named_fields(label, columns, "label_field"))
    if messages and (prompt or response):
        other = "prompt_field" if prompt else "response_field"
        raise RequestError(
            told("The recipe says in two ways what the rows hold."),
            told(
                "data.messages_field = {messages} is a whole conversation, and data.{other} is set as well.",
                messages=repr(messages),
                other=other,
            ),
            told('Leave one of them empty: data.{other} = "" or data.messages_field = "".', other=other),
            code="data.fields",
        )
    if response and response in prompt:
        raise RequestError(
            told("The recipe takes one field as the question and as the answer."),
            told("Both data.prompt_field and data.response_field name {response}.", response=repr(response)),
            told(
                "Set one of them to another field; the rows have {names}.",
                names=", ".join(map(repr, columns)),
            ),
            code="data.fields",
        )
    if response or prompt:  # what is named as the one is not found as the other
        kept = tuple(name for name in found.prompt if name != response)
        found = replace(
            found,
            prompt=kept if kept[:1] == found.prompt[:1] else (),
            response="" if found.response in prompt else found.response,
        )
    if prompt or response or messages or not proposal.sure:
        mapping = FieldMap(
            prompt or found.prompt,
            response or found.response,
            messages=messages or ("" if prompt or response else found.messages),
        )
        side = side_fields(rows, (*mapping.prompt, mapping.response, mapping.messages))
        found = replace(side, prompt=mapping.prompt, response=mapping.response, messages=mapping.messages)
    if data.label_field:
        found = replace(found, label=label)
    found = replace(found, text="", history="" if found.messages else found.history)
    return replace(found, rejected=_rejected(recipe, rows, columns, found))


def _rejected(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], mapping: FieldMap
) -> str:
    """The field with the rejected answers, where they are learnt from."""
    named, answer = recipe.data.rejected_field, mapping.messages or mapping.response
    if named == NO_FIELD or recipe.finetune.objective == "sft":
        return ""
    if not named:
        return rejected_field(rows, answer) if answer else ""
    found = "".join(named_fields(named, columns, "rejected_field"))
    if found == answer:
        raise RequestError(
            told("The recipe takes one field as the preferred answer and as the rejected one."),
            told("data.rejected_field = {found}, which is the answer as well.", found=repr(found)),
            told(
                "Set data.response_field to the preferred one; the rows have {names}.",
                names=", ".join(map(repr, columns)),
            ),
            code="data.fields",
        )
    return found


def _check_objective(recipe: Recipe, mapping: FieldMap, columns: Sequence[str]) -> None:
    """Refuse an objective for which the rows have nothing to learn from."""
    objective = recipe.finetune.objective
    if objective in (AUTO, "sft") or mapping.rejected or (objective == "kto" and mapping.label):
        return
    shown = ", ".join(map(repr, columns)) or "none"
    what = told("no field with rejected answers was found")
    hint = told(
        "Name it: {field}. Or learn from the answers alone: {objective}.",
        field=Use("data.rejected_field"),
        objective=Use("finetune.objective", "sft"),
    )
    if objective == "kto":
        what = told("no field that says which answers are good, and none with rejected answers, was found")
        hint = told(
            "Name it: {field} or {other}. Or learn from the answers alone: {objective}.",
            field=Use("data.label_field"),
            other=Use("data.rejected_field"),
            objective=Use("finetune.objective", "sft"),
        )
    raise RequestError(
        told("There are no preferences to learn from."),
        told(
            "finetune.objective = {objective}, and {what}; the rows have {shown}.",
            objective=repr(objective),
            what=what,
            shown=shown,
        ),
        hint,
        code="data.no-preferences",
    )


def _turn_fields(rows: Sequence[Mapping[str, Any]], mapping: FieldMap) -> frozenset[str]:
    """Those of the question's and the answer's fields that hold lists of turns."""
    seen = look(rows, [name for name in (*mapping.prompt[:1], mapping.response, mapping.rejected) if name])
    return frozenset(name for name, column in seen.items() if column.turns)


def _plain_plan(
    recipe: Recipe,
    template: Template,
    mapping: FieldMap,
    proposal: Proposal,
    rows: Sequence[Mapping[str, Any]],
    text: ModelText,
) -> Plan:
    data = recipe.data
    columns = columns_of(rows)
    named = {
        "prompt": data.prompt_field or mapping.prompt[:1] == ("prompt",),
        "response": data.response_field or data.messages_field or mapping.response == "response",
        "system": mapping.system == "system",
    }
    if data.template in (AUTO, PLAIN):  # its words are nobody's choice of columns that happen to be called so
        named = dict.fromkeys(named, True)
    direct = frozenset(name for name in template.fields if name in columns and not named.get(name))
    mapping = replace(
        mapping,
        prompt=tuple(name for name in mapping.prompt if name not in direct or name == mapping.prompt[0]),
    )
    seen = look(rows, sorted(direct))
    lists = [name for name in template.fields if name in seen and seen[name].is_turns]
    if lists:
        raise RequestError(
            told("The template names a field with whole conversations."),
            told("data.template has {field}, and a place in it is for one text.", field=f"{{{lists[0]}}}"),
            told(
                "Write {prompt} and {response}, which are used once for each question and its answer, or "
                'set data.template = "auto".',
                prompt="{prompt}",
                response="{response}",
            ),
            code="data.template",
        )
    absent = [name for name in template.fields if name not in direct]
    strange = [name for name in absent if name not in ("prompt", "response", "system")]
    if strange:
        fix = told(
            "Write one of these in braces, or {prompt} and {response}.",
            prompt="{prompt}",
            response="{response}",
        )
        if proposal.sure:
            fix = told("{fix} {why}.", fix=fix, why=proposal.why)
        raise RequestError(
            told("The template names a field that no row has."),
            told(
                "data.template has {field}; the rows have {names}.",
                field=f"{{{strange[0]}}}",
                names=", ".join(map(repr, columns)),
            ),
            fix,
            code="data.template-field",
        )
    for name in absent:
        there = (
            mapping.messages or name == "system" or (mapping.prompt if name == "prompt" else mapping.response)
        )
        if not there:
            raise _unmapped(
                proposal,
                columns,
                told("data.template has {field}, and no field is that for certain", field=f"{{{name}}}"),
            )
    answer = template.answer_field("" if absent else data.response_field)
    if template.question_behind(answer):
        raise RequestError(
            told("The template has the question behind the answer."),
            told(
                "In data.template {field} is learnt, and stands before all that is asked.",
                field=f"{{{answer}}}",
            ),
            told("Write the question first, or set data.response_field to the field that is the answer."),
            code="data.template",
        )
    if not absent:  # the template's own names are all there is to read
        mapping = FieldMap(
            label=mapping.label, prompt=mapping.prompt, response=mapping.response, rejected=mapping.rejected
        )
    elif direct:
        mapping = replace(mapping, history="", tools="")
    if "system" not in absent:
        mapping = replace(mapping, system="")
    turns = _turn_fields(rows, mapping)
    labelled = recipe.finetune.objective == "kto"
    return Plan(
        mapping, template, None, direct, answer, text.eos, text.special, data.answer_only, turns, labelled
    )


def options_of(proposal: Proposal) -> str:
    """The fields of a proposal as options of a command: `--set data.prompt_field=... --set ...`."""
    settings = {name: value for name, value in proposal.settings().items() if name in FIELDS and value}
    return " ".join(f"--set {shlex.quote(f'{name}={value}')}" for name, value in settings.items())


def _unmapped(proposal: Proposal, columns: Sequence[str], what: str) -> RequestError:
    shown = ", ".join(map(repr, columns)) or "none"
    why = told("{why!c}.", why=proposal.why)
    hint = why
    if proposal.mapping.complete:
        hint = told(
            "It seems that {words} ({why}). {command} takes that; else set {names} in lab.toml.",
            words=proposal.mapping.words(),
            why=proposal.why,
            command=Do.of("data", "DIR", "--accept"),
            names=all_of(FIELDS[:2]),
        )
    elif len(columns) > 1:
        hint = told(
            "{why} If there are such fields, name them: data.prompt_field and data.response_field in "
            "lab.toml.",
            why=why,
        )
    return RequestError(
        told("It is not clear which field is the answer."),
        told("{what!c}; the rows have {shown}.", what=what, shown=shown),
        hint,
        code="data.unmapped",
    )
