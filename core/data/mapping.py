"""Which fields of the rows are the question, the answer, or the conversation.

Known names in several languages are taken as they are; for other names the columns are judged by
what stands in them, and the result waits for one confirmation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from core.data import names
from core.data.columns import Column, is_about, is_rejected, look, verdicts, words_of
from core.data.messages import (
    ROLES,
    BadMessages,
    as_history,
    as_tools,
    as_turns,
    is_paired,
    looks_like_messages,
    there,
    unpacked,
)
from core.data.names import plain_name
from core.errors import with_told
from core.formats import listed
from core.language import all_of, told, told_n
from core.options import AUTO

SURE = 0.8
"""Confidence from which a mapping is used without asking."""


@dataclass(frozen=True)
class FieldMap:
    """The fields that make a conversation.

    Attributes:
        prompt: one field, or several that are joined by a blank line: the first must be filled, the others
            may be empty. It may hold a list of turns.
        response: the answer: text, or the turns that follow on those of `prompt`.
        system: the system message.
        messages: a list of turns in one field.
        text: trained on as it is.
        history: earlier turns, before the question.
        tools: the tools that the assistant may call.
        label: says whether the answer is good; where it says no, it is not learnt.
        rejected: the answer to which that of `response` (or the end of `messages`) was preferred, in the same form.
    """

    prompt: tuple[str, ...] = ()
    response: str = ""
    system: str = ""
    messages: str = ""
    text: str = ""
    history: str = ""
    tools: str = ""
    label: str = ""
    rejected: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is an answer to learn, or text."""
        return bool(self.messages or self.text or (self.prompt and self.response))

    def as_dict(self) -> dict[str, Any]:
        """JSON form, without what is not mapped."""
        pairs = {each.name: getattr(self, each.name) for each in fields(self)}
        pairs["prompt"] = list(self.prompt)
        return {name: value for name, value in pairs.items() if value}

    def words(self) -> str:
        """The mapping in words for people."""
        if self.messages:
            said = told("the conversation is in {messages}", messages=repr(self.messages))
        elif self.text:
            said = told("the whole text is in {text}", text=repr(self.text))
        elif not self.complete:
            return told("no field is taken as the question or the answer")
        else:
            asked = all_of(map(repr, self.prompt))
            said = told(
                "the question is in {asked}, the answer in {response}",
                asked=asked,
                response=repr(self.response),
            )
        more = [
            told("the system message in {field!r}", field=self.system) if self.system else "",
            told("earlier turns in {field!r}", field=self.history) if self.history else "",
            told("tools in {field!r}", field=self.tools) if self.tools else "",
            told("whether it is learnt in {field!r}", field=self.label) if self.label else "",
            told("the rejected answer in {field!r}", field=self.rejected) if self.rejected else "",
        ]
        return listed([said, *filter(None, more)])


@dataclass(frozen=True)
class Proposal:
    """A mapping and a template for a file, why, and how sure that is (0 to 1).

    `template` is as `data.template` has it; `chat_template` tells whether it means the model's own.
    """

    mapping: FieldMap
    template: str
    chat_template: bool
    why: str
    confidence: float

    @property
    def sure(self) -> bool:
        """True where it may be used without asking."""
        return self.confidence >= SURE and self.mapping.complete

    def settings(self) -> dict[str, Any]:
        """What to set in the recipe to accept it, `{"data.prompt_field": ...}`."""
        mapping = self.mapping
        values: dict[str, Any] = {"data.template": self.template}
        values["data.prompt_field"] = "+".join(mapping.prompt)
        values["data.response_field"] = mapping.response
        values["data.messages_field"] = mapping.messages
        return values

    def as_dict(self) -> dict[str, Any]:
        """JSON form, as `olivepress data --json` prints it."""
        return with_told(
            {
                "mapping": self.mapping.as_dict(),
                "template": self.template,
                "chat_template": self.chat_template,
                "why": self.why,
                "confidence": round(self.confidence, 2),
                "sure": self.sure,
                "settings": self.settings(),
            }
        )


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The field names of the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _by_name(columns: Sequence[str], wanted: Sequence[str]) -> tuple[str, float]:
    """The column that has the first of these (plain) names, and how well it fits."""
    plain = {column: plain_name(column) for column in columns}
    for name in wanted:
        for column in columns:
            if plain[column] == name:
                return column, 0.95
    for name in wanted:
        if len(name) < 3:
            continue
        hits = [column for column in columns if f" {name} " in f" {plain[column]} " and not is_about(column)]
        if len(hits) == 1:
            return hits[0], 0.85
    return "", 0.0


