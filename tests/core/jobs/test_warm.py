"""Jobs that begin as a fork of a process with the packages loaded are as any other."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core import Job, Lab
from core.files import read_if_whole
from core.jobs import alive, loaded, warm
from core.jobs.start import job_environment
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
    monkeypatch.delenv(warm.SWITCH, raising=False)
    monkeypatch.setattr(warm, "PROGRAM", ("-P", "-m", "tests.core.jobs.bare"))
    monkeypatch.setattr(warm, "usable_cores", lambda: 2)
    monkeypatch.setattr(warm, "free_ram", lambda: warm.ROOM)
    yield Lab.create(tmp_path / "a lab", settings={"chat.system": "ok"})
    warm.let_go()


def begin() -> psutil.Process:
    """The process that forks, once it is ready."""
    warm.load_ahead(job_environment())
    assert warm.OURS.process is not None
    assert warm.OURS.end is not None
    end = warm.OURS.end
    until(lambda: warm._ready(end), what="that it is loaded")
    return psutil.Process(warm.OURS.process.pid)


def is_forked(job: Job) -> bool:
    told = read_if_whole(job.folder / alive.PIDS)
    assert isinstance(told, dict)
    return bool(told["forked"])


def test_a_forked_job_is_as_any_other(lab: Lab) -> None:
    server = begin()
    assert lab.run("quantize").numbers == {"bytes": 10}
    first = lab.job("quantize")
    assert is_forked(first)
    assert "mode ok" in first.log_tail()
    lab.set({"chat.system": "hang"})
    job = lab.start("finetune")
    until(lambda: "mode hang" in job.log_tail())
    found = alive.pids(job.folder)
    for who, module in (("supervisor", "supervise"), ("worker", "worker")):
        process = psutil.Process(found[who])
        assert process.cmdline()[:5] == [sys.executable, "-P", "-m", f"core.jobs.{module}", str(job.folder)]
        assert os.getsid(found[who]) == found[who], "each leads a session of its own"
        assert process.environ().get("OLIVEPRESS_PLUGIN") == "tests.fake_stages.plugin"
    server.kill()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    assert alive.is_held(job.folder), "it outlives what it was forked from"
    assert job.state == "running"
    job.cancel()
    assert job.wait(timeout=60) == "cancelled"
    lab.set({"chat.system": "ok"})
    lab.run("quantize", force=True)
    assert not is_forked(lab.job("quantize")), "nobody is left to fork"


def test_the_end_of_a_forked_worker_is_told(lab: Lab) -> None:
    begin()
    lab.set({"chat.system": "hang"})
    job = lab.start("quantize")
    until(lambda: "mode hang" in job.log_tail())
    os.kill(alive.pids(job.folder)["worker"], signal.SIGKILL)
    assert job.wait(timeout=60) == "crashed"
    assert "SIGKILL" in str(job.error())
    assert is_forked(job)


def test_a_chain_goes_on_by_forks_when_its_starter_is_gone(lab: Lab) -> None:
    server = begin()
    lab.set({"chat.system": "go"})
    first = lab.start("quantize", then=("finetune",))
    warm.let_go()
    (lab.root / "go").touch()
    until(lambda: (job := lab.newest("finetune")) is not None and job.state == "succeeded")
    assert is_forked(first)
    assert is_forked(lab.job("finetune"))
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, what="that it ends")


def test_what_has_changed_since_is_not_forked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    begin()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    lab.run("quantize")
    assert not is_forked(lab.job("quantize")), "another environment"
    monkeypatch.delenv("HF_ENDPOINT")
    lab.run("quantize", force=True)
    assert is_forked(lab.job("quantize"))


def test_one_that_does_not_answer_holds_nobody_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    server = begin()
    monkeypatch.setattr(warm, "ANSWER_S", 0.2)
    server.suspend()
    job = lab.start("quantize")
    assert job.wait(timeout=60) == "succeeded"
    assert not is_forked(job)
    server.wait(60)  # it was killed, and no late fork is left of it
    assert [each.id for each in lab.jobs()] == ["quantize-001"]


def test_nothing_is_loaded_where_there_is_no_room(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "free_ram", lambda: warm.ROOM - 1)
    warm.load_ahead(job_environment())
    assert warm.OURS.end is None
    monkeypatch.setattr(warm, "free_ram", lambda: warm.ROOM)
    monkeypatch.setenv(warm.SWITCH, "0")
    warm.load_ahead(job_environment())
    assert warm.OURS.end is None


def test_whoever_asks_at_once_gets_one(lab: Lab) -> None:
    before = {each.pid for each in psutil.Process().children()}
    asked = [threading.Thread(target=warm.load_ahead, args=(job_environment(),)) for _ in range(4)]
    for each in asked:
        each.start()
    for each in asked:
        each.join()
    assert warm.OURS.process is not None
    assert {each.pid for each in psutil.Process().children()} - before <= {warm.OURS.process.pid}


def test_with_a_second_thread_nothing_is_forked() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not loaded.can_fork()
    finally:
        stop.set()
        thread.join()
