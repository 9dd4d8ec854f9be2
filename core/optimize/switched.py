"""An adapter inside the graph: its matrices as constants in 8 bits, and a small optional input that switches it on.

Matrices that are inputs of a graph are slow on a CPU: the runtime packs constants once and inputs never, and no
kernel multiplies by an input of 8 or 16 bits without widening all of it for each token. So beside every projection
``y = x W`` the rows of ``x`` are taken, multiplied by A and B in 8 bits (symmetric, in blocks of 32, as W is in 4)
and added to ``y``. The input says for how many rows: for all, or, by its default, for none. Then every one of
these nodes has nothing to do.

The matrices lie in ``adapters/NAME.data``; ``adapters/NAME.onnx_adapter`` holds the switch and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import StageError
from core.files import digest, explained
from core.optimize.adapters import ON, AdapterLayout, Lora, Pair, arrange, switch_name
from core.optimize.branches import find_projections

if TYPE_CHECKING:
    import numpy as np
    import torch

_BLOCK = 32
_ALIGNMENT = 64
_ROUNDED = 4
"""The accuracy level at which the kernel rounds activations, in blocks like these."""


def put_in(folder: Path, layout: AdapterLayout, name: str, inputs: dict[str, torch.Tensor]) -> str:
    """Put an adapter into a model folder's graph, in place of one of that name; returns the digest of its weights.

    Args:
        inputs: A and B of each branch that was trained, by their names in the layout, float32.

    Raises:
        StageError: the graph lacks a projection that the layout names, or a number does not fit.
    """
    import onnx

    path = folder / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    take_out(model.graph, name)
    weights = _Weights(f"adapters/{name}.data")
    _add(model.graph, layout, name, inputs, weights)
    (folder / "adapters").mkdir(exist_ok=True)
    half = path.with_name(".model.onnx.half")
    with explained(path):
        written = weights.write(folder)
        onnx.save(model, str(half))
        os.replace(half, path)
    return written


def take_out(graph: Any, name: str) -> None:
    """Take an adapter out of a graph (an ``onnx.GraphProto``), in place; nothing happens where there is none."""
    prefix = _place(name)
    before: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if not node.name.startswith(prefix):
            kept.append(node)
        elif node.op_type == "ScatterND":
            before[node.input[0]] = node.output[0]
    for node in kept:
        node.output[:] = [before.get(each, each) for each in node.output]
    del graph.node[:]
    graph.node.extend(kept)
    for items in (graph.input, graph.initializer):
        rest = [each for each in items if each.name != switch_name(name) and not each.name.startswith(prefix)]
        del items[:]
        items.extend(rest)


def leave_on(graph: Any, name: str | None, adapters: Iterable[str]) -> None:
    """Make an adapter part of a graph for good, and take the other ``adapters`` out, in place; all of them for None."""
    for each in adapters:
        if each != name:
            take_out(graph, each)
    if name is None:
        return
    switch = switch_name(name)
    rest = [each for each in graph.input if each.name != switch]
    del graph.input[:]
    graph.input.extend(rest)
    initializer = next(each for each in graph.initializer if each.name == switch)
    initializer.ClearField("raw_data")
    initializer.int64_data[:] = [ON]


def _place(name: str) -> str:
    return f"/adapter/{name}/"


def _stem(name: str) -> str:
    """``0.attn.qkv_proj`` of ``model.layers.0.attn.qkv_proj.lora_B``."""
    return name.removeprefix("model.layers.").rpartition(".")[0]


def _add(
    graph: Any, layout: AdapterLayout, name: str, inputs: dict[str, torch.Tensor], weights: _Weights
) -> None:
    from onnx import TensorProto, helper

    place = _place(name)
    projections = {f"{each.layer}.{each.block}.{each.kind}": each.node for each in find_projections(graph)}
    switch = switch_name(name)
    graph.input.append(helper.make_tensor_value_info(switch, TensorProto.INT64, [1]))
    graph.initializer.append(helper.make_tensor(switch, TensorProto.INT64, [1], [0]))
    rows = f"{place}rows"

    def product(x: str, matrix: torch.Tensor, made: str) -> Any:
        codes, scales = rounded(matrix)
        for tensor, kind in ((codes, "weight"), (scales, "scales")):
            graph.initializer.append(weights.add(f"{made}/{kind}", tensor))
        return helper.make_node(
            "MatMulNBits",
            [x, f"{made}/weight", f"{made}/scales"],
            [made],
            name=made,
            domain="com.microsoft",
            K=matrix.shape[0],
            N=matrix.shape[1],
            bits=8,
            block_size=_BLOCK,
            accuracy_level=_ROUNDED,
        )

    before: dict[str, list[Any]] = {}
    after: dict[str, list[Any]] = {}
    taken: dict[str, str] = {}
    for branch in layout.branches:
        if branch.a not in inputs:
            continue
        try:
            nodes = [projections[_stem(output.name)] for output in branch.outputs]
        except KeyError as missing:
            raise StageError(
                "The ONNX graph is not as expected.", f"It has no projection {missing.args[0]}."
            ) from None
        first, x, small = nodes[0], nodes[0].input[0], f"{place}{_stem(branch.a)}/A"
        before[first.name] = []
        if x not in taken:
            taken[x] = f"{place}{_stem(branch.a)}/x"
            before[first.name].append(helper.make_node("GatherND", [x, rows], [taken[x]], name=taken[x]))
        a, padding = inputs[branch.a], -inputs[branch.a].shape[1] % _BLOCK
        before[first.name].append(product(taken[x], _padded(a, (0, padding)), small))
        for node, output in zip(nodes, branch.outputs, strict=True):
            at = f"{place}{_stem(output.name)}"
            whole, node.output[0] = node.output[0], f"{at}/base"
            after[node.name] = [
                product(small, _padded(inputs[output.name], (0, 0, 0, padding)), f"{at}/B"),
                helper.make_node(
                    "ScatterND", [f"{at}/base", rows, f"{at}/B"], [whole], name=f"{at}/sum", reduction="add"
                ),
            ]
    made = [
        helper.make_node("Shape", ["input_ids"], [f"{place}shape"], name=f"{place}shape"),
        helper.make_node("Min", [f"{place}shape", switch], [f"{place}some"], name=f"{place}some"),
        helper.make_node(
            "ConstantOfShape",
            [f"{place}some"],
            [f"{place}ones"],
            name=f"{place}ones",
            value=helper.make_tensor("value", TensorProto.INT64, [1], [1]),
        ),
        helper.make_node("NonZero", [f"{place}ones"], [f"{place}places"], name=f"{place}places"),
        helper.make_node("Transpose", [f"{place}places"], [rows], name=rows, perm=[1, 0]),
    ]
    for node in graph.node:
        made += [*before.get(node.name, ()), node, *after.get(node.name, ())]
    del graph.node[:]
    graph.node.extend(made)


def _padded(matrix: torch.Tensor, sides: tuple[int, ...]) -> torch.Tensor:
    from torch.nn import functional

    return functional.pad(matrix, sides)


def rounded(matrix: torch.Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A matrix [inputs, outputs] as MatMulNBits takes it: codes [outputs, blocks, 32], scales [outputs, blocks].

    Raises:
        StageError: it has numbers that are not finite.
    """
    import torch

    if not bool(torch.isfinite(matrix).all()):
        raise StageError("The adapter's numbers do not fit 8 bits.", "Some are not finite.")
    blocks = _padded(matrix.T.float(), (0, -matrix.shape[0] % _BLOCK)).reshape(matrix.shape[1], -1, _BLOCK)
    scales = blocks.abs().amax(dim=2) / 127
    steps = torch.where(scales > 0, scales, 1.0)
    codes = (blocks / steps[..., None]).round_().clamp_(-127, 127) + 128
    return codes.to(torch.uint8).numpy(), scales.numpy()


