"""One model without an adapter beside it: the rounded base unpacked, the adapter folded in, written as safetensors.

Matrices are read, folded and written one after the other, so that no more than a file's worth is in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from core.errors import RequestError, StageError
from core.export.onnx import lab_prompts
from core.export.prompts import put_template, turns_of
from core.export.write import Exported, ExportRequest, into_folder
from core.files import write_json
from core.model.folder import config_facts, read_config
from core.olive.checkpoint import Packed, read_tensors
from core.optimize.adapters import Lora, read_lora

SHARD = 4 << 30
"""Bytes of a weight file; what is larger goes into several."""

INT8 = "int8"
_GROUP = 32
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_TEXT = (
    "generation_config.json",
    "chat_template.jinja",
    "additional_chat_templates",
    "special_tokens_map.json",
)


def run(wanted: ExportRequest) -> Exported:
    """Write the merged model and see that transformers finds every tensor it needs in it."""
    checkpoint = wanted.folder.quantized_dir
    dtype = dtype_of(checkpoint, "model" if wanted.type == INT8 else wanted.type)
    lora = read_lora(wanted.folder.finetuned_dir(wanted.adapter)) if wanted.adapter else None

    def write(folder: Path) -> dict[str, Any]:
        notes = write_float(wanted, folder, dtype, lora, rounded=wanted.type == INT8)
        return {"dtype": str(dtype).removeprefix("torch."), "notes": notes}

    return into_folder(wanted, float_bytes(checkpoint, dtype), write)


def dtype_of(checkpoint: Path, type: str) -> torch.dtype:
    """The type of the weights; ``model`` for the one that the model has of its own."""
    own = str(config_facts(read_config(checkpoint)).dtype)
    return _TYPES.get(own if type == "model" else type, torch.bfloat16)


def float_bytes(checkpoint: Path, dtype: torch.dtype) -> int:
    """Bytes of the checkpoint's numbers, unpacked."""
    from core.model.folder import model_facts

    return model_facts(checkpoint).parameters * int(dtype.itemsize)


def folded(checkpoint: Path, lora: Lora | None) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors as float32 (others as they are), the adapter folded into those it was trained on.

    Raises:
        RequestError: the adapter was trained on a layer that the model has not, or one of another size.
    """
    left = dict(lora.pairs) if lora is not None else {}
    for name, stored in read_tensors(checkpoint):
        tensor = stored.weight() if isinstance(stored, Packed) else stored
        pair = left.pop(name.removesuffix(".weight"), None)
        if pair is not None:
            size = (pair.b.shape[0], pair.a.shape[1])
            if tensor.shape != size:
                raise not_for_this(f"{name} is {list(tensor.shape)}, the adapter's {list(size)}")
            tensor = tensor.float().addmm_(pair.b, pair.a, alpha=pair.scale)
        yield name, tensor
    if left:
        raise not_for_this(f"the model has no {next(iter(left))}")


def not_for_this(what: str) -> RequestError:
    """The error of an adapter that does not fit the lab's quantized model."""
    return RequestError(
        "The adapter was trained on another base.",
        f"{what}.",
        "Run finetune again.",
        code="export.other-base",
    )


def write_float(
    wanted: ExportRequest, folder: Path, dtype: torch.dtype, lora: Lora | None, *, rounded: bool = False
) -> list[str]:
    """Write the lab's quantized model, with an adapter folded in, as a plain checkpoint; what is to be said of it.

    Args:
        rounded: round the matrices of the layers to 8 bits, in the form of compressed-tensors.

    Raises:
        StageError: transformers would not find all that it needs in it.
    """
    from core.model.load import check_tensors

    checkpoint = wanted.folder.quantized_dir
    copy_text(checkpoint, folder)
    config = {**read_config(checkpoint), "dtype": str(dtype).removeprefix("torch.")}
    was_packed = config.pop("quantization_config", None) is not None
    writer = _Shards(folder)
    for name, tensor in folded(checkpoint, lora):
        wanted.report.check_cancelled()
        if rounded and tensor.dim() == 2 and ".layers." in name:
            for part, value in _to_int8(tensor.float(), dtype).items():
                writer.put(f"{name.removesuffix('.weight')}.{part}", value)
            continue
        writer.put(name, (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous())
    names = writer.close()
    if was_packed:
        config["tie_word_embeddings"] = "lm_head.weight" not in names
    if rounded:
        config["quantization_config"] = _compressed(names)
    write_json(folder / "config.json", config)
    if not rounded:
        try:
            check_tensors(folder, wanted.lab.recipe.model.trust_remote_code)
        except RequestError as error:
            raise StageError(
                error.title, error.detail, "Run quantize again.", code="export.unusable"
            ) from None
    prompts = lab_prompts(wanted, folder)
    return put_template(prompts, turns_of(prompts), folder)


def copy_text(source: Path, folder: Path) -> None:
    """Copy the tokenizer, the templates and the generation settings of a model folder."""
    for path in sorted(source.iterdir()):
        if path.name in _TEXT or path.name.startswith(("tokenizer", "vocab", "merges", "added_tokens")):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(path, folder / path.name)
        elif path.suffix == ".py":
            shutil.copyfile(path, folder / path.name)


class _Shards:
    """Weight files of bounded size, with the index that several need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self._where: dict[str, int] = {}
        self._files: list[Path] = []
        self._total = 0

    def put(self, name: str, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._now and self._bytes + size > SHARD:
            self._flush()
        self._now[name] = tensor
        self._bytes += size
        self._total += size

    def _flush(self) -> None:
        from safetensors.torch import save_file

        file = self._folder / f"part-{len(self._files)}"
        save_file(self._now, str(file), {"format": "pt"})
        self._where.update(dict.fromkeys(self._now, len(self._files)))
        self._files.append(file)
        self._now, self._bytes = {}, 0

    def close(self) -> list[str]:
        """Write what is left and name the files; the names of the tensors."""
        self._flush()
        count = len(self._files)
        if count == 1:
            self._files[0].rename(self._folder / "model.safetensors")
            return list(self._where)
        names = [f"model-{at + 1:05}-of-{count:05}.safetensors" for at in range(count)]
        for file, name in zip(self._files, names, strict=True):
            file.rename(self._folder / name)
        index = {
            "metadata": {"total_size": self._total},
            "weight_map": {name: names[at] for name, at in sorted(self._where.items())},
        }
        (self._folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2), encoding="utf-8"
        )
        return list(self._where)


# Eight bits, in the form of compressed-tensors


def _to_int8(weight: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A matrix rounded to 8 bits, group by group of a row around zero: four numbers in each word, the first lowest."""
    rows, columns = weight.shape
    size = _GROUP if columns % _GROUP == 0 else columns
    grouped = weight.view(rows, -1, size)
    scales = (grouped.abs().amax(-1) / 127).clamp_min_(1e-10).to(dtype)
    codes = (grouped / scales.float().unsqueeze(-1)).round_().clamp_(-127, 127).view(rows, columns)
    stored = (codes.to(torch.int32) + 128).to(torch.uint8)
    if columns % 4:
        stored = torch.nn.functional.pad(stored, (0, 4 - columns % 4))
    return {
        "weight_packed": stored.contiguous().view(torch.int32),
        "weight_scale": scales.contiguous(),
        "weight_shape": torch.tensor([rows, columns]),
    }


def _compressed(names: list[str]) -> Mapping[str, Any]:
    left = sorted(name.removesuffix(".weight") for name in names if name.endswith("lm_head.weight"))
    weights = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": _GROUP,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}},
        "ignore": left or ["lm_head"],
    }
