"""Conversations are rendered as in training: as transformers does it, and as the runtime does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.chat.conversation import Conversation, Tokens
from core.chat.memory import cache_bytes_per_token, context_that_fits
from core.errors import MachineError, RequestError
from core.resources import rehearsal_model

TALK = [
    {"role": "user", "content": "Where?  Leading\nlines 日本"},
    {"role": "assistant", "content": " There.\n"},
    {"role": "user", "content": "{{ 7*7 }} <|end|> שלום"},
]
LLAMA3 = (
    "{%- for m in messages %}{{- '<|start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|end|>' }}{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|start|>assistant\n\n' }}\n{%- endif %}\n"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}<|assistant|>\n"
)


def folder_with(template: str, llama_checkpoint: Path, tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama_checkpoint / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    return tmp_path


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
@pytest.mark.parametrize("which", ["rehearsal", "tiny", "llama3"])
def test_text_and_tokens_are_those_of_transformers(
    which: str, system: list[dict[str, str]], llama_checkpoint: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = {"rehearsal": rehearsal_model(), "tiny": llama_checkpoint}.get(which) or folder_with(
        LLAMA3, llama_checkpoint, tmp_path
    )
    theirs = AutoTokenizer.from_pretrained(folder)
    tokens = Tokens(folder, None)
    messages = [*system, *TALK]
    text = Conversation(folder, tokens).render(messages)
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokens.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_the_runtimes_own_template_agrees_on_the_rehearsal_tokenizer(built_llama: Path) -> None:
    import onnxruntime_genai as og

    runtime = og.Tokenizer(og.Model(str(built_llama)))
    template = (rehearsal_model() / "chat_template.jinja").read_text()
    text = Conversation(rehearsal_model(), Tokens(rehearsal_model(), None)).render(TALK)
    theirs = runtime.apply_chat_template(json.dumps(TALK), template_str=template, add_generation_prompt=True)
    assert text == theirs


def test_the_end_of_turn_is_found_in_the_template(llama_checkpoint: Path) -> None:
    assert Conversation(llama_checkpoint, Tokens(llama_checkpoint, None)).end_of_turn() == "<|end|>"
    folder = rehearsal_model()
    assert Conversation(folder, Tokens(folder, None)).end_of_turn() == "<|end|>"


def test_a_template_without_system_role_gets_the_system_message_before_the_question(
    llama_checkpoint: Path, tmp_path: Path
) -> None:
    folder = folder_with(NO_SYSTEM, llama_checkpoint, tmp_path)
    conversation = Conversation(folder, Tokens(folder, None))
    text = conversation.render(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )
    assert text == "<|user|>\nBe brief.\n\nHi<|end|>\n<|assistant|>"


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ 1/0 }}"]
)
def test_a_broken_or_hostile_template_is_refused(
    template: str, llama_checkpoint: Path, tmp_path: Path
) -> None:
    folder = folder_with(template, llama_checkpoint, tmp_path)
    with pytest.raises(RequestError, match="refuses"):
        Conversation(folder, Tokens(folder, None)).render(TALK)


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
