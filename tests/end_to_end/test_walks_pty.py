"""Walks by keys through the real program in a real terminal: what people do besides going straight on."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from core.lab import Lab
from tests.core.stale_labs import make_anew
from tests.end_to_end.labs import TINY
from tests.tiny_models import make_tiny
from tests.tui.labs import job_in
from tests.tui.ptys import Terminal

WIZARD = (sys.executable, "-m", "core.cli")


def said(terminal: Terminal) -> str:
    """What is on the screen as one line, without the frames between words."""
    return " ".join(terminal.text.replace("│", " ").replace("▌", " ").split())


def _ends_with_the_keys(lines: int, text: str) -> bool:
    return "Quit" in text.splitlines()[lines - 1]


def _is_other_than(before: str, text: str) -> bool:
    return text != before


def finished(root: Path) -> Lab:
    """A lab in which everything was made, as far as its files tell."""
    lab = Lab.create(root, settings={"finetune.steps": 100})
    for number, stage in enumerate(("quantize", "finetune", "optimize"), 1):
        job_in(lab, stage, "succeeded", number)
    make_anew(lab, "quantize", "finetune", "optimize")
    return lab


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


def test_the_model_is_changed_midway_and_taken_back(tmp_path: Path) -> None:
    lab = finished(tmp_path / "lab")
    tiny = make_tiny("llama", tmp_path / "tiny")
    with Terminal((*WIZARD, str(lab.root)), tmp_path, size=(120, 40)) as terminal:
        terminal.until("Done", 120)
        terminal.send("3")
        terminal.until("quantize-001", 60)
        terminal.until(lambda text: text.splitlines()[2].count("done") == 3, 60)
        terminal.send("e")
        terminal.until("auto (128)", 60)
        while "In lab.toml: [model] source" not in said(terminal):
            terminal.send("up")
            terminal.until(partial(_is_other_than, terminal.text), 20)
        terminal.send("end", "ctrl+u", os.path.relpath(tiny, lab.root), "tab")
        terminal.until(lambda text: "Another model than rehearsal." in said(terminal), 60)
        assert "group size 128 → 64" in said(terminal)
        terminal.until(lambda text: text.splitlines()[2].count("stale") >= 1, 60)
        terminal.send("escape")
        terminal.pump(0.3)
        terminal.send("u")
        terminal.until(lambda text: "Another model" not in text and "auto (128)" in text, 60)
        terminal.until(lambda text: text.splitlines()[2].count("done") == 3, 60)
        terminal.send("q")
        assert terminal.until_over() == 0
    assert lab.recipe.model.source == "rehearsal"
    assert lab.recipe.finetune.steps == 100


def test_the_terminal_is_resized_on_a_finished_screen(tmp_path: Path) -> None:
    lab = finished(tmp_path / "lab")
    with Terminal((*WIZARD, str(lab.root)), tmp_path) as terminal:
        terminal.until("Done", 120)
        terminal.send("4")
        terminal.until("finetune-002", 60)
        terminal.until("Held-out loss", 60)
        small = said(terminal)
        for columns, lines in ((200, 60), (60, 20), (120, 40)):
            terminal.resize(columns, lines)
            terminal.until(partial(_ends_with_the_keys, lines), 60)
            terminal.until("finetune-002", 60)
        terminal.resize(80, 24)
        terminal.until(lambda text: said(terminal) == small, 60)
        terminal.send("q")
        assert terminal.until_over() == 0


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


@pytest.mark.slow
def test_a_training_is_stopped_and_goes_on(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab", settings={"finetune.steps": 60, "quantize.algorithm": "rtn"})
    lab.run("quantize")
    with Terminal((*WIZARD, str(lab.root)), tmp_path) as terminal:
        terminal.until("Done", 120)
        terminal.send("4")
        terminal.until("[ Run Finetune", 60)
        terminal.send("f8")
        terminal.until("training", 300)
        terminal.until(lambda text: "of 60" in text, 300)
        terminal.send("f9")
        terminal.until("Let it run", 60)
        terminal.send("x")
        terminal.until("Stopped", 300)
        terminal.until("Go on", 60)
        terminal.send("f8")
        terminal.until("Next: Optimize", 900)
        terminal.send("q")
        assert terminal.until_over() == 0
    jobs = sorted(job.name for job in lab.folder.jobs_dir.glob("finetune-*"))
    assert jobs == ["finetune-001", "finetune-002"]
    result = lab.job("finetune").result
    assert result is not None
    assert result["steps"] == 60
