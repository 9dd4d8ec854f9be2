"""Folds: a scale moved from one place to another leaves the float layer's output alone, or is undone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from core.quantize.awq_folds import Fold, apply, find_folds, moved, norm_offset, undo
from core.quantize.layerwise import LayerwiseModel, batches
from tests.tiny_models import ARCHITECTURES, FURTHER, make_tiny

ROWS = [[5, 6, 7, 8, 100, 200, 31, 32], [30, 40, 50, 60], [9] * 12]
ALL = {"attention input", "value to output", "mlp input", "up to down"}


def opened(folder: Path, arch: str, **options: object) -> LayerwiseModel:
    model = LayerwiseModel(make_tiny(arch, folder, salient=3, **options), dtype=torch.float32)  # type: ignore[arg-type]
    work = batches(ROWS, 4096)
    model.load_outer()
    model.start(work)
    model.load_layer(0)
    model.batch = work[0]  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *(arch for arch in FURTHER if arch != "olmo")])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_every_fold_of_every_architecture_leaves_the_layer_as_it_was(
    arch: str, kv_heads: int, tmp_path: Path
) -> None:
    bias = True if arch in ("llama", "qwen3") else None
    model = opened(tmp_path / arch, arch, kv_heads=kv_heads, bias=bias)
    layer, batch = model.layers[0], model.batch  # type: ignore[attr-defined]
    before = model.run_layer(0, batch)
    folds, left = find_folds(model.wrapper.get_layer_wrappers()[0], model.wrapper.head_dim)
    assert {fold.name for fold in folds} == ALL
    assert left == []
    numbers = torch.Generator().manual_seed(1)
    for fold in folds:
        master = {m: m.weight.data.float() for m in layer.modules() if isinstance(m, nn.Linear)}
        wanted = fold.share(torch.rand(fold.readers[0].in_features, generator=numbers) * 3 + 0.3)
        given, old = apply(fold, wanted, master, torch.float32)
        assert torch.allclose(given, wanted, rtol=1e-3)
        assert torch.equal(fold.readers[0].weight, master[fold.readers[0]])
        assert not torch.allclose(fold.readers[0].weight, old.masters[0][1], rtol=0.1)
        share = moved([before], [model.run_layer(0, batch)], [batch.hidden])
        assert share < 1e-4, fold.name
    model.close()


def test_a_fold_at_the_wrong_place_is_seen_and_undone_without_a_trace(tmp_path: Path) -> None:
    model = opened(tmp_path / "m", "llama")
    layer, batch = model.layers[0], model.batch  # type: ignore[attr-defined]
    folds, _ = find_folds(model.wrapper.get_layer_wrappers()[0], model.wrapper.head_dim)
    fold = folds[0]
    fold.norm = layer.post_attention_layernorm  # not what feeds q, k and v
    master = {m: m.weight.data.float() for m in layer.modules() if isinstance(m, nn.Linear)}
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    before = model.run_layer(0, batch)
    _, old = apply(fold, torch.linspace(0.5, 3, 64), master, torch.float32)
    assert moved([before], [model.run_layer(0, batch)], [batch.hidden]) > 0.05
    undo(old, master)
    assert torch.equal(model.run_layer(0, batch), before)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name]), name
    for linear, weight in master.items():
        assert torch.equal(linear.weight, weight)
    model.close()


def test_a_norm_in_16_bits_gives_its_readers_the_scale_that_it_could_store() -> None:
    norm = nn.RMSNorm(64, dtype=torch.float32)
    norm.weight.data = (torch.rand(64) + 0.5).to(torch.bfloat16).float()
    reader = nn.Linear(64, 8, bias=False)
    whole = norm.weight.data.clone() * reader.weight.data
    master = {reader: reader.weight.data.clone()}
    given, _ = apply(
        Fold("attention input", [reader], norm=norm), torch.rand(64) + 0.5, master, torch.bfloat16
    )
    assert torch.equal(norm.weight, norm.weight.to(torch.bfloat16).float())
    assert torch.allclose(norm.weight * master[reader], whole, rtol=1e-6)
    assert (given > 0).all()


@pytest.mark.parametrize(("arch", "offset"), [("llama", 0.0), ("gemma", 1.0), ("gemma3", 1.0), ("phi3", 0.0)])
def test_norms_of_one_plus_weight_are_told_from_others(arch: str, offset: float, tmp_path: Path) -> None:
    model = opened(tmp_path / "m", arch)
    assert norm_offset(model.layers[0].input_layernorm) == offset
    assert norm_offset(nn.LayerNorm(16)) == 0.0
    model.close()


def test_shared_channels_of_grouped_query_attention_get_one_scale() -> None:
    fold = Fold("value to output", [], repeat=2, head=3)
    shared = fold.share(torch.arange(12.0))
    # Heads 0 and 1 read value head 0, heads 2 and 3 read value head 1.
    assert shared.tolist() == [1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 7.5, 8.5, 9.5, 7.5, 8.5, 9.5]
    assert fold.made(shared).tolist() == [1.5, 2.5, 3.5, 7.5, 8.5, 9.5]


def test_what_cannot_be_folded_is_said(tmp_path: Path) -> None:
    from olive.common.hf.wrapper import ModelWrapper
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=32)
    wrapper = ModelWrapper.from_model(GPT2LMHeadModel(config))
    folds, left = find_folds(wrapper.get_layer_wrappers()[0], 16)
    assert folds == []  # its projections are no Linear layers
    assert len(left) == 4
