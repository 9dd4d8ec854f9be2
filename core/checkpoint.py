"""Opening Hugging Face model folders, quantized or not, and never with random weights.

Transformers fills what a checkpoint lacks with random numbers and goes on with a warning, and it
ignores a quantization method that it does not know. Here both are errors.

Nothing heavy is imported until a model or tokenizer is loaded.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import MachineError, RequestError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
SAFETENSORS_INDEX = "model.safetensors.index.json"
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16,
    "I16": 16, "U16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: its file, dtype as safetensors names it (``BF16``), and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What ``config.json`` and the weight files' headers tell about a model, without loading it.

    Attributes:
        parameters: numbers in the weights; for a quantized model those that the packed ones stand for.
        weight_bytes: size of the weight files.
        quantization: the ``quantization_config``, or None for float weights.
    """

    path: Path
    model_type: str
    architecture: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_positions: int
    dtype: str
    tied_embeddings: bool
    parameters: int
    weight_bytes: int
    quantization: dict[str, Any] | None

    @property
    def bits(self) -> int | None:
        """Bits of the quantized weights, None for float ones."""
        return None if self.quantization is None else int(self.quantization.get("bits", 0)) or None


def read_config(path: Path) -> dict[str, Any]:
    """The folder's ``config.json``.

    Raises:
        RequestError: there is no such folder or file, or it is not a JSON object.
    """
    if not path.is_dir():
        raise RequestError(
            "There is no such model folder.",
            f"{path} is {'a file' if path.exists() else 'not there'}.",
            'Set model.source to a folder with config.json, to a hub id, or to "rehearsal".',
        )
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(
            "The model folder has no config.json.",
            f"{path} holds {_some_names(path)}.",
            "Set model.source to a Hugging Face folder: config.json, *.safetensors and a tokenizer.",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            "The model's config.json cannot be read.", f"{file}: {error}.", "Fetch it again."
        ) from None
    if not isinstance(config, dict):
        raise RequestError("The model's config.json is not an object.", str(file), "Fetch the model again.")
    return config


def _some_names(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:6]) or "nothing"
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"


def weight_files(path: Path) -> list[Path]:
    """The folder's weight files: those the index names, else every ``*.safetensors``, else ``*.bin``.

    Raises:
        RequestError: none, or the index names one that is not there.
    """
    index = path / SAFETENSORS_INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
            raise RequestError(
                "The model's weight index cannot be read.", f"{index}: {error}.", "Fetch it again."
            ) from None
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            shown = ", ".join(missing[:4]) + (" and more" if len(missing) > 4 else "")
            raise RequestError(
                "Some of the model's weight files are missing.",
                f"{index.name} names {shown}, not in {path}.",
                "Fetch the model again; the download was probably cut short.",
            )
        return [path / name for name in names]
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise RequestError(
            "The model folder has no weights.",
            f"{path} holds {_some_names(path)}, no *.safetensors.",
            "Fetch the whole model, or set model.source to another folder.",
        )
    return files


def tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a safetensors checkpoint by name, from the files' headers alone.

    Empty for a checkpoint in the old ``.bin`` form. Format: https://github.com/huggingface/safetensors.

    Raises:
        RequestError: a file is cut short or is not safetensors.
    """
    entries: dict[str, TensorEntry] = {}
    for file in weight_files(path):
        if file.suffix != ".safetensors":
            continue
        entries.update(_header(file))
    return entries


def _header(file: Path) -> dict[str, TensorEntry]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end > size:
            raise ValueError(f"it should have {8 + length + end} bytes and has {size}")
        return {
            name: TensorEntry(file, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RequestError(
            "A weight file is damaged.",
            f"{file}: {error}.",
            "Fetch the model again; it was probably cut short.",
        ) from None


def check_folder(path: Path) -> None:
    """Refuse a folder that is not a whole model: configuration, weights and tokenizer.

    Raises:
        RequestError: what is missing or damaged, and what to do.
    """
    read_config(path)
    tensor_entries(path)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise RequestError(
            "The model folder has no tokenizer.",
            f"{path} has none of {', '.join(TOKENIZER_FILES)}.",
            "Copy tokenizer.json and tokenizer_config.json from where the model came from.",
        )


def model_facts(path: Path) -> ModelFacts:
    """What the model is, read from ``config.json`` and file headers in milliseconds.

    Raises:
        RequestError: the folder has no readable configuration or weights.
    """
    config = read_config(path)
    entries = tensor_entries(path)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else None

    def field(*names: str, default: Any = 0) -> Any:
        for source in (config, text or {}):
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return default

    quantization = config.get("quantization_config")
    quantization = quantization if isinstance(quantization, dict) else None
    heads = int(field("num_attention_heads", "n_head"))
    return ModelFacts(
        path=path,
        model_type=str(field("model_type", default="")),
        architecture=str((config.get("architectures") or [""])[0]),
        layers=int(field("num_hidden_layers", "n_layer")),
        hidden_size=int(field("hidden_size", "n_embd")),
        heads=heads,
        kv_heads=int(field("num_key_value_heads", default=heads)),
        vocab_size=int(field("vocab_size")),
        max_positions=int(field("max_position_embeddings", "n_positions")),
        dtype=str(field("dtype", "torch_dtype", default="float32")).removeprefix("torch."),
        # Where the file does not say, the architecture's default holds; then the weights tell.
        tied_embeddings=bool(field("tie_word_embeddings", default="lm_head.weight" not in entries)),
        parameters=_count(entries, quantization),
        weight_bytes=sum(file.stat().st_size for file in weight_files(path)),
        quantization=quantization,
    )


def _count(entries: dict[str, TensorEntry], quantization: dict[str, Any] | None) -> int:
    total = 0
    for name, entry in entries.items():
        numbers = 1
        for size in entry.shape:
            numbers *= size
        if quantization and name.endswith(".qweight"):
            module = name.removesuffix(".qweight")
            override = (quantization.get("overrides") or {}).get(module) or {}
            bits = int(override.get("bits") or quantization.get("bits") or 4)
            numbers = numbers * _BITS.get(entry.dtype, 8) // bits
        elif quantization and name.endswith((".scales", ".qzeros", ".g_idx")):
            continue
        total += numbers
    return total


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
    reason = str(error).strip().splitlines()
    first = reason[0] if reason else type(error).__name__
    if "trust_remote_code" in str(error):
        return RequestError(
            "The model brings code of its own.",
            f"{path} can be loaded only by running Python files that come with it.",
            "If you trust its author, set model.trust_remote_code = true in lab.toml.",
        )
    return RequestError(title, f"{path}: {first}", "Fetch the model again, or use another.")


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
    )
