"""Loading tokenizers, and asking transformers whether a checkpoint is whole.

Transformers fills what a checkpoint lacks with random numbers and goes on with a warning. Here that is an error.
Models themselves, quantized or not, are loaded by :mod:`core.olive.checkpoint`.

What a folder is without loading it, ``core.model.folder`` tells. Nothing heavy is imported until a model or
tokenizer is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RequestError, Use
from core.formats import some
from core.language import told
from core.model.folder import config_facts, read_config
from core.model.tensors import not_merged, of_adapters, unread, unread_of_layers
from core.text import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(path: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; never looks at the network.

    Raises:
        RequestError: there is none, it is damaged, or it wants code of its own without permission.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise cannot_load(path, error, "The tokenizer cannot be loaded.") from error
    return tokenizer


def cannot_load(path: Path, error: Exception, title: str) -> RequestError:
    """The error for what transformers said of a folder."""
    # Transformers raises a plain ValueError here, which names the argument and nothing else that is stable.
    if "trust_remote_code" in str(error):
        return RequestError(
            told("The model brings code of its own."),
            told("{path} can be loaded only by running Python files that come with it.", path=path),
            told("If you trust its author: {setting}", setting=Use("model.trust_remote_code", True)),
            code="model.remote-code",
        )
    return RequestError(
        title,
        told("{path}: {error}", path=path, error=first_line(error)),
        told("Fetch the model again, or use another."),
        code="model.damaged",
    )


def check_tensors(path: Path, trust_remote_code: bool = False) -> None:
    """Ask transformers whether a float checkpoint holds every tensor that its architecture needs; loads none.

    Raises:
        RequestError: tensors are missing, of another shape or would not be read.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(path)
    if isinstance(config.get("quantization_config"), dict):
        return  # packed tensors have names of their own; loading them tells
    try:
        _, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype="auto",
            device_map="meta",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        left = list(map(str, info.get("unexpected_keys") or ()))
        if adapted := of_adapters(left):
            raise not_merged(path, adapted)
        refuse_gaps(path, info)
        if lost := unread_of_layers(left, config_facts(config).layers):
            raise unread(path, lost)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise cannot_load(path, error, "The model cannot be loaded.") from error


def refuse_gaps(path: Path, info: dict[str, Any]) -> None:
    """Refuse a checkpoint of which transformers found only a part; ``info`` is its ``output_loading_info``.

    Raises:
        RequestError: weights are missing, or of another shape.
    """
    missing = sorted(str(key) for key in info.get("missing_keys") or ())
    mismatched = sorted(
        str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys") or ()
    )
    if not missing and not mismatched:
        return
    bad, what = (missing, told("missing")) if missing else (mismatched, told("of the wrong shape"))
    raise RequestError(
        told("The checkpoint does not hold the whole model."),
        told("{path}: weights that are {what}: {names}.", path=path, what=what, names=some(bad)),
        told("Fetch the model again; with these weights filled in at random it would answer nonsense."),
        code="model.missing-tensors" if missing else "model.wrong-shape",
    )
