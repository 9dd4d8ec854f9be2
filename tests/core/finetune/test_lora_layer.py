"""The LoRA layer on packed weights: unpacking, gradients, and adapters that plain PEFT can read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as PeftLinear

from core.finetune.device import recompute_layers
from core.finetune.lora_layer import (
    LoraLinear,
    RowDropout,
    add_lora,
    linear_names,
    load_lora,
    masked,
    register_layers,
    save_adapter,
)
from core.olive.checkpoint import QuantLinear, load_model, unpack_linears, unpacked_weight
from tests.core.finetune.helpers import quantized_tiny


def packed(
    rows: int = 24, cols: int = 96, *, bits: int = 4, group: int = 32, symmetric: bool = False
) -> QuantLinear:
    torch.manual_seed(0)
    return QuantLinear.from_module(
        torch.nn.Linear(cols, rows), bits=bits, symmetric=symmetric, group_size=group
    )


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 16, -1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_unpacking_equals_olives(bits: int, group: int, symmetric: bool) -> None:
    layer = packed(bits=bits, group=group, symmetric=symmetric)
    wanted = layer.unpack_and_dequantize(layer.qweight, layer.scales, layer.qzeros)
    assert torch.equal(unpacked_weight(layer, torch.float32), wanted)
    half = layer.to(torch.bfloat16)
    wanted = half.unpack_and_dequantize(half.qweight, half.scales, half.qzeros)
    assert torch.equal(unpacked_weight(half, torch.bfloat16), wanted)


def lora_pair(dropout: float = 0.0) -> tuple[LoraLinear, PeftLinear]:
    """Our layer on packed weights and PEFT's own on the same weights unpacked, with equal adapters."""
    base = packed()
    dense = torch.nn.Linear(96, 24)
    dense.weight.data, dense.bias.data = unpacked_weight(base, torch.float32), base.bias.clone()
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout)
    ours = LoraLinear(base, "default", config=config, r=4, lora_alpha=6)
    theirs = PeftLinear(dense, "default", config=config, r=4, lora_alpha=6)
    if dropout:  # one way to drop, and the same choice by the same seed
        for layer in ours, theirs:
            layer.lora_dropout["default"] = RowDropout(dropout)
    for name in ("lora_A", "lora_B"):
        matrix = torch.randn_like(getattr(ours, name)["default"].weight)
        getattr(ours, name)["default"].weight.data = matrix
        getattr(theirs, name)["default"].weight.data = matrix.clone()
    return ours, theirs


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_output_and_gradients_equal_those_of_a_dense_layer(dropout: float) -> None:
    ours, theirs = lora_pair(dropout)
    x = torch.randn(2, 5, 96)
    results = []
    for layer in ours, theirs:
        torch.manual_seed(1)
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        (y * torch.linspace(-1, 1, 24)).sum().backward()
        a, b = layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
        assert a.abs().max() > 0
        assert b.abs().max() > 0
        results.append((y, inputs.grad, a, b))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_drops_as_many_as_it_says(dtype: torch.dtype) -> None:
    drop = RowDropout(0.05).train()
    x = torch.ones(7, 100, 99, dtype=dtype)
    y = drop(x)
    assert set(y.unique().tolist()) == {0.0, (torch.tensor(1.0, dtype=dtype) / 0.95).item()}
    assert 0.045 < float((y == 0).float().mean()) < 0.055
    assert torch.equal(masked(x, drop.kept(x)).unique(), torch.tensor([0.0, 1.0], dtype=dtype))


def test_an_adapter_taken_off_leaves_the_base() -> None:
    ours, _ = lora_pair()
    x = torch.randn(3, 96)
    ours.enable_adapters(False)
    assert torch.equal(ours(x), ours.get_base_layer()(x))


def test_packed_weights_refuse_to_be_merged() -> None:
    ours, theirs = lora_pair()
    with pytest.raises(NotImplementedError, match="unpack"):
        ours.merge()
    x = torch.randn(3, 96)
    dense = LoraLinear(theirs.get_base_layer(), "default", config=LoraConfig(r=4), r=4, lora_alpha=6)
    dense.lora_B["default"].weight.data = torch.randn(24, 4)
    before = dense(x)
    dense.merge()
    torch.testing.assert_close(dense(x), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("phi3", ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
        ("qwen2", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ],
)
def test_all_linear_layers_but_the_output_get_an_adapter(arch: str, names: list[str], tmp_path: Path) -> None:
    model = load_model(quantized_tiny(tmp_path, arch))
    assert linear_names(model) == names
    peft_model = add_lora(model, rank=4, alpha=8)
    with_adapter = [m for m in peft_model.modules() if isinstance(m, LoraLinear)]
    assert len(with_adapter) == len(names) * model.config.num_hidden_layers
    assert all(isinstance(m.get_base_layer(), QuantLinear) for m in with_adapter)
    trained = [p for p in peft_model.parameters() if p.requires_grad]
    assert len(trained) == 2 * len(with_adapter)
    assert all(p.dtype == torch.float32 for p in trained)


def test_plain_peft_reads_the_adapter_and_agrees(tmp_path: Path) -> None:
    folder = quantized_tiny(tmp_path / "model", "llama")
    ids = torch.tensor([[1, 2, 3, 50, 60]])
    torch.manual_seed(0)
    peft_model = add_lora(load_model(folder), rank=4, alpha=8)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    save_adapter(peft_model, tmp_path / "adapter")
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    ours = peft_model.eval()(input_ids=ids).logits

    dense = load_model(folder)
    assert unpack_linears(dense, torch.float32) == 14
    assert not any(isinstance(m, QuantLinear) for m in dense.modules())
    plain = PeftModel.from_pretrained(dense, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(plain(input_ids=ids).logits, ours, rtol=1e-3, atol=1e-3)
    again = load_lora(load_model(folder), str(tmp_path / "adapter"))
    torch.testing.assert_close(again(input_ids=ids).logits, ours)


def test_recomputing_layers_changes_no_gradient(tmp_path: Path) -> None:
    folder = quantized_tiny(tmp_path, "phi3")
    ids = torch.tensor([[1, 2, 3, 50, 60]])
    found = []
    for count in (0, 1, 2):
        model = load_model(folder)
        torch.manual_seed(0)
        peft_model = add_lora(model, rank=4, alpha=8)
        assert recompute_layers(model, count) == count
        model.train()
        model(input_ids=ids, use_cache=False).logits.square().mean().backward()
        found.append({n: p.grad for n, p in peft_model.named_parameters() if p.grad is not None})
    assert len(found[0]) == 16
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient)


def test_registering_tells_peft_of_both_kinds() -> None:
    config = register_layers(LoraConfig())
    assert config._custom_modules[QuantLinear] is LoraLinear
