"""However a training is stopped, the screen says at which step and from where it goes on, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import Lab
from tests.tui.ptys import Terminal

WIZARD = (sys.executable, "-m", "core.cli")
STEPS = 200
"""Of some hundredths of a second: many times as long as a key takes to be heard."""
SAVE_STEPS = 7


@pytest.fixture
def lab(quantized_tiny_lab: Path, tmp_path: Path) -> Iterator[Lab]:
    """A lab that can finetune, and keeps a checkpoint every few steps."""
    shutil.copytree(quantized_tiny_lab, tmp_path / "lab")
    lab = Lab.open(tmp_path / "lab")
    lab.set({"finetune.steps": STEPS, "finetune.save_steps": SAVE_STEPS})
    yield lab
    for job in lab.jobs():
        if job.active:
            job.cancel()
            job.wait(timeout=60)


@pytest.fixture
def unbroken(lab: Lab, tmp_path: Path) -> bytes:
    """The adapter of a training that nobody stopped."""
    shutil.copytree(lab.root, tmp_path / "unbroken")
    other = Lab.open(tmp_path / "unbroken")
    other.run("finetune")
    return weights(other)


def weights(lab: Lab) -> bytes:
    return (lab.folder.finetuned_dir("travel") / "adapter_model.safetensors").read_bytes()


def said(terminal: Terminal) -> str:
    """What is on the screen as one line, without the frames between words."""
    return " ".join(terminal.text.replace("│", " ").split())


def trains(terminal: Terminal, number: int, after: int) -> None:
    """Wait until this finetune has come past that step."""

    def past(text: str) -> bool:
        found = re.search(rf"training\s+(\d+) of {STEPS}", text)
        return f"Running  finetune-{number:03d}" in text and found is not None and int(found[1]) > after

    terminal.until(past, 120)


def worker(lab: Lab, number: int) -> int:
    told = json.loads((lab.folder.jobs_dir / f"finetune-{number:03d}" / "pid.json").read_text())
    return int(told["worker"])


def goes_on_from(terminal: Terminal) -> int:
    """The step on the button."""
    terminal.until(r"[ Go on from step ", 60)
    found = re.search(r"\[ Go on from step (\d+) F8 \]", terminal.text)
    assert found is not None, terminal.text
    return int(found[1])


def test_a_training_stopped_by_keys_and_by_signals_ends_as_one_that_nobody_stopped(
    lab: Lab, unbroken: bytes
) -> None:
    # Ctrl-C in a command.
    run = (*WIZARD, "run", str(lab.root), "finetune", "--no-check")
    with Terminal(run, lab.root, size=(100, 40)) as terminal:
        terminal.until(f"of {STEPS}", 120)
        terminal.send("ctrl+c")
        assert terminal.until_over(60) == 130
        stopped = re.search(rf"Stopped at step (\d+) of {STEPS}\.", said(terminal))
        assert stopped is not None, terminal.text
        by_ctrl_c = int(stopped[1])
        assert f"The next run goes on from step {by_ctrl_c}." in said(terminal)

    # The packages are loaded once for the jobs of the wizard: each would take seconds for them.
    with Terminal((*WIZARD, str(lab.root)), lab.root, {"OLIVEPRESS_WARM": "1"}, (100, 40)) as terminal:
        terminal.until("F2  Help", 120)
        terminal.send("4")
        assert goes_on_from(terminal) == by_ctrl_c

        terminal.send("f8")
        trains(terminal, 2, after=by_ctrl_c + 5)
        terminal.send("f9")
        terminal.until("Stop finetune-002?", 60)
        terminal.until("It finishes its step and keeps a checkpoint", 60)
        terminal.send("x")
        terminal.until("Stopped  finetune-002", 60)
        by_keys = goes_on_from(terminal)
        assert by_ctrl_c + 5 < by_keys < STEPS
        terminal.until(f"Stopped at step {by_keys} of {STEPS}.", 60)

        # SIGTERM, as when the machine goes down: the same words.
        terminal.send("f8")
        trains(terminal, 3, after=by_keys + 5)
        os.kill(worker(lab, 3), signal.SIGTERM)
        terminal.until("Stopped  finetune-003", 60)
        by_term = goes_on_from(terminal)
        assert by_keys + 5 < by_term < STEPS
        terminal.until(f"Stopped at step {by_term} of {STEPS}.", 60)

        # SIGKILL: what came after the last checkpoint is lost, and no more is claimed.
        terminal.send("f8")
        trains(terminal, 4, after=by_term + 5)
        os.kill(worker(lab, 4), signal.SIGKILL)
        terminal.until("CRASHED  finetune-004", 60)
        by_kill = goes_on_from(terminal)
        assert by_term < by_kill < STEPS
        assert by_kill % SAVE_STEPS == 0
        assert "it was killed (SIGKILL)" in said(terminal)

        terminal.send("f8")
        terminal.until("Done  finetune-005", 120)
        terminal.until(f"Went on from step  {by_kill}", 60)
        terminal.send("q")
        assert terminal.until_over() == 0
    assert weights(lab) == unbroken
