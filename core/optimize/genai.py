"""onnxruntime-genai: importing it, and its ``genai_config.json`` with the end tokens and defaults that do not surprise.

It is imported without telemetry, and so that CUDA builds find CUDA; only by processes that run a model.
"""

from __future__ import annotations

import contextlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from core.errors import MachineError, RequestError
from core.files import write_json
from core.hardware import package_version
from core.language import told
from core.model.prompt_format import prompt_format
from core.model.text import END_TOKENS, read_text
from core.model.tokenizer import ModelTokenizer
from core.optimize.trusted import CONFIG_FILE
from core.providers import PROVIDERS
from core.recipe import Recipe
from core.telemetry import switch_off
from core.text import first_line

DEFAULT_MAX_LENGTH = 4096
"""``search.max_length`` for who sets none. The builder writes the model's whole context, and the cache
of 131072 tokens that this makes onnxruntime-genai allocate at once would not fit into any machine."""


def end_tokens(checkpoint: Path, recipe: Recipe) -> list[int]:
    """Ids of the tokens that end an answer, the tokenizer's own first.

    They come from ``generation_config.json``, ``config.json`` and the tokenizer; from what the chat
    template and the recipe's template put right behind an answer; and from those of
    :data:`~core.model.text.END_TOKENS` that the chat template names.
    """
    text = read_text(checkpoint)
    tokenizer = ModelTokenizer.read(checkpoint, text.ends)
    own = prompt_format(text, tokenizer)
    found = own.end_ids()
    with contextlib.suppress(RequestError):  # a template without an answer ends nothing
        found += prompt_format(
            text, tokenizer, recipe.data.template, answer=recipe.data.response_field
        ).end_ids()
    known = sorted(token for token in END_TOKENS if token in text.template)
    found += [tokenizer.numbers[token] for token in known if token in tokenizer.numbers]
    return list(dict.fromkeys(found))


def complete_config(folder: Path, ends: list[int], context: int | None = None) -> bool:
    """Put end tokens and plain search defaults into a model folder's ``genai_config.json``.

    Args:
        ends: as :func:`end_tokens` gives them; those already there stay.
        context: the model's longest context, where the builder's own shall be replaced.

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
    # (GroupQueryAttention); the builder has put down whether it does, and that must stay.
    search["max_length"] = min(int(model["context_length"]), DEFAULT_MAX_LENGTH)
    search.update(do_sample=False, temperature=1.0, top_k=1, top_p=1.0, num_beams=1, repetition_penalty=1.0)
    if json.dumps(config) == before:
        return False
    write_json(path, config)
    return True


def import_runtime() -> Any:
    """The module ``onnxruntime``."""
    switch_off()
    import onnxruntime

    return onnxruntime


def import_genai() -> Any:
    """The module ``onnxruntime_genai``.

    Its CUDA build is linked to CUDA's libraries by name. Where pip installed those (``nvidia-*``), the
    linker does not look; onnxruntime knows the places, and what is loaded once is found from then on.
    """
    switch_off()
    if package_version("onnxruntime-gpu") and hasattr(runtime := import_runtime(), "preload_dlls"):
        runtime.preload_dlls()
    import onnxruntime_genai

    return onnxruntime_genai


def open_model(folder: Path) -> Any:
    """The runtime's model of an ONNX folder, whose providers that come as libraries are registered first.

    The folder has been looked at by :func:`~core.optimize.trusted.check_onnx_folder`.

    Raises:
        MachineError: the package of a provider that it was built for is missing, or does not load.
    """
    og = import_genai()
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    options = config["model"]["decoder"].get("session_options", {}).get("provider_options", [])
    asked = {key for each in options for key in each}
    for name, provider in PROVIDERS.items():
        if provider.plugin and provider.key in asked and name not in _registered:
            try:
                plugin = import_module(provider.plugin)
                og.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
            except Exception as error:
                raise MachineError(
                    told("The model was built for {name}, which cannot be loaded here.", name=name),
                    told("{folder}: {error}", folder=folder, error=first_line(error)),
                    told(
                        "pip install {runtime}, or build the model for another provider (optimize.provider).",
                        runtime=provider.runtime[0],
                    ),
                    code="onnx.provider",
                ) from error
            _registered.add(name)
    return og.Model(str(folder))


_registered: set[str] = set()
