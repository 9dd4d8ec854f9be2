"""Walks by keys through the real program in a real terminal: what people do besides going straight on."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.lab import Lab
from tests.end_to_end.labs import TINY
from tests.tiny_models import make_tiny
from tests.tui.ptys import Terminal

WIZARD = (sys.executable, "-m", "core.cli")

pytestmark = pytest.mark.xdist_group("walks")  # its lab is made once


def said(terminal: Terminal) -> str:
    """What is on the screen as one line, without the frames between words."""
    return " ".join(terminal.text.replace("│", " ").replace("▌", " ").split())


def steps(terminal: Terminal) -> list[str]:
    """The words under the steps on the rail."""
    return terminal.text.splitlines()[2].split()


def laid_out(columns: int, lines: int, text: str) -> bool:
    """Whether the screen is drawn for this size: the rail over most of its width, the keys on its last line."""
    drawn = text.splitlines()
    return len(drawn) == lines and "F2  Help" in drawn[-1] and drawn[1].find("7 Uplo") > columns // 2


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rehearsal lab after a short run of the three stages. Do not change it."""
    lab = Lab.create(
        tmp_path_factory.mktemp("walks") / "lab",
        settings={
            "quantize.algorithm": "rtn",
            "finetune.steps": 12,
            "finetune.eval_every": 12,
            "finetune.batch_size": 8,
            "finetune.turns": 1,
            "data.eval_fraction": 0.03,
        },
    )
    for stage in ("quantize", "finetune", "optimize"):
        lab.run(stage)
    return lab.root


@pytest.fixture
def made(made_once: Path, tmp_path: Path) -> Lab:
    """A copy of that lab which a walk may change."""
    shutil.copytree(made_once, tmp_path / "made", copy_function=shutil.copy2)
    return Lab.open(tmp_path / "made")


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


def test_own_model(tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "my-model", hidden=64, intermediate=96)
    lab = Lab.create(tmp_path / "lab")
    with Terminal((*WIZARD, str(lab.root)), tmp_path) as terminal:
        terminal.until("This machine can run the lab", 120)
        terminal.send("3")
        terminal.until("▸3 Quantize", 60)
        terminal.until("auto (128)", 60)
        terminal.send("m")
        terminal.until("Pick a model  (Enter takes it", 60)
        terminal.send(os.path.relpath(tiny, lab.root))
        terminal.until("../my-model", 60)
        terminal.send("enter")
        terminal.until(lambda text: "Another model than rehearsal." in said(terminal), 60)
        assert lab.recipe.model.source == "../my-model", "what was picked is kept"
        # Check looks at it by itself, and at no other.
        terminal.send("1")
        terminal.until("▸1 Check", 60)
        terminal.until(lambda text: "my-model" in said(terminal) and "rehearsal" not in said(terminal), 120)
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
        terminal.until("Enter  Use 32 and run", 60)
        terminal.send("enter")
        terminal.until("Next: Finetune", 400)
        terminal.send("q")
        assert terminal.until_over() == 0
    assert lab.recipe.quantize.group_size == 32
    job = lab.job("quantize")
    assert job.state == "succeeded"


def test_the_model_is_changed_midway_and_taken_back(made: Lab, tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "tiny")
    with Terminal((*WIZARD, str(made.root)), tmp_path, size=(120, 40)) as terminal:
        terminal.until("Next: Chat", 120)
        terminal.until(lambda text: steps(terminal).count("done") == 3, 60)
        terminal.send("3")
        terminal.until("▸3 Quantize", 60)
        terminal.until("[ Run again", 60)
        terminal.send("e")
        terminal.until("auto (128)", 60)
        terminal.send("m")
        terminal.until("Pick a model  (Enter takes it", 60)
        terminal.send(os.path.relpath(tiny, made.root))
        terminal.until("../tiny", 60)
        terminal.send("enter")
        terminal.until(lambda text: "Another model than rehearsal." in said(terminal), 60)
        terminal.until(lambda text: "group size 128 → 64" in said(terminal), 60)
        terminal.until("auto (64)", 60)
        terminal.until(lambda text: steps(terminal).count("stale") == 3, 60)
        assert made.recipe.model.source == "../tiny"
        terminal.send("u")
        terminal.until(lambda text: "Another model" not in text and "auto (64)" not in text, 60)
        terminal.until(lambda text: steps(terminal).count("done") == 3, 60)
        terminal.until("auto (128)", 60)
        terminal.send("q")
        assert terminal.until_over() == 0
    assert made.recipe.model.source == "rehearsal"


def test_the_terminal_is_resized_on_a_finished_step(made: Lab, tmp_path: Path) -> None:
    with Terminal((*WIZARD, str(made.root)), tmp_path) as terminal:
        terminal.until("Next: Chat", 120)
        terminal.send("4")
        terminal.until("finetune-001", 60)
        terminal.until("Held-out loss", 60)
        terminal.until("Log · ", 60)
        terminal.until("F2  Help", 60)
        for columns, lines in ((200, 60), (60, 20), (120, 40)):
            terminal.resize(columns, lines)
            terminal.until(partial(laid_out, columns, lines), 60)
            terminal.until("Done  finetune-001", 60)
            terminal.until("Log · " if lines > 20 else "Held-out loss", 60)
        terminal.resize(80, 24)
        terminal.until(partial(laid_out, 80, 24), 60)
        terminal.until("[ Next: Optimize F4 ]", 60)
        terminal.until("Log · ", 60)
        terminal.send("q")
        assert terminal.until_over() == 0


