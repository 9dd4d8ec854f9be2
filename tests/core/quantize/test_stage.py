"""The quantize stage: what it makes, what it refuses, what it tells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import RequestError, StageError
from core.events import RecordingReporter
from core.files import MANIFEST, read_json
from core.folder import LabFolder
from core.model.auto import Settled
from core.model.folder import read_config
from core.quantize import stage as quantize
from core.resources import rehearsal_model
from core.stage_context import StageContext
from tests.recipes import settled
from tests.tiny_models import make_tiny

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class Bench:
    """A lab without jobs: the stage is run in this process."""

    def __init__(self, root: Path) -> None:
        self.lab = LabFolder(root)
        self.report = RecordingReporter()

    def recipe(self, source: Path | str, **values: Any) -> Settled:
        small = {"quantize.group_size": 32, "quantize.calibration_samples": 24}
        given = {key.replace("__", "."): value for key, value in values.items()}
        return settled({"model.source": str(source), **small, **given})

    def run(self, source: Path | str, **values: Any) -> dict[str, Any]:
        recipe = self.recipe(source, **values)
        quantize.fingerprint(self.lab, recipe)
        work = self.lab.models_dir / ".work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return quantize.run(StageContext(self.lab, recipe, self.report, work, {"fingerprint": {}}, {}))

    def logs(self) -> str:
        return "\n".join(event["text"] for event in self.report.events if event["type"] == "log")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "lab")


@pytest.mark.parametrize("arch", ["llama", "qwen2", "phi3"])
@pytest.mark.parametrize("algorithm", ["rtn", "kquant", "gptq", "awq"])
def test_every_algorithm_on_tied_grouped_biased_models(
    arch: str, algorithm: str, bench: Bench, tmp_path: Path
) -> None:
    from core.olive.checkpoint import load_model

    source = make_tiny(arch, tmp_path / arch, tie=True, kv_heads=1, salient=3)
    result = bench.run(source, quantize__algorithm=algorithm)
    made = bench.lab.quantized_dir
    config = json.loads((made / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "olive"
    assert config["quantization_config"]["overrides"] == {"lm_head": {"bits": 8}}
    for name in TOKENIZER:
        assert (made / name).read_bytes() == (source / name).read_bytes()
    model = load_model(made)
    assert model.model.layers[0].mlp.down_proj.quantizer.bits == 4
    assert model.lm_head.quantizer.bits == 8
    assert (arch == "qwen2") == (
        getattr(model.model.layers[0].self_attn, "q_proj", model.lm_head).bias is not None
    )
    assert result["bytes_after"] < result["bytes_before"] / 2
    assert 0 < result["kl_to_float"] < 3
    assert result["calibration_rows"] == (24 if algorithm in ("gptq", "awq") else 0)
    assert read_json(made / MANIFEST)["result"] == result
    assert bench.report.metrics("kl_to_float") == [pytest.approx(result["kl_to_float"], abs=1e-5)]


def test_none_keeps_the_model_as_it_is(bench: Bench, tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "m")
    result = bench.run(source, quantize__algorithm="none")
    assert result["kl_to_float"] == pytest.approx(0, abs=1e-6)
    weights = "model.safetensors"
    assert (bench.lab.quantized_dir / weights).read_bytes() == (source / weights).read_bytes()


def test_awq_is_what_a_recipe_quantizes_with_unless_told_otherwise(bench: Bench) -> None:
    passes = quantize.passes(bench.recipe("rehearsal"), Path("rows.json"), rehearsal_model())
    assert passes["quantize"]["type"] == "OlivePressAwq"


@pytest.mark.parametrize("algorithm", ["awq", "rtn"])
def test_kinds_of_layers_with_eight_bits_are_nearer_to_the_float_model(
    bench: Bench, tmp_path: Path, algorithm: str
) -> None:
    source = make_tiny("llama", tmp_path / "m")
    narrow = bench.run(source, quantize__algorithm=algorithm)
    wide = bench.run(
        source, quantize__algorithm=algorithm, quantize__eight_bit_layers="o_proj, v_proj,k_proj,q_proj"
    )
    overrides = read_config(bench.lab.quantized_dir)["quantization_config"]["overrides"]
    assert {bits["bits"] for name, bits in overrides.items()} == {8}
    assert "model.layers.0.self_attn.o_proj" in overrides
    assert not any("mlp" in name for name in overrides)
    assert wide["kl_to_float"] < narrow["kl_to_float"]
    assert narrow["bytes_after"] < wide["bytes_after"] < narrow["bytes_before"]


def test_a_kind_of_layers_that_is_not_there_is_refused_with_those_that_are(
    bench: Bench, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "m")
    with pytest.raises(RequestError, match="no layers called qkv_proj") as caught:
        bench.run(source, quantize__eight_bit_layers="o_proj,qkv_proj")
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in caught.value.detail
    assert not bench.lab.quantized_dir.exists()


def test_a_group_size_that_does_not_divide_names_the_layer_and_the_sizes_that_do(
    bench: Bench, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "m", intermediate=96)
    with pytest.raises(RequestError) as caught:
        bench.run(source, quantize__group_size=64)
    assert "model.layers.0.mlp.down_proj has 96 inputs" in caught.value.detail
    assert "group_size = 32; 16 would do" in caught.value.hint
    assert not bench.lab.quantized_dir.exists()


def test_no_group_size_that_fits_is_said(bench: Bench, tmp_path: Path) -> None:
    source = make_tiny("llama", tmp_path / "m", intermediate=100)
    with pytest.raises(RequestError, match="No group size divides") as caught:
        bench.run(source)
    assert "quantize.algorithm = none" in caught.value.hint


def test_a_model_without_weights_or_tokenizer_or_with_damaged_weights_is_refused(
    bench: Bench, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "m")
    bare = shutil.copytree(source, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    mute = shutil.copytree(source, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    cut = shutil.copytree(source, tmp_path / "cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for folder, words in ((bare, "no weights"), (mute, "no tokenizer"), (cut, "damaged")):
        with pytest.raises(RequestError, match=words):
            bench.run(folder)
    with pytest.raises(RequestError, match="no such model"):
        bench.run(tmp_path / "nowhere")


def test_a_quantized_model_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.run(make_tiny("llama", tmp_path / "m"), quantize__algorithm="rtn")
    with pytest.raises(RequestError, match="already quantized"):
        bench.run(bench.lab.quantized_dir, quantize__algorithm="rtn")


def test_too_little_calibration_data_is_warned_about_and_a_text_file_will_do(
    bench: Bench, tmp_path: Path
) -> None:
    source = make_tiny("llama", tmp_path / "m")
    bench.lab.root.mkdir(parents=True)
    (bench.lab.root / "some.txt").write_text("The quick brown fox. " * 40)
    result = bench.run(source, quantize__calibration_file="some.txt", quantize__max_calibration_len=64)
    assert 0 < result["calibration_rows"] < 16
    assert "too few" in bench.logs()
    with pytest.raises(RequestError, match="calibration file does not exist"):
        bench.run(source, quantize__calibration_file="other.txt")


def test_each_piece_of_a_text_file_begins_as_the_tokenizer_begins_a_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from core.model.tokenizer import ModelTokenizer
    from core.quantize.calibration import text_rows

    backend = Tokenizer(models.WordLevel({"<bos>": 0, "?": 1, "fox": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "some.txt").write_text("fox " * 7, encoding="utf-8")
    assert text_rows(tmp_path / "some.txt", ModelTokenizer(backend), 9, 4, 0) == [[2] * 4, [2] * 3]
    backend.add_special_tokens(["<bos>"])
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    assert text_rows(tmp_path / "some.txt", ModelTokenizer(backend), 9, 4, 0) == [
        [0, 2, 2, 2],
        [0, 2, 2, 2],
        [0, 2],
    ]


def test_calibration_rows_follow_the_seed() -> None:
    from core.data import Example
    from core.quantize.calibration import choose

    examples = [Example("f", line, (), ()) for line in range(50)]
    first, again, other = choose(examples, 10, 1), choose(examples, 10, 1), choose(examples, 10, 2)
    assert first == again != other
    assert [each.line for each in first] == sorted({each.line for each in first})
    assert choose(examples, 99, 1) == examples


def test_another_models_weights_do_not_pass_verification(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = make_tiny("llama", tmp_path / "m"), make_tiny("llama", tmp_path / "other", seed=9)

    def wrong(context: StageContext, *_: Any) -> tuple[Path, dict[str, Any]]:
        return Path(shutil.copytree(other, context.work / "output")), {}

    monkeypatch.setattr(quantize, "run_pass", wrong)
    with pytest.raises(StageError, match="nothing in common"):
        bench.run(source)
    assert not bench.lab.quantized_dir.exists()


@pytest.mark.parametrize("damage", ["missing", "nan"])
def test_a_result_with_missing_or_broken_numbers_does_not_pass(
    damage: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    real = quantize.run_pass

    def broken(*args: Any) -> tuple[Path, dict[str, Any]]:
        made, told = real(*args)
        tensors = load_file(made / "model.safetensors")
        name = "model.layers.0.mlp.down_proj.scales"
        if damage == "missing":
            del tensors[name]
        else:
            tensors[name] = torch.full_like(tensors[name], float("nan"))
        save_file(tensors, made / "model.safetensors", {"format": "pt"})
        return made, told

    monkeypatch.setattr(quantize, "run_pass", broken)
    with pytest.raises(StageError, match={"missing": "cannot be opened", "nan": "not finite"}[damage]):
        bench.run(make_tiny("llama", tmp_path / "m"), quantize__algorithm="rtn")
    assert not bench.lab.quantized_dir.exists()


def test_the_fingerprint_knows_what_the_result_depends_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tiny("llama", tmp_path / "m")
    bench.lab.root.mkdir(parents=True)
    data = bench.lab.root / "rows.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n')

    def prints(**values: Any) -> dict[str, Any]:
        return quantize.fingerprint(bench.lab, bench.recipe(source, data__file="rows.jsonl", **values))

    first, plain = prints(), prints(quantize__algorithm="rtn")
    assert first == prints(chat__temperature=1.0)
    assert first != prints(quantize__seed=3)
    assert plain == prints(quantize__algorithm="rtn", quantize__seed=3)
    data.write_text('{"prompt": "a", "response": "c"}\n')
    assert first != prints()
    assert plain == prints(quantize__algorithm="rtn")
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    assert plain != prints(quantize__algorithm="rtn")
    data.unlink()
    with pytest.raises(RequestError, match="data file does not exist"):
        prints()


def test_too_little_disk_is_said_before_the_work(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.errors import MachineError

    full: Callable[[Any], Any] = lambda _: shutil._ntuple_diskusage(10, 9, 1)  # noqa: E731
    source = make_tiny("llama", tmp_path / "m")
    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(MachineError, match="not enough disk space"):
        bench.run(source)