def _exact(columns: Iterable[str], wanted: Sequence[str]) -> list[str]:
    return [column for column in columns if plain_name(column) in wanted]


class _Finder:
    """Finds the fields in some rows, by their names and what stands in them."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        self.rows = rows
        self.seen = look(rows, columns)
        self.columns = [name for name in columns if not is_rejected(name)]

    def side(self, taken: Iterable[str]) -> FieldMap:
        """The system message, tools, earlier turns and verdicts beside what is taken as question and answer."""
        free = [name for name in self.columns if name not in taken]
        system, sure = _by_name([name for name in free if self._may_be_system(name)], names.SYSTEM)
        if sure < 0.9 and system and not self.seen[system].is_sentences:
            system = ""
        free = [name for name in free if name != system]
        history = next(iter(_exact(free, names.HISTORY)), "")
        tools = next(iter(_exact(free, names.TOOLS)), "")
        labels = _exact(free, names.LABEL)
        label = next((name for name in labels if verdicts(self.rows, name)), "")
        return FieldMap(
            system=system,
            history=history if self._holds(history, as_history) else "",
            tools=tools if self._holds(tools, as_tools) else "",
            label=label,
        )

    def _may_be_system(self, name: str) -> bool:
        column = self.seen[name]
        return not column.is_turns and (column.text > 0.5 or column.filled == 0)

    def _holds(self, name: str, form: Callable[[Any], object]) -> bool:
        """Whether what stands in a column has a form, in the first row that has something there."""
        value = next((row[name] for row in self.rows if there(row.get(name))), None)
        if not name or value is None:
            return False
        try:
            form(value)
        except BadMessages:
            return False
        return True

    def find(self) -> tuple[FieldMap, str, float]:
        """The fields, why, and how sure that is."""
        found, why, confidence = self._turns() or self._texts()
        if found.text or not found.complete:
            return found, why, confidence
        side = self.side((*found.prompt, found.response, found.messages, found.text))
        if found.messages:
            side = replace(side, history="")
        return (
            replace(found, system=side.system, history=side.history, tools=side.tools, label=side.label),
            why,
            confidence,
        )

    def _turns(self) -> tuple[FieldMap, str, float] | None:
        """Where conversations are lists of turns."""
        lists = [name for name in self.columns if self.seen[name].is_turns]
        texts = [name for name in self.columns if self.seen[name].text > 0.5]
        if not lists:
            return None
        named, sure = _by_name(lists, names.MESSAGES)
        chosen = next(iter(_exact(lists, names.CHOSEN)), "")
        answer = chosen or next(iter(_exact(texts, names.CHOSEN)), "")
        if named and answer and not self._someone_answers_last(named):
            return (
                FieldMap((named,), answer),
                told("{named} is answered by {answer}", named=repr(named), answer=repr(answer)),
                sure,
            )
        paired = chosen and rejected_field(self.rows, chosen) and self._someone_asks(chosen)
        if named and sure > 0.9 and not paired:
            return FieldMap(messages=named), told("{named} holds lists of turns", named=repr(named)), sure
        if chosen and self._someone_asks(chosen):
            return (
                FieldMap(messages=chosen),
                told("{chosen} holds the conversations that were preferred", chosen=repr(chosen)),
                0.95,
            )
        prompt, sure_a = _by_name([*lists, *texts], names.PROMPT)
        rest = [name for name in (*lists, *texts) if name != prompt]
        answer, sure_b = (chosen, 0.95) if chosen else _by_name(rest, names.RESPONSE)
        if prompt and answer and (prompt in lists or answer in lists):
            why = told(
                "{prompt} holds the turns before the answer, {answer} the answer",
                prompt=repr(prompt),
                answer=repr(answer),
            )
            return FieldMap((prompt,), answer), why, min(sure_a, sure_b)
        if prompt and answer:
            lists = [name for name in lists if plain_name(name) not in names.HISTORY]
        lists = [name for name in lists if not (name == prompt and not self._someone_answers(name))]
        if not lists:
            return None
        field = named or lists[0]
        if not named and not self._has_roles(field):
            return (
                FieldMap(messages=field),
                told("{field} holds lists of questions and answers", field=repr(field)),
                0.6,
            )
        if len(lists) > 1:
            others = ", ".join(map(repr, lists))
            return FieldMap(messages=field), told("each of {others} holds lists of turns", others=others), 0.5
        return FieldMap(messages=field), told("{field} holds lists of turns", field=repr(field)), sure or 0.9

    def _has_roles(self, name: str) -> bool:
        """Whether the turns of a column say who speaks; else they are pairs of a question and an answer."""
        value = next((row[name] for row in self.rows if looks_like_messages(row.get(name))), None)
        return not is_paired(unpacked(value))

    def _roles(self, name: str) -> list[str]:
        """Who speaks in the first of a column's conversations."""
        value = next((row[name] for row in self.rows if looks_like_messages(row.get(name))), None)
        try:
            return [message.role for message in as_turns(value).messages]
        except BadMessages:
            return ["user", "assistant"]

    def _someone_asks(self, name: str) -> bool:
        return "user" in self._roles(name)

    def _someone_answers(self, name: str) -> bool:
        return "assistant" in self._roles(name)

    def _someone_answers_last(self, name: str) -> bool:
        return self._roles(name)[-1:] == ["assistant"]

    def _fits(self, name: str, clear: Sequence[str], *, answer: bool) -> bool:
        """Whether what stands in a column is what its name says.

        For a clear name any text will do, and what is no text is a fault of the rows, not of the choice.
        """
        column = self.seen[name]
        if plain_name(name) not in clear:
            return column.is_sentences
        return not column.text or (column.codes <= 0.5 if answer else column.is_text)

    def _why_unsure(self, prompt: str, response: str) -> str:
        """Why two columns are not taken at their names."""
        same = next((name for name in (prompt, response) if self.seen[name].is_repeated), "")
        if same:
            return told(
                "{prompt} and {response} are such names, but many rows have the same text in {same}",
                prompt=repr(prompt),
                response=repr(response),
                same=repr(same),
            )
        return told(
            "{prompt} and {response} are such names, but hold no sentences",
            prompt=repr(prompt),
            response=repr(response),
        )

    def _texts(self) -> tuple[FieldMap, str, float]:  # noqa: C901, PLR0912 - a branch for each form of a row
        """Where questions and answers are texts."""
        system, _ = _by_name(self.columns, names.SYSTEM)
        free = [name for name in self.columns if name != system]
        texts = [
            column
            for column in self.seen.values()
            if column.is_sentences and 2 * column.filled >= 1 and column.name in free
        ]
        answers = [name for name in free if self._fits(name, names.CLEAR_RESPONSE, answer=True)]
        if any(is_rejected(name) for name in self.seen) and _exact(answers, names.CHOSEN):
            answers = _exact(answers, names.CHOSEN)
        response, sure_b = _by_name(answers, names.RESPONSE)
        asking = [
            name for name in free if name != response and self._fits(name, names.CLEAR_PROMPT, answer=False)
        ]
        prompt, sure_a = _by_name(asking, names.PROMPT)
        why: str = told(
            "{prompt} and {response} are names for a question and an answer",
            prompt=repr(prompt),
            response=repr(response),
        )
        confidence = min(sure_a, sure_b)
        if prompt and response:
            for role, mine, others, clear in (
                ("answer", response, _exact(answers, names.RESPONSE), names.CLEAR_RESPONSE),
                ("question", prompt, _exact(asking, names.PROMPT), names.CLEAR_PROMPT),
            ):
                rivals = [
                    name
                    for name in others
                    if name not in (mine, prompt)
                    and plain_name(name) not in names.EXTRA
                    and self.seen[name].is_text
                    and (plain_name(name) in clear or plain_name(mine) not in clear)
                ]
                if rivals:
                    why = told(
                        "{mine} is a name for the {role}, and so is {rivals}",
                        mine=repr(mine),
                        role=role,
                        rivals=repr(rivals[0]),
                    )
                    confidence = min(confidence, 0.75)
        else:
            named = self._named_only(free)
            apart = [column for column in texts if plain_name(column.name) not in names.EXTRA]
            # Beside a question or an answer, a context is a context and not the other of the two.
            among = apart if prompt or response else texts
            prompt, response, confidence, why = _by_content(among, prompt, response)
            if not (prompt and response) and all(named):
                prompt, response = named
                confidence, why = 0.5, self._why_unsure(prompt, response)
        turn = "" if prompt and response and confidence >= SURE else self._one_turn_each()
        if turn:
            return FieldMap(), turn, 0.0
        if prompt and response:
            extra = self._extra(prompt, response)
            if extra:
                why = told(
                    "{why}, and {extra} belongs to the question",
                    why=why,
                    extra=all_of(map(repr, extra)),
                )
            return FieldMap((prompt, *extra), response), why, confidence
        talk = next((name for name in _exact(free, names.MESSAGES) if self.seen[name].nested > 0.5), "")
        if talk:  # the rows say what is wrong with it
            return FieldMap(messages=talk), told("{talk} is a name for a conversation", talk=repr(talk)), 0.9
        text, sure = _by_name([column.name for column in texts], names.TEXT)
        if not text and (prompt or response):
            return FieldMap(), self._other_missing(prompt, response), 0.0
        if text or len(texts) == 1:
            field = text or texts[0].name
            classes = [
                name for name in _exact(free, names.CLASS) if self.seen[name].is_text and name != field
            ]
            if classes:
                why = told(
                    "{field} is the only field with sentences, and {classes} is a name for its class",
                    field=repr(field),
                    classes=repr(classes[0]),
                )
                return FieldMap((field,), classes[0]), why, 0.6
            return (
                FieldMap(text=field),
                told("{field} is the only field with text, so all of it is learnt", field=repr(field)),
                min(sure, 0.7) or 0.5,
            )
        return FieldMap(), self._other_missing(prompt, response), 0.0

    def _one_turn_each(self) -> str:
        """Why rows that are one turn each cannot be used; "" where they are none."""
        name = next(iter(_exact(self.columns, ("role", "from", "speaker"))), "")
        said = [row[name] for row in self.rows if isinstance(row.get(name), str)] if name else []
        if not said or any(each.casefold() not in ROLES for each in said):
            return ""
        return told(
            "each row is a single turn, as {name!r} says, and which belong together is not known: write those of a "
            "conversation into one row, as a list in 'messages'",
            name=name,
        )

    def _other_missing(self, prompt: str, response: str) -> str:
        """What there is in place of a question and an answer."""
        found = prompt or response
        why = told("no field looks like a question or an answer")
        if prompt:
            why = told(
                "{found!r} is a name for a question, but no other field holds text for the answer",
                found=found,
            )
        elif response:
            why = told(
                "{found!r} is a name for an answer, but no other field holds text for the question",
                found=found,
            )
        odd = [
            name
            for name in self.columns
            if name != found
            and self.seen[name].filled
            and not self.seen[name].text
            and not is_about(name)
            and any(isinstance(row.get(name), list | dict) for row in self.rows)
        ]
        if odd:
            return told_n(
                "{why} ({names} holds lists or objects: write them as text)",
                "{why} ({names} hold lists or objects: write them as text)",
                len(odd),
                why=why,
                names=", ".join(map(repr, odd)),
            )
        return why

    def _named_only(self, free: Sequence[str]) -> tuple[str, str]:
        """Question and answer by their names alone, where they hold any text."""
        texts = [name for name in free if self.seen[name].text > 0.5]
        response, _ = _by_name(texts, names.RESPONSE)
        prompt, _ = _by_name([name for name in texts if name != response], names.PROMPT)
        return prompt, response

    def _extra(self, prompt: str, response: str) -> tuple[str, ...]:
        """The columns that belong to the question: their names say context or input, and they hold text."""
        free = [
            name
            for name in self.columns
            if name not in (prompt, response) and plain_name(name) != plain_name(prompt)
        ]
        exact = [
            name
            for name in _exact(free, names.EXTRA)
            if self.seen[name].is_text or self.seen[name].passages > 0.5 or self.seen[name].filled == 0
        ]
        exact += [
            name
            for name in _exact(free, names.PASSAGES)
            if self.seen[name].is_sentences or self.seen[name].passages > 0.5
        ]
        if exact:
            return tuple(exact)
        longer, _ = _by_name([name for name in free if self.seen[name].is_sentences], names.EXTRA)
        return (longer,) if longer else ()


