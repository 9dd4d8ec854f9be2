"""An adapter inside the graph: its matrices as constants, and a small optional input that switches it on.

Matrices that are inputs of a graph are slow: on a CPU the runtime packs constants once and inputs never, and for a
GPU it copies all of them there for each token. So the matrices are constants, and ``If`` nodes choose between the
graph as it is and the same with ``(x A) B`` added to the projections ``y = x W``. Where nothing is switched on, no
more than these nodes is computed.

On a CPU there is such a node behind every group of projections that read the same ``x``, so that W is there, and
packed, once. On a GPU, where a node costs more than some of the products and nothing is packed, the whole graph
stands in one ``If``, once for the base and once for each adapter, with the same W.

The matrices lie in ``adapters/NAME.data``; ``adapters/NAME.onnx_adapter`` holds the switch and nothing else: an input
that is empty unless it is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import StageError
from core.files import digest, explained
from core.folder import lab_command
from core.language import told
from core.optimize.adapters import EIGHT_BITS, AdapterLayout, Branch, Lora, Pair, arrange, switch_name
from core.optimize.branches import ONNX_NAMES, Projection, find_projections

if TYPE_CHECKING:
    import torch

_BLOCK = 32
_ALIGNMENT = 4096
_ROUNDED = 4
"""The accuracy level at which the kernel rounds activations, in blocks like these."""
_PLACE = "/adapters/"
"""What the names of all nodes begin with that adapters bring, and of the values these make. Theirs follows."""
_OWN = f"{_PLACE}/"
"""The same of those that belong to no adapter."""
_BOOL = 9
"""``TensorProto.BOOL``."""
_ONNX_NAMES = {"uint8": "UINT8", **ONNX_NAMES}


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
    choices = _taken_apart(model.graph)
    weights = _Weights(f"adapters/{name}.data")
    _add(model.graph, choices, layout, name, inputs, weights)
    _put_together(model.graph, choices)
    (folder / "adapters").mkdir(exist_ok=True)
    half = path.with_name(".model.onnx.half")
    with explained(path):
        written = weights.write(folder)
        onnx.save(model, str(half))
        os.replace(half, path)
    return written


def take_out(graph: Any, name: str) -> None:
    """Take an adapter out of a graph (an ``onnx.GraphProto``), in place; nothing happens where there is none."""
    choices = _taken_apart(graph)
    _remove(graph, choices, name)
    _put_together(graph, choices)


def leave_on(graph: Any, name: str | None, adapters: Iterable[str], folder: Path) -> None:
    """Make an adapter part of a graph for good, and take the other ``adapters`` out, in place; all of them for None.

    Args:
        folder: where the graph lies.

    Raises:
        StageError: the graph has not all of these adapters, since it was made by an older version.
    """
    choices = _taken_apart(graph)
    there = {each for choice in choices.values() for each in choice.bodies}
    for each in adapters:
        if each not in there:
            raise StageError(
                told("The ONNX model has not the adapters that its layout tells of."),
                told("{each} is not in the graph.", each=each),
                told("Make it anew: {run}", run=lab_command(folder, "run", "optimize", "--force")),
                code="export.unusable",
            )
        if each != name:
            _remove(graph, choices, each)
    for choice in choices.values():
        if name is not None and name in choice.bodies:
            choice.off, choice.bodies = choice.bodies[name], {}
    _put_together(graph, choices)


# The choices of a graph, taken apart and put together


@dataclass
class _Choice:
    """One ``If``: what is computed with none of its adapters, and with each.

    Attributes:
        outputs: the values that it makes.
        off, bodies: graphs (``onnx.GraphProto``) with as many outputs, of other names.
    """

    outputs: list[str]
    off: Any
    bodies: dict[str, Any]


def _taken_apart(graph: Any) -> dict[str, _Choice]:
    """The choices by the names of their nodes, which stay in their places; switches go."""
    choices: dict[str, _Choice] = {}
    kept, names = [], []
    for node in graph.node:
        if node.name.startswith(_PLACE) and node.op_type == "If":
            then, off = _branches(node)
            bodies = {}
            while _is_choice(then):
                first, then_or = _branches(then.node[0])
                bodies[first.name] = first
                then = then_or
            bodies[then.name] = then
            choices[node.name] = _Choice(list(node.output), off, bodies)
            names += list(bodies)
        if not node.name.startswith(_PLACE) or node.op_type == "If":
            kept.append(node)
    _set(graph.node, kept)
    switches = {switch_name(name) for name in names}
    for items in (graph.input, graph.initializer):
        _set(items, [each for each in items if each.name not in switches])
    return choices


def _is_choice(graph: Any) -> bool:
    return len(graph.node) == 1 and graph.node[0].op_type == "If" and graph.node[0].name.startswith(_PLACE)


def _branches(node: Any) -> tuple[Any, Any]:
    found = {each.name: each.g for each in node.attribute}
    return _copy(found["then_branch"]), _copy(found["else_branch"])


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _set(items: Any, wanted: Sequence[Any]) -> None:
    wanted = [_copy(each) for each in wanted]
    del items[:]
    items.extend(wanted)


def _remove(graph: Any, choices: Mapping[str, _Choice], name: str) -> None:
    for choice in choices.values():
        choice.bodies.pop(name, None)
    _set(
        graph.initializer,
        [each for each in graph.initializer if not each.name.startswith(f"{_PLACE}{name}/")],
    )


def _put_together(graph: Any, choices: Mapping[str, _Choice]) -> None:
    """Write each choice as a node, or, where nothing is left to choose, as the nodes of the one that is."""
    from onnx import TensorProto, helper

    names = list(dict.fromkeys(name for choice in choices.values() for name in choice.bodies))
    conditions = _Conditions()
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        choice = choices.get(node.name)
        if choice is None:
            nodes.append(node)
        elif choice.bodies:
            nodes.append(_written(node.name, choice, conditions))
        else:
            nodes += _inlined(graph, choice, renamed)
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [_last(renamed, each) for each in values]
    _set(graph.node, [*conditions.nodes, *nodes])
    for name in names:
        switch = switch_name(name)
        graph.input.append(helper.make_tensor_value_info(switch, TensorProto.INT64, [f"{switch}.given"]))
        graph.initializer.append(helper.make_tensor(switch, TensorProto.INT64, [0], []))


def _last(renamed: Mapping[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name


class _Conditions:
    """The nodes that tell which switches are given, from the lengths of the inputs alone: no value is looked at."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._made: dict[str, str] = {}

    def of(self, names: Sequence[str]) -> str:
        """The condition that one of these adapters is on."""
        lengths = [self._node("Shape", [switch_name(name)], f"{name}/given") for name in names]
        some = lengths[0] if len(names) == 1 else self._node("Max", lengths, f"{'+'.join(names)}/given")
        return self._node("Cast", [some], f"{'+'.join(names)}/on", to=_BOOL)

    def _node(self, kind: str, inputs: Sequence[str], made: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{_OWN}switch/{made}"
        if name not in self._made:
            self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
            self._made[name] = name
        return name


def _written(name: str, choice: _Choice, conditions: _Conditions) -> Any:
    """A choice as an ``If``: is any on, and if so, the first, or else the second, … or else the last."""
    from onnx import helper

    def some(names: Sequence[str]) -> Any:
        first = choice.bodies[names[0]]
        if len(names) == 1:
            return first
        rest = some(names[1:])
        outputs = []
        for info in first.output:
            outputs.append(_copy(info))
            outputs[-1].name = f"{info.name}/or"
        node = helper.make_node(
            "If",
            [conditions.of(names[:1])],
            [each.name for each in outputs],
            name=f"{name}/one of",
            then_branch=first,
            else_branch=rest,
        )
        return helper.make_graph([node], "/".join(names), [], outputs)

    names = list(choice.bodies)
    return helper.make_node(
        "If",
        [conditions.of(names)],
        choice.outputs,
        name=name,
        then_branch=some(names),
        else_branch=choice.off,
    )


def _inlined(graph: Any, choice: _Choice, renamed: dict[str, str]) -> list[Any]:
    """The nodes of what is chosen for good; values that are only passed on get their last name (``renamed``)."""
    body = choice.off
    own = {info.name: whole for info, whole in zip(body.output, choice.outputs, strict=True)}
    graph.value_info.extend(body.value_info)
    nodes = []
    for node in body.node:
        if node.name.startswith(_PLACE) and node.op_type == "Identity":
            renamed[node.input[0]] = own[node.output[0]]
            continue
        for values in (node.input, node.output):
            values[:] = [own.get(each, each) for each in values]
        nodes.append(node)
    return nodes


# An adapter put in


def _add(
    graph: Any,
    choices: dict[str, _Choice],
    layout: AdapterLayout,
    name: str,
    inputs: dict[str, torch.Tensor],
    weights: _Weights,
) -> None:
    make = _Maker(layout, weights, f"{_PLACE}{name}/")
    if layout.whole:
        _add_whole(graph, choices, layout, name, inputs, make)
    else:
        _add_behind_groups(graph, choices, layout, name, inputs, make)


@dataclass
class _Maker:
    """Makes the nodes of one adapter, and with them the initializers that they read."""

    layout: AdapterLayout
    weights: _Weights
    place: str

    def products(
        self, x: str, branch: Branch, inputs: Mapping[str, torch.Tensor], found: list[Any]
    ) -> tuple[list[Any], list[str]]:
        """The nodes of ``x A B`` for each output of a branch, and the names of what they make."""
        a = inputs[branch.a]
        padding = -a.shape[1] % _BLOCK if self.layout.dtype == EIGHT_BITS else 0
        small = f"{self.place}{_stem(branch.a)}/A"
        nodes = [self._product(x, _padded(a, (0, padding)), small, found)]
        made = []
        for output in branch.outputs:
            made.append(f"{self.place}{_stem(output.name)}/B")
            nodes.append(
                self._product(small, _padded(inputs[output.name], (0, 0, 0, padding)), made[-1], found)
            )
        return nodes, made

    def _product(self, x: str, matrix: torch.Tensor, made: str, found: list[Any]) -> Any:
        from onnx import helper

        computes_in = self.layout.computes_in
        if self.layout.dtype != EIGHT_BITS:
            found.append(self.weights.add(f"{made}/weight", _as(matrix, computes_in)))
            return helper.make_node("MatMul", [x, f"{made}/weight"], [made], name=made)
        for tensor, kind in zip(rounded(matrix, computes_in), ("weight", "scales"), strict=True):
            found.append(self.weights.add(f"{made}/{kind}", tensor))
        level = {} if self.layout.whole else {"accuracy_level": _ROUNDED}
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
            **level,
        )


