"""What the worker says of a conversation, and how much of one memory allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.chat.engine import notes_on
from core.chat.kv_cache import cache_bytes_per_token, context_that_fits
from core.errors import MachineError
from core.finetune.rows import tokens_between
from core.model.messages import Message, text_of
from core.model.prompt_format import read_prompt_format
from core.resources import rehearsal_model

TALK = [
    Message("user", "Where?  Leading\nlines 日本"),
    Message("assistant", " There.\n"),
    Message("user", "{{ 7*7 }} <|end|> שלום"),
]


def test_the_runtimes_own_template_agrees_on_the_rehearsal_tokenizer(built_llama: Path) -> None:
    import onnxruntime_genai as og

    runtime = og.Tokenizer(og.Model(str(built_llama)))
    template = (rehearsal_model() / "chat_template.jinja").read_text()
    text = text_of(read_prompt_format(rehearsal_model()).opening(TALK))
    turns = json.dumps([message.as_dict() for message in TALK])
    assert text == runtime.apply_chat_template(turns, template_str=template, add_generation_prompt=True)


def test_what_is_otherwise_than_one_might_think_is_said() -> None:
    folder = rehearsal_model()
    assert notes_on(read_prompt_format(folder)) == []
    (note,) = notes_on(read_prompt_format(folder, "Mood of {text}: {mood}"))
    assert "the recipe's template" in note
    _, note = notes_on(read_prompt_format(folder, "{context} {question} {answer}"))
    assert "{context} of data.template stay empty" in note


@pytest.mark.parametrize("template", ["{text}", "{answer}", "Once: {story}<|end|>"])
def test_a_lab_of_plain_texts_is_chatted_with_in_the_models_own_template(template: str) -> None:
    plain = read_prompt_format(rehearsal_model(), template)
    assert plain.turns == read_prompt_format(rehearsal_model()).turns
    assert ["otherwise than in training" in note for note in notes_on(plain)] == [True]
    assert tokens_between(plain) is None  # texts are not joined as if they were answers


CONFIG: dict[str, Any] = {
    "model": {"decoder": {"num_hidden_layers": 32, "num_key_value_heads": 32, "head_size": 96}}
}


def test_the_context_is_what_memory_allows() -> None:
    assert cache_bytes_per_token(CONFIG) == 786_432  # Phi-3.5-mini, float32
    assert context_that_fits(CONFIG, 4096, 2, free=16 * 2**30) == (4096, "")
    tokens, note = context_that_fits(CONFIG, 4096, 2, free=8 * 2**30)
    assert tokens == 2730
    assert "2730" in note
    with pytest.raises(MachineError, match="memory"):
        context_that_fits(CONFIG, 4096, 2, free=2**26)
    assert context_that_fits({}, 4096, 2, free=0) == (4096, "")
