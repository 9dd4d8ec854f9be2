"""``genai_config.json``: which tokens end an answer, and defaults that do not surprise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LabError
from core.files import read_json, write_json
from core.model.folder import read_config
from core.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG_FILE = "genai_config.json"
KNOWN_ENDS = (
    "<|end|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endofturn|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
)
"""Tokens that only ever end a turn or a text, in the models that have them."""

DEFAULT_MAX_LENGTH = 4096
"""``search.max_length`` for who sets none. ModelBuilder writes the model's whole context, and the cache
of 131072 tokens that this makes onnxruntime-genai allocate at once would not fit into any machine."""

_PROBE = "zqxanswerzqx"


def end_tokens(checkpoint: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> list[int]:
    """Ids of the tokens that end an answer, the tokenizer's own first.

    They come from ``generation_config.json``, ``config.json`` and the tokenizer; from what the chat
    template and the recipe's template put right behind an answer; and from those of
    :data:`KNOWN_ENDS` that the chat template names.
    """
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    found: list[int] = []
    configs: list[Any] = [read_json(checkpoint / "generation_config.json"), read_config(checkpoint)]
    if tokenizer.eos_token_id is not None:
        found.append(int(tokenizer.eos_token_id))
    for config in configs:
        value = config.get("eos_token_id") if isinstance(config, dict) else None
        found += [int(item) for item in (value if isinstance(value, list) else [value]) if item is not None]
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    found += [special[token] for token in KNOWN_ENDS if token in special and token in template]
    for text in (_behind_answer_of_chat(tokenizer), _behind_answer_of_recipe(recipe)):
        behind = max((token for token in special if token and text.startswith(token)), key=len, default="")
        found += [special[behind]] if behind else []
    return list(dict.fromkeys(found))


def _behind_answer_of_chat(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": _PROBE}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except LabError:
        raise  # a request to stop, which may come at any moment
    except Exception:  # a template is a program of the model's author: it may refuse for any reason
        return ""
    return text.partition(_PROBE)[2].lstrip()


def _behind_answer_of_recipe(recipe: Recipe) -> str:
    if recipe.data.chat_template:
        return ""
    from core.data.template import Template, TemplateError

    try:
        template = Template.parse(recipe.data.template)
    except TemplateError:
        return ""
    answer = template.answer_field(recipe.data.response_field)
    if not answer:
        return ""
    values = {field: _PROBE if field == answer else "x" for field in template.fields}
    text = "".join(segment.text for segment in template.segments(values, answer))
    return text.rpartition(_PROBE)[2].lstrip()


def complete_config(folder: Path, ends: list[int], context: int | None = None) -> bool:
    """Put end tokens and plain search defaults into a model folder's ``genai_config.json``.

    Args:
        ends: as :func:`end_tokens` gives them; those already there stay.
        context: the model's longest context, where ModelBuilder's own shall be replaced.

    Returns:
        whether anything was changed. The file is replaced atomically.
    """
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(config)
    model, search = config["model"], config["search"]
    own = model.get("eos_token_id")
    own = [] if own is None else own if isinstance(own, list) else [own]
    merged = list(dict.fromkeys([*own, *ends]))
    model["eos_token_id"] = merged if len(merged) != 1 else merged[0]
    if context:
        model["context_length"] = context
    # Keys and values share one buffer of max_length tokens where the graph's attention allows it
    # (GroupQueryAttention); ModelBuilder has put down whether it does, and that must stay.
    search["max_length"] = min(int(model["context_length"]), DEFAULT_MAX_LENGTH)
    search.update(do_sample=False, temperature=1.0, top_k=1, top_p=1.0, num_beams=1, repetition_penalty=1.0)
    if json.dumps(config) == before:
        return False
    write_json(path, config)
    return True
