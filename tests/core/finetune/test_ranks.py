"""Several processes that train together: they do what one does, stop together, and leave nothing when one fails.

On the CPU, by gloo, really started. ``benchmarks/several_gpus.py`` does the same on GPUs, and fills one of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from core.errors import Cancelled, LabError, MachineError, RequestError, StageError
from core.events import RecordingReporter
from core.finetune import launch
from core.finetune.gpus import CPU_RANKS
from core.finetune.launch import Watch, train
from core.finetune.ranks import Beat, Pulse, pulse_file, read_beat
from core.finetune.training import Task, TooLittleMemory
from core.hardware import multiplies_bf16
from core.recipe import Recipe, recipe_text
from tests.core.finetune.helpers import quantized_tiny, write_records
from tests.waiting import soon

SMALL: dict[str, Any] = {
    "data.file": "records.jsonl",
    "data.eval_fraction": 0.2,
    "finetune.steps": 120,
    "finetune.rank": 4,
    "finetune.alpha": 8,
    # Two ranks have two records and one, and what is dropped must be the same all the same.
    "finetune.batch_size": 3,
    "finetune.dropout": 0.1,
    "finetune.turns": 1,
    "finetune.learning_rate": 5e-3,
    "finetune.eval_every": 40,
    "finetune.keep": "best",
    "finetune.save_steps": 1000,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_tiny(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture
def task(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """A task by the number of its ranks, with other settings."""
    monkeypatch.setenv(CPU_RANKS, "4")
    write_records(tmp_path / "records.jsonl")

    def make(gpus: int, name: str = "adapter", **changes: Any) -> Task:
        values = {**SMALL, "finetune.gpus": gpus, **{k.replace("__", "."): v for k, v in changes.items()}}
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(recipe_text(Recipe().with_values(values)))
        return Task(
            str(base), str(recipe), str(tmp_path), str(tmp_path / f"{name}.kept"), "key", str(tmp_path / name)
        )

    return make


@pytest.fixture(autouse=True)
def _exactly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What several processes do is compared in float32: bfloat16 would hide small faults."""
    monkeypatch.setenv("OLIVEPRESS_FLOAT32", "1")
    multiplies_bf16.cache_clear()
    yield
    multiplies_bf16.cache_clear()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert not ranks()


def ranks() -> dict[int, psutil.Process]:
    """The processes of this test that train."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if "core.finetune.rank" in process.cmdline() and (rank := process.environ().get("RANK")):
                found[int(rank)] = process
        except psutil.NoSuchProcess:
            continue
    return found


class When(RecordingReporter):
    """Does something once a step has been reported."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        super().__init__()
        self.step, self.act, self.done = step, act, False

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        super().metric(name, value, step)
        if name == "loss" and step is not None and step >= self.step and not self.done:
            self.done = True
            self.act()


def test_two_do_what_one_does_and_one_goes_on_where_two_were_stopped(task: Callable[..., Task]) -> None:
    alone = RecordingReporter()
    wanted = train(task(1, "one"), alone)

    def stop() -> None:
        together.cancelled = True

    together = When(5, stop)
    with pytest.raises(Cancelled) as stopped:
        train(task(2, "two"), together)
    done = len(together.metrics("loss"))
    assert 5 <= done < 120
    assert f"step {done} of 120" in stopped.value.detail
    assert f"from step {done}" in stopped.value.hint
    assert not Path(task(2, "two").adapter).exists()
    assert together.metrics("loss") == pytest.approx(alone.metrics("loss")[:done], rel=1e-4)
    measured = [each for each in together.events if each["type"] == "metric" and each["name"] == "eval_loss"]
    assert measured[0]["value"] == pytest.approx(wanted["eval_loss_base"], rel=1e-5)

    result = train(task(1, "two"), RecordingReporter())
    assert (result.get("gpus"), result["resumed_from"], result["steps"]) == (None, done, 120)
    for key in ("loss_curve", "eval_curve"):
        for (step, loss), (other, other_loss) in zip(result[key], wanted[key], strict=True):
            assert step == other
            assert loss == pytest.approx(other_loss, rel=1e-3), step
    assert result["kept_step"] == wanted["kept_step"]
    one, two = (
        load_file(Path(task(1, name).adapter) / "adapter_model.safetensors") for name in ("one", "two")
    )
    for name, matrix in one.items():
        assert torch.allclose(matrix, two[name], atol=2e-3), name


