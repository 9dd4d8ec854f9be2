"""GGUF files as a model's source: what is read of them, what is refused, and the folder that they unpack to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import Cancelled, LabError, MachineError, RequestError
from core.events import RecordingReporter, Reporter
from core.model.gguf import check_gguf, config_of, float_folder, read_header, text_folder, text_of
from core.model.load import load_tokenizer
from core.model.sources import kind_of, model_stamp, resolve_model
from core.model.text import read_text
from core.olive.checkpoint import load_model
from tests.tiny_gguf import llama3_factors, write_gguf
from tests.tiny_models import CHAT_TEMPLATE, SPECIAL_TOKENS, make_tiny

END = SPECIAL_TOKENS.index("<|end|>")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/olivepress/gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return write_gguf(folder, folder.parent / "tiny.gguf")


def logits(folder: Path, length: int = 40) -> Any:
    import torch

    ids = torch.randint(0, 300, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return load_model(folder, dtype=torch.float32)(ids).logits


LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0],
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("arch", "options", "extra", "tensors"),
    [
        ("llama", {}, {}, {}),
        ("smollm", {}, {}, {}),  # tied
        ("llama", {"head_dim": 32}, {}, {}),
        ("qwen2", {}, {}, {}),
        ("qwen3", {"head_dim": 32}, {}, {}),
        ("phi3", {}, {}, {}),
        ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 16}, {}, {}),
        ("gemma3", {"query_pre_attn_scalar": 16, "sliding_window": 16, "layers": 6}, {}, {}),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0,
             "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
            {},
            {"rope_freqs.weight": llama3_factors(500000.0, 16, 32.0)},
        ),
        (
            "phi3",
            {"rope_parameters": LONG, "original_max_position_embeddings": 32},
            {"phi3.rope.scaling.original_context_length": 32},
            {"rope_factors_long.weight": LONG["long_factor"], "rope_factors_short.weight": LONG["short_factor"]},
        ),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
             "original_max_position_embeddings": 128}},
            {"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0,
             "qwen2.rope.scaling.original_context_length": 128},
            {},
        ),
    ],
)  # fmt: skip
def test_the_unpacked_model_is_the_one_that_the_file_was_made_from(
    arch: str, options: dict[str, Any], extra: dict[str, Any], tensors: dict[str, Any], tmp_path: Path
) -> None:
    source = make_tiny(arch, tmp_path / "hf", dtype="bfloat16", **options)
    pre = "qwen2" if arch == "qwen2" else "gpt-2"
    file = write_gguf(source, tmp_path / "m.gguf", extra=extra, tensors=tensors, pre=pre)
    made = float_folder(file, Reporter())
    difference = (logits(source) - logits(made)).abs().max().item()
    assert difference < 1e-5
    config = json.loads((made / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    text = "In 1863 it  opened.\n"
    assert load_tokenizer(made).encode(text) == load_tokenizer(source).encode(text)


def test_packed_weights_are_unpacked_to_what_they_stand_for(folder: Path, tmp_path: Path) -> None:
    made = float_folder(write_gguf(folder, tmp_path / "q.gguf", packed="Q8_0"), Reporter())
    close = logits(folder) - logits(made)
    assert 1e-4 < close.abs().max().item() < 0.5


def test_template_end_tokens_and_start_token_come_with_it(folder: Path, tmp_path: Path) -> None:
    told = {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.chat_template.rag": "x",
    }
    made = float_folder(write_gguf(folder, tmp_path / "a.gguf", extra=told), Reporter())
    assert (made / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert (made / "additional_chat_templates/rag.jinja").read_text() == "x"
    generation = json.loads((made / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [END, 3, 0]  # the file's two, then what ends by its name
    assert load_tokenizer(made)("hello")["input_ids"][0] == 0
    base = float_folder(
        write_gguf(folder, tmp_path / "b.gguf", extra={"tokenizer.chat_template": None}), Reporter()
    )
    assert load_tokenizer(base).chat_template is None
    assert load_tokenizer(base)("hello")["input_ids"][0] != 0


def test_what_lies_beside_the_file_is_not_taken_for_its_own(file: Path, tmp_path: Path) -> None:
    other = make_tiny("phi3", tmp_path / "other", vocab_size=300)
    (other / "chat_template.jinja").write_text("another template")
    beside = other / "tiny.gguf"
    beside.write_bytes(file.read_bytes())
    made, right = float_folder(beside, Reporter()), float_folder(file, Reporter())
    for name in ("tokenizer.json", "chat_template.jinja", "config.json", "generation_config.json"):
        assert (made / name).read_text() == (right / name).read_text()


def test_numbers_are_cut_as_the_files_tokenizer_cuts_them(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(
        float_folder(write_gguf(folder, tmp_path / "d.gguf", pre="smollm"), Reporter())
    )
    pieces = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in  1863")]
    assert pieces == ["in", "ĠĠ", "1", "8", "6", "3"]


def test_what_older_transformers_make_of_a_tokenizer_is_set_right_or_refused(
    file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer

    words = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.ByteLevel()]
    read = AutoTokenizer.from_pretrained

    def as_read_before(*args: Any, cut: bool = True, **options: Any) -> Any:
        tokenizer = read(*args, **options)
        if "gguf_file" in options:
            tokenizer.eos_token = tokenizer.bos_token
            tokenizer.backend_tokenizer.decoder = decoders.Sequence(words)
            if not cut:
                tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", as_read_before)
    made = float_folder(file, Reporter())
    assert json.loads((made / "tokenizer.json").read_text())["decoder"]["type"] == "ByteLevel"
    assert json.loads((made / "tokenizer_config.json").read_text())["eos_token"] == "<|end|>"
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", partial(as_read_before, cut=False))
    with pytest.raises(RequestError) as caught:
        float_folder(write_gguf(folder, tmp_path / "other.gguf"), Reporter())
    assert caught.value.code == "model.gguf-tokenizer"


def test_the_text_side_is_had_without_the_weights(file: Path, own_cache: Path) -> None:
    assert text_folder(file, make=False) is None
    text = text_folder(file)
    assert text is not None
    told, read = text_of(check_gguf(file)), read_text(text)
    for name in (
        "template",
        "templates",
        "bos",
        "eos",
        "pad",
        "ids",
        "ends",
        "adds_start",
        "special",
        "size",
    ):
        assert getattr(told, name) == getattr(read, name), name
    assert not list(text.glob("*.safetensors"))
    assert (text / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    whole = float_folder(file, Reporter())
    assert text_folder(file) == whole
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        assert json.loads((text / name).read_text()).items() <= json.loads((whole / name).read_text()).items()


def test_it_is_unpacked_once_and_anew_when_the_file_changes(folder: Path, tmp_path: Path) -> None:
    file = write_gguf(folder, tmp_path / "x.gguf")
    report = RecordingReporter()
    first = resolve_model("x.gguf", tmp_path, report)
    assert (first.name, first.revision) == ("x.gguf", None)
    assert any(event.get("phase") == "Unpacking the GGUF file" for event in report.events)
    again = RecordingReporter()
    assert resolve_model(str(file), Path("/"), again) == first
    assert again.events == []
    stamp = model_stamp("x.gguf", tmp_path)
    os.utime(file, (1, 1))
    assert model_stamp("x.gguf", tmp_path) != stamp
    assert resolve_model("x.gguf", tmp_path, Reporter()).path != first.path


@pytest.mark.parametrize("days", [0, 2])
def test_what_cannot_be_used_any_more_is_removed_once_nobody_uses_it(
    days: int, folder: Path, tmp_path: Path, own_cache: Path
) -> None:
    file, gone = write_gguf(folder, tmp_path / "x.gguf"), write_gguf(folder, tmp_path / "gone.gguf")
    elsewhere = write_gguf(folder, tmp_path / "y.gguf")
    old, lost, other = (float_folder(each, Reporter()) for each in (file, gone, elsewhere))
    gone.unlink()
    then = time.time() - days * 24 * 3600
    for each in (old, lost, other):
        os.utime(each, (then, then))
    os.utime(file, (1, 1))
    made = float_folder(file, Reporter())
    left = {made, other} if days else {made, other, old, lost}
    assert {each for each in own_cache.iterdir() if each.is_dir()} == left


def test_a_cancel_leaves_nothing_half_made(file: Path, own_cache: Path) -> None:
    class Impatient(Reporter):
        stop = False

        def progress(self, phase: str, done: float, total: float | None) -> None:
            self.stop |= phase == "Unpacking the GGUF file" and done > 2

        def check_cancelled(self) -> None:
            if self.stop:
                raise Cancelled

    with pytest.raises(Cancelled):
        float_folder(file, Impatient())
    assert [path.suffix for path in own_cache.iterdir()] == [".lock"]
    assert (float_folder(file, Reporter()) / "model.safetensors").is_file()


def test_what_a_killed_process_left_is_not_used_and_goes(file: Path, own_cache: Path) -> None:
    made = float_folder(file, Reporter())
    left = made.with_name(f".{made.name}.making-1234")
    made.rename(left)
    (left / "model.safetensors").write_bytes(b"half")
    assert float_folder(file, Reporter()) == made
    assert (made / "model.safetensors").stat().st_size > 1000
    assert not left.exists()


def test_two_that_start_at_once_wait_for_one_another(file: Path) -> None:
    found: list[Path] = []
    reports = [RecordingReporter(), RecordingReporter()]
    threads = [threading.Thread(target=lambda r=r: found.append(float_folder(file, r))) for r in reports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    unpacked = [r for r in reports if any(e.get("phase") == "Unpacking the GGUF file" for e in r.events)]
    assert len(unpacked) == 1


def test_disk_and_memory_are_looked_at_before(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    import psutil

    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(MachineError, match="disk space"):
            float_folder(file, Reporter())
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1000))
    with pytest.raises(MachineError, match="memory"):
        float_folder(file, Reporter())


def test_kinds(file: Path, tmp_path: Path) -> None:
    assert kind_of(str(file), tmp_path) == "gguf"
    assert kind_of("tiny.gguf", file.parent) == "gguf"
    assert kind_of("./not-there.gguf", tmp_path) == "gguf"
    assert kind_of("owner/name.gguf", tmp_path) == "hub"
    (tmp_path / "odd.gguf").mkdir()
    assert kind_of("odd.gguf", tmp_path) == "folder"


@pytest.mark.parametrize(
    ("extra", "words", "code"),
    [
        ({"general.type": "adapter"}, "LoRA adapter", "model.gguf-kind"),
        ({"general.type": "mmproj"}, "images", "model.gguf-kind"),
        ({"split.count": 3}, "split", "model.gguf-split"),
        ({"llama.expert_count": 8}, "experts", "model.gguf-shape"),
        ({"llama.attention.head_count": [4, 2]}, "shape", "model.gguf-shape"),
        ({"llama.rope.scaling.type": "odd"}, "shape", "model.gguf-shape"),
        ({"llama.block_count": None}, "shape", "model.gguf-shape"),
        ({"tokenizer.ggml.tokens": None}, "no tokenizer", "model.gguf-tokenizer"),
        ({"tokenizer.ggml.pre": "unheard-of"}, "kind of tokenizer", "model.gguf-tokenizer"),
        ({"tokenizer.ggml.eos_token_id": 9999}, "does not have", "model.gguf-damaged"),
    ],
)
def test_what_is_no_readable_model_is_refused_by_its_reason(
    extra: dict[str, Any], words: str, code: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        check_gguf(write_gguf(folder, tmp_path / "x.gguf", extra=extra))
    assert caught.value.code == code
    assert caught.value.hint


def test_an_architecture_that_is_not_read_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rwkv7") as caught:
        check_gguf(write_gguf(folder, tmp_path / "x.gguf", architecture="rwkv7"))
    assert "llama" in caught.value.detail
    assert caught.value.code == "model.gguf-architecture"


def test_positions_stretched_in_an_unknown_way_are_refused(folder: Path, tmp_path: Path) -> None:
    odd = write_gguf(folder, tmp_path / "x.gguf", tensors={"rope_freqs.weight": [1.0, 2, 3, 4, 5, 6, 7, 8]})
    with pytest.raises(RequestError, match="positions"):
        check_gguf(odd)


def test_a_part_is_known_by_its_name_too(file: Path, tmp_path: Path) -> None:
    part = tmp_path / "m-00002-of-00003.gguf"
    part.write_bytes(file.read_bytes())
    with pytest.raises(RequestError, match="split"):
        check_gguf(part)


def test_a_tensor_that_is_missing_is_noticed(folder: Path, tmp_path: Path) -> None:
    broken = write_gguf(folder, tmp_path / "x.gguf", without=("blk.1.ffn_up.weight",))
    with pytest.raises(LabError, match="does not hold the model"):
        float_folder(broken, Reporter())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"tjgg" + bytes(60), "before GGUF"),
        (b"PK\x03\x04" + bytes(60), "something else"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(60), "big-endian"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(60), "version 1"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "more than its bytes"),
        (b"GGUF\x03", "goes on beyond"),
    ],
)
def test_other_files_are_told_from_gguf(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_header(path)
    assert words in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_header_is_refused_and_never_a_crash(
    file: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1), label="cut")
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:cut])
    with pytest.raises(RequestError):
        read_header(path)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(4, 400), st.integers(4, 12000)), label="at")
        changed[at] = data.draw(st.integers(0, 255), label="byte")
    path.write_bytes(changed)
    try:
        config_of(check_gguf(path))
    except RequestError as error:
        if not error.code:
            raise


def test_check_answers_from_the_header(file: Path, tmp_path: Path, own_cache: Path) -> None:
    """By the command line: nothing is unpacked, and a damaged file is refused before any work with exit 2."""
    from core import Lab

    def olivepress(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "core.cli", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    Lab.create(tmp_path / "lab", model=str(file), settings={"data.chat_template": True})
    checks = json.loads(olivepress("check", str(tmp_path / "lab"), "--json").stdout)["checks"]
    found = {check["name"]: check for check in checks}
    assert found["model"]["state"] == "OK"
    assert "licence mit, llama, its own chat template" in found["model"]["found"]
    assert found["architecture"]["state"] == "OK"
    assert not list(own_cache.glob("*/model.safetensors"))
    survey = json.loads(olivepress("data", str(tmp_path / "lab"), "--json").stdout)
    assert survey["tokens"]["total"] > 0
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:-100])
    Lab.create(tmp_path / "lab2", model=str(broken))
    ran = olivepress("run", str(tmp_path / "lab2"))
    assert ran.returncode == 2
    assert "cut short" in ran.stderr
