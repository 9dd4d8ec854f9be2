"""The graph's own weight in fewer bytes, where that loses nothing.

For the CPU the model builder writes the table as float32, though the values came from a 16-bit checkpoint.
Kept as float16 or bfloat16, whichever holds every value, with a Cast behind the look-up it gives the same
numbers, since only the few rows of a prompt are cast. The room that this leaves in the weight file is
filled with tensors from the file's end, so that no more than that much is copied.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.files import explained
from core.optimize.branches import every_node

SMALLEST_BYTES = 2**20
ALIGNMENT = 4096
_PORTION = 2**24
"""Numbers that are looked at together."""
_FLOAT = 1
"""``TensorProto.FLOAT``."""
_FLOATS = (_FLOAT, 10, 16)
"""That, ``FLOAT16`` and ``BFLOAT16``."""


def halve_embedding(model: Any, folder: Path) -> str | None:
    """Store a float32 embedding table in 16 bits if its values allow that.

    Args:
        model: the ``onnx.ModelProto``, changed in place; the caller saves it.
        folder: where its weight file lies; changed in place.

    Returns:
        ``float16`` or ``bfloat16``, the type that the table has now; None if it was left alone.
    """
    import numpy as np
    from onnx import TensorProto, helper

    graph = model.graph
    gather = look_up(graph)
    if gather is None:
        return None
    table = next(item for item in graph.initializer if item.name == gather.input[0])
    place = place_of(table)
    if table.data_type != _FLOAT or place is None or place[2] < SMALLEST_BYTES:
        return None
    file, offset, length = place
    path = folder / file
    wide = np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=(length // 4,))
    kind, narrow = next(
        ((kind, made) for kind, narrowed in _KINDS.items() if (made := _narrow(wide, narrowed)) is not None),
        (None, None),
    )
    del wide
    if kind is None or narrow is None:
        return None
    _move(table, offset, narrow.nbytes)
    with explained(path), path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(narrow.data)
        _fill(stream, graph, file, offset + narrow.nbytes, offset + length)
    table.data_type = getattr(TensorProto, kind.upper())
    for info in graph.value_info:
        if info.name == table.name:
            info.type.tensor_type.elem_type = table.data_type
    looked_up = f"{gather.output[0]}/{kind}"
    cast = helper.make_node(
        "Cast", [looked_up], [gather.output[0]], name=f"{gather.name}/Cast", to=TensorProto.FLOAT
    )
    gather.output[0] = looked_up
    graph.node.insert(
        next(i for i, node in enumerate(graph.node) if node is gather or node.name == gather.name) + 1, cast
    )
    return kind


def without_long_rope(graph: Any) -> None:
    """Take a long rope's tables for texts beyond the original context out of a graph, in place.

    The model is limited to that context (:func:`core.optimize.build.context_limit`). The tables are constants in the
    graph's file, 50 MB for 131,072 tokens, and the node that chooses between them keeps CUDA from running all at once.
    """
    for node in list(graph.node):
        if node.op_type != "If" or set(node.output) != {"cos_cache", "sin_cache"}:
            continue
        short = next(each.g for each in node.attribute if each.name == "else_branch")
        values = {each.output[0]: each.attribute[0].t for each in short.node if each.op_type == "Constant"}
        if {info.name for info in short.output} != values.keys():
            continue
        for name, info in zip(node.output, short.output, strict=True):
            graph.initializer.add().CopyFrom(values[info.name])
            graph.initializer[-1].name = name
        graph.node.remove(node)
        _without_unread(graph)


def _without_unread(graph: Any) -> None:
    """Take out nodes that nothing reads any more."""
    while True:
        read = {name for node in every_node(graph) for name in node.input} | {
            each.name for each in graph.output
        }
        rest = [node for node in graph.node if read & set(node.output)]
        if len(rest) == len(graph.node):
            return
        unread = [node for node in graph.node if not read & set(node.output)]
        for node in unread:
            graph.node.remove(node)


def look_up(graph: Any) -> Any | None:
    """The Gather node that alone reads a float table."""
    uses = Counter(name for node in graph.node for name in node.input)
    tables = {item.name for item in graph.initializer if item.data_type in _FLOATS and len(item.dims) == 2}
    found = (n for n in graph.node if n.op_type == "Gather" and n.input[0] in tables)
    gather = next(found, None)
    return gather if gather is not None and uses[gather.input[0]] == 1 else None


def _as_float16(part: Any) -> tuple[Any, Any]:
    """Float32 numbers as float16, and what those are in float32."""
    import numpy as np

    with np.errstate(over="ignore"):
        narrow = part.astype("<f2")
    return narrow, narrow.astype("<f4")


def _as_bfloat16(part: Any) -> tuple[Any, Any]:
    """Float32 numbers as the bits of bfloat16, their upper half, and what those are in float32."""
    bits = part.view("<u4")
    narrow = (bits >> 16).astype("<u2")
    return narrow, (narrow.astype("<u4") << 16).view("<f4")


_KINDS = {"float16": _as_float16, "bfloat16": _as_bfloat16}


def _narrow(wide: Any, narrowed: Callable[[Any], tuple[Any, Any]]) -> Any | None:
    """All numbers in 16 bits; None as soon as one of them would be another."""
    import numpy as np

    made = np.empty(wide.shape, dtype="<u2")
    for start in range(0, len(wide), _PORTION):
        part = np.asarray(wide[start : start + _PORTION])
        narrow, back = narrowed(part)
        if not np.array_equal(back, part):
            return None
        made[start : start + _PORTION] = narrow.view("<u2")
    return made


def place_of(tensor: Any) -> tuple[str, int, int] | None:
    """File, offset and length of a tensor that lies outside the graph."""
    if not tensor.external_data:
        return None
    entry = {item.key: item.value for item in tensor.external_data}
    return entry["location"], int(entry.get("offset", 0)), int(entry["length"])


def free(graph: Any, tensor: Any, folder: Path) -> None:
    """Give a tensor's bytes in the weight file to others; it has no place any more."""
    place = place_of(tensor)
    if place is None:
        return
    file, offset, length = place
    del tensor.external_data[:]
    with explained(folder / file), (folder / file).open("r+b") as stream:
        _fill(stream, graph, file, offset, offset + length)


def _move(tensor: Any, offset: int, length: int) -> None:
    for item in tensor.external_data:
        if item.key == "offset":
            item.value = str(offset)
        elif item.key == "length":
            item.value = str(length)


def _fill(stream: Any, graph: Any, file: str, start: int, end: int) -> None:
    """Move tensors from the end of the file into the free bytes from ``start`` to ``end``; cut the file."""
    last = []
    for tensor in graph.initializer:
        place = place_of(tensor)
        if place is not None and place[0] == file and place[1] >= end:
            last.append((place[1], place[2], tensor))
    last.sort(key=lambda item: item[0], reverse=True)
    for offset, length, tensor in last:
        at = -(-start // ALIGNMENT) * ALIGNMENT
        if at + length > end:
            break
        stream.seek(offset)
        data = stream.read(length)
        stream.seek(at)
        stream.write(data)
        _move(tensor, at, length)
        start = at + length
    places = [place_of(tensor) for tensor in graph.initializer]
    used = max((place[1] + place[2] for place in places if place is not None and place[0] == file), default=0)
    stream.flush()
    os.ftruncate(stream.fileno(), max(used, start))
