"""Two labs on one GPU: the second waits, and is told for whom."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import Job, Lab
from core.errors import Cancelled
from core.events import RecordingReporter
from core.hardware import GpuReading
from core.jobs import gpu
from core.user_dirs import state_dir
from tests.faults.campaign import processes
from tests.waiting import until

GPU = GpuReading(0, "A GPU", 80 << 30, 0, None, "GPU-00000000-1111")


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lab, Lab]]:
    """Two labs whose jobs see the same GPU, and end when a file ``go`` is there."""
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    monkeypatch.setenv("FAKE_GPU", GPU.uuid)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made = [Lab.create(tmp_path / name, settings={"chat.system": "go"}) for name in ("one", "two")]
    yield made[0], made[1]
    for lab in made:
        (lab.root / "go").touch()
        for job in lab.jobs():
            job.wait(timeout=60)


def at_work(job: Job) -> bool:
    return any("mode go" in line for line in job.log_tail())


def test_the_second_waits_until_the_first_has_ended(labs: tuple[Lab, Lab]) -> None:
    one, two = labs
    first = one.start("quantize")
    until(lambda: at_work(first))
    second = two.start("finetune")
    told = f"waiting for A GPU, place 1: quantize-001 of {one.root} at work"
    until(lambda: second.status().phase == told)
    assert not at_work(second)
    assert any(told in line for line in second.log_tail())
    (one.root / "go").touch()
    until(lambda: at_work(second))
    assert first.wait(timeout=60) == "succeeded"
    (two.root / "go").touch()
    assert second.wait(timeout=60) == "succeeded"
    assert second.seconds is not None


def test_who_waits_can_be_stopped_and_a_killed_holder_lets_go(labs: tuple[Lab, Lab]) -> None:
    one, two = labs
    first = one.start("quantize")
    until(lambda: at_work(first))
    second = two.start("quantize")
    until(lambda: "waiting for A GPU" in (second.status().phase or ""))
    second.cancel()
    assert second.wait(timeout=60) == "cancelled"
    third = two.start("quantize")
    until(lambda: "waiting for A GPU" in (third.status().phase or ""))
    os.kill(gpu_holder(), 9)
    until(lambda: at_work(third))
    assert first.wait(timeout=60) == "crashed"


@pytest.mark.parametrize(
    ("number", "code", "title"),
    [
        (719, "gpu.failed", "The GPU failed in the middle of the work."),
        (2, "machine.memory", "There was not enough memory."),
    ],
)
def test_a_gpu_that_fails_ends_the_job_with_its_reason_and_is_free_for_the_next(
    labs: tuple[Lab, Lab], number: int, code: str, title: str
) -> None:
    lab, _ = labs
    lab.set({"chat.system": f"cuda{number}"})
    job = lab.start("quantize")
    assert job.wait(timeout=60) == "failed"
    error = job.error()
    assert error is not None
    assert (error.code, error.title) == (code, title)
    assert f"CUDA error: number {number}" in error.detail
    assert not any("Traceback" in line for line in job.log_tail())
    assert not [each for each in lab.folder.models_dir.rglob("*") if each.is_file()]
    until(lambda: not processes(lab))
    lab.set({"chat.system": "ok"})
    assert lab.run("quantize").job == "quantize-002"


def gpu_holder() -> int:
    """The process that has the GPU."""
    import json

    at_work = []
    for file in (state_dir() / "turns").glob("*.ticket"):
        assert file.stat().st_mode & 0o777 == 0o600
        told = json.loads(file.read_text())
        at_work += [told["pid"]] * bool(told["has"])
    (pid,) = at_work
    return int(pid)


def test_other_gpus_are_no_reason_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    job, other = Job(tmp_path / "lab/jobs/quantize-001"), GpuReading(1, "B", 1, 0, None, "GPU-2")
    report = RecordingReporter()
    with gpu.held([GPU], 1, job, report), gpu.held([other], 1, job, report):
        assert report.events == []
        report.cancelled = True
        with pytest.raises(Cancelled), gpu.held([other, GPU], 2, job, report):
            pass
    assert [event["type"] for event in report.events] == ["log", "progress"]
    with gpu.held([other, GPU], 2, job, report):
        pass


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", '{"job": 7}'])
def test_a_holder_that_says_nothing_is_waited_for_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    place = state_dir() / "turns"
    place.mkdir(parents=True)
    report = RecordingReporter(cancelled=True)
    with (place / "000001-00000000.ticket").open("w+") as stream:
        stream.write(content)
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(Cancelled), gpu.held([GPU], 1, Job(tmp_path / "lab/jobs/quantize-001"), report):
            pass


def test_where_no_lock_can_be_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with gpu.held([GPU], 1, Job(tmp_path / "lab/jobs/quantize-001"), RecordingReporter()):
        pass
