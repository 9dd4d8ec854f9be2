"""What takes room on the disk and can go: what is listed, what is removed, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import Lab, LabError
from core.cli import main
from core.space import removable, remove
from tests.tui.labs import FakeJob, job_in


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with something of every kind, beside caches of its own."""
    made = Lab.create(tmp_path / "lab")
    hub = tmp_path / "hub" / "models--some--model"
    for path, size in (
        (made.root / "models" / ".quantize-001.work" / "half", 3000),
        (made.root / "checkpoints" / "travel" / "state.pt", 2000),
        (tmp_path / "cache" / "gguf" / "a-model-123" / "weights", 5000),
        (tmp_path / "cache" / "registry" / "azureml" / "registries" / "r" / "m" / "1" / "config.json", 700),
        (hub / "blobs" / "1", 9000),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"0" * size)
    (hub / "link").symlink_to(hub / "blobs" / "1")
    monkeypatch.setattr("core.space.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("core.space.hub_models", lambda: [("some/model", hub)])
    return made


def names(lab: Lab) -> list[str]:
    return [each.name for each in removable(lab.folder)]


def test_everything_is_listed_with_its_size_the_largest_first(lab: Lab) -> None:
    job_in(lab, "quantize", "failed")
    job_in(lab, "quantize", "succeeded", 2)
    found = {each.name: each for each in removable(lab.folder)}
    assert [each.bytes for each in found.values()] == sorted((e.bytes for e in found.values()), reverse=True)
    assert set(found) == {
        "hub/some/model",
        "gguf/a-model-123",
        "work/quantize-001",
        "checkpoints/travel",
        "registry/azureml/registries/r/m/1",
        "jobs/quantize-001",
    }
    assert found["gguf/a-model-123"].bytes == 5000
    assert 9000 <= found["hub/some/model"].bytes < 18000, "a link is not what it links to"
    assert [each.name for each in found.values() if each.free_of_cost] == ["work/quantize-001"]


def test_what_a_running_job_works_with_is_not_listed(lab: Lab) -> None:
    job = FakeJob(lab, "quantize").run()
    assert "work/quantize-001" not in names(lab)
    job.let_go()
    training = FakeJob(lab, "finetune").run()
    assert "checkpoints/travel" not in names(lab)
    assert "work/quantize-001" in names(lab), "that job is over"
    training.let_go()


def test_only_what_is_named_goes(lab: Lab) -> None:
    gone = remove(lab.folder, ["gguf/a-model-123", "gguf/a-model-123"])
    assert [each.bytes for each in gone] == [5000]
    assert not gone[0].path.exists()
    left = ["hub/some/model", "work/quantize-001", "checkpoints/travel", "registry/azureml/registries/r/m/1"]
    assert names(lab) == left


@pytest.mark.parametrize(
    ("name", "code"),
    [("hub/some/model", "clean.shared"), ("../..", "clean.unknown"), ("work/../../x", "clean.unknown")],
)
def test_what_is_not_ours_or_not_listed_is_refused_and_nothing_goes(lab: Lab, name: str, code: str) -> None:
    before = names(lab)
    with pytest.raises(LabError) as refused:
        remove(lab.folder, ["checkpoints/travel", name])
    assert refused.value.code == code
    assert names(lab) == before


def test_the_command_shows_and_with_yes_removes_what_nobody_would_miss(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clean", str(lab.root)]) == 0
    assert "checkpoints/travel" in capsys.readouterr().out
    assert main(["clean", str(lab.root), "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told["removed"]] == ["work/quantize-001"]
    assert told["bytes_removed"] == 3000
    assert main(["clean", str(lab.root), "checkpoints/travel", "--yes"]) == 0
    assert "checkpoints/travel" not in names(lab)
    assert main(["clean", str(lab.root), "nothing/such", "--yes"]) == 2
