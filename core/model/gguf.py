"""GGUF files: what one is, from its header, and the Hugging Face folder that is made of it once, in the user's cache.

GGUF is llama.cpp's file of a model: metadata, tokenizer and tensors in one
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The reader of the ``gguf`` package maps a
file and trusts its counts; a vocabulary of 262,144 tokens takes it seconds. This one checks every length
against the file and walks past what is not asked for; no tensor is read, and torch is not loaded.

The weights come through transformers' own reader as bfloat16; the tokenizer is set right where that reader
goes by less than the file tells. There are two folders: one with the whole model, and a small one
with what concerns text (tokenizer, template, configuration), for those who only look at records. Each stands
there whole or not at all, and two that want the same one wait for one another.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import re
import shutil
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from core.errors import MachineError, RequestError, StageError
from core.events import Reporter
from core.files import (
    MANIFEST,
    as_umask_says,
    explained,
    publish,
    read_if_whole,
    read_json,
    require_disk,
    write_atomic,
    write_json,
)
from core.formats import human_bytes
from core.language import told
from core.model.text import END_TOKENS, AddedToken, ModelText, special_tokens
from core.process import Child, Request, serve
from core.tqdm_progress import reporting
from core.user_dirs import cache_dir

SUFFIX = ".gguf"

ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
"""What ``general.architecture`` may be: those that transformers reads and that were tried here against the
model they were written from. Each with its ``model_type`` and class."""

LLAMA3_PRE = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
)
"""``tokenizer.ggml.pre`` of the tokenizers that take a word whole if the vocabulary has it, and begin a text
with the start token unless the file says otherwise (llama.cpp, ``llama-vocab.cpp``)."""

DIGIT_BY_DIGIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})
"""``tokenizer.ggml.pre`` of the tokenizers that cut numbers into digits before GPT-2's own cut."""

