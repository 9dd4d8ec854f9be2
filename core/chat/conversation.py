"""A conversation as the tokens that the model reads: tokenizer files, chat template, end-of-turn token.

Only for the worker process. The tokenizer is the one that trained (Hugging Face ``tokenizer.json``); the
runtime's own is the fallback for folders without that file. Both are light to load.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from core.chat.detokenize import ByteDetokenizer, WindowDetokenizer, table_for
from core.data.template import ChatTemplate, Template, TemplateError
from core.data.types import Message
from core.errors import RequestError
from core.files import read_json

_PROBE = "olive42press"


class Detokenizer(Protocol):
    """What turns an answer's tokens into text."""

    def add(self, token: int) -> str:
        """The characters that this token completes."""

    def flush(self) -> str:
        """What was held back."""


class Tokens:
    """Text to ids and back."""

    def __init__(self, folder: Path, runtime: Any) -> None:
        """``runtime``: an ``onnxruntime_genai.Tokenizer``, used where there is no tokenizer.json."""
        self._runtime = runtime
        self._own: Any = None
        self._table = None
        self.special: dict[str, int] = {}
        path = folder / "tokenizer.json"
        if path.exists():
            from tokenizers import Tokenizer

            self._own = Tokenizer.from_file(str(path))
            self._own.no_truncation()
            self._own.no_padding()
            self._table = table_for(self._own)
            self.special = {
                item.content: number
                for number, item in self._own.get_added_tokens_decoder().items()
                if item.content
            }
        names = sorted(self.special, key=len, reverse=True)
        self._starts = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text; nothing is put before or after it."""
        text = text.encode("utf-8", "replace").decode()  # lone surrogates have no bytes
        if self._own is not None:
            return list(self._own.encode(text, add_special_tokens=False).ids)
        return [int(number) for number in self._runtime.encode(text)]

    def starts_special(self, text: str) -> str | None:
        """The special token with which a text starts, if it does. There a text can be cut before encoding."""
        match = self._starts.match(text)
        return match.group() if match else None

    def detokenizer(self) -> Detokenizer:
        """A fresh one, for one answer."""
        if self._table is not None:
            return ByteDetokenizer(*self._table)
        if self._own is not None:
            return WindowDetokenizer(lambda ids: str(self._own.decode(ids, skip_special_tokens=False)))
        return WindowDetokenizer(self._runtime_text)

    def _runtime_text(self, ids: list[int]) -> str:
        import numpy as np

        try:
            return str(self._runtime.decode(np.array(ids, dtype=np.int32)))
        except UnicodeDecodeError:
            return "\ufffd"


class Conversation:
    """Renders messages as the model was trained to read them."""

    def __init__(self, folder: Path, tokens: Tokens, template: str = "") -> None:
        """``template``: the recipe's `{field}` template, for tokenizers without a chat template.

        Raises:
            RequestError: there is neither.
        """
        self._tokens = tokens
        config = read_json(folder / "tokenizer_config.json") or {}
        text = chat_template_text(folder, config)
        self.notes: list[str] = []
        self._chat: ChatTemplate | None = None
        self._plain: tuple[str, str, str] | None = None
        self.eos_text = token_text(config.get("eos_token"))
        if text:
            self._chat = ChatTemplate(text, eos=self.eos_text, bos=token_text(config.get("bos_token")))
        elif template:
            self._plain = _plain_turn(template)
            self.notes.append(
                "The tokenizer has no chat template; turns are written by the recipe's data.template."
            )
        else:
            raise RequestError(
                "The model has no chat template.",
                f"The tokenizer files in {folder} hold none, and no data.template was given.",
                "Set data.template in lab.toml.",
            )

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The text that ends where the next answer begins.

        Raises:
            RequestError: the template refuses the conversation.
        """
        turns = [Message(str(item["role"]), str(item["content"])) for item in messages]
        if self._plain is not None:
            return self._render_plain(turns)
        assert self._chat is not None
        try:
            return self._chat.render(turns, generate=True)
        except (TemplateError, ArithmeticError) as error:
            if len(turns) > 1 and turns[0].role == "system":
                # Some templates (Gemma's) know no system role: it then stands before the first question.
                first = Message(turns[1].role, f"{turns[0].content}\n\n{turns[1].content}")
                return self.render([{"role": t.role, "content": t.content} for t in (first, *turns[2:])])
            raise RequestError("The chat template refuses this conversation.", f"{error}.") from None

    def end_of_turn(self) -> str | None:
        """The special token that the template writes after an answer."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        try:
            text = self.render([*messages, {"role": "user", "content": "b"}])
        except RequestError:
            return None
        _, found, rest = text.partition(_PROBE)
        return self._tokens.starts_special(rest.lstrip()) if found else None

    def _render_plain(self, turns: list[Message]) -> str:
        assert self._plain is not None
        before, between, after = self._plain
        text = ""
        system = ""
        for turn in turns:
            if turn.role == "system":
                system = turn.content + "\n\n"
            elif turn.role == "user":
                text += before + system + turn.content + between
                system = ""
            else:
                text += turn.content + after + "\n"
        return text


def chat_template_text(folder: Path, config: dict[str, Any]) -> str:
    """A tokenizer's chat template: its own file, or in tokenizer_config.json; empty if there is none."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        named = {item.get("name"): item.get("template", "") for item in found if isinstance(item, dict)}
        found = named.get("default") or next(iter(named.values()), "")
    return found if isinstance(found, str) else ""


def token_text(token: Any) -> str:
    """A special token of tokenizer_config.json as text: a string, or an object with ``content``."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _plain_turn(template: str) -> tuple[str, str, str]:
    """The recipe's template cut at its question and its answer: text before, between and after them."""
    try:
        parsed = Template.parse(template)
    except TemplateError as error:
        raise RequestError("The template cannot be used.", f"data.template: {error}.") from None
    answer = parsed.answer_field()
    parts = ["", "", ""]
    place = 0
    for is_field, text in parsed.pieces:
        if is_field:
            place = 2 if text == answer else max(place, 1)
        else:
            parts[place] += text
    return parts[0], parts[1], parts[2]


def read_genai_config(folder: Path) -> dict[str, Any]:
    """``genai_config.json``; an empty dict if it cannot be read."""
    try:
        data = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
