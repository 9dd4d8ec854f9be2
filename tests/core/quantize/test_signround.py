"""Rounding that is learnt by the signs of gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.errors import Cancelled
from core.events import RecordingReporter
from core.files import digest
from core.olive.checkpoint import load_model
from tests.core.quantize.conftest import Made
from tests.core.quantize.test_awq import far_from_float
from tests.tiny_models import make_tiny

Quantize = Callable[..., Made]


@pytest.mark.parametrize("arch", ["llama", "phi3", "gemma3", "qwen2"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_learning_brings_the_layers_nearer_to_the_float_ones(
    arch: str, rounding: str, quantize: Quantize, tmp_path: Path
) -> None:
    source = make_tiny(arch, tmp_path / "float", salient=4)
    plain = quantize(source, tmp_path / "plain", rounding=rounding, rows=96, quantized_inputs=True)
    learnt = quantize(source, tmp_path / "learnt", rounding=rounding, rows=96, learn=60)
    assert "learnt_error_ratio" not in plain.told
    assert learnt.told["learnt_error_ratio"] < 0.95
    assert far_from_float(source, learnt.path) < 0.95 * far_from_float(source, plain.path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradients_of_every_type_move_something_and_two_runs_give_the_same(
    dtype: str, quantize: Quantize, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "float", dtype=dtype, layers=2)
    made = [quantize(source, tmp_path / name, learn=40) for name in ("one", "two")]
    assert made[0].told["learnt_error_ratio"] < 1
    assert digest(made[0].path / "model.safetensors") == digest(made[1].path / "model.safetensors")
    other = quantize(source, tmp_path / "other", learn=40, batch_tokens=64, seed=1)
    assert digest(other.path / "model.safetensors") != digest(made[0].path / "model.safetensors")


def test_what_learning_makes_worse_stays_as_it_was(quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "float", layers=2)
    # At eight bits and in one step everything moves by half a code, which is far.
    plain = quantize(source, tmp_path / "plain", bits=8, quantized_inputs=True)
    learnt = quantize(source, tmp_path / "learnt", bits=8, learn=1)
    assert learnt.told["learnt_error_ratio"] == 1
    assert digest(learnt.path / "model.safetensors") == digest(plain.path / "model.safetensors")


def test_codes_and_scales_stay_within_the_grid(quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny("qwen2", tmp_path / "float", salient=4)
    model = load_model(quantize(source, tmp_path / "made", learn=60).path)
    for layer in model.model.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            assert torch.isfinite(linear.scales).all()
            assert (linear.scales > 0).all()


def test_learning_can_be_stopped_within_a_layer(quantize: Quantize, tmp_path: Path) -> None:
    class Impatient(RecordingReporter):
        calls = 0

        def check_cancelled(self) -> None:
            self.calls += 1
            if self.calls > 2000:
                raise Cancelled

    report = Impatient()
    with pytest.raises(Cancelled):
        quantize(make_tiny("llama", tmp_path / "float"), tmp_path / "made", report=report, learn=100_000)
    done = [e["done"] for e in report.events if e.get("phase") == "Scaling and rounding the layers"]
    assert done == [0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_gpu_learns_as_well_as_the_cpu(dtype: str, quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "float", salient=4, dtype=dtype)
    # With the same batches: others lead elsewhere, as near in the layers, on random weights not in the end.
    cpu, gpu = (
        quantize(source, tmp_path / device, device=device, rows=96, learn=60, batch_tokens=2048).told
        for device in ("cpu", "cuda")
    )
    assert gpu["learnt_error_ratio"] == pytest.approx(cpu["learnt_error_ratio"], rel=0.1)