_CUT_AS_GPT2 = frozenset({"default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})
_CUT_BY_TRANSFORMERS = LLAMA3_PRE | {
    "dbrx", "smaug-bpe", "tekken", "qwen2", "deepseek-r1-qwen", "megrez", "gpt-4o", "llama4",
}  # fmt: skip

CONTROL = 3
"""The ``token_type`` of a special token."""

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_KEPT_NUMBERS = 4096
"""Arrays of numbers up to this length are kept (sizes by layer); longer ones are the tokenizer's scores."""

_DONE_ELSEWHERE = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
"""Tensors that stand in the configuration of a Hugging Face folder, not among its weights."""

_LIMITS = {"dimensions": 4, "name": 1 << 16}
_FETCH = told("Fetch the file again; it was probably cut short or changed on the way.")
ORIGINAL = told("Set model.source to the Hugging Face folder or hub id that the file was made from.")
_ADVICE = told(
    "Set model.source to a GGUF file of a whole language model, or to the Hugging Face folder it came from."
)


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header tells it: ``shape`` as torch has it, ``kind`` the number of its ggml type."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """All that a GGUF file tells before its weights.

    Attributes:
        metadata: by key. An array of strings, or a long one of numbers, stands as its length.
        tensors: by name.
        stamp: a digest of the header's bytes with the file's size and time of change.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    stamp: str

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def licence(self) -> str:
        """As the file names it; empty where it does not."""
        return str(self.metadata.get("general.license") or "")

    @property
    def parameters(self) -> int:
        """Numbers in the weights."""
        return sum(t.numbers for name, t in self.tensors.items() if name not in _DONE_ELSEWHERE)

    @property
    def float_bytes(self) -> int:
        """Size of the weights once they are unpacked, as bfloat16."""
        return 2 * self.parameters

    @property
    def templates(self) -> dict[str, str]:
        """Its chat templates by name; the one that is used unasked is ``default``. Empty for a base model."""
        found = {}
        for key, value in self.metadata.items():
            name = re.fullmatch(r"tokenizer\.chat_template(?:\.([\w-]+))?", key)
            if name and isinstance(value, str) and value:
                found[name[1] or "default"] = value
        return found

    def own(self, key: str, default: Any = None) -> Any:
        """The value of one of the architecture's own keys: ``own("block_count")`` of ``llama.block_count``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def token_id(self, name: str) -> int | None:
        """The number of a token with a duty: ``bos``, ``eos``, ``eot``, ``eom``, ``unknown``, ``padding``."""
        value = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return value if isinstance(value, int) else None

    @property
    def starts_with_bos(self) -> bool:
        """Whether the tokenizer puts the start token before a text: as the file says, else as llama.cpp does."""
        said = self.metadata.get("tokenizer.ggml.add_bos_token")
        if isinstance(said, bool):
            return said and self.token_id("bos") is not None
        model, pre = self.metadata.get("tokenizer.ggml.model"), self.metadata.get("tokenizer.ggml.pre")
        return self.token_id("bos") is not None and (model == "llama" or pre in LLAMA3_PRE | {"tekken"})


def is_gguf(path: Path) -> bool:
    """Whether a path is called as a GGUF file is, there or not, or is one under another name (Ollama's blobs)."""
    if path.suffix.lower() == SUFFIX:
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Read a file's header, and see that the file holds every tensor that it tells of.

    Raises:
        RequestError: there is no such file, it is of another kind, or it is damaged.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else told("no file")
        raise RequestError(
            told("That is {what}, not a GGUF file.", what=what), str(path), _ADVICE, code="model.gguf-kind"
        )
    try:
        with path.open("rb") as stream:
            begin = stream.read(64)
            if not begin.startswith(b"GGUF"):
                raise _other_kind(path, begin)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data)
    except FileNotFoundError:
        raise RequestError(
            told("There is no such file."),
            told("{path} does not exist.", path=path),
            _ADVICE,
            code="model.missing",
        ) from None
    except OSError as error:
        raise RequestError(
            told("The GGUF file cannot be read."),
            told("{path}: {strerror}.", path=path, strerror=error.strerror),
            _ADVICE,
            code="model.missing",
        ) from None


@lru_cache(maxsize=2)
def _tokens(path: Path, stamp: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The vocabulary of a file whose header has this stamp: its tokens, and the kind of each."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(path, data)
        keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
        metadata = cursor.metadata(keep=frozenset(keys))[0]
        tokens, kinds = (metadata.get(key) or [] for key in keys)
        return tuple(map(str, tokens)), tuple(map(int, kinds))


def check_gguf(path: Path) -> Header:
    """Read a file's header and refuse what is not one whole language model that can be read here.

    The answer is kept until the file changes: a large vocabulary takes a second, and several ask at once.

    Raises:
        RequestError: it is damaged, one part of several, no language model, or of a kind that is not read.
    """
    try:
        stat = path.stat()
    except OSError:
        return _checked(path)
    with _one_reads:
        return _checked_once(path, stat.st_size, stat.st_mtime_ns)


_one_reads = Lock()


@lru_cache(maxsize=4)
def _checked_once(path: Path, size: int, mtime_ns: int) -> Header:
    return _checked(path)


def _checked(path: Path) -> Header:
    header = read_header(path)
    said = header.metadata
    kind = str(said.get("general.type") or "model")
    what = {
        "adapter": told("It is a LoRA adapter, not a model."),
        "mmproj": told("It is the part of a model that sees images (mmproj), not the language model."),
        "imatrix": told("It is an importance matrix, not a model."),
        "vocab": told("It holds a vocabulary and no weights."),
    }
    if header.architecture == "clip":
        kind = "mmproj"
    if kind in what:
        raise RequestError(
            what[kind],
            told("{path}: general.type = {kind}.", path=path, kind=repr(kind)),
            _ADVICE,
            code="model.gguf-kind",
        )
    parts = said.get("split.count", 0)
    named = re.search(r"-(\d{5})-of-(\d{5})\.gguf$", path.name, re.IGNORECASE)
    if (isinstance(parts, int) and parts > 1) or (named and int(named[2]) > 1):
        raise RequestError(
            told("It is one part of a model that was split."),
            told(
                "{path} is one of {parts} files.", path=path, parts=parts or int(named[2]) if named else parts
            ),
            told(
                "Join them with llama.cpp's llama-gguf-split --merge, and set model.source to the joined "
                "file."
            ),
            code="model.gguf-split",
        )
    if header.architecture not in ARCHITECTURES:
        raise RequestError(
            told(
                "GGUF files of the architecture {architecture} are not read here.",
                architecture=header.architecture[:40] or told("none"),
            ),
            told(
                "{path}: general.architecture = {architecture}; read are {names}.",
                path=path,
                architecture=repr(header.architecture[:80]),
                names=", ".join(ARCHITECTURES),
            ),
            ORIGINAL,
            code="model.gguf-architecture",
        )
    if not header.tensors:
        raise RequestError(
            what["vocab"], told("{path} has no tensors.", path=path), _ADVICE, code="model.gguf-kind"
        )
    if "token_embd.weight" not in header.tensors:
        raise RequestError(
            told("It has no embeddings."),
            told("{path} has no token_embd.weight.", path=path),
            _ADVICE,
            code="model.gguf-kind",
        )
    if header.own("expert_count"):
        raise RequestError(
            told("Mixtures of experts are not read from GGUF."),
            told(
                "{path}: {architecture}.expert_count = {own}.",
                path=path,
                architecture=header.architecture,
                own=header.own("expert_count"),
            ),
            told("Use a dense model."),
            code="model.gguf-shape",
        )
    _check_types(header)
    _check_tokenizer(header)
    config_of(header)
    return header


def text_of(header: Header) -> ModelText:
    """The text side as the header tells it, for those who need no tokenizer: templates and special tokens."""
    tokens, kinds = _tokens(header.path, header.stamp)
    added = tuple(
        AddedToken(token, at, True)
        for at, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind == CONTROL
    )

    def named(name: str) -> str:
        number = header.token_id(name)
        return "" if number is None else tokens[number]

    bos, eos, pad = named("bos"), named("eos"), named("padding")
    templates = header.templates
    return ModelText(
        template=templates.get("default", ""),
        templates=templates,
        bos=bos,
        eos=eos,
        pad=pad,
        ids={token: tokens.index(token) for token in (bos, eos, pad) if token},
        ends=tuple(end_tokens(header)),
        adds_start=header.starts_with_bos,
        special=special_tokens((text, True) for text in (*(token.text for token in added), bos, eos, pad)),
        added=added,
        size=len(tokens),
    )


def end_tokens(header: Header) -> list[int]:
    """The tokens that end an answer, the file's own first."""
    named = [header.token_id(name) for name in ("eos", "eot", "eom")]
    tokens, kinds = _tokens(header.path, header.stamp)
    special = [
        at
        for at, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind == CONTROL and token in END_TOKENS
    ]
    return list(dict.fromkeys([number for number in named if number is not None] + special))


def _check_types(header: Header) -> None:
    """Refuse a way of packing that cannot be unpacked, by the tensor's name."""
    import numpy
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    tried: set[int] = set()
    for tensor in header.tensors.values():
        if tensor.kind in tried:
            continue
        kind = GGMLQuantizationType(tensor.kind)
        try:
            dequantize(numpy.zeros((1, GGML_QUANT_SIZES[kind][1]), numpy.uint8), kind)
        except (NotImplementedError, ValueError):
            raise RequestError(
                told("Weights packed as {kind} cannot be unpacked here.", kind=kind.name),
                told("{path}: {tensor} is {kind}.", path=header.path, tensor=tensor.name, kind=kind.name),
                told("Use a file in another packing (Q4_K_M, Q8_0, F16, …)."),
                code="model.gguf-packing",
            ) from None
        tried.add(tensor.kind)


def _check_tokenizer(header: Header) -> None:
    said = header.metadata
    model, pre = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre")
    if not said.get("tokenizer.ggml.tokens"):
        raise RequestError(
            told("The GGUF file has no tokenizer."),
            told("{path}: no tokenizer.ggml.tokens.", path=header.path),
            _ADVICE,
            code="model.gguf-tokenizer",
        )
    known = {None, *_CUT_AS_GPT2, *_CUT_BY_TRANSFORMERS, *DIGIT_BY_DIGIT}
    if model not in ("gpt2", "llama") or (model == "gpt2" and pre not in known):
        key, value = ("pre", pre) if model == "gpt2" else ("model", model)
        raise RequestError(
            told("The file's kind of tokenizer is not read here."),
            told(
                "{path}: tokenizer.ggml.{key} = {value}. It would cut text into other tokens.",
                path=header.path,
                key=key,
                value=repr(str(value)[:80]),
            ),
            ORIGINAL,
            code="model.gguf-tokenizer",
        )
    count = said["tokenizer.ggml.tokens"]
    rows = header.tensors["token_embd.weight"].shape[0]
    if count > rows:
        raise RequestError(
            told("The tokenizer has more tokens than the model."),
            told(
                "{path}: {count} tokens, token_embd.weight has {rows} rows.",
                path=header.path,
                count=count,
                rows=rows,
            ),
            _FETCH,
            code="model.gguf-damaged",
        )
    for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        number = header.token_id(name)
        if number is not None and number >= count:
            raise RequestError(
                told("The file names a token that it does not have."),
                told(
                    "{path}: tokenizer.ggml.{name}_token_id = {number}, there are {count} tokens.",
                    path=header.path,
                    name=name,
                    number=number,
                    count=count,
                ),
                _FETCH,
                code="model.gguf-damaged",
            )


def config_of(header: Header) -> dict[str, Any]:
    """The ``config.json`` of the float model that the file unpacks to.

    More than transformers' own reader takes from the file: it leaves out how positions are stretched
    (Llama 3, long Phi-3, linear, YaRN), the size of a head where that is its own, and partial rotation.

    Raises:
        RequestError: a size is missing or not the same in all layers.
    """
    model_type, architecture = ARCHITECTURES[header.architecture]
    heads = _number(header, "attention.head_count")
    hidden = _number(header, "embedding_length")
    if not heads or (header.own("attention.key_length") is None and hidden % heads):
        raise _strange(header, "attention.head_count", heads)
    head_dim = _number(header, "attention.key_length", hidden // heads)
    if header.own("attention.value_length", head_dim) != head_dim:
        raise _strange(header, "attention.value_length", header.own("attention.value_length"))
    context = _number(header, "context_length")
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": "bfloat16",
        "hidden_size": hidden,
        "intermediate_size": _number(header, "feed_forward_length"),
        "num_hidden_layers": _number(header, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(header, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": float(header.own("attention.layer_norm_rms_epsilon", 1e-6)),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": header.token_id("bos"),
        "eos_token_id": header.token_id("eos"),
        "pad_token_id": header.token_id("padding"),
    }
    window = header.own("attention.sliding_window") or None
    if header.architecture in ("phi3", "gemma2", "gemma3"):
        config["sliding_window"] = window
    if header.architecture in ("gemma2", "gemma3"):
        # llama.cpp scales so in the 27 B of both families, which are known by their layers.
        largest = header.own("block_count") in (46, 62)
        config["query_pre_attn_scalar"] = hidden // heads if largest else head_dim
    if header.architecture == "gemma2":
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if header.own(key) is not None:
                config[key] = float(header.own(key))
    if header.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    config.update(_rope(header, head_dim, context))
    return config


def _rope(header: Header, head_dim: int, context: int) -> dict[str, Any]:
    theta = float(header.own("rope.freq_base", 10000.0))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    rotated = _number(header, "rope.dimension_count", head_dim)
    if rotated != head_dim:
        if header.architecture != "phi3":
            raise _strange(header, "rope.dimension_count", rotated)
        rope["partial_rotary_factor"] = rotated / head_dim
    kind = header.own("rope.scaling.type") or "none"
    original = header.own("rope.scaling.original_context_length")
    factor = header.own("rope.scaling.factor")
    more: dict[str, Any] = {}
    if "rope_factors_long.weight" in header.tensors:
        if header.architecture != "phi3" or not original:
            raise _strange(header, "rope.scaling.original_context_length", original)
        rope.update(
            rope_type="longrope",
            long_factor=_numbers_of(header, "rope_factors_long.weight"),
            short_factor=_numbers_of(header, "rope_factors_short.weight"),
            original_max_position_embeddings=original,
        )
        more["original_max_position_embeddings"] = original
    elif "rope_freqs.weight" in header.tensors:
        rope.update(_llama3(header, theta, rotated))
    elif kind == "linear" and factor:
        rope.update(rope_type="linear", factor=float(factor))
    elif kind == "yarn" and factor and original:
        rope.update(rope_type="yarn", factor=float(factor), original_max_position_embeddings=original)
    elif kind not in ("none", "linear", "yarn", "longrope"):
        raise _strange(header, "rope.scaling.type", kind)
    if header.architecture == "phi3":
        more.setdefault("original_max_position_embeddings", context)
    if header.architecture == "gemma3":
        local = {"rope_type": "default", "rope_theta": float(header.own("rope.freq_base_swa", 10000.0))}
        return {"rope_parameters": {"full_attention": rope, "sliding_attention": local}, **more}
    return {"rope_parameters": rope, **more}


def llama3_factors(
    theta: float, dims: int, *, factor: float, low: float, high: float, original: float
) -> list[float]:
    """By what Llama 3.1 divides the frequency of each pair of dimensions, so that longer texts fit.

    Source: ``_compute_llama3_parameters`` of transformers' ``modeling_rope_utils``. Short waves stay, long ones are
    stretched by the whole factor, those between by a part of it.

    Args:
        theta: the base of the frequencies, ``rope_theta``.
        dims: the dimensions of a head that are rotated.
        factor: the whole factor.
        low: ``low_freq_factor``; waves longer than ``original / low`` tokens are stretched whole.
        high: ``high_freq_factor``; waves shorter than ``original / high`` tokens stay.
        original: the tokens that the model was made for at first.
    """
    found = []
    for index in range(dims // 2):
        length = 2 * math.pi * theta ** (2 * index / dims)
        if length < original / high:
            found.append(1.0)
        elif length > original / low:
            found.append(factor)
        else:
            smooth = (original / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found


def _llama3(header: Header, theta: float, dims: int) -> dict[str, Any]:
    """The settings of Llama 3's stretched positions, found again from the factors that the file has.

    Raises:
        RequestError: the factors are not those of Llama 3.
    """
    factors = _numbers_of(header, "rope_freqs.weight")
    low, high, original = 1.0, 4.0, 8192
    largest = max(factors, default=1.0)
    expected = llama3_factors(theta, dims, factor=largest, low=low, high=high, original=original)
    if len(factors) != len(expected) or any(
        abs(a - b) > 1e-3 * b for a, b in zip(factors, expected, strict=True)
    ):
        raise RequestError(
            told("The file stretches positions in a way that is not known here."),
            told("{path}: rope_freqs.weight are not Llama 3's factors.", path=header.path),
            ORIGINAL,
            code="model.gguf-shape",
        )
    if all(factor == 1.0 for factor in factors):
        return {}
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _numbers_of(header: Header, name: str) -> list[float]:
    tensor = header.tensors.get(name)
    if tensor is None or tensor.kind != 0 or len(tensor.shape) != 1:
        raise RequestError(
            told("The file's factors for long texts cannot be read."),
            told("{path}: {name} is not a row of F32.", path=header.path, name=name),
            _FETCH,
            code="model.gguf-shape",
        )
    with header.path.open("rb") as stream:
        stream.seek(tensor.offset)
        return list(struct.unpack(f"<{tensor.numbers}f", stream.read(4 * tensor.numbers)))


def _number(header: Header, key: str, default: int | None = None) -> int:
    """A whole number of the architecture's own; one that stands for each layer must be the same in all."""
    value = header.own(key, default)
    if isinstance(value, list) and value and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _strange(header, key, value)
    return value


def _strange(header: Header, key: str, value: Any) -> RequestError:
    return RequestError(
        told("The file tells of a shape that is not read here."),
        told(
            "{path}: {architecture}.{key} = {value}.",
            path=header.path,
            architecture=header.architecture,
            key=key,
            value=str(value)[:80] if value is not None else told("not there"),
        ),
        ORIGINAL,
        code="model.gguf-shape",
    )


def _other_kind(path: Path, begin: bytes) -> RequestError:
    head = begin.lstrip().lower()
    if not begin:
        return RequestError(told("The GGUF file is empty."), str(path), _FETCH, code="model.gguf-damaged")
    if head.startswith(b"version https://git-lfs"):
        found, hint = told("a Git LFS pointer, not the file itself"), told("Fetch it with: git lfs pull")
    elif head.startswith((b"<!doctype", b"<html", b"<?xml")):
        found, hint = (
            told("a web page"),
            told("Fetch it by its download address, not that of the page that shows it."),
        )
    elif begin[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        found, hint = told("a file of llama.cpp from before GGUF"), told("Use a GGUF file of the model.")
    else:
        found, hint = told("something else"), _ADVICE
    return RequestError(
        told("It is not a GGUF file."),
        told("{path} does not begin with GGUF: it is {found}.", path=path, found=found),
        hint,
        code="model.gguf-kind",
    )


class _Cursor:
    """Walks through the header's bytes; every length is checked before it is used."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.size = path, data, 0, len(data)

    def damaged(self, what: str) -> RequestError:
        """The error for a header that cannot be true."""
        return RequestError(
            told("The GGUF file is damaged."),
            told("{path}: {what} (at byte {at}).", path=self.path, what=what, at=self.at),
            _FETCH,
            code="model.gguf-damaged",
        )

    def skip(self, length: int) -> int:
        """Step over so many bytes; where they begin."""
        at = self.at
        if length < 0 or at + length > self.size:
            raise self.damaged(
                told("it has {size} bytes, and its header goes on beyond them", size=self.size)
            )
        self.at = at + length
        return at

    def number(self, form: str) -> Any:
        """One number of a ``struct`` form."""
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def text(self) -> str:
        """A string: its length, then UTF-8."""
        length = self.number("<Q")
        at = self.skip(length)
        try:
            return self.data[at : at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(told("a text in its header is not UTF-8")) from None

    def value(self, kind: int, keep: bool) -> Any:
        """One value of the metadata. An array of strings, or a long one, is kept whole only if ``keep``."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise self.damaged(told("its header has a value of the unknown kind {kind}", kind=kind))
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _SCALARS:
            form = _SCALARS[inner]
            at = self.skip(count * struct.calcsize(form))
            if not keep and count > _KEPT_NUMBERS:
                return count
            return list(struct.unpack_from(f"<{count}{form[1]}", self.data, at))
        if inner != _STRING or count * 8 > self.size - self.at:
            raise self.damaged(
                told(
                    "its header has an array of {count} values of the kind {inner}", count=count, inner=inner
                )
            )
        if keep:
            return [self.text() for _ in range(count)]
        at, data, length_at = self.at, self.data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > self.size:
                break
            at += 8 + length_at(data, at)[0]
        self.skip(at - self.at)
        return count

    def metadata(self, keep: frozenset[str] = frozenset()) -> tuple[dict[str, Any], int]:
        """The metadata, and how many tensors follow."""
        self.at = 4
        version = self.number("<I")
        if version not in (2, 3):
            turned = int.from_bytes(version.to_bytes(4, "little"), "big")
            why = (
                told("is for big-endian machines")
                if turned in (2, 3)
                else told("is of version {version}; 2 and 3 are read", version=version)
            )
            raise RequestError(
                told("This form of GGUF is not read."),
                told("{path} {why}.", path=self.path, why=why),
                _ADVICE,
                code="model.gguf-kind",
            )
        tensors, count = self.number("<Q"), self.number("<Q")
        if count * 13 + tensors * 24 > self.size:
            raise self.damaged(
                told(
                    "it tells of {count} values and {tensors} tensors, more than its bytes can hold",
                    count=count,
                    tensors=tensors,
                )
            )
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.text()
            found[key] = self.value(self.number("<I"), key in keep)
        return found, tensors


def _parse(path: Path, data: mmap.mmap) -> Header:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    cursor = _Cursor(path, data)
    metadata, count = cursor.metadata()
    entries: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(count):
        name, dimensions = cursor.text(), cursor.number("<I")
        if dimensions > _LIMITS["dimensions"]:
            raise cursor.damaged(
                told(
                    "the tensor {name} has {dimensions} dimensions",
                    name=repr(name[:80]),
                    dimensions=dimensions,
                )
            )
        shape = tuple(reversed([int(cursor.number("<Q")) for _ in range(dimensions)]))
        entries.append((name, shape, cursor.number("<I"), cursor.number("<Q")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise cursor.damaged(told("general.alignment = {alignment}", alignment=repr(alignment)))
    header_end = cursor.at
    start = -(-header_end // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for name, shape, kind, offset in entries:
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise RequestError(
                told("The file packs weights in a way that is not known here."),
                told("{path}: {name} is of the ggml type {kind}.", path=path, name=name[:80], kind=kind),
                told("Use a file in another packing (Q4_K_M, Q8_0, F16, …)."),
                code="model.gguf-packing",
            ) from None
        if not shape or name in tensors or (shape[-1] % block) or 0 in shape:
            raise cursor.damaged(
                told("the tensor {name} of shape {shape} cannot be", name=repr(name[:80]), shape=shape)
            )
        end = start + offset + math.prod(shape) // block * size
        if end > cursor.size:
            raise RequestError(
                told("The GGUF file is cut short."),
                told(
                    "{path} has {size} bytes; {name} ends at byte {end}.",
                    path=path,
                    size=cursor.size,
                    name=name[:80],
                    end=end,
                ),
                told("Fetch the file again, and let it come whole."),
                code="model.gguf-damaged",
            )
        tensors[name] = Tensor(name, shape, kind, start + offset)
    stat = path.stat()
    digest = hashlib.sha256(data[:header_end])
    digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return Header(path, metadata, tensors, digest.hexdigest())


# The folder that a file is unpacked to

_FORM = 2
"""Raised when these folders are made in another way, so that older ones are not used."""

_WAIT_S = 0.2
_IN_USE_S = 24 * 3600
"""A folder that was taken up within that time may be in use still."""

_PROBE = "In 1863 it's  OPEN:\n\n  12,345 km — naïve café!?\t{x}"
"""A text that tokenizers cut in different ways."""

_PHASES = {
    r"Converting and de-quantizing": told("Unpacking the GGUF file"),
    r"Loading weights": "",
    r"Writing model shards": told("Writing the unpacked model"),
}


def float_folder(file: Path, report: Reporter) -> Path:
    """The whole model of a GGUF file as a float Hugging Face folder; made if it is not there yet.

    Raises:
        RequestError: the file is not one that can be read.
        MachineError: there is not enough disk or memory.
        StageError: what came out is not the whole model.
        Cancelled: asked to stop.
    """
    header = check_gguf(file)
    target = unpacked_place(header)
    if target.is_dir():
        os.utime(target)  # it is in use: see _remove_stale
        return target
    with _alone(target, report):
        if not target.is_dir():
            _enough(header, target.parent)
            with _beside(target) as made:
                if (text := _text_place(header)).is_dir():
                    shutil.copytree(text, made, dirs_exist_ok=True)
                else:
                    text_files(header, made, report)
                _weights(header, made, report)
                publish(made, target, {"source": str(file), "stamp": header.stamp})
                report.log(f"{file.name} was unpacked into {target}.")
            _remove_stale(target, report)
    return target


def _remove_stale(made: Path, report: Reporter) -> None:
    """Remove what was unpacked beside ``made`` and cannot be used any more, if nobody has used it for a day.

    That is a folder made of the same file as it was before, or by older packages, and one whose file is gone.
    """
    source = str(read_json(made / MANIFEST)["source"])
    kept = {made.name, f"{made.name}.text"}
    for folder in [each for each in made.parent.iterdir() if each.is_dir() and not each.name.startswith(".")]:
        was = (read_if_whole(folder / MANIFEST) or {}).get("source")
        if (
            not isinstance(was, str)
            or folder.name in kept
            or time.time() - folder.stat().st_mtime < _IN_USE_S
        ):
            continue
        # A file on a disk that is not mounted may come back; one that was removed from its folder does not.
        gone = not Path(was).exists() and Path(was).parent.is_dir()
        if was == source or gone:
            report.log(
                told(
                    "{folder} was unpacked from {was}, which is {value}: removed.",
                    folder=folder,
                    was=was,
                    value=told("gone") if gone else told("another now"),
                )
            )
            shutil.rmtree(folder, ignore_errors=True)


def text_folder(file: Path, *, make: bool = True) -> Path | None:
    """Tokenizer, template and configuration of a GGUF file as a Hugging Face folder without weights.

    It is made in a process of its own, for torch would come into this one. That takes seconds, once; with
    ``make`` off the answer is None where there is none yet.

    Raises:
        RequestError: the file is not one that can be read.
        MachineError: the cache cannot be written.
        StageError: the process was killed.
    """
    header = check_gguf(file)
    whole, text = unpacked_place(header), _text_place(header)
    if whole.is_dir():
        return whole
    if not text.is_dir() and not make:
        return None
    if not text.is_dir():
        with Child("core.model.gguf", what=told("The reader of the GGUF file")) as child:
            child.ask({"file": str(file)})
    return text


def is_unpacked(header: Header) -> bool:
    """Whether the whole model of a GGUF file lies in the cache already."""
    return unpacked_place(header).is_dir()


def unpacked_place(header: Header) -> Path:
    """Where the model of a GGUF file lies in the cache, once it is unpacked whole."""
    import hashlib
    from importlib.metadata import version

    made_by = " ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "gguf"))
    key = hashlib.sha256(f"{header.stamp} {made_by} {_FORM}".encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "-", header.path.stem)[:60]
    return cache_dir() / "gguf" / f"{stem}-{key}"


def _text_place(header: Header) -> Path:
    place = unpacked_place(header)
    return place.with_name(place.name + ".text")


@contextmanager
def _alone(target: Path, report: Reporter) -> Iterator[None]:
    """Hold what lets only one process make ``target``; whoever waits can be cancelled."""
    from filelock import FileLock, Timeout

    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        while True:
            report.check_cancelled()
            try:
                lock.acquire(timeout=_WAIT_S)
                break
            except Timeout:
                report.progress(told("Waiting for another process to unpack the file"), 0, None)
        try:
            yield
        finally:
            lock.release()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder to make ``target`` in; gone afterwards, and so are those that a killed process left."""
    for left in target.parent.glob(f".{target.name}.making-*"):
        shutil.rmtree(left, ignore_errors=True)  # nobody else is at it: the lock is ours
    made = target.with_name(f".{target.name}.making-{uuid.uuid4().hex[:8]}")
    with explained(target):
        made.mkdir(parents=True)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def unpacking_memory(header: Header) -> int:
    """Bytes of RAM that unpacking takes.

    The weights, the largest tensor as float32 in three copies while it is unpacked, the tokenizer (3 KiB a token as
    measured) and the packages.
    """
    largest = max(tensor.numbers for tensor in header.tensors.values())
    tokens = 3072 * int(header.metadata["tokenizer.ggml.tokens"])
    return header.float_bytes + 12 * largest + tokens + (512 << 20)


def _enough(header: Header, place: Path) -> None:
    """Refuse before the work what would end with a full disk or without memory."""
    import psutil

    hint = told("Free some space, or let XDG_CACHE_HOME name a folder on another disk.")
    require_disk(place, header.float_bytes + (64 << 20), hint)
    wanted = unpacking_memory(header)
    available = psutil.virtual_memory().available
    if available < wanted:
        raise MachineError(
            told("There is not enough memory to unpack the GGUF file."),
            told(
                "{path} needs about {size}, {size2} are free.",
                path=header.path,
                size=human_bytes(wanted),
                size2=human_bytes(available),
            ),
            told("Close what else uses the memory, or use a smaller model."),
            code="machine.memory",
        )


@contextmanager
def _by_itself(file: Path, near: Path) -> Iterator[tuple[str, str]]:
    """A folder with nothing but the file: transformers prefers a tokenizer or template that lies beside it."""
    place = near / "gguf"
    place.mkdir()
    try:
        (place / "model.gguf").symlink_to(file.resolve())
        yield str(place), "model.gguf"
    finally:
        shutil.rmtree(place)


def text_files(header: Header, folder: Path, report: Reporter) -> None:
    """Write the tokenizer, the templates and the configuration of a file into a folder, by transformers' reader.

    Raises:
        RequestError: the tokenizer cannot be read, or not be kept as it is.
        Cancelled: asked to stop.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    report.progress(told("Reading the tokenizer"), 0, None)
    report.check_cancelled()
    path = header.path
    try:
        with _by_itself(path, folder) as (place, name):
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for what does not fit
        raise RequestError(
            told("The tokenizer of the GGUF file cannot be read."),
            told("{path}: {names}", path=path, names=" ".join(str(error).split())[:300]),
            ORIGINAL,
            code="model.gguf-tokenizer",
        ) from error
    _set_right(header, tokenizer)
    again = _saved(tokenizer, folder)
    if again.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
        # For some architectures transformers puts a class of its own in place (Qwen2: it composes accents too).
        # Then tokenizer.json must say the same, for those who read it without transformers.
        again = _saved(again, folder)
    ids = again(_PROBE)["input_ids"]
    if ids != tokenizer(_PROBE)["input_ids"] or (ids[0] == header.token_id("bos")) != header.starts_with_bos:
        raise RequestError(
            told("The tokenizer of the GGUF file cannot be kept as it is."),
            told(
                "{path}: transformers cuts text in another way than tokenizer.ggml.pre = {value} says.",
                path=path,
                value=repr(header.metadata.get("tokenizer.ggml.pre")),
            ),
            ORIGINAL,
            code="model.gguf-tokenizer",
        )
    templates = header.templates
    for name, template in templates.items():
        file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        write_atomic(folder / file, template)
    config = config_of(header)
    kind = config.pop("model_type")
    AutoConfig.for_model(kind, **config).save_pretrained(str(folder))
    GenerationConfig(
        bos_token_id=header.token_id("bos"),
        eos_token_id=end_tokens(header),
        pad_token_id=header.token_id("padding"),
    ).save_pretrained(str(folder))


def _saved(tokenizer: Any, folder: Path) -> Any:
    """Save a tokenizer, and what transformers makes of it again."""
    from core.model.load import load_tokenizer

    tokenizer.save_pretrained(str(folder))
    _tidy(folder / "tokenizer_config.json")
    return load_tokenizer(folder)


def _set_right(header: Header, tokenizer: Any) -> None:
    """What transformers' reader leaves out of the file's tokenizer, or has otherwise in some releases.

    Raises:
        RequestError: it would cut text otherwise than the file says, in a way that cannot be set right.
    """
    from importlib.metadata import version

    from tokenizers import decoders, models, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    bytewise = header.metadata.get("tokenizer.ggml.model") == "gpt2"
    # transformers before 5.18 goes by the architecture: Gemma's becomes a unigram tokenizer, Phi's one of words.
    if not isinstance(backend.model, models.BPE) or bytewise != ("ByteLevel" in str(backend.pre_tokenizer)):
        raise RequestError(
            told("This release of transformers would cut text into other tokens than the model learnt."),
            told(
                "{path}: its tokenizer is of the kind {value}, what transformers {version} makes of it "
                "is not.",
                path=header.path,
                value=repr(header.metadata.get("tokenizer.ggml.model")),
                version=version("transformers"),
            ),
            told('Install a newer one: pip install --upgrade "transformers>=5.18,<5.24".'),
            code="model.gguf-tokenizer",
        )
    tokens, _ = _tokens(header.path, header.stamp)
    for name, ours in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        number = header.token_id(name)
        if number is not None:
            setattr(tokenizer, f"{ours}_token", tokens[number])
    pre = header.metadata.get("tokenizer.ggml.pre")
    if bytewise:
        # With steps for another kind of vocabulary before it, which do nothing, onnxruntime-genai takes it for that.
        backend.decoder = decoders.ByteLevel()
        if pre in LLAMA3_PRE | {"tekken"}:
            backend.model.ignore_merges = True
        if pre in DIGIT_BY_DIGIT:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
    if tokenizer.add_bos_token != header.starts_with_bos:
        tokenizer.add_bos_token = header.starts_with_bos
        tokenizer.update_post_processor()
    tokenizer.model_max_length = header.own("context_length")
    tokenizer.chat_template = header.templates.get("default")


def _tidy(file: Path) -> None:
    """Keep out of the tokenizer's configuration how it was loaded.

    The class of the architecture would put its own way of cutting text in the place of the file's.
    """
    from core.files import read_json

    config = read_json(file)
    how = (
        "local",
        "local_files_only",
        "gguf_file",
        "name_or_path",
        "model_type",
        "clean_up_tokenization_spaces",
    )
    for key in list(config):
        if key.removeprefix("is_") in how or key.endswith("_token_id"):
            del config[key]
    config["tokenizer_class"] = "TokenizersBackend"
    write_json(file, config)


def _weights(header: Header, folder: Path, report: Reporter) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GgufConfig

    path = header.path
    with reporting(report, _PHASES):
        try:
            with _by_itself(path, folder) as (place, name):
                model, info = AutoModelForCausalLM.from_pretrained(
                    place,
                    gguf_file=name,
                    config=AutoConfig.from_pretrained(str(folder)),
                    dtype=torch.bfloat16,
                    quantization_config=GgufConfig(dequantize=True),
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (RuntimeError, ValueError, KeyError, NotImplementedError) as error:
            raise RequestError(
                told("The weights of the GGUF file cannot be read."),
                told("{path}: {names}", path=path, names=" ".join(str(error).split())[:300]),
                ORIGINAL,
                code="model.gguf-shape",
            ) from error
        wrong = [*map(str, info.get("missing_keys") or ()), *map(str, info.get("mismatched_keys") or ())]
        numbers = sum(parameter.numel() for parameter in model.parameters())
        if wrong or numbers != header.parameters:
            raise StageError(
                told("The GGUF file does not hold the model that it tells of."),
                told(
                    "{path} has {parameters} numbers, the model {numbers}; not found or of another shape: {names}.",
                    path=path,
                    parameters=header.parameters,
                    numbers=numbers,
                    names=", ".join(wrong[:3]),
                )
                if wrong
                else told(
                    "{path} has {parameters} numbers, the model {numbers}.",
                    path=path,
                    parameters=header.parameters,
                    numbers=numbers,
                ),
                ORIGINAL,
                code="model.gguf-damaged",
            )
        with torch.no_grad():
            if not bool(torch.isfinite(model(torch.tensor([[0, 1, 2]])).logits).all()):
                raise RequestError(
                    told("The model's answers are no numbers."),
                    told("{path}: NaN or Inf in its output.", path=path),
                    told("Fetch it again."),
                    code="model.not-finite",
                )
        report.check_cancelled()
        model.config.quantization_config = None
        del model.config.quantization_config
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
        model.save_pretrained(str(folder))
    as_umask_says(folder)


def _answer(request: Request) -> None:
    """Make the text folder of the file that is asked for."""
    from core.telemetry import switch_off

    switch_off()
    header = check_gguf(Path(request.ask["file"]))
    target = _text_place(header)
    report = request.reporter()
    with _alone(target, report):
        if not target.is_dir():
            with _beside(target) as made:
                text_files(header, made, report)
                publish(made, target, {"source": str(header.path), "stamp": header.stamp})


if __name__ == "__main__":
    serve(_answer)
