"""How the model reads a conversation, told to programs that know nothing of this one.

The lab's own writer (:mod:`core.model.prompt_format`) is asked for a few conversations whose texts are known, and what
it writes between those texts is a handful of pieces. Of them a Jinja template is made (transformers, llama.cpp,
onnxruntime-genai), a Go template (Ollama) and the pieces by role (older Foundry Local); so all of them write what the
lab's chat writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from core.errors import LabError
from core.files import read_json, write_atomic, write_json
from core.language import told
from core.model.messages import Message, text_of
from core.model.prompt_format import PromptFormat
from core.model.template import ChatTemplate, TemplateError

_SYSTEM, _ASKED, _SAID, _AGAIN = "Sy4s7tem", "As1k9ed", "Sa5i2d", "Ag8a3in"
_MORE = (("user", "Wh6a1t"), ("assistant", "An0s5wer"), ("user", "La9s4t"))


@dataclass(frozen=True)
class TurnPieces:
    """The text around what people and the model say.

    Attributes:
        system, after_system: before and behind the system's text, up to the first question.
        first: before the first question where there is no system text.
        later: before every other question: the end of the answer before it, and the head of a question.
        answer: between a question and its answer.
        opening: behind the last question, where the model begins to write.
        end: behind the last answer.
    """

    system: str
    after_system: str
    first: str
    later: str
    answer: str
    opening: str
    end: str

    def text(self, messages: list[tuple[str, str]]) -> str:
        """A conversation that ends in a question, as the model reads it."""
        system = next((content for role, content in messages if role == "system"), "")
        text, first = "", True
        for role, content in messages:
            if role == "user":
                begin = (
                    (self.system + system + self.after_system if system else self.first)
                    if first
                    else self.later
                )
                text += begin + content
                first = False
            elif role == "assistant":
                text += self.answer + content
        return text + self.opening

    def jinja(self) -> str:
        """As a chat template in Jinja."""
        q = _quoted
        return (
            "{%- set seen = namespace(first=true, system='') -%}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}{%- set seen.system = message['content'] -%}"
            "{%- elif message['role'] == 'user' -%}"
            f"{{%- if not seen.first -%}}{{{{ {q(self.later)} }}}}"
            f"{{%- elif seen.system -%}}{{{{ {q(self.system)} + seen.system + {q(self.after_system)} }}}}"
            f"{{%- else -%}}{{{{ {q(self.first)} }}}}{{%- endif -%}}"
            "{%- set seen.first = false -%}{{ message['content'] }}"
            f"{{%- elif message['role'] == 'assistant' -%}}{{{{ {q(self.answer)} + message['content'] }}}}"
            "{%- endif -%}{%- endfor -%}"
            f"{{%- if add_generation_prompt -%}}{{{{ {q(self.opening)} }}}}"
            f"{{%- elif messages and messages[-1]['role'] == 'assistant' -%}}{{{{ {q(self.end)} }}}}{{%- endif -%}}"
        )

    def go(self, start: str = "") -> str:
        """As Ollama's template. ``start`` is left out at the beginning, where the tokenizer writes it by itself."""
        begin, first = self.system.removeprefix(start), self.first.removeprefix(start)
        return (
            "{{ $first := true }}{{ range .Messages }}"
            '{{ if eq .Role "user" }}'
            f"{{{{ if not $first }}}}{_literal(self.later)}"
            f"{{{{ else if $.System }}}}{_literal(begin)}{{{{ $.System }}}}{_literal(self.after_system)}"
            f"{{{{ else }}}}{_literal(first)}{{{{ end }}}}"
            "{{ .Content }}{{ $first = false }}"
            f'{{{{ else if eq .Role "assistant" }}}}{_literal(self.answer)}{{{{ .Content }}}}'
            f"{{{{ end }}}}{{{{ end }}}}{_literal(self.opening)}"
        )

    def by_role(self) -> dict[str, str]:
        """As Foundry Local's ``PromptTemplate``: what one turn of each role looks like by itself."""
        head = _common_end(self.first, self.later)
        tail = _common_end(self.answer, self.opening)
        return {
            "system": f"{self.system}{{Content}}{self.after_system.removesuffix(head)}",
            "user": f"{head}{{Content}}{self.answer.removesuffix(tail)}",
            "assistant": f"{tail}{{Content}}{self.later.removesuffix(head)}",
            "prompt": f"{head}{{Content}}{self.opening}",
        }


