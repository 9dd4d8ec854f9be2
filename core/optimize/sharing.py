"""Models of one base that share what is equal in them: the embedding table and the output matrix, once on the disk.

An adapter that is merged changes the decoder's layers alone. So the matrices before and behind them lie in weight files
of their own, and where those of two models are equal, one is a hard link to the other. Each model's folder is whole by
itself: what copies one copies all of it.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.files import explained
from core.optimize.shrink import ALIGNMENT, place_of

_ENDS = {"model.embed_tokens.": "embedding", "lm_head.": "lm_head"}
"""What the names of tensors begin with that are set apart, and the name of their file."""
_SMALLEST_BYTES = 2**20
_PORTION = 2**24


def set_apart(folder: Path) -> None:
    """Give the matrices before and behind a model folder's layers weight files of their own, unless they have them."""
    import onnx

    graph_file = folder / "model.onnx"
    model = onnx.load(str(graph_file), load_external_data=False)
    groups: dict[str, list[Any]] = {}
    for tensor in model.graph.initializer:
        place = place_of(tensor)
        end = next((end for start, end in _ENDS.items() if tensor.name.startswith(start)), "")
        if place is not None and place[0] == "model.onnx.data":
            groups.setdefault(f"model.onnx.{end}.data" if end else "model.onnx.data", []).append(tensor)
    if (
        sum(size for file in groups if file != "model.onnx.data" for size in _sizes(groups[file]))
        < _SMALLEST_BYTES
    ):
        return
    with explained(folder), (folder / "model.onnx.data").open("rb") as source:
        for file, tensors in groups.items():
            copied: dict[
                tuple[str, int, int], tuple[int, int]
            ] = {}  # embeddings may be the output matrix's bytes
            with (folder / f".{file}.half").open("wb") as stream:
                for tensor in sorted(tensors, key=lambda each: place_of(each) or ("", 0, 0)):
                    place = place_of(tensor) or ("", 0, 0)
                    if place not in copied:
                        copied[place] = _copy(source, stream, place)
                    _lie(tensor, file, *copied[place])
        onnx.save(model, str(folder / ".model.onnx.half"))
        for name in (*groups, "model.onnx"):
            os.replace(folder / f".{name}.half", folder / name)


def _sizes(tensors: Iterable[Any]) -> Iterable[int]:
    return (place[2] for tensor in tensors if (place := place_of(tensor)) is not None)


def _copy(source: Any, stream: Any, place: tuple[str, int, int]) -> tuple[int, int]:
    """Copy what lies at a place to the end of a weight file; where it begins there, and its length."""
    stream.write(bytes(-stream.tell() % ALIGNMENT))
    at, left = stream.tell(), place[2]
    source.seek(place[1])
    while left:
        left -= stream.write(source.read(min(left, _PORTION)))
    return at, place[2]


def _lie(tensor: Any, file: str, at: int, length: int) -> None:
    """Let a tensor lie there."""
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", at), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def share(folder: Path, others: Iterable[Path]) -> int:
    """Replace weight files of a model folder by links to equal ones of others; returns the bytes that this saves."""
    saved = 0
    for end in _ENDS.values():
        file = folder / f"model.onnx.{end}.data"
        for other in others if file.is_file() else ():
            twin = other / file.name
            if twin.is_file() and not twin.samefile(file) and filecmp.cmp(file, twin, shallow=False):
                half = file.with_name(f".{file.name}.half")
                with suppress(OSError):  # a file system without links has it twice
                    os.link(twin, half)
                    os.replace(half, file)
                    saved += twin.stat().st_size
                break
    return saved
