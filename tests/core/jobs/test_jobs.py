"""Jobs: states, errors, cancelling, resuming a look, and outliving the starter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core import Job, Lab, MachineError, RequestError, StageError
from core.errors import Cancelled
from core.events import read_events
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Lab]:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    return lambda mode: Lab.create(tmp_path / mode, settings={"chat.system": mode})


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "core.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


def test_success_is_published_and_told(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    events: list[dict[str, object]] = []
    result = lab.run("quantize", on_event=events.append)
    assert result.numbers == {"bytes": 10}
    assert not result.reused
    assert [e["state"] for e in events if e["type"] == "state"] == ["queued", "running", "succeeded"]
    assert all({"v", "t", "job", "type"} <= e.keys() for e in events)
    assert (lab.folder.quantized_dir / "weights").exists()
    assert not [p for p in lab.folder.models_dir.iterdir() if p.name.startswith(".")]


def test_unchanged_work_is_not_done_again_unless_forced(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    lab.run("quantize")
    before = (lab.folder.quantized_dir / "weights").stat().st_mtime_ns
    again = lab.run("quantize")
    assert again.reused
    assert again.numbers == {"bytes": 10}
    assert (lab.folder.quantized_dir / "weights").stat().st_mtime_ns == before
    assert not lab.run("quantize", force=True).reused
    lab.set({"quantize.bits": 8})
    assert not lab.run("quantize").reused


@pytest.mark.parametrize(
    ("mode", "kind", "state", "words"),
    [
        ("error", StageError, "failed", "the detail"),
        ("bug", StageError, "failed", "ValueError: not foreseen"),
        ("full", MachineError, "failed", "/some/file"),
        ("crash", StageError, "crashed", "SIGKILL"),
    ],
)
def test_failures_are_explained_and_leave_nothing(
    make: Callable[[str], Lab], mode: str, kind: type[Exception], state: str, words: str
) -> None:
    lab = make(mode)
    with pytest.raises(kind) as caught:
        lab.run("quantize")
    assert words in str(caught.value)
    status = lab.job("quantize").status()
    assert status.state == state
    assert status.error is not None
    assert not lab.folder.quantized_dir.exists()
    assert not list(lab.folder.models_dir.iterdir())


def test_a_supervisor_killed_with_its_worker_leaves_a_crashed_job(make: Callable[[str], Lab]) -> None:
    lab = make("hang")
    job = lab.start("quantize")
    until(lambda: job.state == "running" and any("mode hang" in line for line in job.log_tail()))
    pids = json.loads((job.folder / "pid.json").read_text())
    os.kill(pids["supervisor"], signal.SIGKILL)
    os.killpg(pids["worker"], signal.SIGKILL)
    until(lambda: job.state == "crashed")
    error = job.error()
    assert error is not None
    assert "mode hang" in error.detail  # the last lines of its log
    assert list(job.follow())[-1]["state"] == "crashed"


def test_a_second_job_is_refused_with_the_name_of_the_first(make: Callable[[str], Lab]) -> None:
    lab = make("hang")
    job = lab.start("quantize")
    with pytest.raises(RequestError, match="quantize-001"):
        lab.start("finetune")
    job.cancel()
    assert job.wait(timeout=30) == "cancelled"
    with pytest.raises(RequestError, match="not running"):
        job.cancel()


def test_a_deaf_worker_is_killed(
    make: Callable[[str], Lab], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = make("deaf")
    job = lab.start("quantize")
    until(lambda: "mode deaf" in job.log_tail())
    job.cancel()
    assert job.state == "cancelling"
    assert job.wait(timeout=40) == "cancelled"
    with pytest.raises(Cancelled):
        raise job.error() or AssertionError


def test_a_detached_chain_goes_on_when_its_starter_is_killed(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    lab.set({"chat.system": "ok"})
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(lab.root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as starter:
        assert starter.stdout is not None
        starter.stdout.readline()
        os.killpg(starter.pid, signal.SIGKILL)
    until(lambda: (job := lab.newest("finetune")) is not None and job.state == "succeeded")
    assert lab.folder.finetuned_dir("travel").is_dir()
    assert [job.id for job in lab.jobs()] == ["quantize-001", "finetune-001"]


_STARTER = """
import sys, time
from core import Lab
job = Lab.open(sys.argv[1]).start("quantize", then=("finetune",))
print(job.id, flush=True)
time.sleep(60)
"""


def test_the_command_line_follows_the_contract(make: Callable[[str], Lab]) -> None:
    lab = make("ok")
    done = cli("run", str(lab.root), "quantize", "--json", "--no-check")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["state"] == "succeeded"
    (job,) = json.loads(cli("status", str(lab.root), "--json").stdout)["jobs"]
    assert job["id"] == "quantize-001"
    assert {"stage", "state", "started", "ended", "phase", "done", "total", "eta_s", "error"} <= job.keys()
    logs = cli("logs", str(lab.root), "quantize-001")
    assert "mode ok" in logs.stdout
    assert "[WARNING] a word to people\n" in logs.stdout, "what a stage tells stands in its log"
    assert "a word to nobody" not in logs.stdout
    assert cli("run", str(lab.root), "nonsense").returncode == 2
    assert cli("logs", str(lab.root), "quantize-9").returncode == 2
    assert cli("cancel", str(lab.root), "quantize").returncode == 2
    lab.set({"chat.system": "error"})
    failed = cli("run", str(lab.root), "quantize", "--no-check")
    assert failed.returncode == 3
    assert "the hint" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_logs_are_cleaned_and_followed_to_the_end(make: Callable[[str], Lab]) -> None:
    lab = make("flood")
    job = lab.start("quantize")
    followed = cli("logs", str(lab.root), job.id, "--follow")
    lines = followed.stdout.splitlines()
    assert [line for line in lines if line.startswith("line ")] == [
        f"line {n} [/x] red" for n in range(100_000)
    ]
    assert job.state == "succeeded"


def test_interrupting_a_run_cancels_the_job(make: Callable[[str], Lab]) -> None:
    lab = make("hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "core.cli", "run", str(lab.root), "quantize", "--no-check"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: (job := lab.newest("quantize")) is not None and job.log_tail())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert lab.job("quantize").state == "cancelled"


def test_half_written_events_are_left_for_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"type":"log","level":"info","text":""}\nnot json\n{"type":"pro')
    events, offset = read_events(path)
    assert [e["type"] for e in events] == ["log"]
    with path.open("a") as stream:
        stream.write('gress","phase":"working","done":1,"total":null}\n')
    events, _ = read_events(path, offset)
    assert [e["type"] for e in events] == ["progress"]


def test_a_damaged_result_is_told_and_not_taken_for_none(tmp_path: Path) -> None:
    folder = tmp_path / "quantize-001"
    folder.mkdir()
    (folder / "done.json").write_text('{"state": "succ')
    job = Job(folder)
    assert job.state == "crashed"
    error = job.error()
    assert error is not None
    assert error.code == "file.damaged"
    assert str(folder / "done.json") in error.detail


def test_a_job_folder_without_a_process_or_result_has_crashed(tmp_path: Path) -> None:
    folder = tmp_path / "quantize-001"
    folder.mkdir()
    assert Job(folder).state == "crashed"