def _add_behind_groups(
    graph: Any,
    choices: dict[str, _Choice],
    layout: AdapterLayout,
    name: str,
    inputs: dict[str, torch.Tensor],
    make: _Maker,
) -> None:
    """A choice behind each group of projections that read the same value.

    Each adapter has its own, one behind the other: the runtime packs no weights for graphs within graphs within graphs.
    """
    from onnx import helper

    found = _projections(graph, graph)
    groups: dict[str, list[Branch]] = {}
    for branch in layout.branches:
        if branch.a in inputs:
            groups.setdefault(_first(found, branch).node.input[0], []).append(branch)
    together: dict[str, list[Any]] = {}
    for x, branches in groups.items():
        stems = [_stem(output.name) for branch in branches for output in branch.outputs]
        nodes = [found[stem].node for stem in stems]
        at = f"{make.place}{stems[0]}"
        choice = _Choice([node.output[0] for node in nodes], None, {})
        on, off = [], []
        for branch in branches:
            products, ends = make.products(x, branch, inputs, graph.initializer)
            on += products
            for output, end in zip(branch.outputs, ends, strict=True):
                place = f"{make.place}{_stem(output.name)}"
                on.append(
                    helper.make_node("Add", [f"{place}/base", end], [f"{place}/sum"], name=f"{place}/sum")
                )
        for node, stem in zip(nodes, stems, strict=True):
            place = f"{make.place}{stem}"
            node.output[0] = f"{place}/base"
            off.append(
                helper.make_node("Identity", [f"{place}/base"], [f"{place}/same"], name=f"{place}/same")
            )
        choice.bodies[name] = _body(name, on, [f"{make.place}{stem}/sum" for stem in stems], layout)
        choice.off = _body("off", off, [f"{make.place}{stem}/same" for stem in stems], layout)
        choices[at] = choice
        # They stand together, so that the choice behind them is before all that reads them.
        together[nodes[0].name] = [*nodes, helper.make_node("If", [], choice.outputs, name=at)]
    moved = {node.name for nodes in together.values() for node in nodes[1:]}
    ordered: list[Any] = []
    for node in graph.node:
        if node.name not in moved:
            ordered += together.get(node.name, [node])
    _set(graph.node, ordered)


