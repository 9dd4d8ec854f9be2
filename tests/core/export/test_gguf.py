"""GGUF: read again by transformers' own reader it is the model that the lab has, adapter and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch

from core.errors import RequestError
from core.export.gguf import _blocks, _pairs
from core.export.write import export
from core.lab import Lab
from core.model.gguf import check_gguf, config_of
from core.olive.checkpoint import Packed
from tests import llama_cpp
from tests.core.export.labs import add_adapter, lab_with, logits, tuned_logits

OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "smollm": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 64},
    "gemma3": {"layers": 6, "query_pre_attn_scalar": 16, "sliding_window": 64},
}


def read(folder: Path) -> Any:
    """The model as transformers reads the file; the configuration by our reader, which takes more from it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = config_of(check_gguf(folder / "model.gguf"))
    settled = AutoConfig.for_model(config.pop("model_type"), **config)
    return AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", config=settled, dtype=torch.float32
    ).eval()


@pytest.mark.parametrize("arch", OPTIONS)
def test_the_file_is_the_model_with_its_adapter(arch: str, tmp_path: Path) -> None:
    lab = lab_with(arch, tmp_path / "lab", **OPTIONS[arch])
    add_adapter(lab)
    done = export(lab, "gguf", tmp_path / "out", type="f32")
    assert sorted(path.name for path in Path(done.path).iterdir()) == [
        "Modelfile",
        "README.md",
        "model.gguf",
        "olivepress.json",
    ]
    found = logits(read(tmp_path / "out"))
    assert torch.allclose(found, tuned_logits(lab), atol=2e-4)
    assert not torch.allclose(found, tuned_logits(lab, None), atol=1e-2)


@pytest.mark.parametrize("arch", OPTIONS)
def test_llama_cpp_goes_on_as_pytorch_does(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from transformers import AutoModelForCausalLM

    lab = lab_with(arch, tmp_path / "lab", **OPTIONS[arch])
    add_adapter(lab)
    export(lab, "gguf", tmp_path / "out", type="f32")
    export(lab, "merged", tmp_path / "float", type="float32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", dtype=torch.float32)
    ids, own = list(range(6, 60)), []
    for _ in range(12):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        own.append((int(scores.argmax()), float(scores.max())))
        ids.append(own[-1][0])
    told = llama_cpp.goes_on(tmp_path / "out/model.gguf", ids[:-12], 12)
    assert len(told) > 4
    left = iter(own)
    for number, logarithm in told:
        likely = next(each for each in left if each[0] == number)
        assert logarithm == pytest.approx(likely[1], abs=0.03), "its keys and values are float16"


def test_llama3s_stretched_positions_go_along(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    lab = lab_with("llama", tmp_path / "lab", rope_parameters=rope, max_position_embeddings=65536)
    export(lab, "gguf", tmp_path / "out", type="f32")
    reader = gguf.GGUFReader(tmp_path / "out/model.gguf")
    factors = next(each.data for each in reader.tensors if each.name == "rope_freqs.weight")
    assert factors[0] == 1.0
    assert factors[-1] == 8.0


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
        (
            "qwen3",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e6,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                }
            },
        ),
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0],
                    "short_factor": [1.0, 1.0, 1.1, 1.1, 1.2, 1.3, 1.4, 1.5],
                    "original_max_position_embeddings": 128,
                },
                "original_max_position_embeddings": 128,
            },
        ),
    ],
)
def test_other_stretched_positions_go_along(arch: str, options: dict[str, Any], tmp_path: Path) -> None:
    lab = lab_with(arch, tmp_path / "lab", **options)
    export(lab, "gguf", tmp_path / "out", type="f32")
    assert torch.allclose(logits(read(tmp_path / "out")), tuned_logits(lab, None), atol=2e-4)


def test_what_llama_cpp_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    lab = lab_with("granite", tmp_path / "lab")
    with pytest.raises(RequestError) as caught:
        export(lab, "gguf", tmp_path / "out")
    assert caught.value.code == "export.architecture"
    assert "granite" in caught.value.title
    lab = lab_with("gemma3", tmp_path / "other", layers=2, query_pre_attn_scalar=100)
    with pytest.raises(RequestError) as caught:
        export(lab, "gguf", tmp_path / "out")
    assert "query_pre_attn_scalar" in caught.value.detail
    assert list(tmp_path.glob("*out*")) == []


def test_a_tokenizer_that_gguf_has_not_is_refused(tmp_path: Path) -> None:
    lab = lab_with("llama", tmp_path / "lab")
    file = lab.folder.quantized_dir / "tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    file.write_text(json.dumps(content))
    with pytest.raises(RequestError) as caught:
        export(lab, "gguf", tmp_path / "out")
    assert caught.value.code == "export.tokenizer"


def with_swallowing_tokens(lab: Lab) -> None:
    """Let a token take the spaces behind it, as Phi-3's do, and call two others as they are called there."""
    file = lab.folder.quantized_dir / "tokenizer.json"
    content = json.loads(file.read_text())
    for each in content["added_tokens"]:
        each["rstrip"] = each["content"] == "<|user|>"
    for old, new in (("<|system|>", "<s>"), ("<|assistant|>", "</s>")):
        number = content["model"]["vocab"].pop(old)
        content["model"]["vocab"][new] = number
        next(each for each in content["added_tokens"] if each["id"] == number)["content"] = new
    file.write_text(json.dumps(content))


def test_llama_cpp_knows_of_phi3_that_its_tokens_swallow_spaces(tmp_path: Path) -> None:
    lab = lab_with("phi3", tmp_path / "lab")
    with_swallowing_tokens(lab)
    export(lab, "gguf", tmp_path / "out")
    assert check_gguf(tmp_path / "out/model.gguf").metadata["general.name"] == "Phi-3"


def test_of_no_other_model(tmp_path: Path) -> None:
    lab = lab_with("llama", tmp_path / "lab")
    with_swallowing_tokens(lab)
    with pytest.raises(RequestError) as caught:
        export(lab, "gguf", tmp_path / "out")
    assert caught.value.code == "export.tokenizer"


def test_four_bits_go_over_as_they_are() -> None:
    numbers = torch.Generator().manual_seed(0)
    packed = Packed(
        torch.randint(0, 16, (8, 128), generator=numbers, dtype=torch.uint8),
        torch.rand(8, 2, generator=numbers).to(torch.float16) + 0.01,
        torch.randint(0, 16, (8, 2), generator=numbers, dtype=torch.uint8),
        4,
    )
    back = gguf.dequantize(_blocks(packed), gguf.GGMLQuantizationType.Q4_1)
    assert numpy.allclose(back, packed.weight().numpy(), atol=2e-2, rtol=1e-3)
    assert numpy.abs(back - packed.weight().numpy()).max() < 8e-3, (
        "no more than float16 rounds the least value by"
    )


def test_rows_are_turned_as_llama_cpp_wants_them() -> None:
    rows = torch.arange(8).unsqueeze(1)
    assert _pairs(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
