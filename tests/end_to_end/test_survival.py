"""A finetune outlives the terminal that started it, is seen and stopped from another, and goes on where it was."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core import Lab
from core.events import read_events
from tests.end_to_end.labs import ROOT, check_events, cli, command, lines_of, losses_of
from tests.waiting import until

STEPS = 800
"""Of some milliseconds each: many times as long as the commands that look at the first run and stop it."""


@pytest.fixture
def lab(quantized_tiny_lab: Path, tmp_path: Path) -> Iterator[Lab]:
    root = tmp_path / "lab"
    shutil.copytree(quantized_tiny_lab, root)
    lab = Lab.open(root)
    lab.set({"finetune.steps": STEPS, "finetune.save_steps": 10})
    yield lab
    for job in lab.jobs():
        if job.active:
            job.cancel()
            job.wait(timeout=60)


def start_in_a_terminal_that_dies(lab: Lab) -> str:
    """``run --detach`` typed into a shell on a pseudo-terminal; then SIGKILL to the shell and the line cut."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.update(PS1="$ ", TERM="xterm", PYTHONPATH=str(ROOT))
        os.execv("/bin/sh", ["sh", "-i"])
    said = b""
    try:
        typed = [*command("run", str(lab.root), "finetune", "--detach", "--no-check"), "; echo over=$?"]
        os.write(master, (" ".join(typed) + "\n").encode())
        while not re.search(rb"over=\d", said):
            said += os.read(master, 4096)
        assert os.getsid(pid) == pid, "the shell is not its session's leader"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(master)  # the kernel hangs up on the whole session
        os.waitpid(pid, 0)
    assert b"over=0" in said, said
    found = re.search(rb"(finetune-\d+) runs by itself", said)
    assert found is not None, said
    return found.group(1).decode()


def losses(lab: Lab, job: str) -> dict[int, float]:
    return losses_of(read_events(lab.job(job).events_path)[0])


def test_a_finetune_outlives_its_terminal_and_goes_on_from_its_checkpoint(lab: Lab) -> None:
    name = start_in_a_terminal_that_dies(lab)
    assert name == "finetune-001"
    job = lab.job(name)
    pids = [job.folder / "pid.json", lab.folder.checkpoints_dir("travel") / "last.pt"]
    until(lambda: all(path.exists() for path in pids), what="a checkpoint")
    before = len(losses(lab, name))
    until(lambda: len(losses(lab, name)) > before + 10, what="further steps")
    assert job.state == "running"

    # From elsewhere: what it does, what it prints, and an end to it.
    status = cli("status", str(lab.root), "--json")
    told = lines_of(status.stdout)[0]["jobs"][-1]
    assert (told["id"], told["state"], told["phase"]) == (name, "running", "training")
    assert 0 < told["done"] < told["total"] == STEPS
    assert told["eta_s"] > 0
    with subprocess.Popen(
        command("logs", str(lab.root), "finetune", "--follow"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        stopped = cli("cancel", str(lab.root), name)
        assert stopped.returncode == 0, stopped.stderr
        assert f"{name}: cancelled" in stopped.stdout
        with suppress(subprocess.TimeoutExpired):
            follower.wait(timeout=60)
        assert follower.poll() == 0, "the follower did not see the end"
        assert follower.stderr is not None
        assert f"{name}: cancelled" in follower.stderr.read()
    events, _ = read_events(job.events_path)
    check_events(events, name, "cancelled")
    assert not lab.folder.finetuned_root.exists()
    assert cli("cancel", str(lab.root), name).returncode == 2  # it is over

    ran = losses(lab, name)
    assert 0 < max(ran) < STEPS
    again = lab.run("finetune")
    assert 0 < again.numbers["resumed_from"] <= max(ran)
    assert again.numbers["steps"] == STEPS
    assert lab.folder.finetuned_dir("travel").is_dir()
    assert not lab.folder.checkpoints_dir("travel").exists(), "checkpoints go when the adapter is there"
    shown = losses(lab, "finetune-002")
    assert sorted(shown) == list(range(1, STEPS + 1)), "the whole curve, as if nothing had happened"
    kept = range(1, again.numbers["resumed_from"] + 1)
    assert [shown[step] for step in kept] == [ran[step] for step in kept]
    check_events(read_events(lab.job("finetune-002").events_path)[0], "finetune-002", "succeeded")