def finetune_again(terminal: Terminal) -> None:
    """From the step that the wizard opens on to a finetune that runs in place of the one that was made."""
    terminal.until("Next: Chat", 120)
    terminal.send("4")
    terminal.until("▸4 Finetune", 60)
    terminal.until("[ Run again", 60)
    terminal.send("f8")
    terminal.until("A run replaces", 60)
    terminal.send("r")
    terminal.until("Running  finetune-002", 120)


def frame(terminal: Terminal) -> str:
    """The colour of the frame of the box that questions are typed into: another one while it has the focus."""
    for y, line in enumerate(terminal.screen.display):
        if "╭" in line:
            return str(terminal.screen.buffer[y][line.index("╭")].fg)
    return ""


def to_the_chat(terminal: Terminal) -> None:
    """Go to step 6 and wait until a question can be typed and asked."""
    terminal.until("Next: Chat", 120)
    terminal.send("6")
    terminal.until("▸6 Chat", 60)
    terminal.until("Enter sends", 120)
    terminal.until("likeliest words", 120)
    terminal.until(lambda text: terminal.marked("Ask the model"), 60)


def leave_the_chat(terminal: Terminal) -> None:
    """To the step before it, and out of the program."""
    terminal.send("f3")
    terminal.until("▸5 Optimize", 60)
    terminal.send("q")
    assert terminal.until_over() == 0


def told(lab: Lab, kind: str) -> list[dict[str, Any]]:
    """The records of this kind in the lab's transcripts."""
    files = (lab.root / "chats").glob("*.jsonl")
    records = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["type"] == kind]


def columns(terminal: Terminal) -> tuple[str, str]:
    """What stands left and right of the line between two answers."""
    parts = [line.partition("│") for line in terminal.text.splitlines()]
    lines = [(left, right) for left, middle, right in parts if middle and len(left) > 20]
    return "\n".join(left for left, _ in lines), "\n".join(right for _, right in lines)


def test_three_lines_are_pasted_and_none_is_sent(made: Lab, tmp_path: Path) -> None:
    made.set({"chat.max_new_tokens": 16})
    with Terminal((*WIZARD, str(made.root)), tmp_path) as terminal:
        to_the_chat(terminal)
        # As a terminal gives a paste: in brackets, with a carriage return for each line's end.
        terminal.send("\x1b[200~First line.\rSecond line.\rThird line?\x1b[201~")
        terminal.until("│ Third line?", 60)
        shown = [line.strip(" │") for line in terminal.text.splitlines()]
        at = shown.index("First line.")
        assert shown[at : at + 3] == ["First line.", "Second line.", "Third line?"]
        assert "Enter sends" in terminal.text
        assert told(made, "user") == []
        terminal.send("enter")
        terminal.until("tokens/s", 120)
        leave_the_chat(terminal)
    assert [record["text"] for record in told(made, "user")] == ["First line.\nSecond line.\nThird line?"]


def test_base_and_tuned_answer_side_by_side(made: Lab, tmp_path: Path) -> None:
    made.set({"chat.max_new_tokens": 16})
    with Terminal((*WIZARD, str(made.root)), tmp_path) as terminal:
        to_the_chat(terminal)
        terminal.send("/compare", "enter")
        terminal.until("[ Single ]", 60)
        terminal.until("base | travel", 60)
        terminal.send("Where is Oslo?")
        terminal.until("Where is Oslo?", 60)
        terminal.send("enter")
        terminal.until(lambda text: text.count("tokens · first after") == 2, 120)
        left, right = columns(terminal)
        leave_the_chat(terminal)
    # They are written down as they end, and either may be the first.
    answers = {record["adapter"]: record for record in told(made, "assistant")}
    assert answers.keys() == {None, "travel"}
    base, tuned = answers[None], answers["travel"]
    assert base["answer"] != tuned["answer"]
    for text, answer in ((left, base["answer"]), (right, tuned["answer"])):
        assert "".join(answer.split()) in "".join(text.split())


@pytest.mark.slow
def test_the_chat_says_that_the_adapter_is_older_and_its_keys_make_it_anew(made: Lab, tmp_path: Path) -> None:
    older = "This adapter is older than your last finetune. Press Esc, then 5, to make it anew."
    with Terminal((*WIZARD, str(made.root)), tmp_path) as terminal:
        finetune_again(terminal)
        terminal.until("Done  finetune-002", 300)
        terminal.send("6")
        terminal.until(lambda text: older in said(terminal), 120)
        terminal.until("likeliest words", 120)
        terminal.until(lambda text: terminal.marked("Ask the model"), 60)
        focused = frame(terminal)
        terminal.send("escape")
        terminal.until(lambda text: frame(terminal) not in ("", focused), 60)
        terminal.send("5")
        terminal.until("▸5 Optimize", 60)
        terminal.until(lambda text: "the adapter was trained anew" in said(terminal), 60)
        terminal.send("f8")
        terminal.until("A run replaces", 60)
        terminal.send("r")
        terminal.until("Done  optimize-002", 300)
        to_the_chat(terminal)
        assert "older" not in terminal.text
        leave_the_chat(terminal)
