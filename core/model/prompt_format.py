"""The one writer of conversations: text, token ids, and what is learnt, for a model and a recipe.

Report, calibration, training, verification, evaluation and chat all ask a :class:`PromptFormat`, so that
what the model meets in the chat is what it met in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.language import told
from core.model.messages import Message, Segment
from core.model.template import PLAIN, ChatTemplate, PlainTurns, Template, TemplateError
from core.model.text import ModelText, read_text
from core.model.tokenizer import Encoded, ModelTokenizer
from core.options import AUTO


@dataclass(frozen=True)
class PromptFormat:
    """How one model reads conversations.

    Attributes:
        turns: the template in use: the model's own, or the recipe's.
        why: which template that is, in words.
        plain_text: the records are text without a question, so that no conversation is as in training.
    """

    turns: ChatTemplate | PlainTurns
    tokenizer: ModelTokenizer
    why: str
    plain_text: bool = False

    @property
    def own(self) -> bool:
        """Whether the model's own chat template is used."""
        return isinstance(self.turns, ChatTemplate)

    def segments(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Segment, ...]:
        """A conversation's text, its answers marked as learnt.

        Raises:
            TemplateError: the template refuses it, or it cannot be told where an answer lies.
        """
        return self.turns.segments(messages, tools)

    def opening(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[Segment, ...]:
        """The text that ends where the next answer begins. Raises TemplateError as :meth:`segments`."""
        return self.turns.opening(messages, tools)

    def encode(self, segments: Sequence[Segment]) -> Encoded:
        """A whole row as ids, and what of it is learnt."""
        return self.tokenizer.encode_row(segments)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The ids that the model reads before it answers. Raises TemplateError as :meth:`segments`."""
        return self.tokenizer.encode(self.opening(messages, tools)).ids

    def end_ids(self) -> list[int]:
        """Ids of the tokens that end an answer: the model's own, and what the template puts behind one."""
        marker = self.tokenizer.starts_special(self.turns.ending.lstrip())
        found = list(self.tokenizer.ends)
        if marker is not None:
            found.append(self.tokenizer.numbers[marker])
        return list(dict.fromkeys(found))


def read_prompt_format(folder: Path, template: str = AUTO, *, answer: str = "") -> PromptFormat:
    """How the model in a folder reads conversations.

    Args:
        template: the recipe's ``data.template``: "auto", or a text with ``{field}`` places.
        answer: the recipe's ``data.response_field``.

    Raises:
        RequestError: the tokenizer or the template cannot be used.
    """
    text = read_text(folder)
    return prompt_format(text, ModelTokenizer.read(folder, text.ends), template, answer=answer)


def prompt_format(
    text: ModelText, tokenizer: ModelTokenizer, template: str = AUTO, *, answer: str = ""
) -> PromptFormat:
    """The same from what was read already. Raises RequestError: the template cannot be used."""
    special = tokenizer.special
    if template != AUTO and _is_text_alone(template, answer):
        return replace(prompt_format(text, tokenizer), plain_text=True)
    if template == AUTO and text.template:
        turns = ChatTemplate(text.template, text.eos, text.bos, special)
        return PromptFormat(turns, tokenizer, told("the model's own chat template"))
    why = told("the recipe's template")
    if template == AUTO:
        template, why = PLAIN, told("a plain template, since the model has no chat template")
    try:
        plain = PlainTurns.of(Template.parse(template), answer, eos=text.eos, special=special)
    except TemplateError as error:
        raise RequestError(
            told("The template cannot be used."),
            told("data.template: {error}.", error=error),
            told('Set it to "auto", or add fields.'),
            code="data.template",
        ) from None
    return PromptFormat(plain, tokenizer, why)


def _is_text_alone(template: str, answer: str) -> bool:
    """Whether a template has no place for a question beside an answer, but some text."""
    try:
        parsed = Template.parse(template)
    except TemplateError:
        return False
    learnt = parsed.answer_field(answer)
    return not (learnt and set(parsed.fields) - {learnt, "system"})
