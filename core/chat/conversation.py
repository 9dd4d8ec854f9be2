"""What the worker needs to speak with a model: how it reads conversations, and its tokens back as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from core.chat.detokenize import ByteDetokenizer, WindowDetokenizer, table_for
from core.model.prompt_format import PromptFormat
from core.model.template import ChatTemplate
from core.model.tokenizer import ModelTokenizer


class Detokenizer(Protocol):
    """What turns an answer's tokens into text."""

    def add(self, token: int) -> str:
        """The characters that this token completes."""

    def flush(self) -> str:
        """What was held back."""


class Detokenizers:
    """Makes detokenizers for one model."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._own = tokenizer.tokenizer
        self._table = table_for(self._own)

    def new(self) -> Detokenizer:
        """A fresh one, for one answer."""
        if self._table is not None:
            return ByteDetokenizer(*self._table)
        return WindowDetokenizer(lambda ids: str(self._own.decode(ids, skip_special_tokens=False)))


def notes_on(prompts: PromptFormat) -> list[str]:
    """What a person should know of the way in which turns are written."""
    turns = prompts.turns
    if prompts.plain_text:
        return [
            f"The records are plain text without questions. Turns are written by {prompts.why}, "
            "otherwise than in training."
        ]
    if isinstance(turns, ChatTemplate):
        if not turns.thoughts.strip():
            return []
        return [
            f"The model's chat template opens each answer with {turns.thoughts.strip()}. Training rows have "
            "no such part, so answers begin without it here as there."
        ]
    notes = [f"Turns are written by {prompts.why}."]
    if turns.more:
        names = ", ".join("{" + name + "}" for name in turns.more)
        notes.append(
            f"A question goes into {{{turns.asked}}}; {names} of data.template stay empty in the chat, "
            "otherwise than in training."
        )
    return notes


def read_genai_config(folder: Path) -> dict[str, Any]:
    """``genai_config.json``; an empty dict if it cannot be read."""
    try:
        data = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
