"""The optimize stage on tiny models: what it publishes answers as PyTorch does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from core.data.examples import load_examples
from core.errors import Cancelled, MachineError, RequestError, StageError
from core.files import MANIFEST, read_json
from core.folder import LabFolder
from core.model.text import read_text
from core.optimize.adapters import check_adapter
from tests.core.optimize.labs import (
    RECIPE,
    add_adapter,
    onnx_texts,
    quantized_lab,
    recipe_with,
    run_stage,
    torch_texts,
)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie": True},  # separate q, k, v and gate, up; grouped-query attention; tied embeddings
    "qwen2": {},  # biases on q, k, v
    "phi3": {},  # fused qkv and gate_up, grouped-query attention
}


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    """A lab of each architecture with two adapters of different rank; the first one optimized."""
    made = quantized_lab(
        tmp_path_factory.mktemp(request.param), request.param, **ARCHITECTURES[request.param]
    )
    add_adapter(made, "travel", rank=8, seed=1)
    add_adapter(made, "food", rank=3, seed=2)
    run_stage(made)
    return made


@pytest.fixture
def copied(lab: LabFolder, tmp_path: Path) -> LabFolder:
    """A copy of that lab which a test may change."""
    shutil.copytree(lab.models_dir, tmp_path / "lab" / "models")
    return LabFolder(tmp_path / "lab")


def test_greedy_text_is_pytorchs_with_and_without_the_adapter(lab: LabFolder) -> None:
    base, tuned = torch_texts(lab, None), torch_texts(lab, "travel")
    assert base != tuned
    assert onnx_texts(lab, None) == base
    assert onnx_texts(lab, "travel") == tuned


def test_a_second_adapter_joins_the_same_base(copied: LabFolder) -> None:
    graph, weights = copied.onnx_dir / "model.onnx", copied.onnx_dir / "model.onnx.data"
    before = [path.stat().st_ino for path in (graph, weights)]
    result, _ = run_stage(copied, recipe_with({"finetune.adapter": "food"}))
    assert result["base_reused"]
    assert [path.stat().st_ino for path in (graph, weights)] == before
    for name in ("travel", "food"):
        check_adapter(copied.onnx_dir, copied.adapter_file(name))
        assert onnx_texts(copied, name) == torch_texts(copied, name)
    assert not list(copied.onnx_dir.glob("adapters/.*"))


def test_a_forced_run_builds_the_base_anew_and_keeps_what_fits(phi: LabFolder, tmp_path: Path) -> None:
    lab = LabFolder(tmp_path)
    shutil.copytree(phi.quantized_dir, lab.quantized_dir)
    for name in ("travel", "food", "gone"):
        shutil.copytree(phi.finetuned_dir("travel"), lab.finetuned_dir(name))
        run_stage(lab, recipe_with({"finetune.adapter": name}))
    shutil.rmtree(lab.finetuned_dir("gone"))
    graph = lab.onnx_dir / "model.onnx"
    before = graph.stat().st_ino
    recipe = recipe_with({"finetune.adapter": "food"})
    assert run_stage(lab, recipe)[0]["base_reused"]
    result, report = run_stage(lab, recipe)
    assert not result["base_reused"]
    assert graph.stat().st_ino != before
    for name in ("travel", "food"):
        check_adapter(lab.onnx_dir, lab.adapter_file(name))
    assert not lab.adapter_file("gone").exists()
    assert any("gone is no longer in the lab" in event.get("text", "") for event in report.events)


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    made = quantized_lab(tmp_path_factory.mktemp("phi"), "phi3")
    add_adapter(made, "travel", rank=4)
    return made


def test_what_is_published_and_reported(phi: LabFolder) -> None:
    result, report = run_stage(phi)
    files = {path.name for path in phi.onnx_dir.iterdir()}
    assert {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", MANIFEST} <= files
    assert "chat_template.jinja" in files
    assert not {"footprint.json", "run_history.txt"} & files
    manifest = read_json(phi.onnx_dir / MANIFEST)
    assert manifest["result"] == result
    assert manifest["base"]["digest"]
    for lane in ("base", "tuned"):
        assert result["agreement"][lane]["prompts"] == result["agreement"][lane]["agreeing"] == 5
        assert result[f"tokens_per_s_{lane}"] > 0
    assert result["training_prompts"] == 20
    split = load_examples(RECIPE, phi.root, text=read_text(phi.quantized_dir))
    assert result["answers"]["question"] == split.train[0].question
    assert result["base_bytes"] > result["adapter_bytes"] > 0
    assert {"Building the graph", "Asking training questions again"} <= {
        event["phase"] for event in report.events if event["type"] == "progress"
    }


def test_a_base_without_adapter_is_made_and_said(phi: LabFolder) -> None:
    result, report = run_stage(phi, recipe_with({"finetune.adapter": "none-yet"}))
    assert result["adapter"] is None
    assert result["answers"]["tuned"] is None
    assert any("none-yet" in event.get("text", "") for event in report.events)


def test_an_adapter_scaled_wrongly_is_found_out(phi: LabFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.optimize import adapters as lora

    shutil.rmtree(phi.onnx_dir, ignore_errors=True)
    right = lora.scale_of
    monkeypatch.setattr(lora, "scale_of", lambda config, module: 0.5 * right(config, module))
    with pytest.raises(StageError) as caught:
        run_stage(phi)
    assert "tuned" in caught.value.title
    assert not phi.onnx_dir.exists()


def test_an_adapter_on_the_output_matrix_is_refused_by_name(phi: LabFolder, tmp_path: Path) -> None:
    lab = LabFolder(tmp_path)
    shutil.copytree(phi.quantized_dir, lab.quantized_dir)
    add_adapter(lab, "travel", rank=2, targets=["o_proj", "lm_head"])
    with pytest.raises(StageError) as caught:
        run_stage(lab)
    assert "lm_head" in caught.value.detail
    assert not lab.onnx_dir.exists()


def test_an_adapter_of_another_quantized_model_is_refused(phi: LabFolder, tmp_path: Path) -> None:
    from core.files import write_json

    lab = LabFolder(tmp_path)
    shutil.copytree(phi.models_dir, lab.models_dir)
    write_json(lab.quantized_dir / MANIFEST, {"fingerprint": {"quantize": "new"}})
    write_json(lab.finetuned_dir("travel") / MANIFEST, {"fingerprint": {"base": {"quantize": "old"}}})
    with pytest.raises(RequestError) as caught:
        run_stage(lab)
    assert "finetune" in caught.value.hint


def test_only_some_layers_trained(tmp_path: Path) -> None:
    lab = quantized_lab(tmp_path, "llama")
    add_adapter(lab, "travel", rank=4, targets=["q_proj", "v_proj"])
    run_stage(lab)
    assert onnx_texts(lab, "travel") == torch_texts(lab, "travel") != torch_texts(lab, None)


def test_long_context_rope_as_phi_has_it(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 256,
        "short_factor": [1.0 + 0.05 * i for i in range(8)],
        "long_factor": [1.0 + i for i in range(8)],
    }
    lab = quantized_lab(
        tmp_path,
        "phi3",
        rope_parameters=rope,
        max_position_embeddings=1024,
        original_max_position_embeddings=256,
    )
    add_adapter(lab, "travel", rank=4)
    result, report = run_stage(lab)
    # Beyond the original context what lies in the cache would be turned otherwise than what comes.
    assert result["context"] == result["verified_tokens"] == 256
    assert read_json(lab.onnx_dir / "genai_config.json")["model"]["context_length"] == 256
    assert any("Its context is 256 tokens, not 1,024" in event.get("text", "") for event in report.events)
    assert onnx_texts(lab, None) == torch_texts(lab, None)
    assert onnx_texts(lab, "travel") == torch_texts(lab, "travel")


def test_a_16_bit_embedding_table_keeps_its_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    from core.optimize import shrink

    monkeypatch.setattr(shrink, "SMALLEST_BYTES", 0)
    monkeypatch.setattr(shrink, "ALIGNMENT", 64)
    lab = quantized_lab(tmp_path, "llama", dtype="bfloat16")
    add_adapter(lab, "travel", rank=4)
    run_stage(lab)
    graph = onnx.load(str(lab.onnx_dir / "model.onnx"), load_external_data=False).graph
    table = next(item for item in graph.initializer if "embed_tokens" in item.name)
    assert table.data_type == onnx.TensorProto.FLOAT16
    room = sum(
        int(entry.value)
        for item in graph.initializer
        for entry in item.external_data
        if entry.key == "length"
    )
    assert (lab.onnx_dir / "model.onnx.data").stat().st_size < room + 64 * len(graph.initializer)
    assert onnx_texts(lab, "travel") == torch_texts(lab, "travel")


@pytest.mark.parametrize(
    ("arch", "kinds"), [("llama", "o_proj"), ("llama", "v_proj,down_proj"), ("phi3", "qkv_proj,o_proj")]
)
def test_layers_of_mixed_bits_answer_as_pytorch(tmp_path: Path, arch: str, kinds: str) -> None:
    lab = quantized_lab(tmp_path, arch, eight_bit=kinds)
    add_adapter(lab, "travel", rank=4)
    run_stage(lab)
    assert onnx_texts(lab, "travel") == torch_texts(lab, "travel")


def test_float_model_built_in_float_and_rounded(tmp_path: Path) -> None:
    from tests.tiny_models import make_tiny

    lab = LabFolder(tmp_path)
    make_tiny("qwen2", lab.quantized_dir)
    add_adapter(lab, "travel", rank=4)
    recipe = recipe_with({"quantize.algorithm": "none", "optimize.precision": "fp32"})
    assert run_stage(lab, recipe)[0]["precision"] == "fp32"
    assert onnx_texts(lab, "travel") == torch_texts(lab, "travel")
    result, _ = run_stage(lab, recipe_with({"quantize.algorithm": "none", "optimize.precision": "int8"}))
    assert result["precision"] == "int8"
    assert result["agreement"]["tuned"]["agreeing"] == 5


def test_a_gpu_model_is_built_without_a_gpu_and_said_to_be_untested(phi: LabFolder, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    lab = LabFolder(tmp_path)
    shutil.copytree(phi.models_dir, lab.models_dir)
    recipe = recipe_with({"optimize.device": "gpu", "optimize.provider": "CUDAExecutionProvider"})
    result, _ = run_stage(lab, recipe)
    assert not result["verified"]
    assert result["why_not_verified"]
    assert check_adapter(lab.onnx_dir, lab.adapter_file("travel"))["dtype"] == "int8"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"optimize.device": "npu", "optimize.provider": "QNNExecutionProvider"}, MachineError),
        ({"optimize.precision": "fp16"}, RequestError),
    ],
)
def test_impossible_targets_are_refused_before_any_work(
    phi: LabFolder, values: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run_stage(phi, recipe_with(values))


def test_int8_rounding_of_activations_is_told_from_a_wrong_graph(
    phi: LabFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.optimize import adapters as lora
    from core.optimize import build, verify

    lab = LabFolder(tmp_path)
    shutil.copytree(phi.quantized_dir, lab.quantized_dir)
    shutil.copytree(phi.finetuned_root, lab.finetuned_root)
    monkeypatch.setattr(build, "SMALL_MODEL", 0)  # as for a large model: the fast kernel, which rounds
    monkeypatch.setitem(verify.TIE, "rounded", 0.0)  # no near ties: every difference must be explained
    result, _ = run_stage(lab)
    assert result["accuracy_level"] == 4
    for lane in ("base", "tuned"):
        found = result["agreement"][lane]
        assert found["identical"] + found["by_rounding"] == 5
    assert result["agreement"]["base"]["by_rounding"] + result["agreement"]["tuned"]["by_rounding"] > 0
    # Its adapter stands inside the graph in 8 bits, and a second one joins it.
    assert check_adapter(lab.onnx_dir, lab.adapter_file("travel"))["dtype"] == "int8"
    shutil.copytree(lab.finetuned_dir("travel"), lab.finetuned_dir("food"))
    again, _ = run_stage(lab, recipe_with({"finetune.adapter": "food"}))
    assert again["base_reused"]
    assert again["adapter_bytes"] > lab.adapter_file("food").with_name("food.data").stat().st_size
    for name in ("travel", "food"):
        check_adapter(lab.onnx_dir, lab.adapter_file(name))
    assert onnx_texts(lab, "food") == onnx_texts(lab, "travel")

    shutil.rmtree(lab.onnx_dir)
    right = lora.scale_of
    monkeypatch.setattr(lora, "scale_of", lambda config, module: 1.1 * right(config, module))
    with pytest.raises(StageError):
        run_stage(lab)


def test_a_disk_that_is_too_small_is_said_before_any_work(
    phi: LabFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = LabFolder(tmp_path)
    shutil.copytree(phi.quantized_dir, lab.quantized_dir)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
    with pytest.raises(MachineError) as caught:
        run_stage(lab)
    assert "9.5 MiB are free" in caught.value.detail
    assert not lab.onnx_dir.exists()


def test_a_stop_in_the_middle_of_an_answer_is_a_stop(phi: LabFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.optimize.session import OnnxSession

    def stop(generator: Any) -> int:
        raise Cancelled  # as the handler of SIGTERM does

    shutil.rmtree(phi.onnx_dir, ignore_errors=True)
    monkeypatch.setattr(OnnxSession, "_next", staticmethod(stop))
    with pytest.raises(Cancelled):
        run_stage(phi)
    assert not phi.onnx_dir.exists()
