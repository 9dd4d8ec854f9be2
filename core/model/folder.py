"""What a model folder is, read from its files without loading a weight.

>>> facts = model_facts(Path("my-model"))  # doctest: +SKIP
>>> facts.architecture, facts.head_dim, facts.tied_embeddings, facts.windows  # doctest: +SKIP
>>> facts.text.template, facts.text.bos, facts.text.adds_start, facts.text.ends  # doctest: +SKIP

The weights' names and shapes come from ``core.model.weights``, the text side from ``core.model.text``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.errors import RequestError, Use
from core.files import read_json
from core.language import told
from core.model.inside import refuse_outside
from core.model.text import TOKENIZER_FILES, ModelText, read_text
from core.model.weights import (
    TensorEntry,
    count_numbers,
    damaged,
    leftovers,
    read_object,
    some_names,
    tensor_entries,
    weight_files,
)

ADAPTER_CONFIG = "adapter_config.json"
OLIVE = "olive"
"""The ``quant_method`` of a checkpoint that the quantize step has made; :mod:`core.olive.checkpoint` knows its form."""

TIED_BY_DEFAULT = frozenset(
    {
        "biogpt", "bloom", "cohere", "cohere2", "cohere2_moe", "ctrl", "ernie4_5", "ernie4_5_moe", "falcon",
        "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4",
        "gemma4_text", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox_japanese", "granite_swa", "jetmoe",
        "lfm2", "lfm2_moe", "mamba", "minicpm3", "modernbert-decoder", "mpt", "openai-gpt", "opt",
        "recurrent_gemma", "smollm3", "starcoder2", "vaultgemma", "xglm", "youtu", "zamba", "zamba2",
    }
)  # fmt: skip
"""``model_type`` whose output matrix is the embeddings where ``config.json`` does not say; no other's is."""

FUSED_TYPES = frozenset({"phi3", "phi4_multimodal", "glm", "glm4"})
"""``model_type`` with one matrix for gate and up; those of Phi-3 have one for q, k and v as well."""

_EVERY_LAYER = 0
_PATTERNS = {"cohere2": 4, "gemma3": 6, "gemma3_text": 6, "exaone4": 4, "olmo3": 4}
"""Every so-many-th layer attends to everything, the others to a window."""
_ALTERNATE = frozenset({"gemma2", "gpt_oss", "vaultgemma"})
"""The first layer attends to a window, the second to everything, and so on."""
_WINDOWS = {
    "gemma2": 4096,
    "gemma3_text": 4096,
    "gpt_oss": 128,
    "cohere2": 4096,
    "mistral": 4096,
    "olmo3": 4096,
}
"""The window where ``config.json`` does not say."""

_OTHER_INPUTS = {"vision_config": "images", "audio_config": "sound", "video_config": "video"}


