"""Exports that cannot be: each is refused by its reason, and nothing half written stays."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.cli import main
from core.errors import LabError, MachineError
from core.export.forms import FORMS, form_named
from core.export.write import export
from core.files import MANIFEST, seal, write_json
from core.lab import Lab
from core.model.licence import read_licence
from tests.core.export.labs import add_adapter, lab_with


def code_of(*arguments: Any, **options: Any) -> str:
    with pytest.raises(LabError) as caught:
        export(*arguments, **options)
    return caught.value.code


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = lab_with("llama", tmp_path / "lab")
    add_adapter(made)
    return made


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lab")


def test_a_lab_without_results(tmp_path: Path) -> None:
    empty = Lab.create(tmp_path / "lab")
    for kind in ("onnx", "foundry-local", "merged", "gguf", "peft"):
        assert code_of(empty, kind, tmp_path / "out") == "export.nothing"
    assert left(tmp_path) == []


def test_words_that_are_no_form_or_type(lab: Lab, tmp_path: Path) -> None:
    assert code_of(lab, "zip", tmp_path / "out") == "export.unknown"
    assert code_of(lab, "merged", tmp_path / "out", type="q4_1") == "export.type"
    assert code_of(lab, "onnx", tmp_path / "out", type="f16") == "export.type"
    assert code_of(lab, "gguf", tmp_path / "out", type="q4_1") == "export.type", "the lab's model is float"
    assert code_of(lab, "hub", "me/it", hub_form="script") == "export.form"
    assert [form_named(name).name for name in FORMS] == list(FORMS)


def test_a_place_that_is_taken(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        for force in (False, True):
            assert code_of(lab, "merged", tmp_path / name, force=force) == "export.exists"
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"
    for place in (lab.root, lab.folder.models_dir, lab.folder.models_dir / "new", tmp_path):
        assert code_of(lab, "merged", place, force=True) == "export.place"


def test_an_earlier_export_goes_only_when_told(lab: Lab, tmp_path: Path) -> None:
    export(lab, "merged", tmp_path / "out")
    assert code_of(lab, "merged", tmp_path / "out") == "export.exists"
    again = export(lab, "merged", tmp_path / "out", force=True, adapter=None)
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["export"]["adapter"] is None
    assert again.numbers["adapter"] is None
    assert left(tmp_path) == ["out"]


def test_an_adapter_that_is_not_there(lab: Lab, tmp_path: Path) -> None:
    assert code_of(lab, "merged", tmp_path / "out", adapter="nobody") == "export.adapter"
    assert code_of(lab, "peft", tmp_path / "out", adapter=None) == "export.adapter"


def test_an_adapter_of_another_base(lab: Lab, tmp_path: Path) -> None:
    write_json(lab.folder.quantized_dir / MANIFEST, {"fingerprint": {"made": 2}})
    write_json(lab.folder.finetuned_dir("travel") / MANIFEST, {"fingerprint": {"base": {"made": 1}}})
    assert code_of(lab, "merged", tmp_path / "out") == "export.other-base"


@pytest.mark.parametrize("kind", ["merged", "gguf", "peft"])
def test_an_adapter_of_another_size(kind: str, lab: Lab, tmp_path: Path) -> None:
    other = lab_with("llama", tmp_path / "lab" / "other", hidden=32)
    add_adapter(other).rename(lab.folder.finetuned_dir("small"))
    assert code_of(lab, kind, tmp_path / "out", adapter="small") == "export.other-base"
    assert left(tmp_path) == []


def test_a_damaged_result(lab: Lab, tmp_path: Path) -> None:
    seal(lab.folder.quantized_dir, {})
    with (lab.folder.quantized_dir / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    assert code_of(lab, "merged", tmp_path / "out") == "result.damaged"


def test_a_result_older_than_the_settings(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.export.write.stale", lambda *_: {"quantize": "quantize.bits is 8, it was 4"})
    assert code_of(lab, "merged", tmp_path / "out") == "export.stale"
    assert export(lab, "merged", tmp_path / "out", force=True).bytes > 0


def test_a_full_disk_leaves_nothing(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(MachineError) as caught:
        export(lab, "merged", tmp_path / "out")
    assert caught.value.code == "disk.full"
    assert left(tmp_path) == []


def test_what_a_killed_export_left_goes(lab: Lab, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    half = tmp_path / f".out.making-{child.pid}"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"x")
    export(lab, "merged", tmp_path / "out")
    assert left(tmp_path) == ["out"]


def test_a_small_disk_is_told_before_the_work(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert code_of(lab, "gguf", tmp_path / "out") == "disk.full"
    assert left(tmp_path) == []


def test_the_command_line_and_its_json(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(lab.root), "--to", "merged", str(tmp_path / "out")]
    assert main([*words, "--type", "float16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["form"], told["adapter"], told["type"]) == ("merged", "travel", "float16")
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main(words[:2]) == 2
    assert "foundry-local" in capsys.readouterr().err, "the forms are named"
    assert main(words[:4]) == 2
    assert "--to needs FORM and OUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "banned"),
    [
        ("You may not distribute, sublicense or share the model with any third party.", True),
        ("You may not copy, sublicense, or distribute the Program except as expressly provided.", False),
        ("Permission is hereby granted to use, copy, modify, publish and distribute the Software.", False),
        ("Licensees shall not redistribute the weights. Other terms follow.", True),
    ],
)
def test_a_licence_that_forbids_sharing_is_told(text: str, banned: bool, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(text)
    assert bool(read_licence(tmp_path).ban) == banned


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"algorithm": "gptq", "bits": 8}, "| Quantized by | gptq, 8 bits |"),
        ({"algorithm": "none"}, None),
    ],
)
def test_the_card_tells_how_the_weights_were_made_and_not_what_the_recipe_says_now(
    made: dict[str, Any], said: str | None, lab: Lab, tmp_path: Path
) -> None:
    lab.set({"quantize.algorithm": "rtn", "quantize.bits": 4})
    write_json(lab.folder.quantized_dir / MANIFEST, {"fingerprint": {"quantize": made}})
    export(lab, "merged", tmp_path / "out", force=True)
    lines = [line for line in (tmp_path / "out/README.md").read_text().splitlines() if "Quantized" in line]
    assert lines == ([said] if said else [])


def test_the_card_tells_what_from_what_and_the_licence(lab: Lab, tmp_path: Path) -> None:
    model = lab_with("llama", tmp_path / "lab" / "source").folder.quantized_dir
    (model / "LICENSE.txt").write_text("You must not share this model.")
    (model / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n")
    lab.set({"model.source": str(model)})
    done = export(lab, "merged", tmp_path / "out")
    assert any("forbid" in note for note in done.notes)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nd-4.0\n")
    assert "adapter travel" in card
    assert str(tmp_path) not in card, "a path of this machine is nobody's business"
    assert (tmp_path / "out/licence/LICENSE.txt").read_text().startswith("You must not")