def _body(name: str, nodes: Sequence[Any], outputs: Sequence[str], layout: AdapterLayout) -> Any:
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, ONNX_NAMES[layout.computes_in])
    infos = [helper.make_tensor_value_info(each, kind, None) for each in outputs]
    return helper.make_graph(list(nodes), name, [], infos)


def _add_whole(
    graph: Any,
    choices: dict[str, _Choice],
    layout: AdapterLayout,
    name: str,
    inputs: dict[str, torch.Tensor],
    make: _Maker,
) -> None:
    """The whole graph once more, with the adapter in it, as a choice beside the base."""
    from onnx import helper

    at = f"{_OWN}graph"
    if at not in choices:
        base = _renamed_outputs(graph, graph, "off", "/off")
        choices[at] = _Choice([each.name for each in graph.output], base, {})
        base.value_info.extend(graph.value_info)
        del graph.value_info[:]
        _set(graph.node, [helper.make_node("If", [], choices[at].outputs, name=at)])
    body = _renamed_outputs(choices[at].off, graph, name, name)
    found = _projections(body, graph)
    before: dict[str, list[Any]] = {}
    after: dict[str, list[Any]] = {}
    for branch in layout.branches:
        if branch.a not in inputs:
            continue
        first = _first(found, branch)
        products, ends = make.products(first.node.input[0], branch, inputs, graph.initializer)
        before[first.node.name] = products[:1]
        for output, product, end in zip(branch.outputs, products[1:], ends, strict=True):
            node = _projection(found, output.name).node
            whole, node.output[0] = node.output[0], f"{make.place}{_stem(output.name)}/base"
            total = helper.make_node(
                "Add", [node.output[0], end], [whole], name=f"{make.place}{_stem(output.name)}/sum"
            )
            after[node.name] = [product, total]
    nodes = []
    for node in body.node:
        nodes += [*before.get(node.name, ()), node, *after.get(node.name, ())]
    _set(body.node, nodes)
    choices[at].bodies[name] = body


