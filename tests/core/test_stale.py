"""What is stale, and why: decided by the fingerprints by which a run decides whether there is anything to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import files
from core.cli import main
from core.events import Reporter
from core.files import MANIFEST, folder_stamp, write_json
from core.lab import Lab
from core.model.auto import facts_of_quantized
from core.report import report_text
from core.stale import Older, StaleReader, older_answers, other_held_out, other_source, stale
from core.upload.stage import _stale as before_upload
from core.upload.stage import remember
from tests.core.stale_labs import make_anew
from tests.tiny_models import make_tiny
from tests.tui.labs import FakeJob


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab in which everything was made, as far as its manifests tell."""
    made = Lab.create(tmp_path / "lab")
    (made.root / "records.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Where is {n}?", "response": f"At {n}."}) + "\n" for n in range(40))
    )
    made.set({"data.file": "records.jsonl", "finetune.steps": 100})
    make_anew(made, "quantize", "finetune", "optimize")
    return made


def found(lab: Lab) -> dict[str, str]:
    return stale(lab.folder, lab.recipe)


def test_what_was_just_made_is_not_stale(lab: Lab) -> None:
    assert found(lab) == {}
    assert older_answers(lab.folder, lab.recipe) == {}
    assert facts_of_quantized(lab.folder) is not None
    assert "Stale" not in report_text(lab.folder, lab.recipe)
    assert before_upload(lab.folder) == ""


def test_a_setting_is_told_by_its_name_with_both_values(lab: Lab) -> None:
    lab.set({"finetune.steps": 120})
    assert found(lab) == {
        "finetune": "finetune.steps is 120, it was 100",
        "optimize": "made from the result of Finetune, which is stale",
    }
    lab.set({"finetune.steps": 100})
    assert found(lab) == {}, "as it was again"


def test_options_that_change_nothing_of_the_result_make_nothing_stale(lab: Lab) -> None:
    lab.set({"finetune.save_steps": 7, "chat.temperature": 0.7, "upload.name": "other"})
    assert found(lab) == {}


def test_the_data_file_is_told(lab: Lab) -> None:
    with (lab.root / "records.jsonl").open("a") as stream:
        stream.write(json.dumps({"prompt": "Where is it?", "response": "Here."}) + "\n")
    told = found(lab)
    assert told["quantize"].endswith("the records that it was calibrated on have changed")
    assert told["finetune"].endswith("the data file has changed")
    assert "made from the result of Quantize, which is stale" in told["optimize"]


def test_other_data_is_told_once(lab: Lab) -> None:
    (lab.root / "more.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 30)
    lab.set({"data.file": "more.jsonl"})
    assert "data.file is more.jsonl, it was records.jsonl" in found(lab)["finetune"]
    assert "has changed" not in found(lab)["finetune"]


def test_an_earlier_result_made_anew_is_told(lab: Lab) -> None:
    lab.set({"quantize.bits": 8})
    make_anew(lab, "quantize")
    assert found(lab)["finetune"] == "the quantized model was made anew"
    assert "the quantized model was made anew" in found(lab)["optimize"]


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("data.seed", 3, "data.seed is 3, it was 0"),
        ("data.eval_fraction", 0.3, "data.eval_fraction is 0.3, it was 0.1"),
        ("data.file", "others.jsonl", "data.file is others.jsonl, it was records.jsonl"),
        ("data.prompt_field", "prompt", "data.prompt_field is prompt, it was empty"),
        ("data.max_seq_len", 90, ""),
        ("finetune.steps", 120, ""),
    ],
)
def test_an_adapter_may_have_learnt_what_was_not_held_out_then(
    lab: Lab, option: str, value: Any, why: str
) -> None:
    (lab.root / "others.jsonl").write_bytes((lab.root / "records.jsonl").read_bytes())
    assert other_held_out(lab.folder, lab.recipe) == ""
    lab.set({option: value})
    assert other_held_out(lab.folder, lab.recipe) == why


def test_records_that_are_added_leave_the_old_ones_where_they_are(lab: Lab) -> None:
    with (lab.root / "records.jsonl").open("a") as stream:
        stream.write('{"prompt": "Who lives there?", "response": "Nobody."}\n')
    assert "the data file has changed" in found(lab)["finetune"]
    assert other_held_out(lab.folder, lab.recipe) == ""


def test_another_model_is_not_what_the_quantized_one_was_made_from(lab: Lab, tmp_path: Path) -> None:
    assert other_source(lab.folder, lab.recipe) == ""
    other = make_tiny("llama", tmp_path / "other")
    lab.set({"model.source": str(other)})
    assert other_source(lab.folder, lab.recipe).startswith("model.source is other, it was ")
    make_anew(lab, "quantize")
    assert other_source(lab.folder, lab.recipe) == ""
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert other_source(lab.folder, lab.recipe) == "the model's files have changed"


