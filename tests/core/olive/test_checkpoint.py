"""Model folders are opened strictly: no random weights, no unknown quantization, facts from headers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import RequestError
from core.events import Reporter
from core.model.folder import check_folder, model_facts
from core.model.load import load_tokenizer
from core.model.weights import tensor_entries
from core.olive.checkpoint import load_model
from core.quantize.layerwise import streamed_logits
from tests.tiny_models import ARCHITECTURES, FURTHER, make_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("qwen2", tmp_path_factory.mktemp("model") / "m", kv_heads=1, dtype="bfloat16")


def edited(model: Path, target: Path, **config: Any) -> Path:
    folder = Path(shutil.copytree(model, target))
    old = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**old, **config}))
    return folder


def test_facts_are_those_of_the_loaded_model(model: Path) -> None:
    facts, loaded = model_facts(model), load_model(model)
    assert facts.parameters == loaded.num_parameters()
    assert (facts.model_type, facts.layers, facts.hidden_size, facts.kv_heads) == ("qwen2", 2, 64, 1)
    assert facts.dtype == "bfloat16"
    assert facts.weight_bytes == (model / "model.safetensors").stat().st_size
    assert facts.quantization is None
    assert not loaded.training


def test_facts_need_no_torch(model: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, pathlib; from core.model.folder import model_facts;"
        f"model_facts(pathlib.Path({str(model)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_weights_are_not_made_up(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model, tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match="does not hold the whole model") as caught:
        load_model(folder)
    assert "model.layers.1.mlp.up_proj.weight" in caught.value.detail


def test_weights_of_another_size_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        load_model(edited(model, tmp_path / "m", intermediate_size=96))


def test_an_unknown_quantization_is_refused(model: Path, tmp_path: Path) -> None:
    folder = edited(model, tmp_path / "m", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(RequestError, match="not Olive's") as caught:
        load_model(folder)
    assert "'awq'" in caught.value.detail


def test_code_that_comes_with_a_model_is_not_run_without_leave(model: Path, tmp_path: Path) -> None:
    folder = edited(
        model,
        tmp_path / "m",
        model_type="odd",
        auto_map={"AutoModelForCausalLM": "odd.Odd", "AutoConfig": "odd.C"},
    )
    ran = tmp_path / "ran"
    (folder / "odd.py").write_text(f"open({str(ran)!r}, 'w')\nclass Odd: pass\nclass C: pass\n")
    with pytest.raises(RequestError, match="code of its own") as caught:
        load_model(folder)
    assert "trust_remote_code" in caught.value.hint
    assert not ran.exists()


def test_shards_that_are_missing_are_named(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "model.safetensors").rename(folder / "model-00002.safetensors")
    index = {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="weight files are missing") as caught:
        check_folder(folder)
    assert "model-00001.safetensors" in caught.value.detail


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 7, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x04\0\0\0\0\0\0\0null"]
)
def test_files_that_are_not_safetensors_are_refused(content: bytes, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(RequestError, match="damaged"):
        tensor_entries(folder)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_config_that_is_none_is_refused(content: str, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "config.json").write_text(content)
    with pytest.raises(RequestError, match=r"config\.json"):
        model_facts(folder)


def test_a_damaged_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError, match="tokenizer cannot be loaded"):
        load_tokenizer(folder)


@pytest.mark.parametrize("arch", [*ARCHITECTURES, *FURTHER])
def test_the_model_asked_layer_by_layer_answers_as_when_loaded_whole(arch: str, tmp_path: Path) -> None:
    """With all that an architecture does behind its last layer: Gemma 2 caps its logits, Granite divides them."""
    folder = make_tiny(arch, tmp_path / arch)
    rows = [[5, 9, 200, 31], [7, 7, 12]]
    streamed = streamed_logits(folder, rows, "cpu", Reporter())
    model = load_model(folder)
    for row, logits in zip(rows, streamed, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(logits, model(torch.tensor([row])).logits[0], rtol=1e-4, atol=1e-4)
