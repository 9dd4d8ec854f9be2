"""Experiment trackers: they show what the events say, each number once, and end no training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from core import trackers
from core.errors import MachineError
from core.events import RecordingReporter
from core.recipe import OPTIONS
from core.trackers import About, Point, Tracker, tracking

SETTINGS = {"finetune.rank": 8, "model.source": "https://me:hidden-word@host/model", "data.template": ""}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def read_tensorboard(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard" / "finetune-001"))
    found.Reload()
    tags = found.Tags()
    curves = {name: [(each.step, each.value) for each in found.Scalars(name)] for name in tags["scalars"]}
    text = found.Tensors(tags["tensors"][0])[0].tensor_proto.string_val[0].decode()
    return curves, text


def read_mlflow(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == folder.parent.name]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("finetune-001", "FINISHED")
    curves = {
        name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    return curves, repr(run.data.params)


def read_trackio(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    import trackio

    (run,) = trackio.Api().runs(folder.parent.name)
    assert run.name == "finetune-001"
    from trackio.sqlite_storage import SQLiteStorage

    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in SQLiteStorage.get_logs(folder.parent.name, "finetune-001"):
        for name in set(entry) - {"step", "timestamp"}:
            curves.setdefault(name, []).append((entry["step"], entry[name]))
    return curves, repr(run.config)


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a run's file, which W&B writes as LevelDB writes its log: in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a head: the rest of the block is empty
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of it, or its last part
            yield whole
            whole = b""


def read_wandb(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    import json

    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    curves: dict[str, list[tuple[int, float]]] = {}
    text = ""
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            text += record.run.display_name + str(record.run.config)
        said = {(each.key or each.nested_key[0]): json.loads(each.value_json) for each in record.history.item}
        for name in said.keys() - {"step"}:
            if not name.startswith("_"):
                curves.setdefault(name, []).append((said["step"], said[name]))
    return curves, text


READERS: dict[str, Any] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
    "wandb": read_wandb,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_trackers_curves_are_those_of_the_events(name: str, tmp_path: Path) -> None:
    if any(find_spec(module) is None for module in trackers.TRACKERS[name].modules):
        pytest.skip(f"{name} is not installed")
    lab = tmp_path / "my lab"
    lab.mkdir()
    events = RecordingReporter()
    with tracking(name, lab, "finetune-001", SETTINGS, events, patience=600) as report:
        for step, loss in (0, 2.5), (10, 2.25):  # as a training that goes on tells what came before
            report.metric("eval_loss", loss, step)
        for step in range(1, 21):
            report.metric("loss", 3.0 - step / 8, step)
            report.metric("learning_rate", step / 1024, step)
        report.metric("gpu_mem_gib", 3.5)
        report.metric("eval_loss", 2.0, 20)
        report.log("It is done.")
    assert [each for each in events.events if each["type"] == "log"] == [
        {"type": "log", "level": "info", "text": "It is done."}
    ]
    curves, about = READERS[name](lab / "trackers")
    wanted: dict[str, list[tuple[int, float]]] = {}
    for event in events.events:
        if event["type"] == "metric" and event["step"] is not None:
            wanted.setdefault(event["name"], []).append((event["step"], event["value"]))
    assert {key: sorted(points) for key, points in curves.items()} == {
        key: sorted(points) for key, points in wanted.items()
    }
    assert "finetune.rank" in about
    assert "hidden-word" not in about
    assert "***@host" in about


class Recording:
    """A tracker's run that remembers, and fails where it is told to."""

    def __init__(self, about: About, fails: str = "") -> None:
        self.points: list[Point] = []
        self.ended: list[bool] = []
        self.about, self.fails = about, fails
        if fails == "start":
            raise ConnectionError("https://me:hidden-word@host is not there, nor is key-in-the-environment")

    def log(self, points: list[Point]) -> None:
        if self.fails == "log":
            raise SystemExit("no more of this")
        self.points += points

    def end(self, *, failed: bool) -> None:
        self.ended.append(failed)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Recording], list[str]]:
    """The runs that are begun with a stand-in for a tracker, and how the next one fails."""
    runs: list[Recording] = []
    fails = [""]

    def start(about: About) -> Recording:
        runs.append(Recording(about, fails[0]))
        return runs[-1]

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Tracker(("json",), "json", start, {}))
    return runs, fails


def test_what_is_told_again_is_tracked_once(made: tuple[list[Recording], list[str]], tmp_path: Path) -> None:
    with tracking("mlflow", tmp_path, "finetune-002", SETTINGS, RecordingReporter()) as report:
        for step in 1, 2, 1, 2, 3:
            report.metric("loss", 1.0 / step, step)
        report.metric("loss", float("nan"), 4)
    (run,) = made[0]
    assert [(name, step, value) for name, step, value, _ in run.points] == [
        ("loss", 1, 1.0),
        ("loss", 2, 0.5),
        ("loss", 3, 1.0 / 3),
    ]
    assert run.ended == [False]
    assert (run.about.name, run.about.settings["finetune.rank"]) == ("finetune-002", "8")


def test_a_failed_job_is_a_failed_run(
    made: tuple[list[Recording], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "STOPPED_S", 600.0)

    def work() -> None:
        with tracking("mlflow", tmp_path, "a", {}, RecordingReporter(), patience=600) as report:
            report.metric("loss", 1.0, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert made[0][0].ended == [True]


@pytest.mark.parametrize("fails", ["start", "log"])
def test_a_tracker_that_fails_is_told_of_once_and_the_events_go_on(
    made: tuple[list[Recording], list[str]], fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "key-in-the-environment")
    made[1][0] = fails
    events = RecordingReporter()
    with tracking("mlflow", tmp_path, "finetune-001", {}, events) as report:
        for step in range(1, 50):
            report.metric("loss", 1.0, step)
    assert len(events.metrics("loss")) == 49
    (warning,) = [each for each in events.events if each["type"] == "log"]
    assert warning["level"] == "warning"
    assert "The training goes on" in warning["text"]
    assert "hidden-word" not in warning["text"]
    assert "key-in-the-environment" not in warning["text"]


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def start(about: About) -> Recording:
        let_go.wait()
        return Recording(about)

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Tracker(("json",), "json", start, {}))
    events = RecordingReporter()
    with tracking("mlflow", tmp_path, "finetune-001", {}, events, patience=0.01) as report:
        report.metric("loss", 1.0, 1)
    let_go.set()
    assert ["not taken all numbers" in each["text"] for each in events.events if each["type"] == "log"] == [
        True
    ]


def test_one_that_is_not_installed_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Tracker(("no_such_package",), "json", Recording, {}))
    with (
        pytest.raises(MachineError) as caught,
        tracking("wandb", tmp_path, "finetune-001", {}, RecordingReporter()),
    ):
        pytest.fail("it began")
    assert caught.value.code == "tracker.missing"
    assert 'pip install "olivepress[wandb]"' in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_without_a_tracker_nothing_is_made(tmp_path: Path) -> None:
    report = RecordingReporter()
    with tracking("", tmp_path, "finetune-001", SETTINGS, report) as same:
        assert same is report
    assert list(tmp_path.iterdir()) == []
    assert OPTIONS["finetune"]["track"].default == ""
    assert set(OPTIONS["finetune"]["track"].choices) == {"", *trackers.TRACKERS}
