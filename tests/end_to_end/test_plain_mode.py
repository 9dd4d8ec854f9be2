"""The plain mode on a terminal that can do nothing but lines: from an empty folder to an answer, by answers alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core.lab import Lab
from tests.tui.ptys import Terminal


@pytest.mark.slow
def test_the_whole_lab_by_answers(tmp_path: Path) -> None:
    program = (sys.executable, "-m", "core.cli", "lab")
    with Terminal(program, tmp_path, {"TERM": "dumb"}, size=(120, 60)) as terminal:
        terminal.until("Next: Data (Enter) >", 60)
        terminal.send("enter")
        terminal.until("Next: Quantize (Enter) >", 60)
        for setting in ("quantize.algorithm=rtn", "finetune.steps=4", "finetune.eval_every=4"):
            name, _, value = setting.partition("=")
            terminal.send(f"set {setting}\r")
            terminal.until(f"{name} = {value}")
        terminal.send("enter")
        for stage, following in (("Quantize", "Finetune"), ("Finetune", "Optimize"), ("Optimize", "Chat")):
            terminal.until(f"Run {stage}", 30)
            terminal.send("run\r")
            terminal.until(f"{stage} is done, after", 300)
            terminal.until(f"Next: {following} (Enter) >", 30)
            terminal.send("enter")
        terminal.until("Talk to the model; /quit comes back here (Enter) >", 30)
        terminal.send("enter")
        terminal.until("travel> ", 120)
        terminal.send("What should I see in Chicago?\r")
        terminal.until("tokens/s", 120)
        terminal.send("/quit\r", "7\r")
        terminal.until("Take it with you.", 30)
        terminal.until("would go; dry lists them.", 30)
        terminal.until("Sign in (Enter) >", 30)
        terminal.send("q\r")
        assert terminal.until_over() == 0
        assert b"\x1b" not in terminal.raw
    lab = Lab.open(tmp_path / "lab")
    assert lab.adapters() == ["travel"]
    assert [job.state for job in lab.jobs()] == ["succeeded"] * 3
