"""Jobs whose processes are killed or stopped, whose files are gone or nonsense, and what is told of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import Job, Lab, MachineError, RequestError, StageError
from core.errors import Cancelled, LabError
from core.events import JobReporter, last_event, read_events, stop_takes
from core.files import write_json
from core.folder import lab_folder
from core.jobs import alive, list_jobs, stopping, supervise
from core.jobs.job import FINAL
from core.jobs.start import _tidy
from tests.core.jobs.test_jobs import ROOT, cli
from tests.waiting import until
from tui.lab_watch import LabWatch


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Lab]]:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    made: list[Lab] = []

    def create(mode: str) -> Lab:
        made.append(Lab.create(tmp_path / mode, settings={"chat.system": mode}))
        return made[-1]

    yield create
    for lab in made:
        for job in lab.jobs():
            for number in alive.pids(job.folder).values():
                os.killpg(number, signal.SIGKILL)


def running(lab: Lab, words: str = "mode") -> tuple[Job, dict[str, int]]:
    """A job that is at work, and its processes."""
    job = lab.start("quantize")
    until(lambda: (job.folder / "pid.json").exists() and any(words in line for line in job.log_tail()))
    return job, alive.pids(job.folder)


# Processes


def test_a_success_is_told_though_the_supervisor_was_killed(make: Callable[[str], Lab]) -> None:
    lab = make("go")
    job, there = running(lab)
    os.kill(there["supervisor"], signal.SIGKILL)
    assert job.state == "running"
    (lab.root / "go").touch()
    assert job.wait(timeout=30) == "succeeded"
    assert job.result == {"bytes": 10}
    assert job.error() is None
    assert job.status().ended is not None
    assert list(job.follow())[-1]["state"] == "succeeded"


def test_a_success_is_told_though_the_supervisor_is_stopped(make: Callable[[str], Lab]) -> None:
    lab = make("go")
    job, there = running(lab)
    os.kill(there["supervisor"], signal.SIGSTOP)
    (lab.root / "go").touch()
    assert job.wait(timeout=30) == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_cancelling_needs_no_supervisor(make: Callable[[str], Lab], number: signal.Signals) -> None:
    lab = make("hang")
    job, there = running(lab)
    os.kill(there["supervisor"], number)
    job.cancel()
    assert job.wait(timeout=30) == "cancelled"
    until(lambda: not alive.pids(job.folder))


def test_a_deaf_worker_is_killed_by_who_cancels(
    make: Callable[[str], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "GRACE_REQUEST_S", 0.1)
    monkeypatch.setattr(stopping, "GRACE_TERM_S", 0.1)
    lab = make("deaf")
    job, there = running(lab)
    os.kill(there["supervisor"], signal.SIGKILL)
    os.killpg(there["worker"], signal.SIGSTOP)
    job.cancel()
    assert job.wait(timeout=30) == "cancelled"


def test_a_worker_that_does_not_end_after_its_outcome_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "LEAVING_S", 0.0)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as worker:
        waiting = supervise._Waiting(tmp_path, worker, os.open(tmp_path / alive.NAME, os.O_CREAT))
        write_json(tmp_path / "outcome.json", {"state": "succeeded", "exit_status": 0})
        waiting.wait()
    assert worker.returncode == -signal.SIGKILL
    assert supervise._verdict(Job(tmp_path), worker.returncode, asked=False)["state"] == "succeeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_the_step(make: Callable[[str], Lab], number: signal.Signals) -> None:
    lab = make("step")
    job, there = running(lab, "in the step")
    assert stop_takes(job.folder) == 0.5
    os.kill(there["worker"], number)
    os.kill(there["worker"], number)
    (lab.root / "go").touch()
    assert job.wait(timeout=30) == "cancelled"
    assert "the step is done" in job.log_tail()


def test_signals_wait_as_long_as_a_stop_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[float, signal.Signals]] = []
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stopping, "signal_group", lambda pid, number: sent.append((clock[0], number)))
    JobReporter(tmp_path, "finetune-001").stop_takes(60)
    escalation = stopping.Escalation(tmp_path, 4711)
    for second in range(300):
        clock[0] = float(second)
        escalation.step()
    assert sent[:3] == [(0.0, signal.SIGCONT), (125.0, signal.SIGTERM), (250.0, signal.SIGKILL)]


def test_a_reporter_is_not_interrupted_where_it_is_not_safe(tmp_path: Path) -> None:
    report = JobReporter(tmp_path, "finetune-001")
    with report.unbroken():
        report.interrupt()
    with pytest.raises(Cancelled):
        report.check_cancelled()
    with pytest.raises(KeyboardInterrupt):
        report.interrupt()


def test_nothing_that_lies_where_a_job_is_started_is_run(
    make: Callable[[str], Lab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make("ok")
    for name in ("core/__init__.py", "json.py", "torch.py"):
        file = tmp_path / "here" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nraise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path / "here")
    assert not lab.run("quantize").reused
    assert not (tmp_path / "was-run").exists()


# What lies in a job's folder


@pytest.mark.parametrize("gone", ["alive.lock", "spec.json", "pid.json", "events.jsonl", "log.txt"])
def test_a_job_is_seen_though_a_file_of_it_is_gone(make: Callable[[str], Lab], gone: str) -> None:
    lab = make("go")
    job, _ = running(lab)
    (job.folder / gone).unlink()
    assert [each.id for each in lab.jobs()] == [job.id]
    assert job.active
    with pytest.raises(RequestError) as caught:
        lab.start("finetune")
    assert caught.value.code == "job.running"
    assert cli("status", str(lab.root)).returncode == 0
    (lab.root / "go").touch()
    assert job.wait(timeout=30) == "succeeded"


def test_the_lock_is_taken_again(make: Callable[[str], Lab]) -> None:
    lab = make("hang")
    job, _ = running(lab)
    (job.folder / "alive.lock").unlink()
    until(lambda: alive.is_held(job.folder))
    job.cancel()
    assert job.wait(timeout=30) == "cancelled"


def test_a_job_whose_folder_is_removed_ends(make: Callable[[str], Lab], tmp_path: Path) -> None:
    lab = make("hang")
    job, there = running(lab)
    job.folder.rename(tmp_path / "elsewhere")
    until(lambda: not any(psutil.pid_exists(each) and _lives(each) for each in there.values()), 30)
    assert not list(lab.folder.models_dir.glob("*"))


def _lives(number: int) -> bool:
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def test_half_a_recipe_does_not_stop_looking_and_stopping(make: Callable[[str], Lab]) -> None:
    lab = make("hang")
    job, _ = running(lab)
    lab.folder.recipe_path.write_text("[model\nsource = ")
    status = cli("status", str(lab.root), "--json")
    assert json.loads(status.stdout)["jobs"][0]["state"] == "running"
    assert "mode hang" in cli("logs", str(lab.root), "quantize").stdout
    assert cli("cancel", str(lab.root), "quantize").returncode == 0
    assert job.state == "cancelled"
    lab.folder.recipe_path.unlink()
    assert cli("status", str(lab.root)).returncode == 0


DEEP = "[" * 100_000
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "state",
    "error",
    "result",
    "reused",
    "peaks",
    "seconds",
    "ended",
    "exit_status",
    "type",
    "t",
    "phase",
]
FILES = ["done.json", "outcome.json", "spec.json", "pid.json", "stop.json", "events.jsonl"]
NONSENSE = (
    st.sampled_from([DEEP, "", "{", "{}", "[]", "7", "null", '"x"', "\0", '{"type": "progress"}'])
    | st.dictionaries(st.sampled_from(KEYS), VALUES | st.sampled_from([*FINAL, "running"])).map(json.dumps)
    | VALUES.map(json.dumps)
)


@pytest.mark.parametrize("thing", ["pipe", "device", "folder", "huge"])
def test_nobody_waits_for_what_is_no_file(make: Callable[[str], Lab], thing: str) -> None:
    """A lab may come from somebody else: a pipe would be waited for, and a device has no end."""
    lab = make("ok")
    lab.run("quantize")
    job = lab.job("quantize")
    names = ("spec.json", "events.jsonl", "done.json", "outcome.json", "pid.json", "log.txt", "alive.lock")
    for place in (*(job.folder / name for name in names), *lab.folder.models_dir.rglob("olivepress.json")):
        place.unlink(missing_ok=True)
        put(thing, place)
    put(thing, lab.folder.jobs_dir / ".lock")
    found: list[object] = []

    def recipe() -> object:
        put(thing, lab.folder.recipe_path)
        return lab.recipe

    def look() -> None:
        for act in (
            lambda: lab.jobs()[0].status().state,
            lambda: list(lab.jobs()[0].follow()),
            lambda: lab.jobs()[0].log_tail(),
            lambda: LabWatch(lab.folder, lambda _: None, lambda: None).look(),
            lambda: lab.start("quantize", force=True).wait(timeout=60),
            recipe,
        ):
            try:
                found.append(act())
            except LabError as error:
                found.append(error.code)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(90)
    assert not thread.is_alive(), f"it waits after {found}"
    assert len(found) == 6
    assert found[0] == "crashed"
    assert str(found[5]).startswith("recipe.")


def put(thing: str, place: Path) -> None:
    """Something that is no file, or no file of that name, in its place."""
    place.unlink(missing_ok=True)
    if thing == "pipe":
        os.mkfifo(place)
    elif thing == "device":
        place.symlink_to("/dev/zero")
    elif thing == "folder":
        place.mkdir()
    else:
        with place.open("wb") as stream:
            stream.truncate(1 << 28)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.sampled_from(FILES), st.none() | NONSENSE, max_size=4))
def test_whatever_is_in_a_jobs_folder_what_can_be_told_is_told(
    tmp_path: Path, files: dict[str, str | None]
) -> None:
    folder = tmp_path / "jobs" / "finetune-001"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in files.items():
        if text is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_text(text + "\n")
    job = Job(folder)
    status = job.status()
    assert status.state in FINAL
    assert (job.error() is None) == (status.state == "succeeded")
    json.dumps(status.as_dict())
    assert list(job.follow())[-1]["state"] in FINAL
    assert isinstance(job.result, dict | None)
    assert isinstance(job.peaks, dict)
    assert isinstance(job.seconds, float | None)


def test_the_workers_word_counts_where_the_supervisors_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "quantize-001"
    folder.mkdir()
    (folder / "done.json").write_text("[1, 2]")
    (folder / "outcome.json").write_text('{"state": "succeeded", "result": {"bytes": 1}}')
    assert Job(folder).state == "succeeded"
    assert Job(folder).result == {"bytes": 1}


def test_half_a_million_events_take_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "finetune-001"
    folder.mkdir()
    head = '{"type": "state", "state": "running", "t": "2026-01-01T00:00:00.000Z"}\n'
    metric = '{"v": 1, "t": "2026-01-01T00:00:01.000Z", "job": "x", "type": "metric", "name": "loss", "value": 1.5}\n'
    progress = '{"type": "progress", "phase": "training", "done": 7, "total": 9, "eta_s": null}\n'
    (folder / "events.jsonl").write_text(head + progress + metric * 500_000)
    tracemalloc.start()
    status = Job(folder).status()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status.started == "2026-01-01T00:00:00.000Z"
    assert peak < 100 << 20


def test_events_are_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [{"type": "log", "level": "info", "text": "x" * number} for number in range(300)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    offset, found = 0, list[dict[str, Any]]()
    while True:
        before = offset
        events, offset = read_events(path, offset, 256)
        found += events
        if offset == before:
            break
    assert [event["text"] for event in found] == [line["text"] for line in lines]
    newest = last_event(path, "log")
    assert newest is not None
    assert newest["text"] == "x" * 299
    assert last_event(path, "progress") is None


# Clocks, and what changes under a job


def test_the_newest_job_is_the_newest_though_the_clock_was_set_back(tmp_path: Path) -> None:
    for number, (name, at) in enumerate(
        [("quantize-001", 500), ("finetune-001", 510), ("quantize-002", 100), ("quantize-1000", 120)]
    ):
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(str(number))
        os.utime(folder / "spec.json", (at, at))
    names = [job.id for job in list_jobs(lab_folder(tmp_path))]
    assert names == ["quantize-001", "quantize-002", "quantize-1000", "finetune-001"]


def test_jobs_from_the_future_are_told(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    lab.run("quantize")
    ahead = time.time() + 10 * 365 * 86_400
    for path in [*lab.job("quantize").folder.iterdir(), *lab.folder.quantized_dir.iterdir()]:
        os.utime(path, (ahead, ahead))
    assert lab.job("quantize").state == "succeeded"
    assert lab.run("quantize").reused
    assert lab.job("quantize").id == "quantize-002"
    assert [job.state for job in lab.jobs()] == ["succeeded"] * 2


@pytest.mark.parametrize("gone", [True, False])
def test_what_changes_while_it_is_read_is_made_again(make: Callable[[str], Lab], gone: bool) -> None:
    lab = make("steps")
    (lab.root / "input").write_text("before")
    (lab.root / "needed").touch()
    job = lab.start("quantize")
    until(lambda: last_event(job.events_path, "metric") is not None)
    (lab.root / "input").unlink() if gone else (lab.root / "input").write_text("after")
    assert job.wait(timeout=60) == "succeeded"
    assert any("was changed while it was made" in line for line in job.log_tail())
    (lab.root / "input").write_text("before")
    assert not lab.run("quantize").reused
    assert lab.run("quantize").reused


# What killed jobs leave


def test_the_next_start_cleans_up_and_puts_the_old_model_back(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    lab.run("quantize")
    job = lab.job("quantize")
    models, job_folder = lab.folder.models_dir, job.folder
    lab.folder.quantized_dir.rename(models / ".quantized.old-1234abcd")
    (models / ".quantize-007.work").mkdir()
    (lab.folder.finetuned_root / ".travel.old-00000000").mkdir(parents=True)
    lab.folder.finetuned_dir("travel").mkdir()
    (job_folder / "reserve").write_bytes(b"0" * 100)
    assert lab.run("quantize").reused
    assert sorted(each.name for each in models.iterdir()) == ["finetuned", "quantized"]
    assert [each.name for each in lab.folder.finetuned_root.iterdir()] == ["travel"]
    assert not (job_folder / "reserve").exists()


def test_what_was_begun_to_be_written_goes_with_the_next_start(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    lab.run("quantize")
    old, new = lab.root / ".lab.toml.0123abcd", lab.job("quantize").folder / ".done.json.0123abcd"
    for path in (old, new, lab.root / ".hidden"):
        path.write_text("half")
        os.utime(path, (0, 0))
    young = lab.root / ".lab.toml.89abcdef"
    young.write_text("half")
    _tidy(lab.folder)
    assert [path.exists() for path in (old, new, lab.root / ".hidden", young)] == [False, False, True, True]


def test_nothing_of_a_running_job_is_cleaned_up(make: Callable[[str], Lab]) -> None:
    lab = make("hang")
    job, _ = running(lab)
    _tidy(lab.folder)
    assert (lab.folder.models_dir / f".{job.id}.work").is_dir()
    assert (job.folder / "reserve").exists()
    job.cancel()
    assert job.wait(timeout=30) == "cancelled"


def test_nobody_is_made_to_read_a_traceback_of_a_full_disk(make: Callable[[str], Lab]) -> None:
    lab = make("full")
    with pytest.raises(MachineError):
        lab.run("quantize")
    assert not any("Traceback" in line for line in lab.job("quantize").log_tail(100))
    lab.set({"chat.system": "bug"})
    with pytest.raises(StageError):
        lab.run("quantize")
    assert any("Traceback" in line for line in lab.job("quantize").log_tail(100))


def test_a_folder_that_became_read_only_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "quantize-001"
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)
    error = Job(folder).error()
    assert error is not None
    assert error.code == "disk.not-writable"


def test_what_the_system_refuses_in_a_worker_is_told_as_it_is() -> None:
    from core.jobs.worker import _explain

    job = Job(Path("quantize-001"))
    assert _explain(OSError(30, "Read-only file system", "/lab/x"), job).code == "disk.not-writable"
    assert _explain(OSError(28, "No space left on device", "/lab/x"), job).code == "disk.full"
    assert _explain(OSError(27, "File too large", "/lab/x"), job).code == "disk.quota"
    assert _explain(OSError(122, "Disk quota exceeded"), job).code == "disk.quota"
    assert _explain(StageError("x", code="y"), job).code == "y"