def as_stored(lora: Lora, layout: AdapterLayout) -> Lora:
    """An adapter with its matrices as the graph has them: rounded to 8 bits, and float again."""
    import torch

    arranged = {
        name: _back(*rounded(matrix))[: matrix.shape[0]] for name, matrix in arrange(lora, layout).items()
    }
    pairs: dict[str, Pair] = {}
    for branch in layout.branches:
        row = 0
        for part in branch.parts:
            pair = lora.pairs.get(part.module)
            if pair is None:
                continue
            ranks = slice(row, row := row + pair.a.shape[0])
            b = torch.cat([arranged[output.name] for output in branch.outputs], dim=1)
            pairs[part.module] = Pair(
                arranged[branch.a][:, ranks].T,
                b[ranks, part.start : part.start + part.size].T / (pair.scale or 1.0),
                pair.scale,
            )
    return replace(lora, pairs=pairs)


def _back(codes: np.ndarray[Any, Any], scales: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    blocks = (torch.from_numpy(codes).float() - 128) * torch.from_numpy(scales)[..., None]
    return blocks.flatten(1).T


class _Weights:
    """The tensors of a weight file that is yet to be written."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        """Take an array in; returns the initializer that says where it will lie."""
        from onnx import TensorProto, helper

        tensor = TensorProto(name=name, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)
        data = array.tobytes()
        told = {"location": self._location, "offset": str(self._size), "length": str(len(data))}
        for key, value in told.items():
            tensor.external_data.add(key=key, value=value)
        self._parts += [data, bytes(-len(data) % _ALIGNMENT)]
        self._size += len(data) + -len(data) % _ALIGNMENT
        return tensor

    def write(self, folder: Path) -> str:
        """Write the file, whole or not at all; returns its digest."""
        target = folder / self._location
        half = target.with_name(f".{target.name}.half")
        try:
            half.write_bytes(b"".join(self._parts))
            os.replace(half, target)
        finally:
            half.unlink(missing_ok=True)
        return digest(target)
