"""Files of a model with anything in them: refused by an error that says why, or read; never a traceback or a hang."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.check.needs import Lengths, Machine, stage_needs
from core.errors import LabError, RequestError
from core.files import MOST_BYTES
from core.model.auto import Facts, resolve
from core.model.faults import faults
from core.model.finite import first_not_finite
from core.model.folder import check_folder, config_facts, model_facts
from core.model.gguf import check_gguf
from core.model.text import read_text
from core.model.tokenizer import ModelTokenizer
from core.model.weights import read_header, weight_files
from core.optimize.adapters import read_layout, read_lora
from core.optimize.genai import end_tokens
from core.optimize.trusted import check_onnx_folder
from core.recipe import Recipe
from tests.tiny_models import make_tiny

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["../x", "/etc/passwd", "<s>", "<|end|>", "llama", "olive", 0, -1, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(inner)[:40]:
        yield from places(each, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with another one at a place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("hostile") / "model")


def answer(ask: Callable[[], object]) -> LabError | None:
    """The error that something is refused with, which says what is wrong; None where it is taken."""
    try:
        ask()
    except LabError as error:
        return error
    return None


def look_at(folder: Path) -> None:
    """All that is asked of a model's folder before a weight is loaded; a LabError is an answer."""
    recipe = resolve(Recipe(), None, None).recipe
    asked: tuple[Callable[[], object], ...] = (
        lambda: check_folder(folder),
        lambda: faults(model_facts(folder), resolve(Recipe(), Facts.of(folder), None).recipe),
        lambda: read_text(folder),
        lambda: first_not_finite(weight_files(folder), "float16"),
        lambda: stage_needs(model_facts(folder), recipe, Machine(0, 2), Lengths(10, 20, 30)),
        lambda: end_tokens(folder, recipe),
    )
    for ask in asked:
        error = answer(ask)
        assert error is None or (error.title and (error.detail or error.hint))


def altered(folder: Path, name: str, data: st.DataObject, look: Callable[[Path], None]) -> None:
    file = folder / name
    whole = file.read_bytes()
    content = json.loads(whole)
    path = data.draw(st.sampled_from(list(places(content))), label="place")
    try:
        file.write_text(json.dumps(changed(content, path, data.draw(JSON, label="value"))))
        look(folder)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@SETTINGS
@given(data=st.data())
def test_a_models_json(name: str, model: Path, data: st.DataObject) -> None:
    altered(model, name, data, look_at)


@SETTINGS
@given(
    config=st.dictionaries(
        st.sampled_from(
            [
                *(
                    "model_type",
                    "architectures",
                    "num_attention_heads",
                    "num_key_value_heads",
                    "hidden_size",
                    "head_dim",
                ),
                *(
                    "sliding_window",
                    "layer_types",
                    "rope_scaling",
                    "rope_parameters",
                    "quantization_config",
                    "vocab_size",
                ),
                *(
                    "text_config",
                    "num_hidden_layers",
                    "intermediate_size",
                    "partial_rotary_factor",
                    "torch_dtype",
                ),
                *("use_sliding_window", "max_window_layers", "sliding_window_pattern", "tie_word_embeddings"),
            ]
        ),
        JSON | st.sampled_from(["llama", "gemma2", "gemma3_text", "phi3", "mistral", 1, 2, 64, 4096, True]),
    )
)
def test_a_configuration_alone(config: dict[str, Any]) -> None:

    def ask() -> None:
        facts = config_facts(config)
        recipe = resolve(Recipe(), Facts.of_model(facts), None).recipe
        faults(facts, recipe)
        if facts.has_sizes:
            stage_needs(facts, recipe, Machine(0, 2))

    error = answer(ask)
    assert error is None or error.detail


@SETTINGS
@given(data=st.data())
def test_a_safetensors_header(model: Path, data: st.DataObject) -> None:
    file = model / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header = dict(list(header.items())[:4])
    path = data.draw(st.sampled_from(list(places(header))))
    raw = json.dumps(changed(header, path, data.draw(JSON))).encode()
    said = data.draw(st.sampled_from([len(raw), len(raw) + 1, 0, 2**63, 5]))
    try:
        file.write_bytes(said.to_bytes(8, "little") + raw + whole[8 + length :])
        look_at(model)
        error = answer(lambda: read_header(file))
        assert error is None or error.code == "model.damaged"
        for entry in read_header(file).values() if error is None else ():
            assert 0 <= entry.start <= entry.end <= file.stat().st_size
    finally:
        file.write_bytes(whole)


ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
           "rank_pattern": {"q_proj": 4}, "alpha_pattern": {}, "use_rslora": False}  # fmt: skip


@SETTINGS
@given(data=st.data())
def test_an_adapters_configuration(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapter")
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{module}.lora_A.weight": torch.ones(4, 8), f"{module}.lora_B.weight": torch.ones(8, 4)}
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    path = data.draw(st.sampled_from(list(places(ADAPTER))))
    (folder / "adapter_config.json").write_text(json.dumps(changed(ADAPTER, path, data.draw(JSON))))
    error = answer(lambda: read_lora(folder))
    assert error is None or error.detail
    shutil.rmtree(folder)


GENAI = {
    "model": {"type": "llama", "context_length": 128, "eos_token_id": [1], "decoder": {
        "filename": "model.onnx", "inputs": {"input_ids": "input_ids"}, "session_options": {
            "provider_options": [{"cuda": {"device_id": "0"}}]}}},
    "search": {"max_length": 128},
}  # fmt: skip


@SETTINGS
@given(data=st.data())
def test_an_onnx_folder(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("onnx")
    path = data.draw(st.sampled_from(list(places(GENAI))))
    (folder / "genai_config.json").write_text(json.dumps(changed(GENAI, path, data.draw(JSON))))
    (folder / "model.onnx").write_bytes(data.draw(st.binary(max_size=60)))
    layout = {
        "dtype": "float32",
        "branches": [{"a": "x", "in": 4, "b": [["y", 4]], "modules": [["m", 0, 4]]}],
    }
    where = data.draw(st.sampled_from(list(places(layout))))
    (folder / "adapters.json").write_text(json.dumps(changed(layout, where, data.draw(JSON))))
    for ask in (lambda: check_onnx_folder(folder), lambda: read_layout(folder).inputs()):
        error = answer(ask)
        assert error is None or error.detail
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b"[]",
        b"",
    ],
)
def test_json_that_no_program_writes(name: str, content: bytes, model: Path) -> None:
    file = model / name
    whole = file.read_bytes()
    try:
        file.write_bytes(content)
        look_at(model)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ],
)
def test_a_text_that_would_fill_the_memory_is_not_read(name: str, model: Path) -> None:
    file = model / name
    whole = file.read_bytes() if file.exists() else None
    tracemalloc.start()
    try:
        with file.open("wb") as stream:
            stream.truncate(MOST_BYTES * 40)
        look_at(model)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
        file.unlink()
        if whole is not None:
            file.write_bytes(whole)


def test_a_tokenizer_that_would_fill_the_memory_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(RequestError, match="cannot be read") as caught:
        ModelTokenizer.read(tmp_path)
    assert "larger than 100,000,000 bytes" in caught.value.detail, (
        "the library takes memory that Python does not see"
    )


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ],
)
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(name: str, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    look_at(folder)
    os.mkfifo(tmp_path / "x.gguf")
    error = answer(lambda: check_gguf(tmp_path / "x.gguf"))
    assert error is not None
    assert error.code == "model.gguf-kind"
