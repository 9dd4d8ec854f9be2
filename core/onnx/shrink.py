"""The embedding table in half the bytes, where that loses nothing.

For the CPU ModelBuilder writes the table as float32, though the values came from a 16-bit checkpoint.
Kept as float16 with a Cast behind the look-up it gives the same numbers, since only the few rows of a
prompt are cast. The room that this leaves in the weight file is filled with tensors from the file's
end, so that no more than that much is copied.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.files import explained

SMALLEST_BYTES = 2**20
ALIGNMENT = 4096
_EXACT = 2.0**-25
"""Half a step of float16's smallest numbers: what is nearer to zero than that is lost in any case."""


def halve_embedding(model: Any, folder: Path) -> bool:
    """Store a float32 embedding table as float16 if its values allow that; says whether it was done.

    Args:
        model: the ``onnx.ModelProto``, changed in place; the caller saves it.
        folder: where its weight file lies; changed in place.
    """
    import numpy as np
    from onnx import TensorProto, helper

    graph = model.graph
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    tables = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    gather = next(
        (
            n
            for n in graph.node
            if n.op_type == "Gather" and n.input[0] in tables and len(tables[n.input[0]].dims) == 2
        ),
        None,
    )
    if gather is None or uses[gather.input[0]] != 1:
        return False
    table = tables[gather.input[0]]
    place = _place(table)
    if place is None or place[2] < SMALLEST_BYTES:
        return False
    file, offset, length = place
    path = folder / file
    wide = np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=(length // 4,))
    narrow = np.empty(wide.shape, dtype="<f2")
    step = 2**24
    for start in range(0, len(wide), step):
        part = np.asarray(wide[start : start + step])
        with np.errstate(over="ignore"):
            narrow[start : start + step] = part
        if not (np.abs(narrow[start : start + step].astype("<f4") - part) <= _EXACT).all():
            return False
    del wide
    with explained(path), path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(narrow.tobytes())
        _fill(stream, graph, file, offset + narrow.nbytes, offset + length)
    table.data_type = TensorProto.FLOAT16
    _move(table, offset, narrow.nbytes)
    for info in graph.value_info:
        if info.name == table.name:
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
    looked_up = f"{gather.output[0]}/float16"
    cast = helper.make_node(
        "Cast", [looked_up], [gather.output[0]], name=f"{gather.name}/Cast", to=TensorProto.FLOAT
    )
    gather.output[0] = looked_up
    graph.node.insert(
        next(i for i, node in enumerate(graph.node) if node is gather or node.name == gather.name) + 1, cast
    )
    return True


def _place(tensor: Any) -> tuple[str, int, int] | None:
    """File, offset and length of a tensor that lies outside the graph."""
    if not tensor.external_data:
        return None
    entry = {item.key: item.value for item in tensor.external_data}
    return entry["location"], int(entry.get("offset", 0)), int(entry["length"])


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
        place = _place(tensor)
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
    places = [_place(tensor) for tensor in graph.initializer]
    used = max((place[1] + place[2] for place in places if place is not None and place[0] == file), default=0)
    stream.flush()
    os.ftruncate(stream.fileno(), max(used, start))
