"""A lab of an older version opens and goes on; what a newer one has written is kept."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from core import Lab, RequestError
from core.chat.transcript import list_chats
from core.cli import main
from core.events import read_events
from core.files import MANIFEST
from tests.tiny_models import make_tiny

HERE = Path(__file__).parent


@pytest.fixture
def older(tmp_path: Path) -> Lab:
    """The lab as the code of the 20th of November 2026 has made it."""
    with tarfile.open(HERE / "lab-c64ed1d.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    make_tiny("llama", tmp_path / "lab/model", tie=True)
    return Lab.open(tmp_path / "lab")


def test_a_lab_of_an_older_version_opens(older: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "show", "logs", "data"):
        more = ["quantize-001"] if command == "logs" else []
        assert main([command, str(older.root), *more]) == 0
    shown = capsys.readouterr().out
    assert shown.count("succeeded") == 3
    assert [job.state for job in older.jobs()] == ["succeeded"] * 3
    assert len(list_chats(older.folder.chats_dir)) == 1
    with older.chat() as chat:
        assert chat.ask("Where is a?").new_tokens > 0


def test_a_lab_of_an_older_version_goes_on(older: Lab) -> None:
    before = older.manifest("finetune")
    older.set({"finetune.steps": 5})
    assert older.run("finetune").job == "finetune-002"
    assert older.manifest("finetune") != before
    assert not older.run("optimize").reused
    assert older.run("optimize").reused
    with older.chat() as chat:
        assert chat.ask("Where is a?").new_tokens > 0


def test_what_a_newer_version_has_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    lab = Lab.create(tmp_path / "lab", settings={"chat.system": "ok"})
    lab.run("quantize")
    job = lab.job("quantize")
    newer = {"newer": {"key": ["x"]}}
    files = [lab.folder.quantized_dir / MANIFEST, job.folder / "done.json", job.folder / "spec.json"]
    for path in files:
        path.write_text(json.dumps({**json.loads(path.read_text()), **newer}))
    with job.events_path.open("a") as stream:
        stream.write(json.dumps({"v": 2, "t": "", "job": job.id, "type": "weather", "wind": 3}) + "\n")
        stream.write(
            json.dumps({"v": 2, "t": "", "job": job.id, "type": "log", "level": "info", "text": "", **newer})
            + "\n"
        )
    assert job.status().state == "succeeded"
    assert lab.run("quantize").reused
    assert main(["status", str(lab.root)]) == 0
    for path in files:
        assert json.loads(path.read_text())["newer"] == newer["newer"]
    kinds = [event["type"] for event in read_events(job.events_path)[0]]
    assert kinds[-2:] == ["weather", "log"]


def test_a_newer_recipe_is_refused_by_its_key_and_left_alone(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab")
    path = lab.folder.recipe_path
    text = path.read_text() + "\n[weather]\nwind = 3 # from the west\n"
    path.write_text(text)
    for use in (lambda: Lab.open(lab.root), lambda: lab.set({"finetune.steps": 7})):
        with pytest.raises(RequestError) as caught:
            use()
        assert caught.value.code == "recipe.unknown-key"
        assert "weather" in caught.value.detail
    assert path.read_text() == text


def test_settings_are_changed_without_touching_the_rest(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab")
    path = lab.folder.recipe_path
    path.write_text("# mine\n" + path.read_text().replace("[chat]", "[chat] # also mine"))
    before: Any = path.read_text().splitlines()
    lab.set({"finetune.steps": 7})
    after = path.read_text().splitlines()
    assert len(after) == len(before)
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        next(line for line in after if line.startswith("steps = 7"))
    ]
