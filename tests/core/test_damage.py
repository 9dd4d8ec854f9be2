"""Results that are cut, changed or gone are noticed, refused as inputs, and made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core import Lab, RequestError
from core.check.place import results
from core.check.types import FAIL, OK, SKIP, Subject
from core.files import FILES, MANIFEST, damage, publish, read_json, refuse_damaged
from core.recipe import Recipe
from tests.core.jobs.test_jobs import cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder."""
    made = tmp_path / "made"
    (made / "adapters").mkdir(parents=True)
    (made / "model.onnx").write_bytes(b"graph")
    (made / "adapters" / "travel").write_bytes(b"adapter")
    publish(made, tmp_path / "onnx", {"result": {}})
    return tmp_path / "onnx"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM = [cut, flip, remove, put_a_folder_there]


def test_a_manifest_has_the_sizes_and_digests_of_all_files(folder: Path) -> None:
    files = read_json(folder / MANIFEST)[FILES]
    assert {name: size for name, (size, _) in files.items()} == {"model.onnx": 5, "adapters/travel": 7}
    assert damage(folder, verify=True) == []


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", ["model.onnx", "adapters/travel"])
def test_each_harm_to_each_file_is_noticed(folder: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(folder / name)
    (found,) = damage(folder)
    assert found.startswith(f"{name} ")
    with pytest.raises(RequestError) as caught:
        refuse_damaged(folder, "Do this.")
    assert caught.value.code == "result.damaged"
    assert found in caught.value.detail


def test_a_change_that_left_no_trace_is_found_by_reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(folder / "model.onnx")
    monkeypatch.setattr("core.files._time_of", lambda path: 0)
    assert damage(folder) == []
    assert damage(folder, verify=True) == ["model.onnx is not as it was made."]


def test_a_copy_and_a_touch_are_no_damage(folder: Path, tmp_path: Path) -> None:
    os.utime(folder / "model.onnx")
    assert damage(folder) == []
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)
    assert damage(tmp_path / "copy", verify=True) == []
    (folder / "notes.txt").write_text("a person's own")
    assert damage(folder, verify=True) == []


@pytest.mark.parametrize("manifest", ["", "{}", "7", '{"files": 3}', None])
def test_what_was_not_made_here_is_not_judged(folder: Path, manifest: str | None) -> None:
    (folder / MANIFEST).unlink()
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)
    (folder / "model.onnx").unlink()
    assert damage(folder, verify=True) == []


def test_a_list_of_files_that_is_nonsense_is_damage(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": {"model.onnx": 7}}')
    assert len(damage(folder)) == 1


def test_all_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, target = tmp_path / "made", tmp_path / "models" / "onnx"
    (made / "adapters").mkdir(parents=True)
    (made / "model.onnx").write_bytes(b"graph")
    (made / "adapters" / "travel").write_bytes(b"adapter")
    done: list[str] = []
    rename, fsync = os.rename, os.fsync

    def note_sync(handle: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{handle}").removeprefix(f"{tmp_path}/"))
        fsync(handle)

    def note_rename(old: Path, new: Path) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    publish(made, target, {"result": {}})
    before = set(done[: done.index("rename")])
    assert {"made", "made/model.onnx", "made/adapters", "made/adapters/travel", f"made/{MANIFEST}"} <= before
    assert done[done.index("rename") + 1 :] == ["models"]


# In a lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    lab = Lab.create(tmp_path / "lab", settings={"chat.system": "ok"})
    lab.run("quantize")
    return lab


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_result_is_made_again_by_a_plain_run(lab: Lab, harm: Callable[[Path], None]) -> None:
    weights = lab.folder.quantized_dir / "weights"
    before = weights.read_bytes()
    harm(weights)
    assert not lab.run("quantize").reused
    assert weights.read_bytes() == before
    assert any("damaged and is made again" in line for line in lab.job("quantize").log_tail())
    assert lab.run("quantize").reused


def test_a_stage_refuses_a_damaged_input_and_its_hint_leads_out(lab: Lab) -> None:
    cut(lab.folder.quantized_dir / "weights")
    with pytest.raises(RequestError) as caught:
        lab.run("finetune")
    assert caught.value.code == "result.damaged"
    assert caught.value.hint.endswith("quantize")
    assert not lab.run("quantize").reused
    lab.run("finetune")


def test_verify_finds_what_left_no_trace(lab: Lab) -> None:
    weights = lab.folder.quantized_dir / "weights"
    manifest = lab.folder.quantized_dir / MANIFEST
    flip(weights)
    manifest.write_bytes(manifest.read_bytes())  # it is the younger again
    assert lab.run("quantize").reused
    done = cli("run", str(lab.root), "quantize", "--verify", "--no-check")
    assert done.returncode == 0, done.stderr
    assert "damaged and is made again" in done.stderr + done.stdout


def test_check_tells_of_damage(lab: Lab) -> None:
    subject = Subject(lab.folder, Recipe())
    assert [check.state for check in results(subject)] == [OK]
    cut(lab.folder.quantized_dir / "weights")
    (check,) = results(subject)
    assert (check.state, check.code) == (FAIL, "result.damaged")
    assert check.fix.endswith("quantize")
    shutil.rmtree(lab.folder.models_dir)
    assert [check.state for check in results(subject)] == [SKIP]


def test_checks_advice_never_leads_in_a_circle(tmp_path: Path) -> None:
    """A fetched model cannot be made again here, nor an adapter by a run for another one."""
    lab = Lab.create(tmp_path / "lab")
    subject = Subject(lab.folder, Recipe())
    for folder in (lab.folder.onnx_dir, lab.folder.finetuned_dir("other")):
        made = tmp_path / "made"
        made.mkdir()
        (made / "weights").write_text("w")
        publish(made, folder, {"result": {}})
        cut(folder / "weights")
    assert ["Fetch it again" in check.fix for check in results(subject)] == [True, True]
    lab.folder.quantized_dir.mkdir()
    fixes = [check.fix for check in results(subject)]
    assert "Set finetune.adapter = other" in fixes[0]
    assert fixes[1].endswith("optimize")


def test_a_result_whose_manifest_is_gone_is_made_again(lab: Lab) -> None:
    (lab.folder.quantized_dir / MANIFEST).write_text('{"fingerprint"')
    assert not lab.run("quantize").reused
    assert isinstance(read_json(lab.folder.quantized_dir / MANIFEST), dict)
