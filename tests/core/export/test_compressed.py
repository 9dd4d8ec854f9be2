"""The form of compressed-tensors, unpacked by hand: the words hold what was put into them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.export.compressed import Scheme, _words, as_packed, quantization_config, rounded
from core.olive.checkpoint import Packed


def numbers_in(words: torch.Tensor, count: int) -> torch.Tensor:
    wide = words.to(torch.int64) & 0xFFFFFFFF
    return torch.stack([(wide >> (8 * at)) & 255 for at in range(4)], -1).flatten(1)[:, :count] - 128


def test_the_labs_own_numbers_lose_nothing() -> None:
    draw = torch.manual_seed(0)
    packed = Packed(
        torch.randint(0, 16, (5, 64), dtype=torch.uint8, generator=draw),
        torch.rand(5, 2, generator=draw),
        torch.randint(0, 16, (5, 2), dtype=torch.uint8, generator=draw),
        4,
    )
    parts, scheme = as_packed(packed)
    assert scheme == Scheme(8, 32, symmetric=True)
    back = numbers_in(parts["weight_packed"], 64).view(5, 2, 32) * parts["weight_scale"].unsqueeze(-1)
    assert torch.equal(back.view(5, 64), packed.weight())
    assert parts["weight_shape"].tolist() == [5, 64]


@given(rows=st.integers(1, 5), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_eight_bits_are_near(rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.manual_seed(seed))
    parts, scheme = rounded(weight, torch.float32)
    codes = numbers_in(parts["weight_packed"], columns).view(rows, -1, scheme.group_size)
    back = (codes * parts["weight_scale"].unsqueeze(-1)).view(rows, columns)
    assert (back - weight).abs().max() <= parts["weight_scale"].max() / 2 + 1e-6


def test_matrices_of_one_name_and_several_schemes_are_told_apart() -> None:
    four, eight = Scheme(4, 32, symmetric=False), Scheme(8, 32, symmetric=False)
    config = quantization_config({"m.0.q": four, "m.0.o": four, "m.1.q": eight, "head": eight}, [])
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert targets == [["m.0.q", "re:.*\\bo$"], ["m.1.q", "re:.*\\bhead$"]]


def test_compressed_tensors_reads_it() -> None:
    packing = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(0, 256, (8, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    back = packing.unpack_from_int32(_words(codes), 8, torch.Size(codes.shape))
    assert (back.to(torch.int16) + 128).tolist() == codes.tolist()
