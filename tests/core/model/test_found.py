"""Models that could be taken are found where they usually lie, each once, without reading a weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.model.found import RECENT, FoundModel, found_models, remember


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folders and the hub's cache lie in the test's folder."""
    monkeypatch.setattr("core.model.found.state_dir", lambda: tmp_path / "state")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def model(folder: Path, size: int = 100) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(b"x" * size)
    return folder


def found(tmp_path: Path) -> dict[str, FoundModel]:
    lab, home = tmp_path / "labs" / "lab", tmp_path / "home"
    lab.mkdir(parents=True, exist_ok=True)
    return {each.source: each for each in found_models(lab, home)}


def test_a_machine_with_nothing_has_the_rehearsal_model(tmp_path: Path) -> None:
    assert list(found(tmp_path)) == ["rehearsal"]


def test_folders_and_gguf_files_are_found_near_by_and_in_the_home(tmp_path: Path) -> None:
    beside = model(tmp_path / "labs" / "tiny")
    inside = model(tmp_path / "labs" / "lab" / "mine")
    kept = model(tmp_path / "home" / "models" / "family" / "big", 300)
    (tmp_path / "home" / "Downloads").mkdir()
    (tmp_path / "home" / "Downloads" / "some.Q4.gguf").write_bytes(b"x" * 7)
    (tmp_path / "home" / "Downloads" / "mmproj-F16.gguf").write_bytes(b"x")
    models = found(tmp_path)
    gguf = str(tmp_path / "home" / "Downloads" / "some.Q4.gguf")
    assert set(models) == {"rehearsal", str(beside), "./mine", str(kept), gguf}
    assert models[str(kept)] == FoundModel(str(kept), "near by", "big", 300)
    assert models[gguf].bytes == 7
    assert inside.is_dir()


def test_what_a_lab_has_made_and_what_is_no_model_is_not_offered(tmp_path: Path) -> None:
    other = tmp_path / "labs" / "other"
    model(other / "models" / "quantized")
    (other / "lab.toml").write_text("")
    model(tmp_path / "labs" / ".hidden" / "model")
    (tmp_path / "labs" / "config-only").mkdir()
    (tmp_path / "labs" / "config-only" / "config.json").write_text("{}")
    assert list(found(tmp_path)) == ["rehearsal"]


def test_a_folder_that_leads_into_itself_is_gone_through_once(tmp_path: Path) -> None:
    tiny = model(tmp_path / "labs" / "tiny")
    (tmp_path / "labs" / "loop").symlink_to(tmp_path / "labs", target_is_directory=True)
    assert list(found(tmp_path)) == ["rehearsal", str(tiny)]


def test_what_the_hub_s_cache_has_whole_is_offered_by_its_id(tmp_path: Path) -> None:
    model(tmp_path / "hub" / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc", 50)
    half = tmp_path / "hub" / "models--org--half" / "snapshots" / "abc"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    (tmp_path / "hub" / "datasets--org--rows" / "snapshots").mkdir(parents=True)
    models = found(tmp_path)
    assert list(models) == ["rehearsal", "Qwen/Qwen3-0.6B"]
    assert models["Qwen/Qwen3-0.6B"].place == "hub cache"


def test_the_last_ones_come_first_while_they_are_there(tmp_path: Path) -> None:
    gone, there = tmp_path / "gone", model(tmp_path / "kept")
    for source in ("a/b", str(gone), str(there), "a/b", "rehearsal"):
        remember(source)
    models = found(tmp_path)
    assert list(models) == ["rehearsal", "a/b", str(there)]
    assert models["a/b"].place == "recent"
    for number in range(RECENT + 3):
        remember(f"org/model-{number}")
    assert len(found(tmp_path)) == 1 + RECENT


@pytest.mark.parametrize("damage", ["", "[]", '{"models": 3}', '{"models": [3, ""]}', "\x00"])
def test_a_damaged_list_of_the_last_ones_is_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "models.json").write_text(damage)
    assert list(found(tmp_path)) == ["rehearsal"]