@dataclass(frozen=True)
class ModelFacts:
    """What ``config.json`` and the weight files' headers tell about a model, without loading it.

    Attributes:
        model_type: the architecture's short name (``phi3``).
        architecture: the class that the configuration names (``Phi3ForCausalLM``).
        layers: how many decoder layers there are.
        head_dim: numbers in one attention head.
        intermediate_size: width of the MLP.
        vocab_size: rows of the embeddings, by the configuration.
        embedding_rows: rows of the embeddings, by the weights; 0 where their header could not be read.
        max_positions: the longest context, in tokens; 0 where the configuration does not say.
        windows: for each layer the tokens that its attention looks back on; 0 for all of them. Empty where no
            layer has a window.
        rope: how positions are turned: ``rope_parameters`` (``rope_type``, ``rope_theta``, ``factor``, …).
        dtype: of the float weights (``bfloat16``).
        tied_embeddings: whether the output matrix is the embeddings.
        experts: how many there are in a layer; 0 for a dense model.
        encoder_decoder: whether it has an encoder beside the decoder.
        other_inputs: what it reads beside text (``images``, ``sound``).
        remote_code: whether it brings Python code of its own (``auto_map``).
        parameters: numbers in the weights; for a quantized model those that the packed ones stand for.
        weight_bytes: size of the weight files.
        shards: the names of the files that the weights are read from.
        leftovers: other files with weights in them, which nothing reads.
        quantization: the ``quantization_config``, or None for float weights.
        quantized_by: how the weights are packed (``awq``, ``gptq``, ``fp8``, ``bitsandbytes``, …), by
            the configuration or the tensors; empty for float weights.
        config: ``config.json`` as it stands there.
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
    head_dim: int = 0
    intermediate_size: int = 0
    embedding_rows: int = 0
    windows: tuple[int, ...] = ()
    rope: Mapping[str, Any] = field(default_factory=dict)
    experts: int = 0
    encoder_decoder: bool = False
    other_inputs: tuple[str, ...] = ()
    remote_code: bool = False
    shards: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    quantized_by: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def has_sizes(self) -> bool:
        """Whether the configuration tells what memory and time are estimated from."""
        return bool(self.hidden_size and self.layers and self.heads)

    @property
    def bits(self) -> int | None:
        """Bits of the quantized weights, None for float ones."""
        return None if self.quantization is None else int(self.quantization.get("bits", 0)) or None

    @property
    def text(self) -> ModelText:
        """The text side: chat templates, special tokens, who adds the start token."""
        return read_text(self.path)

    @property
    def window(self) -> int:
        """The smallest window of any layer, 0 where every layer attends to everything."""
        return min((size for size in self.windows if size), default=0)

    @property
    def group_size(self) -> int:
        """Quantized weights that share a scale; -1 for a whole row."""
        return int((self.quantization or {}).get("group_size", 128))

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one decoder layer, by the configuration."""
        (q, kv), hidden, middle = self.attention_outputs, self.hidden_size, self.intermediate_size
        if self.model_type in FUSED_TYPES:
            return [(hidden, q + 2 * kv), (q, hidden), (hidden, 2 * middle), (middle, hidden)]
        return [
            *[(hidden, q), (hidden, kv), (hidden, kv), (q, hidden)],
            *[(hidden, middle)] * 2,
            (middle, hidden),
        ]

    @property
    def linear_numbers(self) -> int:
        """Numbers in the linear layers of all decoder layers, by the configuration."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def end_numbers(self) -> int:
        """Numbers in the embeddings and, where it is not the same, the output matrix, by the configuration."""
        return (self.vocab_size or 32000) * self.hidden_size * (1 if self.tied_embeddings else 2)

    def adapter_numbers(self, rank: int) -> int:
        """Numbers in a LoRA adapter on all linear layers."""
        return rank * self.layers * sum(inputs + outputs for inputs, outputs in self.linears)

    @property
    def attention_outputs(self) -> tuple[int, int]:
        """Outputs of the q projection, and of the k and the v projection."""
        return self.heads * self.head_dim, self.kv_heads * self.head_dim

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON, without the configuration's own text."""
        facts = {**asdict(self), "path": str(self.path)}
        del facts["config"]
        return facts


@dataclass(frozen=True)
class AdapterFacts:
    """What ``adapter_config.json`` tells: a LoRA or another small addition to a model.

    Attributes:
        base: the model that it was trained on, by the name that its author used.
        method: PEFT's name of its kind (``LORA``).
        rank: of its matrices; 0 where it has none.
    """

    path: Path
    base: str
    method: str
    rank: int


def read_adapter(path: Path) -> AdapterFacts | None:
    """What adapter a folder holds, None if none."""
    config = read_json(path / ADAPTER_CONFIG)
    if not isinstance(config, dict):
        return None
    base, rank = config.get("base_model_name_or_path"), config.get("r")
    return AdapterFacts(
        path,
        base if isinstance(base, str) else "",
        str(config.get("peft_type") or "adapter"),
        rank if isinstance(rank, int) else 0,
    )


def refuse_model_as_adapter(path: Path) -> None:
    """Refuse a folder that holds a whole model where an adapter is looked for; one that is not there is none.

    Raises:
        RequestError: it has a ``config.json`` and no ``adapter_config.json``.
    """
    if (path / "config.json").is_file() and not (path / ADAPTER_CONFIG).is_file():
        raise RequestError(
            told("A whole model lies where the adapter is looked for."),
            told("{path} has config.json, and no {file}.", path=path, file=ADAPTER_CONFIG),
            told(
                "Put an adapter there, made by finetune or by PEFT; to work on that model itself, set "
                "model.source to a copy of its folder."
            ),
            code="adapter.is-model",
        )