def _by_content(texts: Sequence[Column], prompt: str, response: str) -> tuple[str, str, float, str]:
    """Question and answer columns, judged by what stands in them."""
    rest = [column for column in texts if column.name not in (prompt, response)]
    if prompt and not response and rest:
        best = max(rest, key=lambda column: column.length)
        return (
            prompt,
            best.name,
            0.7,
            told(
                "{prompt} is a name for a question, {best} holds the longest texts",
                prompt=repr(prompt),
                best=repr(best.name),
            ),
        )
    if response and not prompt and rest:
        best = max(rest, key=lambda column: (column.asks, column.variety))
        return (
            best.name,
            response,
            0.7,
            told(
                "{response} is a name for an answer, {best} asks the most",
                response=repr(response),
                best=repr(best.name),
            ),
        )
    if len(rest) < 2:
        return prompt, response, 0.0, ""
    asker = max(rest, key=lambda column: column.asks)
    others = [column for column in rest if column is not asker]
    if asker.asks >= 0.3 and asker.asks > max(column.asks for column in others) + 0.1:
        best = max(others, key=lambda column: column.length)
        why = told(
            "{asks:.0%} of {asker!r} end with a question mark, {best!r} holds the longest texts",
            asks=asker.asks,
            asker=asker.name,
            best=best.name,
        )
        return asker.name, best.name, 0.65, why
    longest = max(rest[1:], key=lambda column: column.length)
    why = told(
        "{name} is the first column with text, and {longest} the longest behind it",
        name=repr(rest[0].name),
        longest=repr(longest.name),
    )
    return rest[0].name, longest.name, 0.4, why