def _renamed_outputs(source: Any, graph: Any, name: str, mark: str) -> Any:
    """The nodes of a graph as a body of a choice, its outputs called otherwise than ``graph``'s."""
    from onnx import helper

    outputs = []
    for info in graph.output:
        outputs.append(_copy(info))
        outputs[-1].name = f"{_PLACE}{mark}/{info.name}"
    known = {old.name: new.name for old, new in zip(source.output, outputs, strict=True)}
    nodes = [_copy(node) for node in source.node]
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [known.get(each, each) for each in values]
    return helper.make_graph(nodes, name, [], outputs)


def _projections(body: Any, graph: Any) -> dict[str, Projection]:
    """The projections of a graph or of a body in it, by their stems."""
    found = find_projections(body.node, graph.initializer)
    return {f"{each.layer}.{each.block}.{each.kind}": each for each in found}


def _projection(found: Mapping[str, Projection], output: str) -> Projection:
    try:
        return found[_stem(output)]
    except KeyError as missing:
        raise StageError(
            told("The ONNX graph is not as expected."),
            told("It has no projection {args}.", args=missing.args[0]),
            code="optimize.graph",
        ) from None


def _first(found: Mapping[str, Projection], branch: Branch) -> Projection:
    return _projection(found, branch.outputs[0].name)


def _stem(name: str) -> str:
    """``0.attn.qkv_proj`` of ``model.layers.0.attn.qkv_proj.lora_B``."""
    return name.removeprefix("model.layers.").rpartition(".")[0]


def _padded(matrix: torch.Tensor, sides: tuple[int, ...]) -> torch.Tensor:
    from torch.nn import functional

    return functional.pad(matrix, sides)


def _as(matrix: torch.Tensor, kind: str) -> torch.Tensor:
    import torch

    made = matrix.to(getattr(torch, kind))
    if not bool(torch.isfinite(made).all()):
        raise StageError(
            told("The adapter's numbers do not fit {kind}.", kind=kind),
            told("Some are not finite in this precision."),
            code="adapter.shape",
        )
    return made


def rounded(matrix: torch.Tensor, computes_in: str = "float32") -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix [inputs, outputs] as MatMulNBits takes it: codes [outputs, blocks, 32], scales [outputs, blocks].

    Args:
        computes_in: the type of the scales.

    Raises:
        StageError: it has numbers that are not finite.
    """
    import torch

    blocks = _padded(matrix.T.float(), (0, -matrix.shape[0] % _BLOCK)).reshape(matrix.shape[1], -1, _BLOCK)
    scales = _as(blocks.abs().amax(dim=2) / 127, computes_in)
    steps = torch.where(scales > 0, scales.float(), 1.0)
    codes = (blocks / steps[..., None]).round_().clamp_(-127, 127) + 128
    return torch.where(scales[..., None] > 0, codes, 128).to(torch.uint8), scales


def as_stored(lora: Lora, layout: AdapterLayout) -> Lora:
    """An adapter with its matrices as the graph has them: rounded to 8 bits, and float again."""
    import torch

    arranged = {
        name: _back(*rounded(matrix, layout.computes_in))[: matrix.shape[0]]
        for name, matrix in arrange(lora, layout).items()
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


def _back(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return ((codes.float() - 128) * scales.float()[..., None]).flatten(1).T


class _Weights:
    """The tensors of a weight file that is yet to be written."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, matrix: torch.Tensor) -> Any:
        """Take a tensor in; returns the initializer that says where it will lie."""
        import torch
        from onnx import TensorProto

        tensor = TensorProto(name=name, data_location=TensorProto.EXTERNAL)
        tensor.data_type = getattr(TensorProto, _ONNX_NAMES[str(matrix.dtype).removeprefix("torch.")])
        tensor.dims.extend(matrix.shape)
        data = bytes(matrix.contiguous().view(torch.uint8).numpy().data)
        noted = {"location": self._location, "offset": str(self._size), "length": str(len(data))}
        for key, value in noted.items():
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
