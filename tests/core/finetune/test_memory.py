"""The estimate of memory, the choice of the way, and the settings that would fit instead."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.finetune.device import out_of_memory_words
from core.finetune.memory import SPARE, TrainingSize, Way, spread_if_needed
from core.model.folder import config_facts

GIB = 2**30

# The published configuration of Phi-3.5-mini-instruct, quantized to 4 bits in groups of 128.
PHI = config_facts(
    {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "olive", "bits": 4, "group_size": 128},
    }
)


def test_the_shape_of_a_known_model() -> None:
    assert PHI.linear_numbers + PHI.end_numbers == pytest.approx(3.82e9, rel=0.01)
    assert PHI.adapter_numbers(64) == 100_663_296  # as PEFT counts them


def test_a_grouped_query_model_has_smaller_keys() -> None:
    shape = config_facts(
        {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 100,
            "tie_word_embeddings": True,
        }
    )
    assert sorted(shape.linears) == sorted(
        [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    )
    assert shape.bits is None


def test_the_full_size_case_fits_into_eight_gib() -> None:
    need = TrainingSize(PHI, rank=64, batch=8, length=1024).need("low")
    assert 6 * GIB < need.total < 8 * GIB


@pytest.mark.parametrize("key", ["rank", "batch", "length"])
@pytest.mark.parametrize("way", ["low", "fast"])
def test_more_of_anything_needs_more(key: str, way: Way) -> None:
    less: dict[str, Any] = {"rank": 32, "batch": 4, "length": 512}
    more = {**less, key: less[key] * 2}
    assert TrainingSize(PHI, **more).need(way).total > TrainingSize(PHI, **less).need(way).total


@pytest.mark.parametrize(
    ("free", "way", "recomputed"),
    [(100, "fast", range(1)), (40, "fast", range(1, 24)), (10, "low", range(32, 33))],
)
def test_the_way_follows_from_the_memory(free: int, way: str, recomputed: range) -> None:
    plan = TrainingSize(PHI, rank=64, batch=8, length=1024).plan(free * GIB)
    assert plan.way == way
    assert plan.recomputed in recomputed
    assert plan.fits
    assert plan.need.total < free * GIB
    assert way in plan.reason


def test_the_recipe_may_insist() -> None:
    assert TrainingSize(PHI, rank=64, batch=8, length=1024).plan(100 * GIB, "low").way == "low"
    plan = TrainingSize(PHI, rank=64, batch=8, length=1024).plan(6 * GIB, "fast")
    assert (plan.way, plan.recomputed, plan.fits) == ("fast", 32, False)


@pytest.mark.parametrize("free", [3.5, 5, 6])
def test_what_is_said_to_fit_does_fit(free: float) -> None:
    asked: dict[str, Any] = {"rank": 64, "batch": 8, "length": 1024}
    assert not TrainingSize(PHI, **asked).plan(int(free * GIB)).fits
    said = TrainingSize(PHI, **asked).what_fits(int(free * GIB))
    assert said
    names = {"finetune.rank": "rank", "finetune.batch_size": "batch", "data.max_seq_len": "length"}
    for suggestion in said:
        changed = {**asked, **{names[key]: value for key, value in suggestion.values.items()}}
        assert TrainingSize(PHI, **changed).plan(int(free * GIB)).fits, suggestion


def test_after_a_run_that_failed_clearly_less_is_suggested() -> None:
    asked: dict[str, Any] = {"rank": 64, "batch": 8, "length": 1024}
    tried = TrainingSize(PHI, **asked).plan(9 * GIB, "low")
    assert tried.fits  # and yet it ran out of memory
    said = TrainingSize(PHI, **asked).what_fits(9 * GIB, failed=tried.need.total)
    (batch,) = (use.value for use in said if use.option == "finetune.batch_size")
    assert isinstance(batch, int)
    less = TrainingSize(PHI, **{**asked, "batch": batch}).plan(9 * GIB, "low").need.total
    assert batch < 7
    assert less < 0.86 * tried.need.total


def test_dropout_counts_in_what_is_suggested() -> None:
    asked: dict[str, Any] = {"rank": 64, "batch": 64, "length": 1024}
    batch, with_dropout = (
        int(TrainingSize(PHI, **asked, dropout=dropout).what_fits(8 * GIB)[0].values["finetune.batch_size"])
        for dropout in (False, True)
    )
    assert with_dropout < batch


def test_torchs_words_are_cut_to_what_helps() -> None:
    words = (
        "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which "
        "1.62 MiB is free. Process 7 has 75.17 GiB memory in use. Of the allocated memory 3.17 GiB is "
        "allocated by PyTorch. If reserved but unallocated memory is large try setting OTHER.\nMore"
    )
    told = out_of_memory_words(RuntimeError(words))
    assert told.endswith("Process 7 has 75.17 GiB memory in use")
    assert out_of_memory_words(torch.OutOfMemoryError()) == "OutOfMemoryError"


def test_nothing_fits_where_not_even_the_weights_do() -> None:
    assert TrainingSize(PHI, rank=64, batch=8, length=1024).what_fits(GIB) == []


def test_a_float_model_is_not_unpacked() -> None:
    plan = TrainingSize(dataclasses.replace(PHI, quantization=None), 64, 8, 1024).plan(100 * GIB)
    assert "unpacked" not in plan.reason


# As Llama 3.1 70B, quantized to 4 bits.
LARGE = config_facts(
    {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "olive", "bits": 4, "group_size": 128},
    }
)


def test_a_base_too_large_for_one_card_is_spread_over_several() -> None:
    size = TrainingSize(LARGE, rank=16, batch=1, length=1024)
    cards = [32 * GIB, 32 * GIB]
    plan = spread_if_needed(size, 1, cards)
    assert plan is not None
    assert (plan.way, sum(plan.spread)) == ("low", 80)
    assert plan.spread[0] < plan.spread[1], "the first has the embeddings, too"
    assert "layers on 2 GPUs" in plan.reason
    assert spread_if_needed(size, 1, [48 * GIB, 48 * GIB]) is None, "one has room"
    assert spread_if_needed(size, 1, [12 * GIB, 12 * GIB]) is None, "both have not"
    assert size.spread([80 * GIB] * 4).way == "fast", "the weights fit on four unpacked"
    assert size.spread([80 * GIB] * 4, "low").way == "low"


def test_what_fits_on_several_cards_is_what_is_said() -> None:
    asked: dict[str, Any] = {"rank": 16, "batch": 64, "length": 1024}
    cards = [32 * GIB, 32 * GIB]
    assert not TrainingSize(LARGE, **asked).spread(cards).fits
    said = TrainingSize(LARGE, **asked).what_fits(cards)[0]
    asked["batch"] = said.value
    assert TrainingSize(LARGE, **asked).spread(cards).fits


@given(st.lists(st.integers(0, 60), min_size=2, max_size=5), st.integers(1, 8))
def test_layers_are_spread_whenever_they_have_room(gib: list[int], batch: int) -> None:
    size = TrainingSize(LARGE, rank=16, batch=batch, length=512)
    free = [each * GIB for each in gib]
    plan = size.spread(free, "low")
    assert sum(plan.spread) == LARGE.layers
    assert len(plan.spread) == len(free)
    need, usable = size.need("low"), [each * (1 - SPARE) for each in free]
    ends = LARGE.end_numbers * 2
    layer = (need.total - need.working - ends) / LARGE.layers
    room = [(each - need.working - (0 if at else ends)) / layer for at, each in enumerate(usable)]
    within = all(count <= each + 1e-6 for count, each in zip(plan.spread, room, strict=True) if count)
    too_small = room[0] < 0 or sum(max(0, int(each)) for each in room) <= LARGE.layers + len(free)
    assert within if plan.fits else too_small