def test_two_prefer_what_one_prefers(task: Callable[..., Task]) -> None:
    pairs = Path(__file__).parents[2] / "pairs.jsonl"
    wanted: dict[str, Any] = {"data__file": str(pairs), "finetune__objective": "dpo", "finetune__steps": 4}
    told = {name: RecordingReporter() for name in ("one", "two")}
    for gpus, name in enumerate(told, 1):
        train(task(gpus, name, **wanted), told[name])
    for name in ("loss", "margin", "preferred", "eval_loss", "eval_margin"):
        found = [report.metrics(name) for report in told.values()]
        assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-4), name
        assert found[0], name
    with pytest.raises(RequestError) as refused:
        train(task(2, "three", **{**wanted, "finetune__objective": "kto"}), RecordingReporter())
    assert refused.value.code == "gpu.kto"


def test_one_that_is_killed_ends_the_training_with_its_name(task: Callable[..., Task]) -> None:
    report = When(3, lambda: ranks()[1].kill())
    with pytest.raises(MachineError) as lost, soon():
        train(task(2, finetune__steps=1_000_000, finetune__eval_every=0, finetune__keep="last"), report)
    assert report.done
    assert lost.value.code == "ranks.lost"
    assert "Process 1 was killed" in lost.value.detail
    assert "rocess 0" not in lost.value.detail
    assert "after step " in lost.value.detail


def test_one_that_stands_still_ends_the_training_with_its_name(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "PATIENCE_S", 2.0)
    monkeypatch.setattr(launch, "PATIENCE", 2)
    report = When(30, lambda: ranks()[1].suspend())
    with pytest.raises(MachineError) as still, soon():
        train(task(2, finetune__steps=1_000_000, finetune__eval_every=0, finetune__keep="last"), report)
    assert report.done
    assert still.value.code == "ranks.silent"
    assert "Process 1 kept the others waiting" in still.value.detail


# What the watcher makes of what ranks tell, without any rank.


class Agent:
    """The program that starts the ranks, as far as the watcher sees it."""

    returncode = 1


@pytest.fixture
def watch(task: Callable[..., Task], tmp_path: Path) -> Watch:
    """Two ranks that live: this process stands for each."""
    work = tmp_path / "work"
    work.mkdir()
    made = Watch(work, 2, task(2), RecordingReporter())
    made.__dict__.update(_agent=Agent(), _lives=lambda pid: pid == os.getpid())
    for rank in range(2):
        Pulse(work, rank)
    return made


def failure(watch: Watch, *, over: bool = False, **told: Any) -> LabError | None:
    """What it makes of these words, by rank."""
    return watch._failure({int(key[1:]): value for key, value in told.items()}, over=over)


def full(*, again: bool) -> dict[str, Any]:
    """What a rank tells whose GPU is full."""
    error = MachineError(
        "There is not enough GPU memory for this training.", "GPU 1: full.", "Less.", code="machine.memory"
    )
    return {"error": error.as_dict(), "exit_status": 4, "low_may_fit": again}


def test_a_full_gpu_is_the_reason_whatever_the_others_say(watch: Watch) -> None:
    peer = {"error": "RuntimeError: Connection closed by peer"}
    for again in (True, False):
        error = failure(watch, r0=peer, r1=full(again=again))
        assert isinstance(error, TooLittleMemory)
        assert error.low_may_fit is again
        assert "GPU 1" in error.detail
    stopped = {"error": Cancelled().as_dict(), "exit_status": 130}
    assert isinstance(failure(watch, r0=stopped, r1=full(again=False)), TooLittleMemory)


