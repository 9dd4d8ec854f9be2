"""What there is to take along, for scripts and for people."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from core.cli import main
from core.files import write_json
from core.lab import Lab
from core.takeaway import ADAPTERS, GRAPH, takeaway


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab with an ONNX folder such as the stage leaves."""
    lab = Lab.create(tmp_path / "my lab")
    folder = lab.folder.onnx_dir
    (folder / "adapters").mkdir(parents=True)
    for name, size in {
        "model.onnx": 10,
        "model.onnx.data": 2000,
        "adapters/travel.onnx_adapter": 300,
    }.items():
        (folder / name).write_bytes(b"x" * size)
    (folder / "genai_config.json").write_text("{}")
    answers = {"question": "What to see?", "base": "\x1b[31mI do not\nknow.", "tuned": "The bridge."}
    write_json(folder / "olivepress.json", {"result": {"answers": answers}})
    return lab


def test_it_says_what_is_in_it_and_one_answer_before_and_after(lab: Lab) -> None:
    found = takeaway(lab.folder)
    assert found is not None
    assert found.files == 5
    assert found.bytes == sum(
        path.stat().st_size for path in lab.folder.onnx_dir.rglob("*") if path.is_file()
    )
    assert dict(found.parts)[GRAPH] == 2010
    assert dict(found.parts)[ADAPTERS] == 300
    said = "\n".join(found.lines())
    assert "  before: I do not know." in said
    assert "  now:    The bridge." in said
    assert "\x1b" not in said


def test_the_commands_pack_it_and_unpack_it(lab: Lab, tmp_path: Path) -> None:
    found = takeaway(lab.folder)
    assert found is not None
    pack, chat = found.ways[0].how, found.ways[1].how
    *unpack, last = chat.split(" && ")
    assert shlex.split(last) == ["olivepress", "chat", "my lab"]
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(" && ".join([pack, *unpack]), shell=True, cwd=there, check=True)
    copied = Lab.open(there / "my lab")
    assert (copied.folder.onnx_dir / "adapters" / "travel.onnx_adapter").is_file()


def test_show_ends_with_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(lab.root)]) == 0
    assert "Take it with you" in capsys.readouterr().out
    assert main(["show", str(lab.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["takeaway"]
    assert told["folder"] == str(lab.folder.onnx_dir)
    assert told["ways"][0]["how"].startswith("tar -C ")


@pytest.mark.parametrize("manifest", ["{", "[]", '{"result": {"answers": 3}}'])
def test_a_damaged_manifest_hides_the_answers_alone(manifest: str, lab: Lab) -> None:
    (lab.folder.onnx_dir / "olivepress.json").write_text(manifest)
    found = takeaway(lab.folder)
    assert found is not None
    assert found.question == ""


def test_without_a_model_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab.create(tmp_path / "lab")
    assert takeaway(lab.folder) is None
    assert main(["show", str(lab.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"results": [], "takeaway": None}
