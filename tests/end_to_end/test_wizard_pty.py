"""The real program in a real terminal of 80 by 24, by keys alone, from an empty folder to a chat with a tuned model."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest

from core.lab import Lab
from tests.tui.ptys import Terminal

WIZARD = (sys.executable, "-m", "core.cli")
STEPS = 40


def named(text: str) -> str:
    """What the line below the form is about: an option of [finetune], the fold, or nothing yet."""
    if "more settings, which" in text:
        return "more"
    found = re.search(r"In\s+lab\.toml:\s+\[finetune\]\s+(\w+)", text)
    return found.group(1) if found else ""


def other_than(field: str, text: str) -> bool:
    """Whether the line is about another field; while it is drawn anew it may be empty for a moment."""
    return named(text) not in (field, "")


@pytest.mark.slow
def test_from_an_empty_folder_to_a_tuned_answer(tmp_path: Path) -> None:
    folder = tmp_path / "my-lab"
    folder.mkdir()
    with Terminal(WIZARD, folder) as terminal:
        terminal.until("This machine can run the lab", 60)
        terminal.send("enter")

        terminal.until("Next: Quantize")
        terminal.until("What should I see in")
        terminal.send("enter")

        terminal.until("[ Run Quantize")
        terminal.send("enter")
        terminal.until("Running", 30)
        terminal.until("Next: Finetune", 400)
        assert "smaller" in terminal.text
        terminal.send("enter")

        terminal.until("[ Run Finetune")
        # The arrows go from field to field; a line below tells which one it is.
        while (field := named(terminal.text)) != "steps":
            terminal.send("down" if field == "adapter" else "up")
            terminal.until(partial(other_than, field), 20)
        terminal.until("Steps             ▌auto (310) ")  # 20 rounds through the records
        terminal.send(str(STEPS))
        terminal.until(f"Steps             ▌{STEPS} ")
        terminal.send("f8")
        terminal.until("Running", 30)
        terminal.until("training", 120)

        # The wizard dies in the middle; the training does not notice, and the next wizard shows all of it.
        terminal.kill()
    assert Lab.open(folder).job("finetune").active

    with Terminal(WIZARD, folder) as terminal:
        terminal.until("finetune-001", 30)
        terminal.until("Next: Optimize", 400)
        assert "Held-out loss" in terminal.text
        terminal.send("enter")

        terminal.until("[ Run Optimize")
        terminal.send("f8")
        terminal.until("Next: Chat", 400)
        terminal.send("enter")

        terminal.until("Enter sends", 60)
        terminal.until("likeliest words", 120)
        terminal.until(lambda text: terminal.marked("Ask the model"), 60)
        terminal.send("What should I see in Chicago?")
        terminal.until("What should I see in Chicago?")
        terminal.send("enter")
        terminal.until("tokens/s", 120)
        assert "travel" in terminal.text
        terminal.send("f3")
        terminal.until("Next: Chat")
        terminal.send("q")
        terminal.until_over()
        assert terminal.status == 0

    lab = Lab.open(folder)
    assert lab.recipe.finetune.steps == STEPS
    assert lab.adapters() == ["travel"]
    training = lab.job("finetune")
    assert training.id == "finetune-001", "one training, from end to end"
    assert training.result is not None
    assert training.result["eval_loss_tuned"] < training.result["eval_loss_base"]
