"""The embeddings looked up in the output matrix, where a model has one matrix for both.

The quantize step rounds the output matrix to 8 bits and leaves the table of embeddings as it is, so that a tied model
comes to have its largest matrix twice. A graph needs it once: ``GatherBlockQuantized`` unpacks the rows of a prompt's
tokens from what ``MatMulNBits`` multiplies by. The numbers are those of the rounded matrix then; PyTorch is given them
too where the two are compared (:func:`core.olive.checkpoint.embed_by_output_matrix`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.optimize.shrink import free, look_up, place_of

OPERATOR = "GatherBlockQuantized"
SAME = 0.02
"""How far the rounded matrix may be from the table, in root mean square: 8 bits make 0.007, 4 bits 0.1."""
_PORTION = 2**22
"""Numbers that are looked at together."""
_PARTS = ("qweight", "scales", "qzeros")


def share_embedding(model: Any, folder: Path) -> int:
    """Let a graph look its embeddings up in the packed output matrix, if that is the same matrix rounded.

    Args:
        model: the ``onnx.ModelProto``, changed in place; the caller saves it.
        folder: where its weight file lies; the table is taken out of it.

    Returns:
        how many bytes smaller the weight file is; 0 if the graph was left alone.
    """
    from onnx import helper

    graph = model.graph
    gather, head = look_up(graph), _output_matrix(graph)
    if gather is None or head is None:
        return 0
    known = {each.name: each for each in graph.initializer}
    table, parts = known[gather.input[0]], [known[name] for name in head.input[2:4] if name]
    packed = known[head.input[1]]
    sizes = {each.name: each.i for each in head.attribute}
    if (
        list(table.dims) != [sizes["N"], sizes["K"]]
        or sizes["K"] % sizes["block_size"]
        or any(place_of(each) is None for each in (table, packed, *parts))
        or not _same(folder, table, packed, parts, sizes)
    ):
        return 0
    path, before = folder / "model.onnx.data", (folder / "model.onnx.data").stat().st_size
    free(graph, table, folder)
    graph.initializer.remove(table)
    for info in list(graph.value_info):
        if info.name == table.name:
            graph.value_info.remove(info)
    names = []
    for kind, tensor in zip(_PARTS, (packed, *parts), strict=False):
        twin = graph.initializer.add()  # the same bytes of the file, in rows
        twin.CopyFrom(tensor)
        twin.name = f"lm_head.rows.{kind}"
        count = 1
        for size in tensor.dims:
            count *= size
        del twin.dims[:]
        twin.dims.extend([sizes["N"], count // sizes["N"]])
        names.append(twin.name)
    at = next(i for i, node in enumerate(graph.node) if node.output and node.output[0] == gather.output[0])
    node = helper.make_node(
        OPERATOR,
        [names[0], gather.input[1], *names[1:]],
        list(gather.output),
        name=gather.name,
        domain="com.microsoft",
        bits=sizes["bits"],
        block_size=sizes["block_size"],
        gather_axis=0,
        quantize_axis=1,
    )
    del graph.node[at]
    graph.node.insert(at, node)
    return before - path.stat().st_size


def is_shared(folder: Path) -> bool:
    """Whether the graph in a model folder looks its embeddings up in the output matrix."""
    import onnx

    from core.optimize.branches import every_node

    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    return any(node.op_type == OPERATOR for node in every_node(model.graph))


def _output_matrix(graph: Any) -> Any | None:
    """The node that multiplies by a packed output matrix."""
    found = (n for n in graph.node if n.op_type == "MatMulNBits" and n.input[1].startswith("lm_head."))
    return next(found, None)


def _same(folder: Path, table: Any, packed: Any, parts: list[Any], sizes: dict[str, int]) -> bool:
    """Whether the unpacked matrix is the table, but for rounding."""
    import numpy as np

    rows, bits = sizes["N"], sizes["bits"]
    groups = sizes["K"] // sizes["block_size"]
    wanted = _rows(folder, table, rows, _FLOATS[table.data_type])
    codes = _rows(folder, packed, rows, lambda raw: raw)
    scales = _rows(folder, parts[0], rows, _FLOATS[parts[0].data_type])
    zeros = _rows(folder, parts[1], rows, lambda raw: raw) if len(parts) > 1 else None
    apart = whole = 0.0
    step = max(1, _PORTION // sizes["K"])
    for start in range(0, rows, step):
        part = slice(start, start + step)
        code = _numbers(codes(part), bits).reshape(-1, groups, sizes["block_size"]).astype(np.float32)
        zero = 1 << (bits - 1) if zeros is None else _numbers(zeros(part), bits)[:, :groups, None]
        made = ((code - zero) * scales(part)[:, :, None]).reshape(len(code), -1)
        table_rows = wanted(part)
        apart += float(np.square(made - table_rows).sum(dtype=np.float64))
        whole += float(np.square(table_rows).sum(dtype=np.float64))
        if apart > SAME * whole:  # far more than rounding does: another matrix
            return False
    return whole > 0 and apart <= SAME * SAME * whole


def _numbers(packed: Any, bits: int) -> Any:
    """The numbers that bytes hold, the first of two in the low half."""
    import numpy as np

    if bits == 8:
        return packed
    return np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(packed), -1)


def _rows(folder: Path, tensor: Any, rows: int, read: Callable[[Any], Any]) -> Callable[[slice], Any]:
    """A tensor of the weight file by rows, without holding it."""
    import numpy as np

    file, offset, length = place_of(tensor) or ("", 0, 0)
    kind = {1: "<f4", 10: "<f2", 16: "<u2"}.get(tensor.data_type, "u1")
    mapped = np.memmap(folder / file, dtype="u1", mode="r", offset=offset, shape=(rows, length // rows))
    return lambda part: read(np.ascontiguousarray(mapped[part]).view(kind))


def _as_float32(raw: Any) -> Any:
    return raw.astype("<f4")


def _widened(raw: Any) -> Any:
    """Float32 from the bits of bfloat16."""
    return (raw.astype("<u4") << 16).view("<f4")


_FLOATS: dict[int, Callable[[Any], Any]] = {1: _as_float32, 10: _as_float32, 16: _widened}
"""By ``TensorProto`` type."""
