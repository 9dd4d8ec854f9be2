"""The model: can it be had, is each stage able to work on it, does it want to run code, under which licence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.check import hub
from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import LabError
from core.files import human_bytes
from core.model.folder import check_folder, read_config
from core.model.gguf import Header, check_gguf
from core.model.gguf import config_of as gguf_config
from core.resources import REHEARSAL, cache_dir, rehearsal_model
from core.sources import kind_of, local_place

TRIED = frozenset({"phi3", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "smollm3"})
"""``model_type`` of the architectures that went through all stages here."""

BUILDABLE = TRIED | frozenset(
    {
        "phi",
        "phimoe",
        "olmo",
        "granite",
        "nemotron",
        "chatglm",
        "ernie4_5",
        "gemma3",
        "gemma3_text",
        "gpt_oss",
    }
)
"""``model_type`` that ONNX Runtime GenAI 0.14's model builder knows besides."""


def model(subject: Subject) -> Iterator[Check]:
    """Whether the model can be had, and its licence."""
    source = subject.recipe.model.source
    kind = kind_of(source, subject.lab.root)
    if kind == "azureml":
        yield Check(
            "model", SKIP, f"{source} is asked for when quantize runs.", "Sign in first: olivepress login"
        )
        return
    if kind == "gguf":
        try:
            header = check_gguf(local_place(source, subject.lab.root))
        except LabError as error:
            yield Check("model", FAIL, f"{error.title} {error.detail}", error.hint)
            return
        yield Check("model", OK, _about(header))
    elif kind == "hub":
        yield from _on_hub(source)
    else:
        path = rehearsal_model() if kind == "rehearsal" else local_place(source, subject.lab.root)
        try:
            check_folder(path)
        except LabError as error:
            yield Check("model", FAIL, f"{error.title} {error.detail}", error.hint)
            return
        licence = _licence_of(path)
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
    config = config_of(subject)
    if config is None:
        return
    kind = str(config.get("model_type", ""))
    if kind in TRIED:
        yield Check("architecture", OK, f"{kind}: tried through every stage")
    elif kind in BUILDABLE:
        yield Check(
            "architecture", WARN, f"{kind}: the ONNX builder knows it; not tried through the whole lab."
        )
    else:
        yield Check("architecture", FAIL, f"{kind or 'no model_type'}: optimize cannot build a graph for it.",
                    "Models like " + ", ".join(sorted(TRIED)) + " work.")  # fmt: skip
    wants_code = bool(config.get("auto_map"))
    if wants_code and kind not in BUILDABLE and not subject.recipe.model.trust_remote_code:
        yield Check("remote code", FAIL, "The model brings Python code of its own, and the recipe does not allow it.",
                    "If you trust its author: model.trust_remote_code = true")  # fmt: skip
    elif subject.recipe.model.trust_remote_code and not wants_code:
        yield Check("remote code", WARN, "The recipe allows the model's own code, and this model brings none.",
                    "Set model.trust_remote_code = false")  # fmt: skip
    elif subject.recipe.model.trust_remote_code:
        yield Check(
            "remote code",
            WARN,
            "Python code that comes with the model will run.",
            "Only for authors you trust.",
        )
    quantization = config.get("quantization_config")
    if quantization and subject.recipe.quantize.algorithm != "none":
        yield Check("architecture", WARN, f"The model is quantized already ({quantization.get('quant_method')}).",
                    'Start from its float original, or set quantize.algorithm = "none".')  # fmt: skip


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
        return read_config(
            rehearsal_model() if source == REHEARSAL else local_place(source, subject.lab.root)
        )
    except LabError:
        return None


@lru_cache(maxsize=8)
def _ask(source: str) -> hub.HubAnswer:
    return hub.ask(source)


def forget_answers() -> None:
    """Ask the hub anew next time."""
    _ask.cache_clear()


def _licence_of(path: Path) -> str:
    """The licence that a folder's model card or licence file names."""
    try:
        head = (path / "README.md").read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError:
        return next((p.name for p in path.glob("LICENSE*")), "")
    for line in head.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("license", "license_name"):
            return value.strip()
    return ""
