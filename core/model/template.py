"""How a conversation becomes text: the model's own chat template, or a text with `{field}` places.

Both give segments, so that the loss can be taken on the answers alone, and both open the next answer as
training has it. A chat template is rendered as Hugging Face transformers renders it (jinja2, immutable
sandbox, `trim_blocks`, `lstrip_blocks`): it comes with a downloaded model and must not be able to run code,
nor to take all time or memory (:mod:`core.model.bounded`).

Where an answer lies is never guessed from its words. The template is rendered once more with a mark
behind each text; without the marks that must be the same rendering, else the conversation is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any

from core.errors import LabError
from core.language import told
from core.model.messages import Message, Segment, text_of

ANSWER_NAMES = ("response", "answer", "output", "completion", "assistant")
PLAIN = "Question: {prompt}\nAnswer: {response}"
"""The text for models that have no chat template: ordinary words, since no marker would be theirs."""

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
# An end-of-turn marker as models write it: <|end|>, </s>, <end_of_turn>, <｜end▁of▁sentence｜>, [/INST].
_MARKER = re.compile(r"\s*(?:<[^<>\s]{1,48}>|\[/?[A-Z_]{2,24}\])")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
_PROBE = "739148265"
"""An answer that no template says by itself: figures, which it cannot write in capitals."""
_SAID = 500
"""Characters of what a template says when it refuses, at most."""


_CORRECT = told("correct the row, or write a data.template of your own")
_NO_SYSTEM = told(
    "take the system message out of the row, or put its text before the first question; or "
    "write a data.template of your own"
)


class TemplateError(ValueError):
    """A template that cannot be used, or not for a conversation, with the reason in words.

    `fix` says what to do about the record.
    """

    def __init__(self, reason: str, fix: str = _CORRECT) -> None:
        super().__init__(reason)
        self.fix = fix


NO_TOOLS = told("use a model whose chat template writes tools and their calls, or leave the row out")


@lru_cache(maxsize=8)
def _lookalikes(special: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds what looks like a special token; some models have thousands."""
    names = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


class Guard:
    """Keeps what looks like a special token in foreign text from being one.

    Such text gets a character of private use behind its first letter while the template works; the
    places where those stood are where the text must be cut before it is made into tokens.
    """

    def __init__(self, special: Iterable[str], *texts: str) -> None:
        """``special``: the model's special tokens; ``texts``: all that will be rendered."""
        self._pattern = _lookalikes(tuple(special))
        used = {char for text in texts for char in _PRIVATE.findall(text)}
        free = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
        self.cut, self.end, self.open, self.close = (next(free) for _ in range(4))

    def text(self, text: str) -> str:
        """The text with its lookalikes cut."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: found[0][0] + self.cut + found[0][1:], text)

    def deep(self, value: Any) -> Any:
        """The same for every text in lists and objects."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.deep(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.deep(item) for item in value]
        return value

    def answer(self, text: str, learnt: bool) -> Segment:
        """The segment of an answer, which begins a piece of its own whether it is learnt or not."""
        segment = self.segment(text, learnt)
        return segment if learnt else Segment(segment.text, False, (0, *segment.cuts))

    def segment(self, text: str, trained: bool) -> Segment:
        """A segment of guarded text."""
        cuts, clean = [], ""
        for piece in text.split(self.cut):
            clean += piece
            cuts.append(len(clean))
        return Segment(clean, trained, tuple(cuts[:-1]))