def read_config(path: Path) -> dict[str, Any]:
    """The folder's ``config.json``.

    Raises:
        RequestError: there is no such folder or file, it holds an adapter and no model, or the file is not a
            JSON object.
    """
    if not path.is_dir():
        raise RequestError(
            told("There is no such model folder."),
            told(
                "{path} is {value}.", path=path, value=told("a file") if path.exists() else told("not there")
            ),
            told("Set model.source to the folder that it lies in, {parent}.", parent=path.parent)
            if path.is_file() and (path.parent / "config.json").is_file()
            else told(
                'Set {setting} to a folder with config.json, to a hub id, or to "rehearsal".',
                setting=Use("model.source"),
            ),
            code="model.missing",
        )
    if not (path / "config.json").is_file():
        raise _no_config(path)
    return read_object(path / "config.json")


def _no_config(path: Path) -> RequestError:
    return _only_adapter(path) or RequestError(
        told("The model folder has no config.json."),
        told("{path} holds {some_names}.", path=path, some_names=some_names(path)),
        _model_nearby(path)
        or told("Set model.source to a Hugging Face folder: config.json, *.safetensors and a tokenizer."),
        code="model.no-config",
    )


def _model_nearby(path: Path) -> str:
    """Which model is probably meant by a folder that holds none: a trainer's output, a hub cache, a lab, GGUF files."""
    if (path / "lab.toml").is_file():
        return told("It is a lab's folder. Set model.source to the model that its lab.toml names.")
    if files := sorted(path.glob("*.gguf")):
        return told("Set model.source to one file: {files}.", files=files[0])
    if any(path.glob("*.onnx")):
        return told(
            "An ONNX model cannot be quantized or trained: set model.source to the model that it was "
            "built from."
        )
    inside = [each.parent for pattern in ("*/config.json", "*/*/config.json") for each in path.glob(pattern)]
    if inside:
        return told(
            "Set model.source to a folder in it: {inside}.",
            inside=max(inside, key=lambda each: each.stat().st_mtime),
        )
    return ""


def _only_adapter(path: Path) -> RequestError | None:
    """The error of a folder with an adapter in the place of a model; some programs put a config.json beside it."""
    adapter = read_adapter(path)
    if adapter is None:
        return None
    kind = (
        told("a LoRA adapter")
        if adapter.method == "LORA"
        else told("an adapter ({method})", method=adapter.method)
    )
    wanted = (
        told("the model that it was trained on, {base}", base=adapter.base)
        if adapter.base
        else told("its base model")
    )
    return RequestError(
        told("The folder holds {kind}, not a model.", kind=kind),
        told(
            "{path}/{file} says base_model_name_or_path = {base}.",
            path=path,
            file=ADAPTER_CONFIG,
            base=repr(adapter.base),
        ),
        told(
            "Set model.source to {wanted}; or merge the two with PEFT's merge_and_unload() and save that.",
            wanted=wanted,
        ),
        code="model.adapter",
    )


