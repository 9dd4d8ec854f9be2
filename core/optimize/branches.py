"""Adapter branches in an ONNX graph, as optional inputs.

Beside every projection node ``y = x W`` two more inputs of the graph are put, A [in, rank] and
B [rank, out] (LoRA, Hu et al. 2021, arXiv:2106.09685, with alpha / rank already inside B), and
``y`` becomes ``x W + (x A) B``. Each has an initializer of rank 0, which ONNX takes where a run
gives no such input: then ``x A`` is empty and ``(x A) B`` is zero.

Only the graph is read and written; the weights beside it (external data) are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import StageError
from core.language import told
from core.optimize.adapters import Branch, BranchPart, Output

_NODE = re.compile(r"/model/layers\.(\d+)/(attn|mlp)/(\w+)/MatMul\w*")
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_FUSED = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj"}
# What the model builder calls a projection, and what the architectures call the same layer.
_NAMES = {
    "qkv_proj": ("qkv_proj", "query_key_value"),
    "gate_up_proj": ("gate_up_proj", "dense_h_to_4h"),
    "o_proj": ("o_proj", "out_proj", "dense"),
    "down_proj": ("down_proj", "dense_4h_to_h"),
}
ONNX_NAMES = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}
_GRAPH = 5
"""``AttributeProto.GRAPH``."""
_BLOCKS = {"attn": ("self_attn", "self_attention"), "mlp": ("mlp",)}


@dataclass(frozen=True)
class Projection:
    """A MatMul node of a decoder layer: ``layer``, ``block`` (attn, mlp), ``kind`` (o_proj, …), sizes."""

    node: Any
    layer: int
    block: str
    kind: str
    inputs: int
    outputs: int


def every_node(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of all graphs within."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == _GRAPH:
                yield from every_node(attribute.g)


def find_projections(nodes: Iterable[Any], initializers: Iterable[Any]) -> list[Projection]:
    """The projections among nodes of a built graph (``onnx.NodeProto``), in order."""
    shapes = {item.name: list(item.dims) for item in initializers}
    found = []
    for node in nodes:
        match = _NODE.fullmatch(node.name)
        if match is None or node.op_type not in ("MatMul", "MatMulNBits"):
            continue
        if node.op_type == "MatMulNBits":
            sizes = {item.name: item.i for item in node.attribute}
            inputs, outputs = sizes["K"], sizes["N"]
        elif node.input[1] in shapes:
            inputs, outputs = shapes[node.input[1]]
        else:
            continue
        found.append(Projection(node, int(match[1]), match[2], match[3], inputs, outputs))
    return found


def plan_branches(
    projections: Iterable[Projection], modules: Iterable[str], attention_sizes: tuple[int, int]
) -> list[tuple[Branch, list[Projection]]]:
    """Which branches a graph gets, each with the nodes that it is added to.

    Args:
        modules: names of the PyTorch model's linear layers.
        attention_sizes: outputs of q, and of k and of v.

    Raises:
        StageError: a node stands for no layer that the PyTorch model has.
    """
    known = set(modules)
    by_input: dict[tuple[int, str, str], dict[str, Projection]] = {}
    for item in projections:
        family = next((names[0] for names in _SIBLINGS if item.kind in names), item.kind)
        by_input.setdefault((item.layer, item.block, family), {})[item.kind] = item
    planned = []
    for (layer, block, _), nodes in by_input.items():
        prefixes = [f"model.layers.{layer}.{name}" for name in _BLOCKS[block]]

        def module_of(kind: str, prefixes: list[str] = prefixes) -> str | None:
            names = [f"{prefix}.{name}" for prefix in prefixes for name in _NAMES.get(kind, (kind,))]
            return next((name for name in names if name in known), None)

        planned += _branches_of(nodes, module_of, attention_sizes)
    return planned


def _branches_of(
    nodes: Mapping[str, Projection], module_of: Any, attention_sizes: tuple[int, int]
) -> list[tuple[Branch, list[Projection]]]:
    for names in _SIBLINGS:
        if names[0] not in nodes:
            continue
        items = [nodes[name] for name in names if name in nodes]
        fused = module_of(_FUSED[names[0]])
        if fused is not None:
            # One layer of the model against several nodes: they share A, and B is cut.
            total = sum(item.outputs for item in items)
            return [(_branch(items, [BranchPart(fused, 0, total)], _FUSED[names[0]]), items)]
        return [
            (_branch([item], [BranchPart(_named(module_of, item), 0, item.outputs)], item.kind), [item])
            for item in items
        ]
    (item,) = nodes.values()
    if item.kind == "qkv_proj" and module_of("qkv_proj") is None:
        # Three layers against one node: their As stand side by side, their Bs in blocks.
        q, kv = attention_sizes
        if q + 2 * kv != item.outputs:
            raise StageError(
                told("The ONNX graph and the model do not fit."),
                told(
                    "{name} has {outputs} outputs; q, k and v have {q}, {kv} and {kv}.",
                    name=item.node.name,
                    outputs=item.outputs,
                    q=q,
                    kv=kv,
                ),
                code="optimize.graph",
            )
        starts = {"q_proj": (0, q), "k_proj": (q, kv), "v_proj": (q + kv, kv)}
        parts = [BranchPart(_named(module_of, item, kind), *place) for kind, place in starts.items()]
        return [(_branch([item], parts, item.kind), [item])]
    return [(_branch([item], [BranchPart(_named(module_of, item), 0, item.outputs)], item.kind), [item])]


def _named(module_of: Any, item: Projection, kind: str = "") -> str:
    module: str | None = module_of(kind or item.kind)
    if module is None:
        raise StageError(
            told("The ONNX graph has a layer that the model has not."),
            told(
                "{name}: the model has no {kind} in layer {layer}.",
                name=item.node.name,
                kind=kind or item.kind,
                layer=item.layer,
            ),
            code="optimize.graph",
        )
    return module


def _branch(items: list[Projection], parts: list[BranchPart], kind: str) -> Branch:
    first = items[0]
    prefix = f"model.layers.{first.layer}.{first.block}"
    outputs = tuple(Output(f"{prefix}.{item.kind}.lora_B", item.outputs) for item in items)
    return Branch(f"{prefix}.{kind}.lora_A", first.inputs, outputs, tuple(parts))


def add_branches(model: Any, planned: list[tuple[Branch, list[Projection]]], dtype: str) -> None:
    """Put the planned branches into a graph (an ``onnx.ModelProto``), in place.

    Args:
        dtype: what the graph computes in, and the inputs have.
    """
    from onnx import TensorProto, helper

    kind = getattr(TensorProto, ONNX_NAMES[dtype])
    graph = model.graph

    def optional_input(name: str, shape: list[Any], empty: list[int]) -> None:
        graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        graph.initializer.append(helper.make_tensor(name, kind, empty, b"", raw=True))

    before: dict[str, list[Any]] = {}
    after: dict[str, list[Any]] = {}
    for branch, items in planned:
        base = "/" + branch.a.removesuffix(".lora_A").replace("model.layers.", "model/layers.", 1).replace(
            ".attn.", "/attn/"
        ).replace(".mlp.", "/mlp/")
        rank = f"{branch.a}.rank"
        optional_input(branch.a, [branch.size, rank], [branch.size, 0])
        small = f"{base}/lora_A/output_0"
        before[items[0].node.name] = [
            helper.make_node(
                "MatMul", [items[0].node.input[0], branch.a], [small], name=f"{base}/lora_A/MatMul"
            )
        ]
        for item, output in zip(items, branch.outputs, strict=True):
            if item.node.input[0] != items[0].node.input[0]:
                raise StageError(
                    told("The ONNX graph is not as expected."),
                    told(
                        "{name} and {other} read different inputs.",
                        name=item.node.name,
                        other=items[0].node.name,
                    ),
                    code="optimize.graph",
                )
            at = item.node.name.rsplit("/", 1)[0]
            optional_input(output.name, [rank, output.size], [0, output.size])
            whole, raw, delta = item.node.output[0], f"{at}/lora/base", f"{at}/lora_B/output_0"
            item.node.output[0] = raw
            after[item.node.name] = [
                helper.make_node("MatMul", [small, output.name], [delta], name=f"{at}/lora_B/MatMul"),
                helper.make_node("Add", [raw, delta], [whole], name=f"{at}/lora/Add"),
            ]
    nodes = []
    for node in graph.node:
        nodes += [*before.get(node.name, ()), node, *after.get(node.name, ())]
    del graph.node[:]
    graph.node.extend(nodes)