def joined(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments without empty ones, neighbours of one kind made one."""
    result: list[Segment] = []
    for segment in segments:
        if not segment.text:
            continue
        if result and result[-1].trained == segment.trained:
            before = result.pop()
            cuts = (*before.cuts, *(len(before.text) + cut for cut in segment.cuts))
            segment = Segment(before.text + segment.text, segment.trained, cuts)
        result.append(segment)
    return tuple(result)


def all_learnt(segments: Sequence[Segment], kept_out: Sequence[Segment] = ()) -> tuple[Segment, ...]:
    """The same text, cut into tokens as before, all of it learnt.

    Args:
        kept_out: the same text again; what is trained in it is not to be learnt.
    """
    bounds, at = {0}, 0
    for some in (segments, kept_out):
        at = 0
        for each in some:
            bounds.add(at)
            at += len(each.text)
    out = [False] * at
    place = 0
    for each in kept_out:
        out[place : place + len(each.text)] = [each.trained] * len(each.text)
        place += len(each.text)
    cuts, place, result = set[int](), 0, list[Segment]()
    for each in segments:
        cuts.update(place + cut for cut in ((0,) if each.trained else ()) + each.cuts)
        place += len(each.text)
    text, edges = text_of(segments), [*sorted(bounds), place]
    for start, stop in pairwise(edges):
        if start < stop:
            here = tuple(sorted(cut - start for cut in cuts if start <= cut < stop))
            result.append(Segment(text[start:stop], not (kept_out and out[start]), here))
    return joined(result)


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
            raise TemplateError(
                told("it has no {field} in it, so every record would give the same text", field="{field}")
            )
        return cls(tuple(pieces))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in the template, in order, each once."""
        return tuple(dict.fromkeys(name for is_field, name in self.pieces if is_field))

    def question_behind(self, answer: str) -> bool:
        """Whether every other field but the system's stands behind the answer."""
        places = [name for is_field, name in self.pieces if is_field and name != "system"]
        return places[:1] == [answer] and len(set(places)) > 1

    @staticmethod
    def misread(text: str, names: Iterable[str]) -> str:
        """The first of these names that stands in a template's text with one brace or with two; "" if none does."""
        doubled = re.findall(r"\{\{\s*([^{}]+?)\s*\}\}", text)
        bare = _PIECE.sub("\0", text)
        for name in names:
            word = re.escape(name)
            if name in doubled or re.search(rf"\{{\s*{word}\s*(?:\W|$)|(?:\W|^)\s*{word}\s*\}}", bare):
                return name
        return ""

    def answer_field(self, named: str = "") -> str:
        """The field that the model learns to write; empty where the template has only one field."""
        fields = self.fields
        if named in fields:
            return named
        for name in reversed(fields):
            if name.lower() in ANSWER_NAMES:
                return name
        return fields[-1] if len(fields) > 1 else ""

    def segments(
        self,
        values: Mapping[str, str],
        answer: str,
        eos: str = "",
        *,
        special: Iterable[str] = (),
        learnt: bool = True,
    ) -> tuple[Segment, ...]:
        """The text of one record; the part from the answer to its end-of-turn marker is trained.

        Args:
            values: a text for each field of the template.
            answer: the field that is learnt; empty to learn the whole text, whose special tokens are then
                its own.
            eos: put after the answer where the template ends with it and has no marker of its own.
            special: the model's special tokens, which are mere letters in the values.
            learnt: False where the answer is shown and not learnt.
        """
        places = [i for i, (is_field, name) in enumerate(self.pieces) if is_field and name == answer]
        if not places:
            texts = [values[name] if is_field else name for is_field, name in self.pieces]
            return joined([Segment("".join(texts) + eos, learnt)])
        guard = Guard(special, *values.values())
        texts = [guard.text(values[name]) if is_field else name for is_field, name in self.pieces]
        last = places[-1]
        before, body, after = "".join(texts[:last]), texts[last], "".join(texts[last + 1 :])
        end = _end_of_turn(self.pieces[last + 1 :], eos)
        rest = after.removeprefix(end)
        return joined(
            [guard.segment(before, False), guard.answer(body + end, learnt), guard.segment(rest, False)]
        )

    def opening(
        self, values: Mapping[str, str], answer: str, special: Iterable[str] = ()
    ) -> tuple[Segment, ...]:
        """The text before the answer."""
        guard = Guard(special, *values.values())
        text = ""
        place = max(
            (i for i, (is_field, name) in enumerate(self.pieces) if is_field and name == answer),
            default=len(self.pieces),
        )
        for is_field, name in self.pieces[:place]:
            text += guard.text(values[name]) if is_field else name
        return joined([guard.segment(text, False)])


def _end_of_turn(behind: Sequence[tuple[bool, str]], eos: str) -> str:
    """The marker that ends the answer, from the pieces behind it; `eos` where there is none."""
    after = "" if not behind or behind[0][0] else behind[0][1]
    match = _MARKER.match(after)
    if match:
        return match.group()
    return after.rstrip() if after.strip() and len(behind) == 1 else eos


@dataclass(frozen=True)
class PlainTurns:
    """A conversation in a `{field}` template, which is used once for each question and answer.

    Attributes:
        asked: the field that a question goes into.
        answer: the field that an answer goes into.
        more: further fields of the template, which stay empty in a conversation.
    """

    template: Template
    asked: str
    answer: str
    eos: str = ""
    special: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, template: Template, answer: str = "", *, eos: str = "", special: tuple[str, ...] = ()
    ) -> PlainTurns:
        """Settle which field is the question and which the answer.

        Raises:
            TemplateError: the template has no place for a question, or none for an answer.
        """
        answer = template.answer_field(answer)
        rest = [name for name in template.fields if name not in (answer, "system")]
        if not answer or not rest:
            raise TemplateError(told("it needs a place for the question and one for the answer"))
        asked = "prompt" if "prompt" in rest else rest[-1]
        return cls(template, asked, answer, eos, special, tuple(name for name in rest if name != asked))

    def _values(self, system: str, asked: str, answer: str) -> dict[str, str]:
        values = dict.fromkeys((*self.more, "system"), "")
        if "system" in self.template.fields:
            values["system"] = system
        elif system:
            asked = f"{system}\n\n{asked}"
        return {**values, self.asked: asked, self.answer: answer}

    def _read(
        self, messages: Sequence[Message], tools: Sequence[Any]
    ) -> tuple[list[Segment], str, list[str]]:
        """The finished turns as segments, the system text that still waits, and questions without an answer."""
        if tools or any(message.tool_calls or message.role == "tool" for message in messages):
            raise TemplateError(told("a plain template has no place for tools and their calls"), NO_TOOLS)
        result: list[Segment] = []
        asked: list[str] = []
        system = ""
        for message in messages:
            if message.role == "system":
                system = message.content
            elif message.role == "user":
                asked.append(message.content)
            else:
                if result:
                    result.append(Segment("\n", False))
                values = self._values(system, "\n\n".join(asked), message.content)
                result += self.template.segments(
                    values, self.answer, self.eos, special=self.special, learnt=message.learnt
                )
                asked, system = [], system if "system" in self.template.fields else ""
        return result, system, asked

    def segments(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Segment, ...]:
        """The conversation's text, each answer up to its end-of-turn marker trained.

        Raises:
            TemplateError: it has tools, for which there is no place.
        """
        return joined(self._read(messages, tools)[0])

    def opening(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Segment, ...]:
        """The text up to the next answer, the earlier answers marked as in :meth:`segments`."""
        result, system, asked = self._read(messages, tools)
        if result:
            result.append(Segment("\n", False))
        values = self._values(system, "\n\n".join(asked), "")
        return joined([*result, *self.template.opening(values, self.answer, self.special)])

    @property
    def ending(self) -> str:
        """What stands behind an answer: the marker that ends the turn."""
        segments = self.template.segments(self._values("", "x", _PROBE), self.answer, self.eos)
        return "".join(segment.text for segment in segments if segment.trained).rpartition(_PROBE)[2]


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    from jinja2 import TemplateError as JinjaError
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols

    from core.model.bounded import BoundedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says; the marks are shown where they are asked for."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own interface

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)

            def mark(name: str) -> Any:
                return nodes.Output([nodes.Name(name, "load")], lineno=line)

            return [mark("generation_open"), nodes.Scope(body, lineno=line), mark("generation_close")]

    def refuse(message: str) -> None:
        raise JinjaError(message)

    def now(form: str) -> str:
        if len(form) > _SAID:
            refuse("its form of a date is too long")
        return datetime.now().strftime(form)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.add_filter("tojson", to_json)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = now
    return environment.from_string(text)


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Attributes:
        text: jinja2.
        eos, bos: the special tokens that it may name.
        special: the model's special tokens: in what people and records say they are letters.
    """

    text: str
    eos: str = ""
    bos: str = ""
    special: tuple[str, ...] = ()

    def render(
        self,
        messages: Sequence[Message],
        *,
        generate: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The conversation as the template writes it; `generate` asks it to open the next answer.

        A template that knows no system role gets that text before the first question.

        Raises:
            TemplateError: the template is broken or refuses these messages.
        """
        turns = [_turn(message) for message in self._known(messages)]
        return self._render(turns, generate, [dict(tool) for tool in tools])

    def _render(self, turns: list[dict[str, Any]], generate: bool, tools: list[Any], **more: str) -> str:
        from jinja2 import TemplateError as JinjaError

        from core.model.bounded import TooMuch, render

        values = {
            "messages": turns,
            "add_generation_prompt": generate,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "tools": tools or None,
            "documents": None,
            **more,
        }
        try:
            compiled = _compiled(self.text)
        except LabError:
            raise
        except Exception as error:  # jinja2's own errors, and whatever a hostile text makes its parser do
            line = getattr(error, "lineno", None)
            reason = str(error) if isinstance(error, JinjaError) else f"{type(error).__name__}: {error}"
            where = told(" (line {line})", line=line) if line else ""
            raise TemplateError(
                told(
                    "the model's chat template is broken: {reason}{where}", reason=reason[:_SAID], where=where
                )
            ) from None
        try:
            return render(compiled, values)
        except LabError:
            raise  # a request to stop, which may come at any moment
        except TooMuch as error:
            raise TemplateError(told("the model's chat template {error}", error=error)) from None
        except JinjaError as error:
            reason = str(error)[:_SAID]
            raise TemplateError(
                told("the model's chat template refuses this conversation: {reason}", reason=reason)
            ) from None
        except Exception as error:  # a template is a program of the model's author: it may fail in any way
            reason = f"{type(error).__name__}: {error}"[:_SAID]
            raise TemplateError(
                told("the model's chat template fails on this conversation: {reason}", reason=reason)
            ) from None

    def segments(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Segment, ...]:
        """The conversation's text, with each answer up to its end-of-turn marker trained.

        The segments joined are what :meth:`render` gives. Where the template marks what the assistant says
        by `{% generation %}`, its marks are taken.

        Raises:
            TemplateError: the template refuses the messages, drops one, or does not let it be told where
                an answer of theirs lies.
        """
        return self._placed(messages, tools, opened=False)

    def opening(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Segment, ...]:
        """The text up to the next answer, as training has it, earlier answers marked as there.

        This is what the template's own generation prompt gives, but for two kinds: where that prompt opens a
        block of thoughts that rows do not have, the answer begins before it; where a template knows no
        generation prompt, the head of an answer is added.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        try:
            return self._placed(messages, tools, opened=True)
        except TemplateError:
            # Earlier answers cannot be told apart in it: the text is right all the same.
            guard, turns, given = self._guarded(messages, tools)
            text = self._opened(turns, given)
            return joined([guard.segment(text, False)])

    def shows(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], what: str) -> bool:
        """Whether the template writes what the messages have as `what`: `tools`, `name` or `reasoning`."""
        text = self.render(messages, tools=tools)
        if what == "tools":
            return all(name in text for name in map(tool_name, tools))
        values = [getattr(message, what) for message in messages]
        return all(value.strip() in text for value in values if value)

    @property
    def ending(self) -> str:
        """The special token that the template writes behind an answer, with white space before it, or ""."""
        return self._endings[0]

    @cached_property
    def _endings(self) -> tuple[str, ...]:
        """What stands behind the last answer of a conversation, and what behind an earlier one where it differs."""
        first, second = f"{_PROBE}1", f"{_PROBE}2"
        begun = (Message("user", first), Message("assistant", _PROBE))
        for system in ((), (Message("system", "a"),)):  # there are templates that refuse to be without
            try:
                last = self.render((*system, *begun)).rpartition(_PROBE)[2]
                longer = self.render((*system, *begun, Message("user", second), Message("assistant", "b")))
                every = self._marker(self.render((*system, begun[0])).rpartition(first)[2])
            except TemplateError:
                continue
            before, _, behind = longer.partition(first)
            between = behind.partition(_PROBE)[2].partition(second)[0]
            # What stands there belongs to the answer but for the head of the question that follows; where the first
            # question has the same before it, the end is what a turn of the user has behind it.
            if not every or not between.startswith(every):
                every = ""
            while between and before.endswith(between[-1]):
                before, between = before[:-1], between[:-1]
            return self._marker(last), self._marker(between) or every
        return ("",)

    def _marker(self, behind: str) -> str:
        if self.special:
            names = sorted({*self.special, self.eos} - {""}, key=len, reverse=True)
            match = re.match(r"\s*(?:" + "|".join(map(re.escape, names)) + ")", behind)
        else:
            match = _MARKER.match(behind)
        return match.group() if match else ""

    @cached_property
    def knows_system(self) -> bool:
        """Whether the template writes a system message."""
        turns = [Message("system", _PROBE).as_dict(), Message("user", "a").as_dict()]
        try:
            return _PROBE in self._render(turns, False, [])
        except TemplateError:
            return False

    def _known(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the system's text before the first question, where the template needs that."""
        if not messages or messages[0].role != "system" or self.knows_system:
            return messages
        system, *rest = messages
        for place, message in enumerate(rest):
            if message.role == "user":
                rest[place] = Message("user", f"{system.content}\n\n{message.content}", message.name)
                return rest
        return messages

    @cached_property
    def thoughts(self) -> str:
        """What the template's generation prompt opens and no row has, such as a block of thoughts."""
        return self._difference[1]

    @cached_property
    def _difference(self) -> tuple[str, str]:
        """What is added to the template's generation prompt, and taken off its end, to be where answers begin."""
        turns = [Message("user", "a").as_dict()]
        probe = [*turns, Message("assistant", _PROBE).as_dict()]
        try:
            asked, plain = self._render(turns, True, []), self._render(turns, False, [])
            before, found, _ = self._render(probe, False, []).partition(_PROBE)
        except TemplateError:
            return "", ""
        if not found:
            return "", ""
        if asked == plain:
            head = before.removeprefix(asked) if before.startswith(asked) else ""
            return (head, "") if head.strip() else ("", "")
        if before.startswith(asked):
            return "", ""
        common = next(
            (at for at, pair in enumerate(zip(asked, before, strict=False)) if pair[0] != pair[1]),
            min(len(asked), len(before)),
        )
        return ("", asked[common:]) if common > len(plain) else ("", "")

    def _guarded(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[Guard, list[dict[str, Any]], list[Any]]:
        turns = [_turn(message) for message in self._known(messages)]
        given = [dict(tool) for tool in tools]
        guard = Guard(self.special, json.dumps([turns, given], ensure_ascii=False, default=str), self.text)
        guarded = [{**guard.deep(turn), "role": turn["role"]} for turn in turns]
        kept = guard.deep(given)
        if guarded != turns or kept != given:
            text = self._render(guarded, False, kept)
            if text.replace(guard.cut, "") != self._render(turns, False, given):
                raise TemplateError(
                    told(
                        "its text contains special tokens of the model, which the chat template itself looks for"
                    )
                )
        return guard, guarded, kept

    def _opened(self, turns: list[dict[str, Any]], tools: list[Any]) -> str:
        head, thoughts = self._difference
        return self._render(turns, True, tools).removesuffix(thoughts) + head

    def _placed(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, opened: bool
    ) -> tuple[Segment, ...]:
        known = self._known(messages)
        guard, turns, given = self._guarded(messages, tools)

        def write(some: list[dict[str, Any]]) -> str:
            return self._opened(some, given) if opened else self._render(some, False, given)

        text = write(turns)
        ends = self._ends(text, turns, guard, write)
        self._demand_calls(text, turns, given, guard)
        spans = None
        if not opened and _GENERATION.search(self.text):
            spans = self._own_marks(text, known, turns, given, guard)
        if spans is None:
            spans = []
            starts = self._starts(text, turns, given, guard, ends, write)
            for place, start in starts.items():
                at = spans[-1][1] if spans else 0
                if start < at:
                    start = self._probed(text, turns, place, given, guard)
                stop = self._stop(text, turns, place, given, ends[place])
                spans.append((start, stop, known[place].learnt))
        if not opened:
            self._demand_order(known, ends)
        result: list[Segment] = []
        at = 0
        for start, stop, learnt in spans:
            if not at <= start <= stop:
                raise TemplateError(
                    told("the model's chat template does not let it be told where an answer lies")
                )
            result += [guard.segment(text[at:start], False), guard.answer(text[start:stop], learnt)]
            at = stop
        result.append(guard.segment(text[at:], False))
        return joined(result)

    def _ends(
        self,
        text: str,
        turns: list[dict[str, Any]],
        guard: Guard,
        write: Callable[[list[dict[str, Any]]], str],
    ) -> list[int]:
        """Where the text of each turn ends; the start of the rendering for turns without text."""

        def marked(turn: dict[str, Any], mark: str) -> dict[str, Any]:
            body = turn["content"].rstrip()
            return {**turn, "content": body + mark + turn["content"][len(body) :]}

        wanted = [place for place, turn in enumerate(turns) if turn["content"].strip()]
        numbered = [
            marked(turn, f"{guard.end}{place}{guard.end}") if place in wanted else turn
            for place, turn in enumerate(turns)
        ]
        # A template may write turns in another order: Mistral's put the system's text before the last question.
        pieces = re.split(f"{guard.end}(\\d+){guard.end}", write(numbered))
        found = [int(place) for place in pieces[1::2]]
        if "".join(pieces[::2]) != text or sorted(found) != wanted:
            for place in wanted:
                alone = write(
                    [marked(turn, guard.end) if i == place else turn for i, turn in enumerate(turns)]
                )
                if alone.count(guard.end) != 1 or alone.replace(guard.end, "") != text:
                    role = turns[place]["role"]
                    raise TemplateError(
                        told(
                            "the model's chat template does not show turn {place} ({role}) as it is",
                            place=place + 1,
                            role=role,
                        ),
                        _NO_SYSTEM if role == "system" else _CORRECT,
                    )
            raise TemplateError(told("the model's chat template does not show the turns one after another"))
        ends, at = [0] * len(turns), 0
        for place, piece in zip(found, pieces[:-1:2], strict=True):
            at += len(piece)
            ends[place] = at
        return ends

    @staticmethod
    def _demand_order(messages: Sequence[Message], ends: Sequence[int]) -> None:
        """Raise TemplateError where an answer is learnt before a turn that the chat would have shown it."""
        for place, message in enumerate(messages):
            if message.role == "assistant" and message.learnt and ends[place]:
                late = next((at for at in range(place) if ends[at] > ends[place]), None)
                if late is not None:
                    raise TemplateError(
                        told(
                            "the model's chat template writes turn {late} ({role}) behind the answer in turn "
                            "{place}, which would be learnt without it",
                            late=late + 1,
                            role=messages[late].role,
                            place=place + 1,
                        ),
                        told(
                            "let only the last answer of the row be learnt (weight 0 for the others), make a row of "
                            "each question, or take the system message out"
                        ),
                    )

    def _demand_calls(self, text: str, turns: list[dict[str, Any]], tools: list[Any], guard: Guard) -> None:
        """Raise TemplateError where the template does not write the calls of a turn, or the tools."""
        if tools:
            named = [_renamed(tool, guard.open) for tool in tools]
            if self._render(turns, False, named).count(guard.open) < len(tools):
                raise TemplateError(
                    told("the model's chat template does not write the row's tools"), NO_TOOLS
                )
        called = [place for place, turn in enumerate(turns) if turn.get("tool_calls")]
        if called and not self._shown_calls(turns, called, tools, guard):
            for place in called:  # which of them
                if not self._shown_calls(turns, [place], tools, guard):
                    raise TemplateError(
                        told(
                            "the model's chat template does not write the tool call of turn {place}",
                            place=place + 1,
                        ),
                        NO_TOOLS,
                    )

    def _shown_calls(
        self, turns: list[dict[str, Any]], places: list[int], tools: list[Any], guard: Guard
    ) -> bool:
        """Whether the template writes the calls of these turns."""
        names = []
        other = list(turns)
        for place in places:
            calls = turns[place]["tool_calls"]
            here = [f"{guard.open}{place}.{number}{guard.open}" for number in range(len(calls))]
            other[place] = {
                **turns[place],
                "tool_calls": [_renamed(call, name) for call, name in zip(calls, here, strict=True)],
            }
            names += here
        shown = self._render(other, False, tools)
        return all(name in shown for name in names)

    def _own_marks(
        self,
        text: str,
        messages: Sequence[Message],
        turns: list[dict[str, Any]],
        tools: list[Any],
        guard: Guard,
    ) -> list[tuple[int, int, bool]] | None:
        """What the template marks by `{% generation %}`; None where it marks nothing."""
        marked = self._render(turns, False, tools, generation_open=guard.open, generation_close=guard.close)
        blocks, clean = [], ""
        for number, piece in enumerate(re.split(f"[{guard.open}{guard.close}]", marked)):
            if number % 2:
                blocks.append((len(clean), len(clean) + len(piece)))
            clean += piece
        if not blocks or clean != text:
            return None
        answers = [message.learnt for message in messages if message.role == "assistant"]
        if len(answers) != len(blocks):
            if not all(answers):
                raise TemplateError(
                    told("the template's own marks do not tell which answer is not to be learnt")
                )
            answers = [True] * len(blocks)
        result = []
        for (start, stop), learnt in zip(blocks, answers, strict=True):
            # Some marks leave out what ends the turn, and a model that has not learnt it does not stop.
            stop += next((len(each) for each in self._endings if each and text.startswith(each, stop)), 0)
            result.append((start, stop, learnt))
        return result

    def _starts(
        self,
        text: str,
        turns: list[dict[str, Any]],
        tools: list[Any],
        guard: Guard,
        ends: list[int],
        write: Callable[[list[dict[str, Any]]], str],
    ) -> dict[int, int]:
        """Where the answer of each turn that is one begins: where the chat would have it begin.

        To find that out costs a rendering of all turns before it. Where the same text stands between a turn and
        the answer to it as at another place, the answer begins there as it does at that one.
        """
        contents = self._contents(text, turns, guard, write)
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        found: dict[int, int] = {}
        same: dict[tuple[str, str], int] = {}
        for place in reversed(
            places
        ):  # the last turns are written as the chat has them; earlier ones may not be
            before = ends[place - 1] if place else 0
            content = contents.get(place, -1)
            if not 0 < before <= content:
                found[place] = self._start(text, turns, place, tools, guard)
                continue
            key = (turns[place - 1]["role"], text[before:content])
            if key not in same:
                same[key] = self._start(text, turns, place, tools, guard) - before
            found[place] = before + same[key]
        return {place: found[place] for place in places}

    @staticmethod
    def _contents(
        text: str,
        turns: list[dict[str, Any]],
        guard: Guard,
        write: Callable[[list[dict[str, Any]]], str],
    ) -> dict[int, int]:
        """Where the words of each answer begin; nothing where a mark before them changes the rendering."""
        marked = []
        for place, turn in enumerate(turns):
            body = turn["content"].lstrip()
            if turn["role"] == "assistant" and body:
                blank = turn["content"][: -len(body)]
                turn = {**turn, "content": f"{blank}{guard.end}{place}{guard.end}{body}"}
            marked.append(turn)
        try:
            pieces = re.split(f"{guard.end}(\\d+){guard.end}", write(marked))
        except TemplateError:
            return {}
        if "".join(pieces[::2]) != text:
            return {}
        lengths = accumulate(map(len, pieces[:-1:2]))
        return dict(zip(map(int, pieces[1::2]), lengths, strict=True))

    def _start(
        self, text: str, turns: list[dict[str, Any]], place: int, tools: list[Any], guard: Guard
    ) -> int:
        """Where the answer in this turn begins."""
        if place:
            try:
                before = self._opened(turns[:place], tools)
            except TemplateError:
                before = ""  # a template may refuse a conversation that ends otherwise
            if before and text.startswith(before):
                return len(before)
        return self._probed(text, turns, place, tools, guard)

    def _probed(
        self, text: str, turns: list[dict[str, Any]], place: int, tools: list[Any], guard: Guard
    ) -> int:
        """The place where an answer's own text begins: later turns may change how earlier ones are written."""
        probed = [*turns[:place], {**turns[place], "content": guard.end}, *turns[place + 1 :]]
        before, found, _ = self._render(probed, False, tools).partition(guard.end)
        if not found or not text.startswith(before):
            raise TemplateError(
                told(
                    "the model's chat template does not let it be told where the answer in turn {place} "
                    "begins",
                    place=place + 1,
                )
            )
        return len(before)

    def _stop(self, text: str, turns: list[dict[str, Any]], place: int, tools: list[Any], end: int) -> int:
        """Where the answer in this turn ends, its end-of-turn marker included."""
        if not turns[place].get("tool_calls"):
            endings = self._endings
            if not any(endings):
                if text[end:].strip() == "":
                    return len(text)
                if place == len(turns) - 1:
                    endings = (self._marker(text[end:]),)
            content = turns[place]["content"]
            behind = content[
                len(content.rstrip()) :
            ]  # of the answer itself; many templates write it as it is
            for rest in (whole for each in endings for whole in (behind + each, each) if whole):
                if text.startswith(rest, end):
                    return end + len(rest)
            return end
        shown = self._render(turns[: place + 1], False, tools)
        if not text.startswith(shown):
            raise TemplateError(
                told(
                    "the model's chat template does not let it be told where the tool call of turn {place} "
                    "ends",
                    place=place + 1,
                )
            )
        return len(shown.rstrip())


def _turn(message: Message) -> dict[str, Any]:
    """The message as templates get it of transformers: thoughts have another name besides, which gpt-oss reads."""
    turn = message.as_dict()
    return {**turn, "thinking": message.reasoning} if message.reasoning else turn


def _renamed(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": {**function, "name": name}}
    return {**call, "name": name}


def tool_name(call: Mapping[str, Any]) -> str:
    """The name of the function in a tool's description or call, in OpenAI's form or the bare one."""
    function = call.get("function")
    name = function.get("name") if isinstance(function, Mapping) else call.get("name")
    return name if isinstance(name, str) else ""
