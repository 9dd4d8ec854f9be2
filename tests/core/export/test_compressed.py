"""The form of compressed-tensors, unpacked by hand: the words hold what was put into them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.export.compressed import Scheme, _words, as_packed, quantization_config, rounded
from core.olive.checkpoint import Packed


def numbers_in(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    wide = words.to(torch.int64) & 0xFFFFFFFF
    return torch.stack([(wide >> (bits * at)) & ((1 << bits) - 1) for at in range(32 // bits)], -1).flatten(
        1
    )[:, :count]


@given(
    bits=st.sampled_from([4, 8]), rows=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_words(bits: int, rows: int, columns: int, seed: int) -> None:
    columns += columns % 2  # two numbers of four bits fill a byte
    codes = torch.randint(0, 1 << bits, (rows, columns), dtype=torch.uint8, generator=torch.manual_seed(seed))
    assert numbers_in(_words(codes, bits), bits, columns).tolist() == codes.tolist()


def test_the_labs_own_codes_and_zero_points() -> None:
    draw = torch.manual_seed(0)
    codes = torch.randint(0, 16, (5, 64), dtype=torch.uint8, generator=draw)
    zeros = torch.randint(0, 16, (5, 2), dtype=torch.uint8, generator=draw)
    parts, scheme = as_packed(Packed(codes, torch.rand(5, 2), zeros, 4))
    assert scheme == Scheme(4, 32, symmetric=False)
    assert numbers_in(parts["weight_packed"], 4, 64).tolist() == codes.tolist()
    assert numbers_in(parts["weight_zero_point"].T, 4, 5).T.tolist() == zeros.tolist()
    assert parts["weight_shape"].tolist() == [5, 64]


def test_eight_bits_are_near() -> None:
    weight = torch.randn(6, 96, generator=torch.manual_seed(0))
    parts, scheme = rounded(weight, torch.float32)
    codes = numbers_in(parts["weight_packed"], 8, 96).float() - 128
    back = codes.view(6, 3, 32) * parts["weight_scale"].unsqueeze(-1)
    assert (back.view(6, 96) - weight).abs().max() <= parts["weight_scale"].max() / 2 + 1e-6
    assert scheme.symmetric


def test_matrices_of_one_name_and_several_schemes_are_told_apart() -> None:
    four, eight = Scheme(4, 32, symmetric=False), Scheme(8, 32, symmetric=False)
    config = quantization_config({"m.0.q": four, "m.0.o": four, "m.1.q": eight, "head": eight}, [])
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert targets == [["m.0.q", "re:.*\\bo$"], ["m.1.q", "re:.*\\bhead$"]]


def test_compressed_tensors_reads_it() -> None:
    packing = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(0, 16, (8, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    back = packing.unpack_from_int32(_words(codes, 4), 4, torch.Size(codes.shape))
    assert (back.to(torch.int16) + 8).tolist() == codes.tolist()
