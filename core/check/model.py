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
from core.language import told
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
    "architecture": told("architecture"),
    "remote-code": told("remote code"),
    "adapter": told("model"),
    "tokens-beyond-embeddings": told("tokenizer"),
    "template": told("chat template"),
    "no-end": told("tokenizer"),
    "group-size": told("group size"),
    "context": told("context"),
}
"""The name of a fault's check, by the last part of its code; that of all others is ``weights``."""


def model(subject: Subject) -> Iterator[Check]:
    """Whether the model can be had, and its licence."""
    source = subject.recipe.model.source
    kind = kind_of(source, subject.lab.root)
    if kind == "azureml":
        yield Check(
            told("model"),
            SKIP,
            told("{source} is asked for when quantize runs.", source=source),
            told("Sign in first: {login}", login=Do("login")),
        )
        return
    if kind == "gguf":
        try:
            header = check_gguf(local_place(source, subject.lab.root))
        except LabError as error:
            yield Check.of(told("model"), error)
            return
        yield Check(told("model"), OK, _about(header))
    elif kind == "hub":
        yield from _on_hub(source)
    else:
        path = at_hand(source, subject.lab.root)
        assert path is not None
        try:
            check_folder(path)
        except LabError as error:
            yield Check.of(told("model"), error)
            return
        licence = read_licence(path).name
        yield Check(
            told("model"),
            OK,
            told("{source}, licence {licence}", source=source, licence=licence) if licence else source,
        )
    yield from _abilities(subject)


def _about(header: Header) -> str:
    named = header.path.name
    if header.licence:
        named = told("{source}, licence {licence}", source=named, licence=header.licence)
    template = told("its own chat template") if header.templates else told("no chat template: a base model")
    return told(
        "{name}, {architecture}, {template}; unpacked once to {float_bytes} below {cache_dir}",
        name=named,
        architecture=header.architecture,
        template=template,
        float_bytes=human_bytes(header.float_bytes),
        cache_dir=cache_dir(),
    )


def _on_hub(source: str) -> Iterator[Check]:
    answer = _ask(source)
    named = (
        told("{source}, licence {licence}", source=source, licence=answer.licence)
        if answer.licence
        else source
    )
    if answer.state == "ok":
        said = named
        if answer.gated:
            said = told("{model}, gated: access granted", model=said)
        if answer.detail:
            said = told(
                "{model} ({detail}; the copy on this machine is used)", model=said, detail=answer.detail
            )
        state = WARN if answer.gated and not hub.token() else OK
        yield Check(
            told("model"),
            state,
            said,
        )
    elif answer.state in ("gated", "denied"):
        fix = told(
            "Ask for access at {endpoint}/{repository}, then: hf auth login, or set HF_TOKEN.",
            endpoint=hub.endpoint(),
            repository=source.split("@")[0],
        )
        yield Check(
            told("model"),
            FAIL,
            told(
                "{source} may not be had: {detail}. Its licence: {licence}",
                source=source,
                detail=answer.detail,
                licence=answer.licence,
            )
            if answer.licence
            else told("{source} may not be had: {detail}.", source=source, detail=answer.detail),
            fix,
        )
    elif answer.state == "missing":
        fix = told("Check the name; a private model needs a token: hf auth login, or set HF_TOKEN.")
        yield Check(
            told("model"),
            FAIL,
            told("{source} was not found: {detail}.", source=source, detail=answer.detail),
            fix,
        )
    elif answer.state == "offline":
        fix = told("Unset HF_HUB_OFFLINE, or name a folder that holds the model.")
        yield Check(
            told("model"),
            FAIL,
            told("{source} is not on this machine: {detail}.", source=source, detail=answer.detail),
            fix,
        )
    else:
        fix = told(
            "Check the network or the proxy (HTTPS_PROXY), set HF_ENDPOINT to a mirror, or name a folder."
        )
        yield Check(
            told("model"),
            FAIL,
            told("{source} cannot be asked for: {detail}.", source=source, detail=answer.detail),
            fix,
        )


def _abilities(subject: Subject) -> Iterator[Check]:
    facts = facts_of(subject)
    if facts is None:
        return
    every = faults(facts, resolve(subject.recipe, Facts.of_model(facts), None).recipe)
    for fault in every:
        name = _NAMES.get(fault.code.rpartition(".")[2], told("weights"))
        state = FAIL if fault.stops else WARN
        yield Check.of(name, fault, state)
    if not any(fault.code == "model.architecture" for fault in every):
        verdict = judge(facts.config)
        yield Check(
            told("architecture"),
            OK if verdict.state == TRIED else WARN,
            verdict.reason,
        )


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
                told("weights"),
                SKIP,
                told("{size}: they are looked at, for NaN and Inf, when quantize begins.", size=size),
            )
            return
        found = first_not_finite(files, facts.dtype)
    except LabError:
        return  # the model's own check tells
    if found is None:
        if facts.parameters:
            yield Check(
                told("weights"),
                OK,
                told(
                    "{parameters:,} numbers in {dtype}, every one finite",
                    parameters=facts.parameters,
                    dtype=facts.dtype,
                ),
            )
        return
    fault = not_finite(found)
    yield Check.of(told("weights"), fault)


def adapter(subject: Subject) -> Iterator[Check]:
    """Whether an adapter, and no whole model, lies where the recipe's adapter is looked for."""
    try:
        refuse_model_as_adapter(subject.lab.finetuned_dir(subject.recipe.finetune.adapter))
    except LabError as error:
        yield Check.of(told("adapter"), error)


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
