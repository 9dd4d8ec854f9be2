"""Adapter files for ONNX Runtime: making them, and telling whether one fits a model.

onnxruntime-genai loads any adapter file and stumbles over a wrong name or shape only in the middle of
the first answer, so both are checked here, when the file is made and before it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LabError, RequestError, StageError
from core.files import digest, explained, read_json, write_json
from core.folder import lab_command
from core.optimize.layout import SUFFIX, Layout, read_layout
from core.optimize.runtime import import_runtime

if TYPE_CHECKING:
    import torch

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}
_MOST = 3
Shapes = dict[str, tuple[list[int], str]]


def note_path(adapter_file: Path) -> Path:
    """The JSON beside an adapter file, which says what is in it and which base it is for."""
    return adapter_file.with_name(adapter_file.name.removesuffix(SUFFIX) + ".json")


def write_adapter_file(inputs: dict[str, torch.Tensor], dtype: str, path: Path) -> None:
    """Write the graph inputs that an adapter gives, in ``dtype``, as ONNX Runtime's adapter format."""
    import numpy as np
    import torch
    from onnx import TensorProto

    onnxruntime = import_runtime()

    values = {}
    for name, tensor in inputs.items():
        if dtype == "bfloat16":
            bits = tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
        else:
            array = tensor.to(getattr(torch, dtype)).contiguous().numpy()
            if not np.isfinite(array).all():
                raise StageError(
                    f"The adapter's numbers do not fit {dtype}.", f"{name} is not finite in this precision."
                )
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    file = onnxruntime.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(values)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file.export_adapter(str(path))


def read_shapes(path: Path) -> Shapes:
    """Shape and type of each tensor in an adapter file.

    Raises:
        RequestError: it is no adapter file, or it is damaged.
    """
    onnxruntime = import_runtime()
    try:
        file = onnxruntime.AdapterFormat.read_adapter(str(path))
        return {
            name: ([int(size) for size in value.shape()], _TYPES.get(value.data_type(), value.data_type()))
            for name, value in file.get_parameters().items()
        }
    except LabError:
        raise  # a request to stop, which may come at any moment
    except Exception as error:  # the runtime raises its own kinds, RuntimeError and MemoryError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            "The adapter file cannot be read.",
            f"{path}: {reason}",
            "Make it again: " + lab_command(path, "run", "optimize"),
        ) from error


def differences(found: Shapes, layout: Layout) -> list[str]:
    """What keeps tensors of these shapes from being the graph's inputs, in words; empty if nothing does."""
    expected = layout.inputs()
    problems = []
    for name, (shape, dtype) in sorted(found.items()):
        if name not in expected:
            problems.append(f"{name} is no input of the model")
            continue
        want = expected[name]
        if len(shape) != 2 or any(w is not None and w != s for w, s in zip(want, shape, strict=False)):
            shown = ["rank" if size is None else size for size in want]
            problems.append(f"{name} has the shape {shape}, the model takes {shown}".replace("'", ""))
        elif dtype != layout.dtype:
            problems.append(f"{name} is {dtype}, the model takes {layout.dtype}")
    for branch in layout.branches:
        names = [branch.a, *(output.name for output in branch.outputs)]
        present = [name for name in names if name in found]
        if present and len(present) < len(names):
            missing = next(name for name in names if name not in found)
            problems.append(f"{present[0]} is there and {missing} is not")
        ranks = {found[name][0][1 if name == branch.a else 0] for name in present if len(found[name][0]) == 2}
        if len(ranks) > 1:
            problems.append(f"{branch.a} and its B have ranks {' and '.join(map(str, sorted(ranks)))}")
    if not found:
        problems.append("it holds no weights")
    return problems


def check_adapter(model_folder: Path, adapter_file: Path) -> dict[str, Any]:
    """Make sure that an adapter file fits a model folder; returns the note beside the file.

    Checked are the names, shapes and types of its tensors, that ranks of A and B agree, and that it
    was made for this base: one of equal shape and other weights would take it and talk nonsense.

    Raises:
        RequestError: it is not there, damaged, or does not fit; the detail says what differs.
    """
    if not adapter_file.is_file():
        there = sorted(path.name.removesuffix(SUFFIX) for path in adapter_file.parent.glob(f"*{SUFFIX}"))
        raise RequestError(
            f"There is no adapter {adapter_file.name.removesuffix(SUFFIX)}.",
            f"{adapter_file} does not exist; there are: {', '.join(there) or 'none'}.",
            "Name one of those, or make it: " + lab_command(model_folder, "run", "finetune", "optimize"),
        )
    problems = differences(read_shapes(adapter_file), read_layout(model_folder))
    note = read_json(note_path(adapter_file))
    note = note if isinstance(note, dict) else {}
    if not problems and note.get("base_sha256") != digest(model_folder / "model.onnx"):
        made_for = str(note.get("base_sha256") or "none that is known")[:12]
        problems.append(f"it was made for another build of the base model ({made_for})")
    if problems:
        more = f"; and {len(problems) - _MOST} more differences" if len(problems) > _MOST else ""
        raise RequestError(
            f"The adapter {adapter_file.name.removesuffix(SUFFIX)} does not fit this model.",
            f"{adapter_file}: {'; '.join(problems[:_MOST])}{more}.",
            "Make it again for this model: " + lab_command(model_folder, "run", "finetune", "optimize"),
        )
    return note


def add_adapter(
    model_folder: Path,
    name: str,
    inputs: dict[str, torch.Tensor],
    about: dict[str, Any],
    *,
    into: Path | None = None,
) -> Path:
    """Write an adapter's file and note for a model folder and check the file; returns its path.

    Args:
        about: what the note says beside names, shapes and base: rank, alpha, where it came from.
        into: folder for both, ``adapters`` of the model folder if None. Both files appear whole,
            by renaming; the file first, since the note alone would name what is not there.

    Raises:
        StageError: the file does not hold what was to be put into it, or does not fit the model.
    """
    layout = read_layout(model_folder)
    target = (into or model_folder / "adapters") / f"{name}{SUFFIX}"
    half = target.with_name(f".{name}.{os.getpid()}.half")
    try:
        write_adapter_file(inputs, layout.dtype, half)
        found = read_shapes(half)
        problems = differences(found, layout)
        problems += [f"{key} is missing" for key in inputs if key not in found]
        if problems:
            raise StageError("The adapter file came out wrong.", "; ".join(problems[:_MOST]) + ".")
        note = {
            "name": name,
            **about,
            "dtype": layout.dtype,
            "base_sha256": digest(model_folder / "model.onnx"),
            "bytes": half.stat().st_size,
            "parameters": [
                {"name": key, "shape": found[key][0], "dtype": found[key][1]} for key in sorted(found)
            ],
        }
        with explained(target):
            os.replace(half, target)
        write_json(note_path(target), note)
    finally:
        half.unlink(missing_ok=True)
    return target
