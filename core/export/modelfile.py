"""Ollama's Modelfile: the model, how it is asked, and the chat's settings."""

from __future__ import annotations

from core.export.prompts import TurnPieces
from core.language import told
from core.model.folder import ModelFacts
from core.model.prompt_format import PromptFormat
from core.recipe import Recipe


def modelfile(
    recipe: Recipe,
    prompts: PromptFormat,
    turns: TurnPieces | None,
    facts: ModelFacts,
    model: str,
    adapter: str | None,
) -> tuple[str, list[str]]:
    """Its text, and what is to be said of it."""
    chat = recipe.chat
    notes: list[str] = []
    lines = [f"FROM ./{model}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    start = "".join(map(prompts.tokenizer.tokenizer.id_to_token, prompts.tokenizer.start))
    template = turns.go(start) if turns is not None else ""
    if template and '"""' not in template:
        lines.append(f'TEMPLATE """{template}"""')
    else:
        notes.append(told("Ollama is told no template: it goes by the file's own, if it knows it."))
    if chat.system:
        if '"""' in chat.system:
            notes.append(
                told(
                    'The system message has """ in it and stands in no Modelfile: give it to Ollama by hand.'
                )
            )
        else:
            lines.append(f'SYSTEM """{chat.system}"""')
    context = min(chat.context_tokens, facts.max_positions or chat.context_tokens)
    settings: list[tuple[str, object]] = [
        ("temperature", f"{chat.temperature:g}"),
        ("num_predict", chat.max_new_tokens),
        ("num_ctx", context),
    ]
    settings += [("repeat_penalty", "1")]
    lines += [f"PARAMETER {name} {value}" for name, value in settings]
    for number in prompts.end_ids():
        token = prompts.tokenizer.tokenizer.id_to_token(number)
        if token and '"' not in token:
            lines.append(f'PARAMETER stop "{token}"')
    return "\n".join(lines) + "\n", notes
