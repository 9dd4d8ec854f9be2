"""The AWQ pass as Olive runs it, on models of every architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import Cancelled, StageError
from core.events import RecordingReporter
from core.files import digest
from core.olive.checkpoint import load_model
from tests.core.quantize.conftest import Made, some_rows
from tests.tiny_models import ARCHITECTURES, make_tiny

Quantize = Callable[..., Made]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([some_rows(1, 3)[0]])).logits


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_salient_channels_make_awq_clearly_better_than_rtn(
    arch: str, quantize: Quantize, tmp_path: Path
) -> None:
    source = make_tiny(arch, tmp_path / "float", salient=4, kv_heads=2)
    plain = quantize(source, tmp_path / "rtn", "rtn")
    awq = quantize(source, tmp_path / "awq")
    assert awq.told["folds_left"] == []
    assert awq.told["folds"] >= 6  # of 4 in each of 2 layers
    assert awq.told["search_error_ratio"] < 0.85
    assert awq.kl < 0.85 * plain.kl


@pytest.mark.parametrize("arch", ["phi3", "qwen2"])
def test_gptq_rounding_on_awq_scales_is_better_still(arch: str, quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny(arch, tmp_path / "float", salient=4)
    awq = quantize(source, tmp_path / "awq", rows=96)
    both = quantize(source, tmp_path / "both", rounding="gptq", rows=96)
    assert both.kl < 0.95 * awq.kl


def far_from_float(source: Path, made: Path) -> float:
    """How far the last layer's outputs are from the float model's over the calibration rows, squared."""
    models = [load_model(each, dtype=torch.float32).model for each in (source, made)]
    far = 0.0
    for row in some_rows(96, 1):
        with torch.inference_mode():
            want, got = (model(torch.tensor([row])).last_hidden_state for model in models)
        far += (got - want).square().sum().item()
    return far


@pytest.mark.parametrize("scale", [False, True])
def test_what_coarse_layers_do_is_made_up_for_by_those_behind_them(
    scale: bool, quantize: Quantize, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "float", salient=4, layers=3)

    def far(share: float) -> float:
        out = tmp_path / str(share)
        made = quantize(source, out, rounding="gptq", scale=scale, rows=96, correction=share)
        return far_from_float(source, made.path)

    assert far(0.25) < 0.93 * far(0.0)  # 0.91; with scales that the differences do not follow 0.95


def test_only_gptq_on_rounded_inputs_runs_the_float_layers_for_correction(
    quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.quantize.layerwise import LayerwiseModel

    source = make_tiny("llama", tmp_path / "float", layers=3)
    runs = []
    run_layer = LayerwiseModel.run_layer

    def counted(model: LayerwiseModel, index: int, *args: Any) -> torch.Tensor:
        runs.append(index)
        return run_layer(model, index, *args)

    monkeypatch.setattr(LayerwiseModel, "run_layer", counted)

    def made(name: str, **options: Any) -> tuple[str, list[int]]:
        runs.clear()
        path = quantize(source, tmp_path / name, batch_tokens=4096, **options).path
        return digest(path / "model.safetensors"), [runs.count(index) for index in range(3)]

    without = made("without", rounding="gptq", scale=False)
    some = made("some", rounding="gptq", scale=False, correction=0.25)
    assert without[1] == [4, 4, 4]  # two batches, before and after rounding
    assert some[1] == [4, 6, 6]
    assert some[0] != without[0]
    assert some == made("again", rounding="gptq", scale=False, correction=0.25)
    assert without == made("none", rounding="gptq", scale=False, correction=0.0)
    for name, options in {"nearest": {}, "float": {"rounding": "gptq", "quantized_inputs": False}}.items():
        assert made(f"{name} 0", correction=0.0, **options) == made(f"{name} 1", correction=1.0, **options)


def test_eight_bits_are_nearly_exact(quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "float", salient=4)
    made = quantize(source, tmp_path / "awq", bits=8)
    config = json.loads((made.path / "config.json").read_text())["quantization_config"]
    assert config["bits"] == 8
    assert made.kl < 5e-3  # 4 bits: 0.2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_sources_stay_16_bit(dtype: str, quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny("phi3", tmp_path / "float", salient=4, dtype=dtype)
    plain = quantize(source, tmp_path / "rtn", "rtn")
    made = quantize(source, tmp_path / "awq")
    model = load_model(made.path)
    assert model.dtype == getattr(torch, dtype)
    assert model.model.layers[0].self_attn.qkv_proj.scales.dtype == getattr(torch, dtype)
    assert made.kl < plain.kl
    assert made.told["folds_left"] == []


def test_the_saved_checkpoint_reloads_to_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.quantize import awq
    from tests.core.quantize.conftest import quantized

    in_memory = {}
    write = awq._Run._write

    def keep(run: awq._Run, output: str) -> Any:
        in_memory["logits"] = logits(run.model.model)
        return write(run, output)

    monkeypatch.setattr(awq._Run, "_write", keep)
    made = quantized(make_tiny("qwen2", tmp_path / "float", salient=4, tie=True), tmp_path / "awq")
    assert torch.allclose(in_memory["logits"], logits(load_model(made.path)), atol=1e-5)

    from olive.model import HfModelHandler

    assert torch.allclose(in_memory["logits"], logits(HfModelHandler(str(made.path)).load_model()), atol=1e-5)


def test_two_runs_give_the_same_bytes_and_layers_come_one_at_a_time(
    quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.quantize.layerwise import LayerwiseModel

    source = make_tiny("phi3", tmp_path / "float", salient=4, layers=3)
    most = []
    load = LayerwiseModel.load_layer

    def watched(model: LayerwiseModel, index: int) -> torch.nn.Module:
        layer = load(model, index)
        floats = [sum(not p.is_meta for p in each.parameters() if p.dim() == 2) for each in model.layers]
        most.append(sum(count > 0 for count in floats))
        return layer

    monkeypatch.setattr(LayerwiseModel, "load_layer", watched)
    first = quantize(source, tmp_path / "one", search_rows=32)
    again = quantize(source, tmp_path / "two", search_rows=32)
    other = quantize(source, tmp_path / "three", search_rows=32, seed=5)
    assert most == [1, 1, 1] * 3
    digests = [digest(made.path / "model.safetensors") for made in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_checkpoint_with_other_names_is_loaded_whole_and_gives_the_same(
    quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.quantize import layerwise

    source = make_tiny("llama", tmp_path / "float", salient=4)
    streamed = quantize(source, tmp_path / "streamed")

    def refuse(self: layerwise.LayerwiseModel) -> None:
        raise layerwise.UnknownNames("other names")

    monkeypatch.setattr(layerwise.LayerwiseModel, "_refuse_other_names", refuse)
    whole = quantize(source, tmp_path / "whole")
    assert torch.equal(logits(load_model(streamed.path)), logits(load_model(whole.path)))


def test_a_fold_that_moves_the_output_is_undone_and_said(
    quantize: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.quantize import awq_folds

    # The norm after attention is not what feeds Gemma 2's MLP.
    monkeypatch.setattr(awq_folds, "_mlp_norm", lambda view: view.layer.post_attention_layernorm)
    report = RecordingReporter()
    source = make_tiny("gemma2", tmp_path / "float", salient=4)
    made = quantize(source, tmp_path / "awq", report=report)
    assert made.told["folds_left"] == ["mlp input: folding its scale moved the layer's output (2 layers)"]
    assert any("mlp input" in event.get("text", "") for event in report.events)
    assert made.kl < quantize(source, tmp_path / "rtn", "rtn").kl


def test_mixed_bits_come_from_overrides(quantize: Quantize, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj"
    made = quantize(
        make_tiny("llama", tmp_path / "float"),
        tmp_path / "awq",
        overrides={"lm_head": {"bits": 8}, name: {"bits": 8}},
    )
    model = load_model(made.path)
    assert model.get_submodule(name).quantizer.bits == 8
    assert model.lm_head.quantizer.bits == 8
    assert model.model.layers[0].mlp.down_proj.quantizer.bits == 4


@pytest.mark.parametrize("tie", [False, True])
def test_the_output_matrix_may_stay_in_float(tie: bool, quantize: Quantize, tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "float", tie=tie)
    made = quantize(source, tmp_path / "awq", lm_head=False, overrides={})
    model = load_model(made.path)
    assert isinstance(model.lm_head, torch.nn.Linear)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tie
    assert made.kl < quantize(source, tmp_path / "rtn", "rtn", lm_head=False, overrides={}).kl


def test_progress_goes_layer_by_layer(quantize: Quantize, tmp_path: Path) -> None:
    report = RecordingReporter()
    quantize(make_tiny("phi3", tmp_path / "float", layers=3), tmp_path / "awq", report=report)
    steps = [
        (e["done"], e["total"]) for e in report.events if e.get("phase") == "Scaling and rounding the layers"
    ]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_cancel_stops_within_a_layer_and_leaves_nothing(quantize: Quantize, tmp_path: Path) -> None:
    class Impatient(RecordingReporter):
        calls = 0

        def check_cancelled(self) -> None:
            started = any(e.get("phase") == "Scaling and rounding the layers" for e in self.events)
            self.calls += started
            if self.calls > 30:
                raise Cancelled

    report = Impatient()
    with pytest.raises(Cancelled):
        quantize(make_tiny("phi3", tmp_path / "float"), tmp_path / "awq", report=report)
    done = [e["done"] for e in report.events if e.get("phase") == "Scaling and rounding the layers"]
    assert done == [0]  # not even the first layer was through
    assert not (tmp_path / "awq/output/model").exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"group_size": 24}, "power of 2"),
        ({"steps": 0}, "steps must be"),
        ({"damp_percent": 0.0}, "damp_percent"),
        ({"group_size": 256}, "256 does not divide"),
        ({"correction": -0.1}, "correction must be"),
        ({"correction": 1.1}, "correction must be"),
        ({"learn": -1}, "learn must not be negative"),
        ({"rounding": "nonsense"}, "rounding"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason(
    wrong: dict[str, Any], reason: str, quantize: Quantize, tmp_path: Path
) -> None:
    from core.errors import LabError

    with pytest.raises(LabError) as caught:
        quantize(make_tiny("llama", tmp_path / "float"), tmp_path / "awq", **wrong)
    assert reason in str(caught.value)


def test_olive_runs_it_from_a_package_config(tmp_path: Path) -> None:
    from core.olive.passes import write_package_config
    from core.olive.run import import_olive
    from core.quantize.calibration import data_config, write_rows

    import_olive()
    from olive.workflows import run

    write_package_config(tmp_path / "package.json")
    write_rows(tmp_path / "rows.json", some_rows(16, 1))
    workflow = {
        "input_model": {"type": "HfModel", "model_path": str(make_tiny("llama", tmp_path / "float"))},
        "data_configs": [data_config(tmp_path / "rows.json")],
        "passes": {"awq": {"type": "OlivePressAwq", "group_size": 32, "data_config": "calibration"}},
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
    }
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    assert run(
        str(tmp_path / "workflow.json"), package_config=str(tmp_path / "package.json")
    ).has_output_model()
    assert load_model(tmp_path / "out/model").config.quantization_config.bits == 4


def test_a_quantized_model_is_not_quantized_again(quantize: Quantize, tmp_path: Path) -> None:
    made = quantize(make_tiny("llama", tmp_path / "float"), tmp_path / "awq")
    with pytest.raises(StageError, match="failed") as caught:
        quantize(made.path, tmp_path / "again")
    assert "already quantized" in caught.value.detail


@pytest.mark.parametrize("arch", ["smollm", "qwen2", "phi3"])
def test_model_builder_computes_what_pytorch_computes(arch: str, quantize: Quantize, tmp_path: Path) -> None:
    from core.events import Reporter
    from core.olive.run import run_workflow, workflow
    from core.optimize.session import OnnxSession

    made = quantize(make_tiny(arch, tmp_path / "float", salient=4, kv_heads=2), tmp_path / "awq")
    built = run_workflow(
        workflow(made.path, {"build": {"type": "OlivePressModelBuilder", "options": {"accuracy_level": 1}}}),
        work=tmp_path / "onnx",
        report=Reporter(),
    )
    folder = built.model_path if built.model_path.is_dir() else built.model_path.parent
    got = torch.from_numpy(OnnxSession(folder).logits(some_rows(1, 3)[0]))
    assert torch.allclose(got, logits(load_model(made.path)), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_does_as_well_as_the_cpu_and_keeps_nothing(
    dtype: str, quantize: Quantize, tmp_path: Path
) -> None:
    source = make_tiny("phi3", tmp_path / "float", salient=4, dtype=dtype)
    cpu = quantize(source, tmp_path / "cpu", device="cpu")
    before = torch.cuda.memory_allocated()
    gpu = quantize(source, tmp_path / "gpu", device="cuda")
    assert gpu.kl == pytest.approx(cpu.kl, rel=0.15)
    torch._C._cuda_clearCublasWorkspaces()  # cuBLAS keeps its own, by the library's choice
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() - before < 1 << 20
