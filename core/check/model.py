"""The model: can it be had, is each stage able to work on it, does it want to run code, under which licence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.check import hub
from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import Do, LabError
from core.formats import human_bytes
from core.model.architectures import TRIED, judge
from core.model.auto import Facts, resolve
from core.model.faults import faults, not_finite
from core.model.finite import bytes_to_look_at, first_not_finite
from core.model.folder import (
    ModelFacts,
    check_folder,
    config_facts,
    model_facts,
    read_config,
    refuse_model_as_adapter,
)
from core.model.gguf import Header, check_gguf
from core.model.gguf import config_of as gguf_config
from core.model.licence import read_licence
from core.model.sources import at_hand, kind_of, local_place
from core.model.weights import weight_files
from core.user_dirs import cache_dir

LOOKED_AT = 2**30
"""Bytes of weights that are looked at here; of a larger model they are when quantize begins."""

_NAMES = {
    "architecture": "architecture",
    "remote-code": "remote code",
    "adapter": "model",
    "tokens-beyond-embeddings": "tokenizer",
    "template": "chat template",
    "no-end": "tokenizer",
    "group-size": "group size",
    "context": "context",
}
"""The name of a fault's check, by the last part of its code; that of all others is ``weights``."""


def model(subject: Subject) -> Iterator[Check]:
    """Whether the model can be had, and its licence."""
    source = subject.recipe.model.source
    kind = kind_of(source, subject.lab.root)
    if kind == "azureml":
        yield Check(
            "model", SKIP, f"{source} is asked for when quantize runs.", ("Sign in first: ", Do("login"))
        )
        return
    if kind == "gguf":
        try:
            header = check_gguf(local_place(source, subject.lab.root))
        except LabError as error:
            yield Check("model", FAIL, f"{error.title} {error.detail}", error.advice, error.code)
            return
        yield Check("model", OK, _about(header))
    elif kind == "hub":
        yield from _on_hub(source)
    else:
        path = at_hand(source, subject.lab.root)
        assert path is not None
        try:
            check_folder(path)
        except LabError as error:
            yield Check("model", FAIL, f"{error.title} {error.detail}", error.advice, error.code)
            return
        licence = read_licence(path).name
        yield Check("model", OK, f"{source}" + (f", licence {licence}" if licence else ""))
    yield from _abilities(subject)


def _about(header: Header) -> str:
    licence = f", licence {header.licence}" if header.licence else ""
    template = "its own chat template" if header.templates else "no chat template: a base model"
    return (
        f"{header.path.name}{licence}, {header.architecture}, {template}; unpacked once to "
        f"{human_bytes(header.float_bytes)} below {cache_dir()}"
    )


def _on_hub(source: str) -> Iterator[Check]:
    answer = _ask(source)
    licence = f", licence {answer.licence}" if answer.licence else ""
    if answer.state == "ok":
        note = f" ({answer.detail}; the copy on this machine is used)" if answer.detail else ""
        state = WARN if answer.gated and not hub.token() else OK
        yield Check(
            "model", state, f"{source}{licence}{', gated: access granted' if answer.gated else ''}{note}"
        )
    elif answer.state in ("gated", "denied"):
        fix = f"Ask for access at {hub.endpoint()}/{source.split('@')[0]}, then: hf auth login, or set HF_TOKEN."
        yield Check("model", FAIL, f"{source} may not be had: {answer.detail}.{licence}", fix)
    elif answer.state == "missing":
        fix = "Check the name; a private model needs a token: hf auth login, or set HF_TOKEN."
        yield Check("model", FAIL, f"{source} was not found: {answer.detail}.", fix)
    elif answer.state == "offline":
        fix = "Unset HF_HUB_OFFLINE, or name a folder that holds the model."
        yield Check("model", FAIL, f"{source} is not on this machine: {answer.detail}.", fix)
    else:
        fix = "Check the network or the proxy (HTTPS_PROXY), set HF_ENDPOINT to a mirror, or name a folder."
        yield Check("model", FAIL, f"{source} cannot be asked for: {answer.detail}.", fix)


def _abilities(subject: Subject) -> Iterator[Check]:
    facts = facts_of(subject)
    if facts is None:
        return
    every = faults(facts, resolve(subject.recipe, Facts.of_model(facts), None).recipe)
    for fault in every:
        name = _NAMES.get(fault.code.rpartition(".")[2], "weights")
        state = FAIL if fault.stops else WARN
        yield Check(name, state, f"{fault.title} {fault.detail}", fault.advice, fault.code)
    if not any(fault.code == "model.architecture" for fault in every):
        verdict = judge(facts.config)
        yield Check("architecture", OK if verdict.state == TRIED else WARN, f"{verdict.reason}")


def weights(subject: Subject) -> Iterator[Check]:
    """Whether every weight is a number: NaN and infinity."""
    path, facts = _folder_of(subject), facts_of(subject)
    if path is None or facts is None:
        return
    try:
        files = weight_files(path)
        if bytes_to_look_at(files, facts.dtype) > LOOKED_AT:
            size = human_bytes(sum(file.stat().st_size for file in files))
            yield Check(
                "weights", SKIP, f"{size}: they are looked at, for NaN and Inf, when quantize begins."
            )
            return
        found = first_not_finite(files, facts.dtype)
    except LabError:
        return  # the model's own check tells
    if found is None:
        if facts.parameters:
            yield Check("weights", OK, f"{facts.parameters:,} numbers in {facts.dtype}, every one finite")
        return
    fault = not_finite(found)
    yield Check("weights", FAIL, f"{fault.title} {fault.detail}", fault.advice, fault.code)


def adapter(subject: Subject) -> Iterator[Check]:
    """Whether an adapter, and no whole model, lies where the recipe's adapter is looked for."""
    try:
        refuse_model_as_adapter(subject.lab.finetuned_dir(subject.recipe.finetune.adapter))
    except LabError as error:
        yield Check("adapter", FAIL, f"{error.title} {error.detail}", error.advice, error.code)


def facts_of(subject: Subject) -> ModelFacts | None:
    """What the model is: by its folder, or by the ``config.json`` on the hub; None where neither can be had."""
    path = _folder_of(subject)
    try:
        if path is not None:
            return model_facts(path)
        config = config_of(subject)
        return None if config is None else config_facts(config)
    except LabError:
        return None


def _folder_of(subject: Subject) -> Path | None:
    source, root = subject.recipe.model.source, subject.lab.root
    return at_hand(source, root) if kind_of(source, root) in ("rehearsal", "folder") else None


def config_of(subject: Subject) -> dict[str, Any] | None:
    """The model's ``config.json``: of the folder, or from the hub or its cache; None where it cannot be had."""
    source = subject.recipe.model.source
    kind = kind_of(source, subject.lab.root)
    if kind == "hub":
        return _ask(source).config
    if kind == "azureml":
        return None
    try:
        if kind == "gguf":
            return gguf_config(check_gguf(local_place(source, subject.lab.root)))
        path = _folder_of(subject)
        return None if path is None else read_config(path)
    except LabError:
        return None


@lru_cache(maxsize=8)
def _ask(source: str) -> hub.HubAnswer:
    return hub.ask(source)


def forget_answers() -> None:
    """Ask the hub anew next time."""
    _ask.cache_clear()
