"""NaN and infinity are found by their bits, whatever the type, wherever they are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.model import finite
from core.model.finite import bytes_to_look_at, first_not_finite

TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(TYPES)),
    bits=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40),
)
def test_it_agrees_with_torch_for_any_bits(folder: Path, kind: str, bits: list[int]) -> None:
    dtype = TYPES[kind]
    width = dtype.itemsize
    raw = np.array([each & (2 ** (8 * width) - 1) for each in bits], dtype=f"<u{width}").tobytes()
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype)
    file = folder / "any.safetensors"
    save_file({"first": torch.ones(3), "second": tensor}, file)
    found = first_not_finite([file], "float32")
    bad = [i for i, good in enumerate(torch.isfinite(tensor).tolist()) if not good]
    kinds = ["NaN" if math.isnan(tensor[i].item()) else "Inf" for i in bad[:1]]
    told = found and (found.tensor, found.place, found.count, found.what)
    assert told == (("second", (bad[0],), len(bad), kinds[0]) if bad else None)


@settings(max_examples=150)
@given(
    kind=st.sampled_from(["bf16", "f32"]),
    numbers=st.lists(
        st.floats(-1e5, 1e5) | st.sampled_from([65504.0, 65519.996, -65520.0, 65536.0]),
        min_size=1,
        max_size=9,
    ),
)
def test_what_float16_cannot_hold_is_found_where_the_model_is_float16(
    folder: Path, kind: str, numbers: list[float]
) -> None:
    tensor = torch.tensor(numbers).to(TYPES[kind])
    file = folder / "large.safetensors"
    save_file({"first": torch.ones(3), "second": tensor}, file)
    assert first_not_finite([file], "float32") is None
    found = first_not_finite([file], "float16")
    bad = [i for i, good in enumerate(torch.isfinite(tensor.half()).tolist()) if not good]
    told = found and (found.place, found.count, found.what)
    assert told == (((bad[0],), len(bad), "too large for float16") if bad else None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -float("nan")])
@pytest.mark.parametrize("dtype", TYPES.values(), ids=list(TYPES))
def test_one_number_among_many_pieces(
    value: float, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "_AT_ONCE", 64)
    tensor = torch.randn(20, 30).to(dtype)
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(7).to(dtype), "b": tensor, "c": torch.arange(9)}, file)
    assert first_not_finite([file], "float32") is None
    tensor[13, 4] = value
    save_file({"a": torch.randn(7).to(dtype), "b": tensor, "c": torch.arange(9)}, file)
    found = first_not_finite([file], "float32")
    assert found is not None
    assert (found.tensor, found.place, found.count, found.file) == ("b", (13, 4), 1, file)


def test_a_file_that_was_found_finite_is_not_read_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(finite, "_REMEMBERED_FROM", 0)
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100)}, file)
    size = file.stat().st_size
    assert bytes_to_look_at([file], "float32") == size
    told: list[tuple[int, int]] = []
    assert first_not_finite([file], "float32", lambda done, total: told.append((done, total))) is None
    assert told
    assert all(0 <= done <= total == size for done, total in told)
    assert bytes_to_look_at([file], "float32") == 0
    save_file({"a": torch.full((101,), float("nan"))}, file)
    assert bytes_to_look_at([file], "float32") == file.stat().st_size
    for _ in range(2):  # a bad one is found each time
        assert first_not_finite([file], "float32") is not None


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(finite, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(finite, "_REMEMBERED_FROM", 0)
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3)}, file)
    assert first_not_finite([file], "float32") is None