def check_folder(path: Path) -> None:
    """Refuse a folder that is not a whole model, or that reaches for files elsewhere.

    Raises:
        RequestError: what is missing, damaged or outside, and what to do.
    """
    read_config(path)
    refuse_outside(path)
    _entries(path)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise RequestError(
            told("The model folder has no tokenizer."),
            told("{path} has none of {names}.", path=path, names=", ".join(TOKENIZER_FILES)),
            told("Copy tokenizer.json and tokenizer_config.json from where the model came from."),
            code="model.no-tokenizer",
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (path / name).is_file():
            read_object(path / name)
    if (path / "tokenizer.json").is_file() and not read_text(path).size:
        raise damaged(path / "tokenizer.json", told("it holds no vocabulary"))


def _entries(path: Path) -> dict[str, TensorEntry]:
    try:
        return tensor_entries(path)
    except RequestError as error:
        if error.code == "model.no-weights" and (nearby := _model_nearby(path)):
            raise RequestError(error.title, error.detail, nearby, code=error.code) from None
        if error.code == "model.no-weights" and (adapter := _only_adapter(path)) is not None:
            raise adapter from None
        raise


def model_facts(path: Path) -> ModelFacts:
    """What the model is, read from ``config.json`` and file headers in milliseconds.

    Raises:
        RequestError: the folder has no readable configuration or weights, or reaches for files elsewhere.
    """
    config = read_config(path)
    refuse_outside(path)
    entries = _entries(path)
    return _facts(path, config, entries, weight_files(path))


def config_facts(config: Mapping[str, Any], path: Path = Path()) -> ModelFacts:
    """What a ``config.json`` alone tells, for a model that is not on this machine yet: no weights, no text.

    Raises:
        RequestError: it holds a number that cannot be.
    """
    return _facts(path, config, {}, [])


_MOST_LAYERS, _LARGEST = 10_000, 2**31
_COUNTS = frozenset(
    {
        "hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head", "n_heads", "num_key_value_heads",
        "head_dim", "intermediate_size", "n_inner", "ffn_dim", "vocab_size", "max_position_embeddings", "n_positions",
        "seq_length", "max_sequence_length", "sliding_window", "max_window_layers", "sliding_window_pattern",
        "num_local_experts",
        "_sliding_window_pattern", "num_experts", "n_routed_experts", "moe_num_experts", "partial_rotary_factor",
        "rope_theta", "bits", "original_max_position_embeddings",
    }
)  # fmt: skip
_LAYER_COUNTS = frozenset({"num_hidden_layers", "n_layer", "n_layers"})
_OBJECTS = frozenset({"text_config", "rope_parameters", "rope_scaling", "quantization_config"})


def _refuse_odd(config: Mapping[str, Any], path: Path, where: str = "") -> None:
    """Refuse a configuration in which a number is none, or so large that what follows from it fills the memory.

    Raises:
        RequestError: with the key.
    """
    for key, value in config.items():
        if isinstance(value, Mapping) and (key in _OBJECTS or where.startswith("rope_")):
            _refuse_odd(value, path, f"{key}.")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = -1 if key == "sliding_window" else 0
        most = _MOST_LAYERS if key in _LAYER_COUNTS else _LARGEST
        if value is None or key not in _COUNTS | _LAYER_COUNTS or (number and least <= value <= most):
            continue
        raise RequestError(
            told("The model's config.json holds a number that cannot be."),
            told(
                "{path}: {where}{key} = {value}.",
                path=path / "config.json",
                where=where,
                key=key,
                value=str(value)[:80],
            ),
            told("Fetch the model again, or correct the file."),
            code="model.damaged",
        )


def _facts(
    path: Path, config: Mapping[str, Any], entries: dict[str, TensorEntry], files: list[Path]
) -> ModelFacts:
    _refuse_odd(config, path)
    inner = config.get("text_config")
    sources = [config, inner] if isinstance(inner, dict) else [config]

    def read(*names: str, default: Any = None) -> Any:
        for source in sources:
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return default

    def number(*names: str, default: int = 0) -> int:
        value = read(*names)
        return int(value) if isinstance(value, int | float) else default

    kinds = {str(source.get("model_type", "")) for source in sources}
    quantization = config.get("quantization_config")
    quantization = quantization if isinstance(quantization, dict) else None
    heads = number("num_attention_heads", "n_head", "n_heads")
    hidden = number("hidden_size", "n_embd", "d_model")
    layers = number("num_hidden_layers", "n_layer", "n_layers")
    architectures = config.get("architectures")
    return ModelFacts(
        path=path,
        model_type=str(read("model_type", default="")),
        architecture=str((architectures or [""])[0]) if isinstance(architectures, list) else "",
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", default=heads),
        head_dim=number("head_dim", default=hidden // heads if heads else 0),
        intermediate_size=number("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        vocab_size=number("vocab_size"),
        embedding_rows=_embedding_rows(entries),
        max_positions=number("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length"),
        windows=_windows(sources, read, kinds, layers),
        rope=_rope(read),
        dtype=str(read("dtype", "torch_dtype", default="") or _dtype(entries)).removeprefix("torch."),
        tied_embeddings=bool(read("tie_word_embeddings", default=bool(kinds & TIED_BY_DEFAULT))),
        experts=number("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
        encoder_decoder=bool(config.get("is_encoder_decoder")),
        other_inputs=tuple(what for key, what in _OTHER_INPUTS.items() if isinstance(config.get(key), dict)),
        remote_code=bool(config.get("auto_map")),
        parameters=count_numbers(entries, quantization),
        weight_bytes=sum(file.stat().st_size for file in files),
        shards=tuple(file.name for file in files),
        leftovers=leftovers(path, files) if files else (),
        quantization=quantization,
        quantized_by=_quantized_by(path, quantization, entries),
        config=config,
    )


def _embedding_rows(entries: Mapping[str, TensorEntry]) -> int:
    for name, entry in entries.items():
        if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")):
            return entry.shape[0] if entry.shape else 0
        if name.endswith("embed_tokens.qweight"):
            return entry.shape[0] if entry.shape else 0
    return 0


def _dtype(entries: Mapping[str, TensorEntry]) -> str:
    known = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    return next((known[entry.dtype] for entry in entries.values() if entry.dtype in known), "float32")


def _windows(sources: list[Mapping[str, Any]], read: Any, kinds: set[str], layers: int) -> tuple[int, ...]:
    size = read("sliding_window")
    if not any("sliding_window" in source for source in sources):  # a null that stands there means: none
        size = next((_WINDOWS[kind] for kind in sorted(kinds) if kind in _WINDOWS), None)
    # Qwen and SmolLM3 name a window that counts only if this says so.
    if not isinstance(size, int) or size <= 0 or read("use_sliding_window") is False:
        return ()
    types = read("layer_types")
    if isinstance(types, list):
        found = [size if "sliding" in str(kind) else _EVERY_LAYER for kind in types]
    elif kinds & _ALTERNATE:
        found = [_EVERY_LAYER if layer % 2 else size for layer in range(layers)]
    elif kinds & set(_PATTERNS) or isinstance(read("sliding_window_pattern"), int):
        pattern = read("sliding_window_pattern", "_sliding_window_pattern")
        if not isinstance(pattern, int) or pattern <= 0:
            pattern = next(_PATTERNS[kind] for kind in sorted(kinds) if kind in _PATTERNS)
        found = [size if (layer + 1) % pattern else _EVERY_LAYER for layer in range(layers)]
    elif read("use_sliding_window") is True:
        first = read("max_window_layers", default=0)
        found = [size if layer >= first else _EVERY_LAYER for layer in range(layers)]
    elif any(kind.startswith(("qwen", "smollm3")) for kind in kinds):
        return ()  # ``use_sliding_window`` is not there: it is off by default
    else:
        found = [size] * layers
    return tuple(found) if any(found) else ()


def _rope(read: Any) -> dict[str, Any]:
    found = read("rope_parameters", "rope_scaling")
    rope = dict(found) if isinstance(found, dict) else {}
    if "type" in rope:
        rope.setdefault("rope_type", rope["type"])
    theta = read("rope_theta")
    if theta is not None:
        rope.setdefault("rope_theta", theta)
    return rope


def _quantized_by(
    path: Path, quantization: Mapping[str, Any] | None, entries: Mapping[str, TensorEntry]
) -> str:
    """How the weights are packed, from the configuration, the files of quantizers, or the tensors."""
    if quantization is not None:
        nested = quantization.get("quant_algo") or quantization.get("quant_type")
        return str(quantization.get("quant_method") or nested or told("an unnamed method"))
    for name, method in (
        ("quantize_config.json", "gptq"),
        ("quant_config.json", "awq"),
        ("hf_quant_config.json", "modelopt"),
    ):
        if isinstance(read_json(path / name), dict) and entries:
            return method
    for name, entry in entries.items():
        if entry.dtype.startswith("F8_"):
            return "fp8"
        last = name.rpartition(".")[2]
        if last in ("absmax", "quant_map", "SCB") or "bitsandbytes" in last:
            return "bitsandbytes"
        if last in ("qweight", "weight_packed"):
            return "gptq or awq" if last == "qweight" else "compressed-tensors"
    whole = any(entry.dtype in ("I8", "U8") and len(entry.shape) == 2 for entry in entries.values())
    return "8-bit integers" if whole else ""
