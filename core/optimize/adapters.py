"""Adapters in an ONNX model: where they enter its graph, how a PEFT adapter becomes one, and whether a file fits.

A graph takes an adapter's matrices as inputs, or, where they would be slow as such, has them inside and takes a
switch (:mod:`core.optimize.switched`). Either way the adapter's file holds what the runtime is to give.

The layout says which graph inputs there are and for which modules; it is written beside the model as
``adapters.json``. onnxruntime-genai loads any adapter file and stumbles over a wrong name or shape only in the middle
of the first answer, so both are checked here, when the file is made and before it is used.

Light: onnx, torch and the runtime are imported only where a file is read or written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LabError, RequestError, StageError
from core.files import digest, explained, read_json, write_json
from core.folder import lab_command
from core.formats import listed
from core.language import all_of, told
from core.model.inside import refuse_links
from core.optimize.genai import import_runtime
from core.text import first_line

if TYPE_CHECKING:
    import torch

LAYOUT_FILE = "adapters.json"
SUFFIX = ".onnx_adapter"
EIGHT_BITS = "int8"
"""The ``dtype`` of a layout whose adapters stand inside the graph, rounded."""


@dataclass(frozen=True)
class BranchPart:
    """One linear layer of the PyTorch model inside a branch.

    Attributes:
        module: its name in the model, such as ``model.layers.0.self_attn.q_proj``.
        start: its first column in the branch's output.
        size: its number of outputs.
    """

    module: str
    start: int
    size: int


@dataclass(frozen=True)
class Output:
    """One matrix B of a branch: the graph input's name and its number of columns."""

    name: str
    size: int


@dataclass(frozen=True)
class Branch:
    """``x A B_i`` added to the outputs of one or several MatMul nodes that read the same ``x``.

    Attributes:
        a: name of the graph input A, [in, rank].
        size: ``in``.
        outputs: the graph inputs B, each [rank, out], in the order of the columns of ``parts``.
        parts: the layers that the branch stands for; together they cover all columns.
    """

    a: str
    size: int
    outputs: tuple[Output, ...]
    parts: tuple[BranchPart, ...]


@dataclass(frozen=True)
class AdapterLayout:
    """All branches of a graph.

    Attributes:
        dtype: ``float32``, ``float16`` or ``bfloat16``, the type in which every A and B is given; ``int8``
            where they are rounded to 8 bits.
        inside: the adapters that stand inside the graph, each with the digest of its weights; None where they are
            its inputs.
        computes_in: the type of the graph's values, where adapters stand inside.
        whole: whether each of those has the whole graph for itself, not only its own nodes in one.
    """

    dtype: str
    branches: tuple[Branch, ...]
    inside: Mapping[str, str] | None = None
    computes_in: str = "float32"
    whole: bool = False

    def inputs(self) -> dict[str, tuple[int | None, int | None]]:
        """Each graph input's shape; None for the rank."""
        found: dict[str, tuple[int | None, int | None]] = {}
        for branch in self.branches:
            found[branch.a] = (branch.size, None)
            found.update({output.name: (None, output.size) for output in branch.outputs})
        return found

    def save(self, folder: Path) -> None:
        """Write it into a model folder."""
        branches = [
            {
                "a": branch.a,
                "in": branch.size,
                "b": [[output.name, output.size] for output in branch.outputs],
                "modules": [[part.module, part.start, part.size] for part in branch.parts],
            }
            for branch in self.branches
        ]
        inside: dict[str, Any] = {}
        if self.inside is not None:
            inside = {"computes_in": self.computes_in, "whole": self.whole, "inside": dict(self.inside)}
        write_json(folder / LAYOUT_FILE, {"dtype": self.dtype, **inside, "branches": branches})