def _quoted(text: str) -> str:
    """A string of Jinja."""
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    """Text as it stands in a Go template."""
    return '{{ "{{" }}'.join(text.split("{{"))


def _common_end(one: str, other: str) -> str:
    size = 0
    while size < min(len(one), len(other)) and one[-1 - size] == other[-1 - size]:
        size += 1
    return one[len(one) - size :]


def turns_of(prompts: PromptFormat) -> TurnPieces | None:
    """The pieces of which a model's conversations are made; None where they are not made of such pieces."""
    asked = [Message("user", _ASKED), Message("assistant", _SAID), Message("user", _AGAIN)]
    try:
        plain = text_of(prompts.opening(asked))
        noted = text_of(prompts.opening([Message("system", _SYSTEM), *asked]))
        whole = text_of(prompts.segments(asked[:2]))
        first, answer, later, opening = _between(plain, _ASKED, _SAID, _AGAIN)
        system, after_system, answer_too, later_too, opening_too = _between(
            noted, _SYSTEM, _ASKED, _SAID, _AGAIN
        )
        end = _between(whole, _ASKED, _SAID)[-1]
    except (LabError, TemplateError, ValueError):
        return None
    if (answer, later, opening) != (answer_too, later_too, opening_too):
        return None
    found = TurnPieces(system, after_system, first, later, answer, opening, end)
    longer = [("system", _SYSTEM), ("user", _ASKED), ("assistant", _SAID), *_MORE]
    written = text_of(prompts.opening([Message(role, content) for role, content in longer]))
    return found if found.text(longer) == written else None


def _between(text: str, *said: str) -> list[str]:
    """What stands around texts that each stand there once, in this order; ValueError if they do not."""
    parts = []
    for each in said:
        before, found, text = text.partition(each)
        if not found or each in text:
            raise ValueError(each)
        parts.append(before)
    return [*parts, text]


def starts_by_tokenizer(prompts: PromptFormat) -> bool:
    """Whether the start token comes from the tokenizer, and does not stand in the template's text."""
    asked = [Message("user", _ASKED)]
    plain = prompts.tokenizer.tokenizer.encode(text_of(prompts.opening(asked)), add_special_tokens=False).ids
    return bool(plain != prompts.prompt_ids(asked))


def put_template(prompts: PromptFormat, turns: TurnPieces | None, folder: Path) -> list[str]:
    """See that a folder's own chat template writes what the lab's chat writes; what is to be said of it.

    The model's template stays where it does.
    """
    own = prompts.turns
    if isinstance(own, ChatTemplate) and turns is not None and _same(own, turns):
        return []
    if turns is None:
        return (
            []
            if isinstance(own, ChatTemplate)
            else [
                told(
                    "The lab's template could not be written as a chat template: write the prompts as the "
                    "lab does."
                )
            ]
        )
    text = turns.jinja()
    write_atomic(folder / "chat_template.jinja", text)
    config = read_json(folder / "tokenizer_config.json")
    if isinstance(config, dict):
        config.pop("chat_template", None)
        write_json(folder / "tokenizer_config.json", config)
    return [
        told(
            "Its chat template was made from {why}, so that it is asked as the lab's chat asks.",
            why=prompts.why,
        )
    ]


def _same(own: ChatTemplate, turns: TurnPieces) -> bool:
    asked = [("user", _ASKED), ("assistant", _SAID), *_MORE[-1:]]
    try:
        return bool(own.render([Message(*each) for each in asked], generate=True) == turns.text(asked))
    except TemplateError:
        return False
