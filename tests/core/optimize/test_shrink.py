"""Storing an embedding table in 16 bits: only where every number stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from core.optimize import shrink
from core.optimize.shrink import halve_embedding

ROWS, WIDTH = 40, 16


def rounded(values: Any, bits: int) -> Any:
    """Float32 numbers with so many of their lowest bits cleared."""
    return (values.view(np.uint32) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)).view(np.float32)


NORMAL = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
TABLES = {
    "float16": NORMAL.astype(np.float16).astype(np.float32),
    "bfloat16": rounded(NORMAL * np.float32(1e-9), 16),  # float16 has no numbers as small as these
    None: NORMAL,
}


def written(folder: Path, table: Any) -> Path:
    """A graph that looks up rows of ``table`` and adds ``bias``, its weights in a file beside it."""
    bias = np.arange(WIDTH, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="look_up"),
            helper.make_node("Add", ["rows", "bias"], ["sum"]),
        ],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", WIDTH])],
        [onnx.numpy_helper.from_array(table, "table"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


def looked_up(path: Path) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.arange(ROWS)})[0]


@pytest.mark.parametrize("kind", list(TABLES), ids=str)
def test_the_look_up_gives_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    monkeypatch.setattr(shrink, "SMALLEST_BYTES", 0)
    monkeypatch.setattr(shrink, "ALIGNMENT", 64)
    path = written(tmp_path, TABLES[kind])
    weights = path.with_name("model.onnx.data")
    before, size = looked_up(path), weights.stat().st_size
    model = onnx.load(str(path), load_external_data=False)
    assert halve_embedding(model, tmp_path) == kind
    onnx.save(model, str(path))
    assert np.array_equal(looked_up(path), before)
    least, most = (0, 0) if kind is None else (ROWS * WIDTH * 2 - 64, size)
    assert least <= size - weights.stat().st_size <= most


def test_a_small_table_is_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path, TABLES["float16"])
    assert halve_embedding(onnx.load(str(path), load_external_data=False), tmp_path) is None