def read_layout(folder: Path) -> AdapterLayout:
    """The layout of a model folder.

    Raises:
        RequestError: the folder holds no model that was made by the optimize step.
    """
    data: Any = read_json(folder / LAYOUT_FILE)
    try:
        branches = tuple(
            Branch(
                str(item["a"]),
                int(item["in"]),
                tuple(Output(str(name), int(size)) for name, size in item["b"]),
                tuple(
                    BranchPart(str(module), int(start), int(size)) for module, start, size in item["modules"]
                ),
            )
            for item in data["branches"]
        )
        inside = None
        if "inside" in data:
            inside = {str(name): str(weights) for name, weights in data["inside"].items()}
        return AdapterLayout(
            str(data["dtype"]),
            branches,
            inside,
            str(data.get("computes_in", "float32")),
            bool(data.get("whole")),
        )
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        raise RequestError(
            told("The ONNX model has no place for adapters."),
            told("{folder} is not there, or cannot be read.", folder=folder / LAYOUT_FILE),
            told("Make the model with: {run}", run=lab_command(folder, "run", "optimize")),
            code="optimize.graph",
        ) from None


def adapters_inside(folder: Path) -> Mapping[str, str]:
    """The adapters inside a model folder's graph, each with the digest of its weights; none where they are inputs."""
    return (read_layout(folder).inside or {}) if (folder / LAYOUT_FILE).is_file() else {}


# A PEFT adapter, and the graph inputs that it gives

_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")


