"""One model without an adapter beside it: the rounded base unpacked, the adapter folded in, written as safetensors.

Matrices are read, folded and written one after the other, so that no more than a file's worth is in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.errors import Do, RequestError, StageError
from core.export.compressed import Scheme, as_packed, quantization_config, rounded
from core.export.onnx import lab_prompts
from core.export.prompts import put_template, turns_of
from core.export.write import Exported, ExportRequest, into_folder
from core.files import write_json
from core.language import told
from core.model.folder import config_facts, read_config
from core.olive.checkpoint import Packed, matrix_sizes, read_tensors
from core.optimize.adapters import Lora, read_lora

SHARD = 4 << 30
"""Bytes of a weight file; what is larger goes into several."""

INT8 = "int8"
FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_TEXT = (
    "generation_config.json",
    "chat_template.jinja",
    "additional_chat_templates",
    "special_tokens_map.json",
)


def run(wanted: ExportRequest) -> Exported:
    """Write the merged model and see that transformers finds every tensor it needs in it."""
    checkpoint = wanted.folder.quantized_dir
    lora = fitting_lora(wanted)
    dtype = dtype_of(checkpoint, wanted.type)

    def write(folder: Path) -> dict[str, Any]:
        notes = write_float(wanted, folder, wanted.type, lora)
        return {"dtype": str(dtype).removeprefix("torch."), "notes": notes}

    return into_folder(wanted, float_bytes(checkpoint, dtype), write)


def dtype_of(checkpoint: Path, type: str) -> torch.dtype:
    """The type of the float weights: the one that is asked for, else the model's own."""
    own = str(config_facts(read_config(checkpoint)).dtype)
    return FLOATS.get(type) or FLOATS.get(own, torch.bfloat16)


def float_bytes(checkpoint: Path, dtype: torch.dtype) -> int:
    """Bytes of the checkpoint's numbers, unpacked."""
    from core.model.folder import model_facts

    return model_facts(checkpoint).parameters * int(dtype.itemsize)


def folded(
    checkpoint: Path, lora: Lora | None, *, keep: bool = False
) -> Iterator[tuple[str, torch.Tensor | Packed]]:
    """The checkpoint's tensors, the adapter folded into those it was trained on, packed ones as float32.

    Args:
        keep: leave 4-bit matrices of the layers without an adapter as they are packed.
    """
    pairs = lora.pairs if lora is not None else {}
    for name, stored in read_tensors(checkpoint):
        pair = pairs.get(name.removesuffix(".weight"))
        if keep and pair is None and isinstance(stored, Packed) and stored.bits == 4 and ".layers." in name:
            yield name, stored
            continue
        tensor = stored.weight() if isinstance(stored, Packed) else stored
        if pair is not None:
            tensor = tensor.float().addmm_(pair.b, pair.a, alpha=pair.scale)
        yield name, tensor


def fitting_lora(wanted: ExportRequest) -> Lora | None:
    """The adapter that goes along, if it fits the lab's quantized model; None where the base goes alone.

    Raises:
        RequestError: the adapter was trained on a layer that the model has not, or one of another size.
    """
    if wanted.adapter is None:
        return None
    lora = read_lora(wanted.folder.finetuned_dir(wanted.adapter))
    sizes = matrix_sizes(wanted.folder.quantized_dir)
    for module, pair in lora.pairs.items():
        trained = (pair.b.shape[0], pair.a.shape[1])
        if sizes.get(module) != trained:
            there = (
                told("is {sizes} in the model", sizes=list(sizes[module]))
                if module in sizes
                else told("is not in the model")
            )
            raise RequestError(
                told("The adapter {adapter} was trained on another base.", adapter=wanted.adapter),
                told(
                    "{module} {there}, and {trained} in the adapter.",
                    module=module,
                    there=there,
                    trained=list(trained),
                ),
                told("Train it again: {run}", run=Do.of("run", wanted.lab.root, "finetune")),
                code="export.other-base",
            )
    return lora


def write_float(wanted: ExportRequest, folder: Path, type: str, lora: Lora | None) -> list[str]:
    """Write the lab's quantized model, with an adapter folded in, as a plain checkpoint; what is to be said of it.

    Args:
        type: of the weights: one of :data:`FLOATS`, :data:`INT8`, or the model's own.

    Raises:
        StageError: transformers would not find all that it needs in it.
    """
    checkpoint = wanted.folder.quantized_dir
    dtype = dtype_of(checkpoint, type)
    copy_text(checkpoint, folder)
    config = {**read_config(checkpoint), "dtype": str(dtype).removeprefix("torch.")}
    was_packed = config.pop("quantization_config", None) is not None
    writer, total = _Shards(folder), len(matrix_sizes(checkpoint))
    schemes: dict[str, Scheme] = {}
    for done, (name, tensor) in enumerate(folded(checkpoint, lora, keep=type == INT8)):
        wanted.report.check_cancelled()
        wanted.report.progress(told("Writing the weights"), min(done, total), total)
        module = name.removesuffix(".weight")
        if isinstance(tensor, Packed):
            parts, schemes[module] = as_packed(tensor)
        elif type == INT8 and tensor.dim() == 2 and ".layers." in name:
            parts, schemes[module] = rounded(tensor, dtype)
        else:
            writer.put(name, (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous())
            continue
        for part, value in parts.items():
            writer.put(f"{module}.{part}", value)
    names = writer.close()
    if was_packed:
        config["tie_word_embeddings"] = "lm_head.weight" not in names
    if schemes:
        config["quantization_config"] = quantization_config(schemes, ["lm_head"])
    write_json(folder / "config.json", config)
    if not schemes:
        _see_that_all_is_there(wanted, folder)
    prompts = lab_prompts(wanted, folder)
    return put_template(prompts, turns_of(prompts), folder)


def _see_that_all_is_there(wanted: ExportRequest, folder: Path) -> None:
    from core.model.load import check_tensors

    try:
        check_tensors(folder, wanted.lab.recipe.model.trust_remote_code)
    except RequestError as error:
        raise StageError(
            error.title, error.detail, told("Run quantize again."), code="export.unusable"
        ) from None


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
