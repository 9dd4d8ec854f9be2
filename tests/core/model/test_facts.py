"""What the one reader says of a model folder is what transformers makes of it."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from core.errors import RequestError
from core.model.folder import TIED_BY_DEFAULT, config_facts, model_facts, read_adapter
from core.model.tensors import fitting_group_sizes, rounded_matrices
from core.resources import rehearsal_model
from tests.tiny_models import ARCHITECTURES, make_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {arch: make_tiny(arch, root / arch) for arch in ARCHITECTURES}


def edited(folder: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(folder, target)
    old = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**old, **config}))
    return target


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_facts_are_those_of_the_loaded_model(arch: str, models: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    facts = model_facts(models[arch])
    loaded = AutoModelForCausalLM.from_pretrained(models[arch], local_files_only=True)
    config = loaded.config
    assert facts.parameters == loaded.num_parameters()
    assert facts.tied_embeddings == config.tie_word_embeddings
    assert facts.head_dim == loaded.model.layers[0].self_attn.head_dim
    assert facts.intermediate_size == config.intermediate_size
    assert facts.embedding_rows == loaded.get_input_embeddings().weight.shape[0]
    assert facts.architecture == type(loaded).__name__
    assert (facts.leftovers, facts.quantized_by, facts.remote_code) == ((), "", False)
    json.dumps(facts.as_dict())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_matrices_that_are_rounded_are_the_linear_layers(arch: str, models: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(models[arch], local_files_only=True)
    linear = {n: m.in_features for n, m in loaded.named_modules() if isinstance(m, torch.nn.Linear)}
    assert rounded_matrices(model_facts(models[arch])) == linear


@pytest.mark.parametrize(
    ("widths", "fitting"),
    [((576, 1536), [16, 32, 64]), ((640, 2048), [16, 32, 64, 128]), ((48, 80), [16]), ((100,), [])],
)
def test_group_sizes_divide_every_matrix(widths: tuple[int, ...], fitting: list[int]) -> None:
    assert fitting_group_sizes({str(width): width for width in widths}) == fitting


def causal_configs() -> list[tuple[str, Any]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            try:
                found.append((kind, CONFIG_MAPPING[kind]()))
            except Exception:  # some have no defaults that stand together
                continue
    return found


def test_what_a_configuration_leaves_out_is_what_transformers_takes() -> None:
    """The defaults of ties and windows, for every decoder that transformers knows by itself."""
    encoders = {"bert", "roberta", "electra", "bart", "whisper", "xlm", "xlnet", "trocr", "git", "moshi"}
    wrong = []
    for kind, config in causal_configs():
        tied = getattr(config, "tie_word_embeddings", False)
        if kind in TIED_BY_DEFAULT and not tied:
            wrong.append(kind)
        decoder_only = not getattr(config, "is_encoder_decoder", False) and kind not in encoders
        if decoder_only and tied and kind in KNOWN_TO_THE_BUILDER and kind not in TIED_BY_DEFAULT:
            wrong.append(kind)
    assert wrong == []


KNOWN_TO_THE_BUILDER = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "phi3", "phi", "smollm3", "granite", "ernie4_5", "hunyuan_v1_dense",
     "gemma", "gemma2", "gemma3_text", "nemotron", "olmo", "olmo2", "gpt_oss", "cohere", "cohere2", "gpt2",
     "falcon", "opt", "starcoder2", "mixtral", "qwen2_moe", "qwen3_moe", "lfm2"}
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("gemma2", {}),
        ("gemma3_text", {"num_hidden_layers": 14}),
        ("gpt_oss", {}),
        ("cohere2", {}),
        ("olmo3", {"num_hidden_layers": 9}),
        ("exaone4", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3, "num_hidden_layers": 6}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2, "num_hidden_layers": 4}),
        ("qwen2", {"sliding_window": 4096}),
        ("smollm3", {"sliding_window": 64}),
    ],
)  # fmt: skip
def test_windows_of_a_configuration_without_layer_types(kind: str, values: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind](**values)
    saved = {k: v for k, v in config.to_dict().items() if k not in ("layer_types", "_sliding_window_pattern")}
    if "use_sliding_window" in values:
        saved |= values
    wanted = [(config.sliding_window or 0) if "sliding" in each else 0 for each in config.layer_types]
    facts = config_facts(saved)
    assert list(facts.windows) == (wanted if any(wanted) else [])
    assert config_facts({**saved, "layer_types": config.layer_types}).windows == facts.windows


def test_a_window_without_a_pattern_is_every_layers() -> None:
    mistral = {"model_type": "mistral", "num_hidden_layers": 2}
    assert config_facts({**mistral, "sliding_window": 8}).windows == (8, 8)
    assert config_facts({**mistral, "sliding_window": None}).windows == ()
    assert config_facts(mistral).window == 4096
    assert config_facts({"model_type": "phi3", "num_hidden_layers": 2, "sliding_window": None}).windows == ()


def test_a_nested_configuration_gives_the_sizes_of_its_text_part() -> None:
    inner = {
        "model_type": "gemma3_text",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "head_dim": 32,
        "num_hidden_layers": 2,
        "vocab_size": 99,
    }
    facts = config_facts({"model_type": "gemma3", "text_config": inner, "vision_config": {}})
    assert (facts.hidden_size, facts.head_dim, facts.layers, facts.vocab_size) == (64, 32, 2, 99)
    assert facts.other_inputs == ("images",)
    assert facts.tied_embeddings


def test_experts_rope_and_context() -> None:
    facts = config_facts(
        {
            "model_type": "mixtral",
            "num_local_experts": 8,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "yarn", "factor": 4.0},
            "max_position_embeddings": 131072,
            "auto_map": {"AutoModelForCausalLM": "x.Y"},
        }
    )
    assert facts.experts == 8
    assert facts.rope == {"type": "yarn", "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    assert facts.max_positions == 131072
    assert facts.remote_code


@pytest.mark.parametrize(
    ("config", "tensor", "method"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "", "awq"),
        ({"quantization_config": {"quant_algo": "FP8"}}, "", "FP8"),
        ({}, "model.layers.0.mlp.up_proj.qweight", "gptq or awq"),
        ({}, "model.layers.0.mlp.up_proj.weight.absmax", "bitsandbytes"),
        ({}, "model.layers.0.mlp.up_proj.weight_packed", "compressed-tensors"),
    ],
)
def test_packed_weights_are_known_by_configuration_or_tensors(
    config: dict[str, Any], tensor: str, method: str, models: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = edited(models["llama"], tmp_path / "m", **config)
    if tensor:
        tensors = load_file(folder / "model.safetensors")
        tensors[tensor] = tensors["model.norm.weight"].clone()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert model_facts(folder).quantized_by == method


def test_eight_bit_floats_are_packed_weights(models: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = edited(models["llama"], tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert model_facts(folder).quantized_by == "fp8"


def test_weights_are_the_files_that_transformers_reads(models: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(models["llama"], tmp_path / "m")
    before = model_facts(folder)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    for name in ("pytorch_model.bin", "optimizer.pt", "model.q4.gguf", "model.safetensors.index.json"):
        (folder / name).write_bytes(b"{}")
    facts = model_facts(folder)
    assert (facts.parameters, facts.weight_bytes) == (before.parameters, before.weight_bytes)
    assert facts.shards == ("model.safetensors",)
    assert facts.leftovers == (
        "consolidated.safetensors",
        "model.q4.gguf",
        "model.safetensors.index.json",
        "optimizer.pt",
        "pytorch_model.bin",
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("model-00001-of-00002.safetensors", "index"), ("consolidated.safetensors", "name that nothing reads")],
)
def test_weights_under_a_name_that_nothing_reads_are_refused(
    name: str, words: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = edited(models["llama"], tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(RequestError, match=words) as caught:
        model_facts(folder)
    assert caught.value.code == "model.no-weights"
    assert name in caught.value.detail


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "meta-llama/Llama-3.2-1B"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    adapter = read_adapter(tmp_path)
    assert adapter is not None
    assert (adapter.base, adapter.method, adapter.rank) == ("meta-llama/Llama-3.2-1B", "LORA", 8)
    with pytest.raises(RequestError, match="adapter") as caught:
        model_facts(tmp_path)
    assert caught.value.code == "model.adapter"
    assert "meta-llama/Llama-3.2-1B" in caught.value.hint
    assert read_adapter(rehearsal_model()) is None


def test_facts_load_neither_torch_nor_transformers() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pathlib; from core.model.folder import model_facts; from core.model.faults import faults;"
        "from core.recipe import Recipe; from core.model.auto import resolve;"
        f"f = model_facts(pathlib.Path({str(rehearsal_model())!r})); f.text;"
        "faults(f, resolve(Recipe(), None, None).recipe);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'onnxruntime', 'olive')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
