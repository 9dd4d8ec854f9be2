"""Walks by keys through the real program in a real terminal: what people do besides going straight on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from core.lab import Lab
from tests.end_to_end.labs import TINY
from tests.tiny_models import make_tiny
from tests.tui.ptys import Terminal

WIZARD = (sys.executable, "-m", "core.cli")


def said(terminal: Terminal) -> str:
    """What is on the screen as one line, without the frames between words."""
    return " ".join(terminal.text.replace("│", " ").replace("▌", " ").split())


def test_own_data(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab")
    rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(40)]
    (lab.root / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with Terminal(WIZARD, lab.root) as terminal:
        terminal.until("This machine can run the lab", 120)
        terminal.send("2")
        terminal.until("What should I see in", 60)
        terminal.send("o")
        terminal.until("Pick a file", 60)
        terminal.send(str(lab.root / "sums.jsonl"), "enter")
        terminal.until("What is 7 and 7?", 60)
        terminal.send("q")
        assert terminal.until_over() == 0
    assert Path(lab.recipe.data.file).name == "sums.jsonl"


def test_a_failure_has_its_action(tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "tiny", hidden=64, intermediate=96)
    settings = {**TINY, "quantize.algorithm": "rtn", "quantize.group_size": 64}
    lab = Lab.create(tmp_path / "lab", model=str(tiny), settings=settings)
    with Terminal((*WIZARD, str(lab.root)), tmp_path) as terminal:
        terminal.until("group size", 120)
        terminal.send("3")
        terminal.until("[ Run Quantize", 60)
        terminal.send("f8")
        terminal.until("[ Use 32 and run ]", 120)
        assert "olivepress" not in said(terminal).partition("Same by command")[0]
        # The footer names what Enter presses.
        terminal.send("up")
        terminal.until("Enter  Run all the same", 60)
        terminal.send("up")
        terminal.until("Enter  Use 32 and run", 60)
        terminal.send("enter")
        terminal.until("Next: Finetune", 400)
        terminal.send("q")
        assert terminal.until_over() == 0
    assert lab.recipe.quantize.group_size == 32
    job = lab.job("quantize")
    assert job.state == "succeeded"
