"""The weight files of a model folder: which are read, and what their headers tell. No weight is loaded."""

from __future__ import annotations

import json
import shlex
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.files import MOST_BYTES, small_bytes
from core.formats import some
from core.language import told, words_of
from core.model.inside import refuse_name
from core.text import first_line

WEIGHTS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERT = (
    'python -c "import sys; from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[1])\""
)
"""Writes ``model.safetensors`` beside pickled weights."""
BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16,
    "I16": 16, "U16": 16, "F8_E5M2": 8, "F8_E4M3": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of a number, by safetensors' name of its type."""

_OTHER_WEIGHTS = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.gguf",
    "*.h5", "*.msgpack", "*.onnx",
)  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: its file, dtype as safetensors names it (``BF16``), shape, and the place in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    end: int = 0


def weight_files(path: Path) -> list[Path]:
    """The files that transformers reads a folder's weights from: ``model.safetensors``, or those its index names.

    Raises:
        RequestError: none, a part is missing or outside, they are pickled, or have names that nothing reads.
    """
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / SAFETENSORS_INDEX).is_file():
        return _indexed(path / SAFETENSORS_INDEX)
    for name in PICKLED:
        if (path / name).is_file():
            raise RequestError(
                told("The model's weights are pickled."),
                told(
                    "{path}: Python's pickle can run code while it is read, so it is not read here.",
                    path=path / name,
                ),
                told(
                    "If you trust its author, write the weights anew in safetensors: {convert} {path}",
                    convert=CONVERT,
                    path=shlex.quote(str(path)),
                ),
                code="model.pickled",
            )
    there = sorted(each.name for each in path.glob("*.safetensors"))
    if not there:
        raise RequestError(
            told("The model folder has no weights."),
            told(
                "{path} holds {some_names}, no {weights}.",
                path=path,
                some_names=some_names(path),
                weights=WEIGHTS,
            ),
            told("Fetch the whole model, or set model.source to another folder."),
            code="model.no-weights",
        )
    if any("-of-" in name for name in there):
        raise RequestError(
            told("The index of the model's weights is missing."),
            told(
                "{path} holds {names}, and no {safetensors_index}.",
                path=path,
                names=some(there, 4),
                safetensors_index=SAFETENSORS_INDEX,
            ),
            told(
                "Fetch {safetensors_index} from where the model came from.",
                safetensors_index=SAFETENSORS_INDEX,
            ),
            code="model.no-weights",
        )
    raise RequestError(
        told("The model's weights have a name that nothing reads."),
        told("{path} holds {names}, and no {weights}.", path=path, names=some(there, 4), weights=WEIGHTS),
        told(
            "Rename {there} to {weights} if its tensors have transformers' names (model.layers.0. "
            "…); else fetch the model in Hugging Face's form.",
            there=there[0],
            weights=WEIGHTS,
        ),
        code="model.no-weights",
    )


def _indexed(index: Path) -> list[Path]:
    path, content = index.parent, read_object(index)
    try:
        names = sorted(set(content["weight_map"].values()))
        files = [path / name for name in names]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise damaged(
            index, told("its weight_map cannot be read ({error})", error=first_line(error))
        ) from None
    for name in names:
        refuse_name(index, "weight_map", name)
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise RequestError(
            told("Some of the model's weight files are missing."),
            told(
                "{index} names {names}, not in {path}.",
                index=index.name,
                names=some(missing, 4) if missing else told("no file"),
                path=path,
            ),
            told("Fetch the model again; the download was probably cut short."),
            code="model.no-weights",
        )
    if "metadata" not in content:
        raise RequestError(
            told("The model's weight index cannot be read."),
            told("{index} has no metadata, without which transformers does not read it.", index=index),
            told('Write "metadata": {} beside "weight_map" there, or fetch it again.'),
            code="model.damaged",
        )
    return files


def some_names(path: Path) -> str:
    """A few of the names in a folder, for an error's detail."""
    return some(sorted(entry.name for entry in path.iterdir()), 6) or "nothing"


def leftovers(path: Path, used: list[Path]) -> tuple[str, ...]:
    """Files that hold weights, in some form, and are not read: second copies, other formats, training states."""
    read = {file.name for file in used}
    if WEIGHTS not in read:
        read.add(SAFETENSORS_INDEX)
    found = {each.name for pattern in _OTHER_WEIGHTS for each in path.glob(pattern) if each.is_file()}
    return tuple(sorted(found - read))


def tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint by name, from the files' headers alone.

    Format: https://github.com/huggingface/safetensors.

    Raises:
        RequestError: a file is cut short, or is not what its name says.
    """
    entries: dict[str, TensorEntry] = {}
    for file in weight_files(path):
        entries.update(read_header(file))
    return entries


def damaged(file: Path, reason: str) -> RequestError:
    """The error of a file that is not what its name says: cut short, or Git LFS's pointer in its place."""
    with file.open("rb") as stream:
        pointer = stream.read(40).startswith(b"version https://git-lfs")
    if pointer:
        return RequestError(
            told("Git LFS has put a pointer in the place of a file."),
            told(
                "{file} has {st_size} bytes, which say where the file itself is.",
                file=file,
                st_size=file.stat().st_size,
            ),
            told("Fetch the files: git -C {parent} lfs pull", parent=shlex.quote(str(file.parent))),
            code="model.damaged",
        )
    return RequestError(
        told("A file of the model is damaged."),
        told("{file}: {reason}.", file=file, reason=reason),
        told("Fetch the model again; it was probably cut short."),
        code="model.damaged",
    )


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        RequestError: it is no JSON object, or one of more than :data:`~core.files.MOST_BYTES` bytes.
    """
    try:
        found = json.loads(small_bytes(file))
    except (ValueError, RecursionError) as error:
        raise damaged(file, first_line(error)) from None
    if not isinstance(found, dict):
        raise damaged(file, told("it is no JSON object"))
    return found


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file.

    Raises:
        RequestError: it is cut short or is not safetensors.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, MOST_BYTES):
                raise ValueError(told("its header is longer than the file, or than any header"))
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end > size:
            raise ValueError(
                told("it should have {length} bytes and has {size}", length=8 + length + end, size=size)
            )
        return {name: _entry(file, 8 + length, entry) for name, entry in header.items()}
    except (
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
    ) as error:
        raise damaged(file, words_of(error)) from None


def _entry(file: Path, base: int, entry: dict[str, Any]) -> TensorEntry:
    start, end = entry["data_offsets"]
    dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError(told("a size or place in its header is no whole number"))
    if end < start or (dtype in BITS and 8 * (end - start) != prod(shape) * BITS[dtype]):
        raise ValueError(
            told(
                "a tensor of the shape {list} in {dtype} lies in {end} bytes",
                list=list(shape)[:8],
                dtype=dtype,
                end=end - start,
            )
        )
    return TensorEntry(file, dtype, shape, base + start, base + end)


def count_numbers(entries: dict[str, TensorEntry], quantization: dict[str, Any] | None) -> int:
    """Numbers in the weights; for packed ones, those that they stand for."""
    total = 0
    for name, entry in entries.items():
        numbers = prod(entry.shape)
        if quantization and name.endswith(".qweight"):
            module = name.removesuffix(".qweight")
            override = (quantization.get("overrides") or {}).get(module) or {}
            bits = int(override.get("bits") or quantization.get("bits") or 4)
            numbers = numbers * BITS.get(entry.dtype, 8) // bits
        elif quantization and name.endswith((".scales", ".qzeros", ".g_idx")):
            continue
        total += numbers
    return total