def test_another_version_of_a_package_makes_nothing_stale(lab: Lab) -> None:
    path = lab.folder.finetuned_dir("travel") / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["fingerprint"]["versions"]["torch"] = "1.0"
    stat = path.stat()
    write_json(path, manifest)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "finetune" not in found(lab)


def test_an_adapter_trained_since_is_older_than_the_last_finetune(lab: Lab) -> None:
    lab.set({"finetune.steps": 120})
    make_anew(lab, "finetune")
    assert found(lab) == {"optimize": "the adapter was trained anew"}
    assert older_answers(lab.folder, lab.recipe) == {
        "travel": Older("This adapter is older than your last finetune.", "optimize")
    }, "the base is as it was"


def test_other_adapters_are_told_by_themselves(lab: Lab) -> None:
    lab.set({"finetune.adapter": "formal"})
    make_anew(lab, "finetune", "optimize")
    assert older_answers(lab.folder, lab.recipe) == {}
    os.utime(lab.folder.finetuned_dir("travel") / "adapter_model.safetensors", ns=(1, 1))
    assert set(older_answers(lab.folder, lab.recipe)) == {"travel"}
    assert found(lab) == {}


def test_settings_of_the_base_concern_every_answer(lab: Lab) -> None:
    lab.set({"quantize.bits": 8})
    older = older_answers(lab.folder, lab.recipe)
    assert set(older) == {"", "travel"}
    assert {each.stage for each in older.values()} == {"quantize"}
    assert "quantize.bits is 8, it was 4" in older[""].reason


def test_what_cannot_be_compared_is_not_called_stale(lab: Lab) -> None:
    (lab.folder.finetuned_dir("travel") / MANIFEST).write_text("{")
    (lab.folder.quantized_dir / MANIFEST).unlink()
    (lab.root / "records.jsonl").unlink()
    assert set(found(lab)) <= {"optimize"}


def test_an_evaluation_is_of_what_it_measured(lab: Lab) -> None:
    make_anew(lab, "evaluate")
    reader = StaleReader(lab.folder)
    reader.look()
    assert reader.stages == {}
    lab.set({"evaluate.rows": 7})
    reader.look()
    assert reader.stages == {"evaluate": "evaluate.rows is 7, it was 50"}
    make_anew(lab, "evaluate")
    reader.look()
    assert reader.stages == {}, "another evaluation is seen"
    (lab.folder.onnx_dir / "model.onnx").write_bytes(b"another")
    assert found(lab)["evaluate"] == "the ONNX model was made anew"


def test_a_poll_reads_no_weights_and_works_out_nothing_while_nothing_changes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real: Callable[[Path], str] = files.digest

    def digest(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(files, "digest", digest)
    reader = StaleReader(lab.folder)
    assert not reader.look(), "nothing is stale"
    lab.set({"finetune.steps": 120})
    assert reader.look()
    assert set(reader.stages) == {"finetune", "optimize"}
    assert not [name for name in read if "safetensors" in name or "onnx" in name]

    def forbidden(*_: Any) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr("core.stale.stale", forbidden)
    assert not reader.look()


def test_status_tells_it_in_words_and_json(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.set({"finetune.steps": 120})
    assert main(["status", str(lab.root)]) == 0
    words = capsys.readouterr().out
    assert "finetune is stale: finetune.steps is 120, it was 100" in words
    assert "Make it anew: olivepress run" in words
    assert main(["status", str(lab.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stale"] == [
        {"stage": "finetune", "reason": "finetune.steps is 120, it was 100"},
        {"stage": "optimize", "reason": "made from the result of Finetune, which is stale"},
    ]
    FakeJob(lab, "finetune").end("succeeded")
    lab.folder.recipe_path.write_text("[finetune]\nsteps = 'many'\n")
    assert main(["status", str(lab.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stale"] is None, "not known"


def test_report_and_upload_tell_it(lab: Lab) -> None:
    lab.set({"finetune.steps": 120})
    assert "Stale: finetune.steps is 120, it was 100." in report_text(lab.folder, lab.recipe)
    assert before_upload(lab.folder) == "made from the result of Finetune, which is stale"
    assert folder_stamp(lab.folder.onnx_dir)


def test_an_upload_is_older_than_a_model_made_anew(lab: Lab) -> None:
    remember(lab.folder, {"name": "x", "version": "1"}, Reporter())
    assert found(lab) == {}
    make_anew(lab, "optimize")
    assert found(lab) == {"upload": "the ONNX model was made anew since"}
    remember(lab.folder, {"name": "x", "version": "2"}, Reporter())
    lab.set({"optimize.precision": "fp32"})
    assert found(lab)["upload"] == "made from the result of Optimize, which is stale"
    lab.folder.upload_path.write_text('{"name": "x"}')
    assert "upload" not in found(lab), "of an upload of older days nobody knows"