def test_a_full_gpu_is_tried_again_by_all_the_way_that_needs_least(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def once(gpus: int, task: Task, report: Any) -> dict[str, Any]:
        tried.append(task.memory)
        if len(tried) < 2:
            error = TooLittleMemory("Full.")
            error.low_may_fit = True
            raise error
        return {"gpus": gpus}

    monkeypatch.setattr(launch, "_train_on", once)
    report = RecordingReporter()
    assert train(task(2), report) == {"gpus": 2}
    assert tried == ["", "low"]
    assert any("trying again" in each["text"] for each in report.events if each["type"] == "log")


def test_the_lost_one_is_the_reason_and_not_what_followed_for_the_others(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_REASON_S", 0.0)
    peer = {"error": "RuntimeError: Connection closed by peer"}
    alone = failure(watch, r0=peer)
    assert isinstance(alone, StageError)
    assert "process 0: RuntimeError" in alone.detail
    watch.__dict__["_lives"] = lambda pid: False
    lost = failure(watch, r0=peer)
    assert lost is not None
    assert lost.code == "ranks.lost"
    assert "Process 1" in lost.detail


def test_a_stop_is_told_once_all_have_ended(watch: Watch) -> None:
    first = {"error": Cancelled(detail="Stopped at step 7 of 9.").as_dict(), "exit_status": 130}
    other = {"error": Cancelled().as_dict(), "exit_status": 130}
    assert failure(watch, r1=other) is None, "rank 0 keeps a checkpoint yet"
    told = failure(watch, r0=first, r1=other)
    assert isinstance(told, Cancelled)
    assert "step 7 of 9" in told.detail


def test_no_word_at_all_is_told_too(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    (watch.work / "output.txt").write_text("ModuleNotFoundError: \x1b[31mno module\n")
    error = failure(watch, over=True)
    assert error is not None
    assert error.code == "ranks.lost"
    printed = capsys.readouterr().err
    assert "ModuleNotFoundError" in printed
    assert "\x1b" not in printed


def test_a_full_disk_keeps_them_from_saying_so_and_is_told(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    error = failure(watch, over=True)
    assert error is not None
    assert (error.code, error.exit_status) == ("disk.full", 4)


class Clock:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def beats(*each: tuple[int, bool, float]) -> list[Beat | None]:
    """Beats of ranks: meetings come to, whether inside, and when."""
    return [Beat(1, met, inside, at=at) for met, inside, at in each]


def test_who_is_waited_for_too_long_by_the_time_that_a_step_takes() -> None:
    clock = Clock()
    waits = launch._Waits(2, clock)
    assert waits.late([None, None]) is None
    assert waits.late(beats((1, True, 30.0), (0, False, 0.0))) is None
    clock.now = 320.0
    assert waits.late(beats((1, True, 30.0), (0, False, 0.0))) is None, "loading took 30 s: ten times that"
    clock.now = 340.0
    assert waits.late(beats((1, True, 30.0), (0, False, 0.0))) == ([1], 310.0)
    for step in range(2, 40):
        at = 340.0 + step
        assert waits.late(beats((step, True, at), (step, True, at))) is None
    clock.now = 390.0
    late = beats((40, True, 380.0), (39, False, 379.5))
    assert waits.late(late) is None
    clock.now = 380.0 + launch.PATIENCE_S + 1
    assert waits.late(late) == ([1], launch.PATIENCE_S + 1), "a step took 1 s: the least patience holds"
    excused = [Beat(1, 39, excused=True, at=379.5), Beat(1, 40, inside=True, at=380.0)]
    assert waits.late(list(excused)) is None, "it writes a checkpoint"
    stuck = beats((40, True, 380.0), (40, True, 380.0))
    assert waits.late(stuck) == ([], launch.PATIENCE_S + 1)
    assert waits.late(beats((40, True, 380.0), (40, False, 381.0))) is None, "that one has gone on"


def test_beats_are_read_as_written_or_not_at_all(tmp_path: Path) -> None:
    assert read_beat(tmp_path, 0) is None
    pulse = Pulse(tmp_path, 0)
    pulse.enter()
    beat = read_beat(tmp_path, 0)
    assert beat is not None
    assert (beat.pid, beat.met, beat.inside, beat.excused) == (os.getpid(), 1, True, False)
    assert beat.at <= time.monotonic()
    pulse_file(tmp_path, 0).write_bytes(b"half")
    assert read_beat(tmp_path, 0) is None


def test_a_task_is_the_same_for_another_process(task: Callable[..., Task]) -> None:
    made = task(2)
    assert Task(**json.loads(json.dumps(asdict(made)))) == made
    assert made.settled().finetune.memory == "auto"