@dataclass(frozen=True)
class Pair:
    """A layer's matrices: A [rank, in], B [out, rank], float32, and the scale of their product."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Lora:
    """An adapter: its configured rank and alpha, and a pair for each layer it was trained on."""

    rank: int
    alpha: float
    pairs: dict[str, Pair]


def read_lora(folder: Path) -> Lora:
    """Read ``adapter_config.json`` and ``adapter_model.safetensors`` of a PEFT folder.

    Raises:
        RequestError: there is no adapter there, or it is of a kind that a graph input cannot carry, or a link
            in its folder leads out of it.
    """
    from safetensors.torch import load_file

    config = read_json(folder / "adapter_config.json")
    weights = folder / "adapter_model.safetensors"
    if not isinstance(config, dict) or not weights.is_file():
        raise RequestError(
            told("There is no adapter to optimize."),
            told("{folder} has no adapter_config.json with adapter_model.safetensors.", folder=folder),
            told("Make one with: {run}", run=lab_command(folder, "run", "finetune")),
            code="adapter.missing",
        )
    refuse_links(folder)
    _refuse_other_kinds(folder, config)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(str(weights)).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise RequestError(
                told("The adapter holds weights that are not LoRA matrices."),
                told("{weights}: {key}.", weights=weights, key=key),
                told("Only LoRA on linear layers can become inputs of the ONNX graph."),
                code="adapter.kind",
            )
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    for module, matrices in found.items():
        if set(matrices) != {"A", "B"} or matrices["A"].shape[0] != matrices["B"].shape[1]:
            raise RequestError(
                told("The adapter is damaged."),
                told("{weights}: A and B of {module} do not fit.", weights=weights, module=module),
                code="adapter.damaged",
            )
    if not found:
        raise RequestError(
            told("The adapter is empty."), str(weights), told("Run finetune again."), code="adapter.damaged"
        )
    try:
        pairs = {
            module: Pair(each["A"], each["B"], scale_of(config, module)) for module, each in found.items()
        }
        return Lora(int(config["r"]), float(config["lora_alpha"]), pairs)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, re.error) as error:
        raise RequestError(
            told("The adapter's configuration cannot be used."),
            told(
                "{folder}: its rank and alpha: {error}.",
                folder=folder / "adapter_config.json",
                error=first_line(error),
            ),
            told("Put back the file that the training wrote."),
            code="adapter.damaged",
        ) from None


def _refuse_other_kinds(folder: Path, config: dict[str, Any]) -> None:
    reasons = {
        told("peft_type is {type}", type=config.get("peft_type")): config.get("peft_type") != "LORA",
        told("it uses DoRA"): bool(config.get("use_dora")),
        told("it has biases"): config.get("bias", "none") != "none" or bool(config.get("lora_bias")),
        told("it replaces whole modules (modules_to_save)"): bool(config.get("modules_to_save")),
        told("it is for transposed layers (fan_in_fan_out)"): bool(config.get("fan_in_fan_out")),
    }
    wrong = [reason for reason, holds in reasons.items() if holds]
    if wrong:
        raise RequestError(
            told("This kind of adapter cannot be an input of the ONNX graph."),
            told("{folder}: {wrong}.", folder=folder, wrong=listed(wrong)),
            told("Train a plain LoRA adapter on linear layers."),
            code="adapter.kind",
        )


def scale_of(config: dict[str, Any], module: str) -> float:
    """Alpha / rank of a layer, as PEFT takes it from ``adapter_config.json`` (patterns, rsLoRA)."""

    def chosen(patterns: str, default: str) -> float:
        for pattern, value in (config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        return float(config[default])

    rank, alpha = chosen("rank_pattern", "r"), chosen("alpha_pattern", "lora_alpha")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def arrange(lora: Lora, layout: AdapterLayout) -> dict[str, torch.Tensor]:
    """The tensor of each graph input that the adapter gives, float32.

    Where several layers share a branch, their As stand side by side and their scaled Bs in blocks,
    so that the product is exactly each layer's own. Branches of which no layer was trained are left
    out: the graph's own rank 0 stands for them.

    Raises:
        StageError: a trained layer has no branch, or another size.
    """
    import torch

    at = {part.module: (branch, part) for branch in layout.branches for part in branch.parts}
    for module, pair in lora.pairs.items():
        if module not in at:
            raise StageError(
                told("A layer that the adapter was trained on is not in the ONNX graph."),
                told(
                    "{module} has no place for adapters; there is one for {kinds}.",
                    module=module,
                    kinds=", ".join(sorted(_kinds(at))),
                ),
                told("Train the adapter on these layers only."),
                code="adapter.shape",
            )
        branch, part = at[module]
        if (pair.a.shape[1], pair.b.shape[0]) != (branch.size, part.size):
            raise StageError(
                told("The adapter is for a model of another size."),
                told(
                    "{module}: the adapter has {inputs} inputs and {outputs} outputs, the model {model_inputs} and "
                    "{model_outputs}.",
                    module=module,
                    inputs=pair.a.shape[1],
                    outputs=pair.b.shape[0],
                    model_inputs=branch.size,
                    model_outputs=part.size,
                ),
                told("Run finetune again on this lab's quantized model."),
                code="adapter.shape",
            )
    inputs: dict[str, torch.Tensor] = {}
    for branch in layout.branches:
        parts = [(part, lora.pairs[part.module]) for part in branch.parts if part.module in lora.pairs]
        if not parts:
            continue
        rank = sum(pair.a.shape[0] for _, pair in parts)
        b = torch.zeros(rank, sum(output.size for output in branch.outputs))
        row = 0
        for part, pair in parts:
            r = pair.a.shape[0]
            b[row : row + r, part.start : part.start + part.size] = pair.b.T * pair.scale
            row += r
        inputs[branch.a] = torch.cat([pair.a.T for _, pair in parts], dim=1).contiguous()
        column = 0
        for output in branch.outputs:
            inputs[output.name] = b[:, column : column + output.size].contiguous()
            column += output.size
    return inputs


def _kinds(modules: dict[str, Any]) -> set[str]:
    return {module.rsplit(".", 1)[-1] for module in modules}


# The files

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int64)": "int64",
}
MOST = 3
"""Differences that are told of one file."""
Shapes = dict[str, tuple[list[int], str]]


def switch_name(adapter: str) -> str:
    """The graph input that switches an adapter on which stands inside the graph."""
    return f"adapter.{adapter}"


def data_path(adapter_file: Path) -> Path:
    """Beside an adapter file that is a switch, the weights that it switches on."""
    return adapter_file.with_name(adapter_file.name.removesuffix(SUFFIX) + ".data")


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
                    told("The adapter's numbers do not fit {dtype}.", dtype=dtype),
                    told("{name} is not finite in this precision.", name=name),
                    code="adapter.shape",
                )
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    _export(values, path)


def write_switch_file(name: str, path: Path) -> None:
    """Write what switches on an adapter that stands inside the graph."""
    import numpy as np

    on = import_runtime().OrtValue.ortvalue_from_numpy(np.array([1], np.int64))
    _export({switch_name(name): on}, path)


def _export(values: dict[str, Any], path: Path) -> None:
    file = import_runtime().AdapterFormat()
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
        raise RequestError(
            told("The adapter file cannot be read."),
            told("{path}: {error}", path=path, error=first_line(error)),
            told("Make it again: {run}", run=lab_command(path, "run", "optimize")),
            code="adapter.damaged",
        ) from error


def differences(found: Shapes, layout: AdapterLayout) -> list[str]:
    """What keeps tensors of these shapes from being the graph's inputs, in words; empty if nothing does."""
    expected = layout.inputs()
    problems: list[str] = []
    for name, (shape, dtype) in sorted(found.items()):
        if name not in expected:
            problems.append(told("{name} is no input of the model", name=name))
            continue
        want = expected[name]
        if len(shape) != 2 or any(w is not None and w != s for w, s in zip(want, shape, strict=False)):
            shown = ["rank" if size is None else size for size in want]
            problems.append(
                told(
                    "{name} has the shape {shape}, the model takes {wanted}",
                    name=name,
                    shape=str(shape),
                    wanted=str(shown).replace("'", ""),
                )
            )
        elif dtype != layout.dtype:
            problems.append(
                told("{name} is {dtype}, the model takes {taken}", name=name, dtype=dtype, taken=layout.dtype)
            )
    for branch in layout.branches:
        names = [branch.a, *(output.name for output in branch.outputs)]
        present = [name for name in names if name in found]
        if present and len(present) < len(names):
            missing = next(name for name in names if name not in found)
            problems.append(
                told("{present} is there and {missing} is not", present=present[0], missing=missing)
            )
        ranks = {found[name][0][1 if name == branch.a else 0] for name in present if len(found[name][0]) == 2}
        if len(ranks) > 1:
            problems.append(
                told(
                    "{a} and its B have ranks {ranks}",
                    a=branch.a,
                    ranks=all_of(sorted(ranks)),
                )
            )
    if not found:
        problems.append(told("it holds no weights"))
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
            told("There is no adapter {name}.", name=adapter_file.name.removesuffix(SUFFIX)),
            told(
                "{adapter_file} does not exist; there are: {there}.",
                adapter_file=adapter_file,
                there=", ".join(there) or told("none"),
            ),
            told(
                "Name one of those, or make it: {run}",
                run=lab_command(model_folder, "run", "finetune", "optimize"),
            ),
            code="adapter.missing",
        )
    layout = read_layout(model_folder)
    found = read_shapes(adapter_file)
    name = adapter_file.name.removesuffix(SUFFIX)
    problems = switch_differences(found, name) if layout.inside is not None else differences(found, layout)
    note = read_json(note_path(adapter_file))
    note = note if isinstance(note, dict) else {}
    key, wanted = made_for(model_folder, layout, name)
    if not problems and (wanted is None or note.get(key) != wanted):
        other = str(note.get(key) or "none that is known")[:12]
        problems.append(told("it was made for another build of the base model ({other})", other=other))
    if problems:
        more = (
            told("; and {count} more differences", count=len(problems) - MOST) if len(problems) > MOST else ""
        )
        raise RequestError(
            told(
                "The adapter {name} does not fit this model.",
                name=adapter_file.name.removesuffix(SUFFIX),
            ),
            told(
                "{adapter_file}: {problems}{more}.",
                adapter_file=adapter_file,
                problems=listed(problems[:MOST], "; "),
                more=more,
            ),
            told(
                "Make it again for this model: {run}",
                run=lab_command(model_folder, "run", "finetune", "optimize"),
            ),
            code="adapter.shape",
        )
    return note


def switch_differences(found: Shapes, name: str) -> list[str]:
    """The same for the file of an adapter inside the graph."""
    wanted = {switch_name(name): ([1], "int64")}
    if found == wanted:
        return []
    return [told("it holds {names}, not the switch of {name}", names=", ".join(sorted(found)), name=name)]


def made_for(model_folder: Path, layout: AdapterLayout, name: str) -> tuple[str, str | None]:
    """What an adapter's note has to say of the model: the key, and the value (None: it is not in there)."""
    if layout.inside is not None:
        return "weights_sha256", layout.inside.get(name)
    return "base_sha256", digest(model_folder / "model.onnx")
