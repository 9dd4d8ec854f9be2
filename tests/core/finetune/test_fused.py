"""Kernels between the matrix products, and tables kept from pass to pass: the same numbers as without them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from core.finetune import cpu, fused
from core.finetune.lora_layer import add_lora
from core.olive.checkpoint import QuantLinear, load_model, unpacked_weight
from tests.tiny_models import make_tiny

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
kernels = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs an NVIDIA GPU"
)
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def pair(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, requires_grad=True)


def gradients(made: Any, upstream: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = torch.autograd.grad(made, inputs, upstream, retain_graph=True)
    return found


@kernels
@pytest.mark.parametrize("kind", [0, 1])
def test_gated(kind: int) -> None:
    from core.finetune.kernels import Gated

    def act(x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x, approximate="tanh") if kind else functional.silu(x)

    joined, up, upstream = pair(3, 5, 200), pair(3, 5, 100), torch.randn(3, 5, 100, device=DEVICE)
    left, right = joined.chunk(2, dim=-1)
    wanted = act(left) * right
    made = Gated.apply(joined, None, kind)
    torch.testing.assert_close(made, wanted, **NEAR)
    torch.testing.assert_close(gradients(made, upstream, joined), gradients(wanted, upstream, joined), **NEAR)
    gate = pair(3, 5, 100)
    torch.testing.assert_close(
        gradients(Gated.apply(gate, up, kind), upstream, gate, up),
        gradients(act(gate) * up, upstream, gate, up),
        **NEAR,
    )


@pytest.mark.parametrize("where", ["cpu", pytest.param("kernels", marks=kernels)])
@pytest.mark.parametrize(("width", "turned", "queries", "keys"), [(24, 24, 4, 4), (32, 20, 6, 2)])
def test_turned(where: str, width: int, turned: int, queries: int, keys: int) -> None:
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    ways: Any = import_module(f"core.finetune.{where}")
    rows, tokens = 2, 7
    joined = pair(rows, tokens, (queries + 2 * keys) * width)
    cos, sin = (torch.randn(1, tokens, turned, device=DEVICE) for _ in range(2))
    cut = joined.view(rows, tokens, -1, width).split([queries, keys, keys], dim=2)
    q, k, v = (each.transpose(1, 2) for each in cut)
    wanted = (*apply_rotary_pos_emb(q, k, cos, sin), v)
    upstream = [torch.randn_like(each) for each in wanted]
    made = ways.turn_and_cut(joined, cos, sin, queries, keys)
    torch.testing.assert_close(made, wanted, **NEAR)
    torch.testing.assert_close(gradients(made, upstream, joined), gradients(wanted, upstream, joined), **NEAR)
    apart = ways.turn(q, k, cos, sin)
    torch.testing.assert_close(apart, wanted[:2], **NEAR)
    torch.testing.assert_close(
        gradients(apart, upstream[:2], joined), gradients(wanted[:2], upstream[:2], joined), **NEAR
    )


@kernels
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(6, 96, 32), (5, 64, 16), (7, 48, 16)])
def test_unpacked(bits: int, symmetric: bool, outputs: int, inputs: int, group: int) -> None:
    from core.olive.checkpoint import _unpacked_by_torch
    from core.olive.kernels import unpack

    layer = QuantLinear.from_module(
        torch.nn.Linear(inputs, outputs), bits=bits, symmetric=symmetric, group_size=group
    ).to(DEVICE)
    found = unpack(layer.qweight, layer.scales, layer.qzeros, columns=inputs, bits=bits, dtype=torch.float32)
    assert torch.equal(found, _unpacked_by_torch(layer, torch.float32))
    assert torch.equal(unpacked_weight(layer, torch.float32), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_on_a_cpu(dtype: torch.dtype) -> None:
    x, upstream = torch.randn(3, 5, 96) * 4, torch.randn(3, 5, 96)
    weight = torch.rand(96) + 0.5
    wanted_of = x.clone().requires_grad_()
    wanted = functional.rms_norm(wanted_of, (96,), weight, 1e-5)
    made_of = x.to(dtype).requires_grad_()
    made = cpu.Norm.apply(made_of, weight.to(dtype), 1e-5)
    near: dict[str, Any] = NEAR if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(made.float(), wanted, **near)
    (found,) = gradients(made, upstream.to(dtype), made_of)
    torch.testing.assert_close(found.float(), *gradients(wanted, upstream, wanted_of), **near)


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["phi3", "llama", "qwen3", "gemma2", "gemma3", "granite", "mistral"])
def test_a_fused_model_learns_the_same(tmp_path: Path, arch: str) -> None:
    make_tiny(arch, tmp_path)
    ids = torch.arange(40, device=DEVICE).view(2, 20) % 50 + 3
    fused_in: list[int] = []

    def learnt(quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model = load_model(tmp_path, device=DEVICE, dtype=torch.float32)
        if quick and DEVICE == "cpu":
            model.set_attn_implementation(cpu.register_attention())
        fused_in.append(fused.fuse(model) if quick else 0)
        torch.manual_seed(1)
        add_lora(model, rank=4, alpha=8)
        trained = [p for p in model.parameters() if p.requires_grad]
        for each in trained:
            each.data.normal_(0, 0.05)
        with fused.kept_tables(model), fused.quick_turns(model) if quick else nullcontext():
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            return loss.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])

    torch.testing.assert_close(learnt(True), learnt(False), rtol=1e-3, atol=1e-5)
    assert (fused_in[0] > 0) == (
        DEVICE == "cuda" or arch == "phi3"
    )  # a CPU keeps matrices that are not joined


@pytest.mark.parametrize("arch", ["phi3", "gemma3"])
def test_tables_are_made_once_for_a_shape(tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(arch, tmp_path)
    model = load_model(tmp_path)
    rotary = next(m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding"))
    asked = []
    own = rotary.forward

    def counted(x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        asked.append(tuple(position_ids.shape))
        return own(x, position_ids, *args, **kwargs)

    monkeypatch.setattr(rotary, "forward", counted)
    ids = {width: torch.arange(2 * width).view(2, width) % 50 + 3 for width in (6, 9)}
    later = torch.arange(6)[None] + 3
    with torch.no_grad():
        wanted = {width: model(input_ids=ids[width], use_cache=False).logits for width in ids}
        shifted = model(input_ids=ids[6], position_ids=later, use_cache=False).logits
        before = len(asked)
        with fused.kept_tables(model):
            for width in (6, 9, 6, 9):
                assert torch.equal(model(input_ids=ids[width], use_cache=False).logits, wanted[width])
            once = len(asked) - before
        # Outside, everything is as it was; positions that do not begin at the start are never taken for such.
        assert torch.equal(model(input_ids=ids[6], position_ids=later, use_cache=False).logits, shifted)
        with fused.kept_tables(model):
            first = model(input_ids=ids[6], position_ids=later, use_cache=False).logits
            assert torch.equal(first, shifted)
            assert torch.equal(model(input_ids=ids[6], use_cache=False).logits, wanted[6])
    assert once == before // 3 * 2
