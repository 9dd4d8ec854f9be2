"""Where adapters enter the ONNX graph: the branches, their inputs, and the modules they stand for.

Light: no onnx, no onnxruntime. The layout is written beside the model as ``adapters.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import RequestError
from core.files import read_json, write_json
from core.folder import lab_command

LAYOUT_FILE = "adapters.json"
SUFFIX = ".onnx_adapter"
BYTES_OF = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Part:
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
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """All branches of a graph.

    Attributes:
        dtype: ``float32``, ``float16`` or ``bfloat16``, the type in which every A and B is given.
    """

    dtype: str
    branches: tuple[Branch, ...]

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
        write_json(folder / LAYOUT_FILE, {"dtype": self.dtype, "branches": branches})


def read_layout(folder: Path) -> Layout:
    """The layout of a model folder.

    Raises:
        RequestError: the folder holds no model that was made by the optimize step.
    """
    data: Any = read_json(folder / LAYOUT_FILE)
    try:
        branches = tuple(
            Branch(
                item["a"],
                item["in"],
                tuple(Output(name, size) for name, size in item["b"]),
                tuple(Part(module, start, size) for module, start, size in item["modules"]),
            )
            for item in data["branches"]
        )
        return Layout(data["dtype"], branches)
    except (TypeError, KeyError, ValueError):
        raise RequestError(
            "The ONNX model has no place for adapters.",
            f"{folder / LAYOUT_FILE} is not there, or cannot be read.",
            "Make the model with: " + lab_command(folder, "run", "optimize"),
        ) from None