def rejected_field(rows: Sequence[Mapping[str, Any]], answer: str) -> str:
    """The field with the answers that were rejected in favour of those in `answer`, by its name.

    Returns:
        "" where the name of `answer` does not say that it was chosen, or where there is not just one such field
        of the same form.
    """
    if words_of(answer).isdisjoint(names.CHOSEN) or is_rejected(answer):
        return ""
    others = [name for name in columns_of(rows) if is_rejected(name) and not is_about(name)]
    seen = look(rows, [answer, *others])
    fitting = [
        name
        for name in others
        if seen[name].filled > 0.5
        and seen[name].is_turns == seen[answer].is_turns
        and (seen[name].is_turns or seen[name].is_text)
    ]
    fitting = _exact(fitting, names.REJECTED) or fitting
    return fitting[0] if len(fitting) == 1 else ""


def side_fields(rows: Sequence[Mapping[str, Any]], taken: Iterable[str]) -> FieldMap:
    """The fields beside question and answer that are read by their names: system, history, tools, label."""
    return _Finder(rows, columns_of(rows)).side(taken)


def propose_mapping(rows: Sequence[Mapping[str, Any]], model_chat_template: str | None = None) -> Proposal:
    """Find the question and the answer in some rows (a few hundred are plenty), and a template.

    Args:
        rows: records of the file.
        model_chat_template: the model's own chat template, where it has one.
    """
    mapping, why, confidence = _Finder(rows, columns_of(rows)).find()
    if mapping.text and not set("{}").isdisjoint(mapping.text):
        why = told(
            "{mapping} is the only field with text, and no template can name it: rename it without braces",
            mapping=repr(mapping.text),
        )
        return Proposal(FieldMap(), AUTO, False, why, 0.0)
    if mapping.text:
        return Proposal(mapping, "{" + mapping.text + "}", False, why, confidence)
    if model_chat_template and mapping.complete:
        return Proposal(
            mapping, AUTO, True, told("{why}; the model brings its own chat template", why=why), confidence
        )
    return Proposal(mapping, AUTO, False, why, confidence)
