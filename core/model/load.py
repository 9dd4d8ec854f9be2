"""Loading Hugging Face models and tokenizers, quantized or not, and never with random weights.

Transformers fills what a checkpoint lacks with random numbers and goes on with a warning, and it
ignores a quantization method that it does not know. Here both are errors.

What a folder is without loading it, ``core.model.folder`` tells. Nothing heavy is imported until a model or
tokenizer is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import MachineError, RequestError
from core.model.folder import config_facts, read_config
from core.model.tensors import not_merged, of_adapters, unread, unread_of_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def register_olive_quantization() -> None:
    """Teach transformers the checkpoints that Olive's passes write (``quant_method: "olive"``).

    Olive does this only inside its own loader; without it transformers ignores the method and loads
    random weights.
    """
    from olive.common.quant.hf_utils import OliveHfQuantizationConfig, OliveHfQuantizer
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    AUTO_QUANTIZATION_CONFIG_MAPPING["olive"] = OliveHfQuantizationConfig
    AUTO_QUANTIZER_MAPPING["olive"] = OliveHfQuantizer


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
        raise _explain(path, error, "The tokenizer cannot be loaded.") from error
    return tokenizer


def _explain(path: Path, error: Exception, title: str) -> RequestError:
    # Transformers raises a plain ValueError here, which names the argument and nothing else that is stable.
    if "trust_remote_code" in str(error):
        return RequestError(
            "The model brings code of its own.",
            f"{path} can be loaded only by running Python files that come with it.",
            "If you trust its author, set model.trust_remote_code = true in lab.toml.",
            code="model.remote-code",
        )
    return RequestError(title, f"{path}: {_first_line(error)}", "Fetch the model again, or use another.")


def load_model(
    path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal language model, quantized by Olive or float, in evaluation mode.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: of the float weights; None keeps the checkpoint's.

    Raises:
        RequestError: weights are missing, of another shape, or quantized in a way unknown here.
        MachineError: there is not enough memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    quantization = read_config(path).get("quantization_config")
    if isinstance(quantization, dict):
        method = quantization.get("quant_method")
        if method != "olive":
            raise RequestError(
                "The model is already quantized, in a form that is not Olive's.",
                f"{path}/config.json says quant_method = {method!r}.",
                "Use the float model that it was made from.",
                code="model.quantized",
            )
        register_olive_quantization()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype="auto" if dtype is None else dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
        )
        _refuse_gaps(path, info)
        model = model.to(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError(
            "There is not enough memory for the model.",
            f"{path} on {device}: {str(error).splitlines()[0] if str(error) else 'out of memory'}",
            "Close what else uses the memory, or use a smaller model.",
        ) from error
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _explain(path, error, "The model cannot be loaded.") from error
    model.eval()
    return model


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
        _refuse_gaps(path, info)
        if lost := unread_of_layers(left, config_facts(config).layers):
            raise unread(path, lost)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _explain(path, error, "The model cannot be loaded.") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _refuse_gaps(path: Path, info: dict[str, Any]) -> None:
    missing = sorted(str(key) for key in info.get("missing_keys") or ())
    mismatched = sorted(
        str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys") or ()
    )
    if not missing and not mismatched:
        return
    bad, what = (missing, "missing") if missing else (mismatched, "of the wrong shape")
    shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    raise RequestError(
        "The checkpoint does not hold the whole model.",
        f"{path}: weights that are {what}: {shown}.",
        "Fetch the model again; with these weights filled in at random it would answer nonsense.",
        code="model.missing-tensors" if missing else "model.wrong-shape",
    )
