"""Which fields of the rows are the question, the answer, or the conversation.

Known names in several languages are taken as they are; for other names the columns are judged by
what stands in them, and the result waits for one confirmation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.data import names
from core.data.messages import looks_like_messages
from core.data.names import plain_name
from core.recipe import TEMPLATE

SURE = 0.8
"""Confidence from which a mapping is used without asking."""

_QUESTION_END = re.compile(r"[?？؟]\s*$")


@dataclass(frozen=True)
class FieldMap:
    """The fields that make a conversation.

    `prompt` holds one field, or several that are joined by a blank line: the first must be filled,
    the others may be empty. `messages` is a list of turns in one field; `text` is trained on as it is.
    """

    prompt: tuple[str, ...] = ()
    response: str = ""
    system: str = ""
    messages: str = ""
    text: str = ""

    @property
    def complete(self) -> bool:
        """Whether there is an answer to learn, or text."""
        return bool(self.messages or self.text or (self.prompt and self.response))

    def as_dict(self) -> dict[str, Any]:
        """JSON form, without what is not mapped."""
        pairs = {
            "prompt": list(self.prompt),
            "response": self.response,
            "system": self.system,
            "messages": self.messages,
            "text": self.text,
        }
        return {name: value for name, value in pairs.items() if value}

    def words(self) -> str:
        """The mapping in words for people."""
        if self.messages:
            return f"the conversation is in {self.messages!r}"
        if self.text:
            return f"the whole text is in {self.text!r}"
        asked = " and ".join(repr(name) for name in self.prompt) or "nothing"
        return f"the question is in {asked}, the answer in {self.response!r}"


@dataclass(frozen=True)
class Proposal:
    """A mapping and a template for a file, why, and how sure that is (0 to 1)."""

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
        values: dict[str, Any] = {"data.chat_template": self.chat_template}
        if not self.chat_template:
            values["data.template"] = self.template
        values["data.prompt_field"] = "+".join(mapping.prompt)
        values["data.response_field"] = mapping.response
        values["data.messages_field"] = mapping.messages
        return values

    def as_dict(self) -> dict[str, Any]:
        """JSON form, as `olivepress data --json` prints it."""
        return {
            "mapping": self.mapping.as_dict(),
            "template": self.template,
            "chat_template": self.chat_template,
            "why": self.why,
            "confidence": round(self.confidence, 2),
            "sure": self.sure,
            "settings": self.settings(),
        }


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
        hits = [column for column in columns if f" {name} " in f" {plain[column]} "]
        if len(hits) == 1:
            return hits[0], 0.85
    return "", 0.0


@dataclass(frozen=True)
class _Column:
    name: str
    asks: float  # share of values that end with a question mark
    length: float  # mean length in characters
    variety: float  # share of different values


def _text_columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[_Column]:
    """The columns that hold sentences: text, filled in half of the rows, not a label and not an id."""
    result = []
    for name in columns:
        values = [row.get(name) for row in rows]
        texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
        if 2 * len(texts) < len(values) or not texts:
            continue
        length = sum(map(len, texts)) / len(texts)
        variety = len(set(texts)) / len(texts)
        spaced = sum(" " in text or len(text) > 12 for text in texts) / len(texts)
        links = sum(text.startswith(("http://", "https://")) for text in texts) / len(texts)
        if (variety < 0.3 and len(texts) > 5) or spaced < 0.3 or links > 0.5:
            continue
        asks = sum(bool(_QUESTION_END.search(text)) for text in texts) / len(texts)
        result.append(_Column(name, asks, length, variety))
    return result


def _by_content(texts: Sequence[_Column], prompt: str, response: str) -> tuple[str, str, float, str]:
    """Question and answer columns, judged by what stands in them."""
    rest = [column for column in texts if column.name not in (prompt, response)]
    if prompt and not response and rest:
        best = max(rest, key=lambda column: column.length)
        return (
            prompt,
            best.name,
            0.7,
            f"{prompt!r} is a name for a question, {best.name!r} holds the longest texts",
        )
    if response and not prompt and rest:
        best = max(rest, key=lambda column: (column.asks, column.variety))
        return best.name, response, 0.7, f"{response!r} is a name for an answer, {best.name!r} asks the most"
    if len(rest) < 2:
        return prompt, response, 0.0, ""
    asker = max(rest, key=lambda column: column.asks)
    others = [column for column in rest if column is not asker]
    if asker.asks >= 0.3 and asker.asks > max(column.asks for column in others) + 0.1:
        best = max(others, key=lambda column: column.length)
        why = f"{asker.asks:.0%} of {asker.name!r} end with a question mark"
        why += f", {best.name!r} holds the longest texts"
        return asker.name, best.name, 0.65, why
    longest = max(rest[1:], key=lambda column: column.length)
    why = f"{rest[0].name!r} is the first column with text, and {longest.name!r} the longest behind it"
    return rest[0].name, longest.name, 0.4, why


def _find_map(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[FieldMap, str, float]:
    lists = [name for name in columns if any(looks_like_messages(row.get(name)) for row in rows[:50])]
    named, sure = _by_name(lists, names.MESSAGES)
    system, _ = _by_name(columns, names.SYSTEM)
    if lists:
        field = named or lists[0]
        return FieldMap(messages=field, system=system), f"{field!r} holds lists of turns", sure or 0.9
    texts = _text_columns(rows, columns)
    answers = [name for name in columns if name != system]
    response, sure_b = _by_name(answers, names.RESPONSE)
    prompt, sure_a = _by_name([name for name in answers if name != response], names.PROMPT)
    why = f"{prompt!r} and {response!r} are names for a question and an answer"
    confidence = min(sure_a, sure_b)
    if not (prompt and response):
        prompt, response, confidence, why = _by_content(texts, prompt, response)
    if prompt and response:
        extra, _ = _by_name([name for name in columns if name not in (prompt, response)], names.EXTRA)
        if extra and plain_name(prompt) != plain_name(extra):
            return (
                FieldMap((prompt, extra), response, system),
                f"{why}, and {extra!r} belongs to the question",
                confidence,
            )
        return FieldMap((prompt,), response, system), why, confidence
    text, sure = _by_name([column.name for column in texts], names.TEXT)
    if text or len(texts) == 1:
        field = text or texts[0].name
        return (
            FieldMap(text=field),
            f"{field!r} is the only field with text, so all of it is learnt",
            min(sure, 0.7) or 0.5,
        )
    return FieldMap(), "no field looks like a question or an answer", 0.0


def _fits(template: str, model_template: str) -> bool:
    """Whether the markers of a plain template are the model's own."""
    markers = re.findall(r"<[^<>\s{}]{2,40}>", template)
    return bool(markers) and all(marker in model_template or marker[2:-2] in _ROLES for marker in markers)


_ROLES = ("user", "assistant", "system")  # a chat template may build these as '<|' + role + '|>'


def propose_mapping(rows: Sequence[Mapping[str, Any]], model_chat_template: str | None = None) -> Proposal:
    """Find the question and the answer in some rows (a few hundred are plenty), and a template.

    Args:
        rows: records of the file.
        model_chat_template: the model's own chat template, where it has one.
    """
    mapping, why, confidence = _find_map(rows, columns_of(rows))
    if mapping.text:
        return Proposal(mapping, "{" + mapping.text + "}", False, why, confidence)
    if model_chat_template and (mapping.messages or not _fits(TEMPLATE, model_chat_template)):
        return Proposal(mapping, TEMPLATE, True, f"{why}; the model brings its own chat template", confidence)
    if model_chat_template:
        why += "; the markers of the usual template are this model's own"
    return Proposal(mapping, TEMPLATE, False, why, confidence)
