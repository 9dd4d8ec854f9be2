"""The plain mode: the steps by questions and answers, through a pipe and on a dumb terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.lab import Lab
from core.searched import Board, Try, write_board
from core.stages import STAGES
from tests.tui.ptys import Terminal

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "core.cli"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Quick stages, and a user without settings."""
    return {
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "OLIVEPRESS_CONFIG": str(tmp_path / "config"),
        "OLIVEPRESS_PLUGIN": "tests.fake_stages.plugin",
        "LANG": "C.UTF-8",
    }


def told(folder: Path, answers: str | bytes, env: dict[str, str], *words: str) -> tuple[int, str]:
    """The exit status and all that is said when these lines come through a pipe."""
    done = subprocess.run(
        [*PROGRAM, "--plain", str(folder), *words],
        input=answers if isinstance(answers, bytes) else answers.encode(),
        capture_output=True,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout
    return done.returncode, done.stdout.decode()


def lab_of(tmp_path: Path, mode: str) -> Lab:
    return Lab.create(tmp_path / "lab", settings={"chat.system": mode})


def test_an_empty_folder_becomes_a_lab_and_a_stage_is_run(tmp_path: Path, env: dict[str, str]) -> None:
    status, said = told(tmp_path / "lab", "\nset chat.system=ok\n\n\n\nquit\n", env)
    assert status == 0
    assert "Step 1 of 7: Check" in said
    assert "There is no lab here yet: it is made when you go on." in said
    assert "413, 413 of them usable" in said
    assert STAGES["quantize"].about in said
    assert "Quantize begins, as job quantize-001." in said
    assert "Quantize is done, after " in said
    lab = Lab.open(tmp_path / "lab")
    assert lab.recipe.chat.system == "ok"
    assert lab.job("quantize").state == "succeeded"


def test_the_status_is_that_of_the_last_step_that_did_something(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "error")
    status, said = told(lab.root, "3\nrun\n", env)
    assert status == 3
    assert "error: It failed as asked." in said
    assert said.rstrip().endswith("End of input.")
    # It goes on where the lab stands, and what is mended ends well.
    status, said = told(lab.root, "set chat.system=ok\nrun\n", env)
    assert "Step 3 of 7: Quantize" in said
    assert "Step 1 of 7" not in said
    assert "FAILED  quantize-001" in said
    assert status == 0


def test_a_result_is_replaced_only_after_a_yes(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "ok")
    (lab.folder.quantized_dir).mkdir(parents=True)
    (lab.folder.quantized_dir / "config.json").write_text("{}")
    status, said = told(lab.root, "3\nrun\nn\n", env)
    assert "A run replaces models/quantized, once it has succeeded. Run and replace? [y/N] n" in said
    assert not lab.jobs()
    assert status == 0


def test_what_an_error_advises_is_offered_and_done(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "ok")
    lab.set({"quantize.group_size": 256, "quantize.algorithm": "rtn"})
    status, said = told(lab.root, "3\nrun\n?\n\n", env)
    assert "Run all the same" not in said, "it would fail again"
    assert said.count("Use 128 and run (Enter) >") == 2, "it is still offered after the help"
    assert lab.recipe.quantize.group_size == 128
    assert "Quantize is done, after" in said
    assert status == 0


def test_settings_are_asked_for_one_by_one(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "ok")
    _, said = told(lab.root, "3\nsettings\n\nsimple\nrtn\n.\nset nothing=1\nwhat?\nq\n", env)
    assert "'simple' is not possible here: it must be one of awq+gptq" in said
    assert lab.recipe.quantize.algorithm == "rtn"
    assert "There is no option nothing." in said
    assert "'what?' is not understood. ? lists the answers." in said


def test_a_step_is_explained_with_all_its_answers(tmp_path: Path, env: dict[str, str]) -> None:
    _, said = told(lab_of(tmp_path, "ok").root, "3\n?\nwhere my-box\nwhere here\n", env)
    assert "Answers (run is Enter; the first letters do):" in said
    assert "Same next word: how often both models expect the same next word" in said
    assert "7 Upload" in said
    assert "Quantize runs on my-box of Azure ML." in said
    assert "Quantize runs on this machine." in said


def test_a_search_takes_the_options_of_its_command(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "ok")
    tries = (Try(1, "gptq, 4 bits", {"quantize.algorithm": "gptq"}, "measured", size=9, loss=0.1, part=1.0),)
    write_board(lab.folder, Board("quantize", "", tries, 1, True))
    answers = "3\nsearch --max-size much\nsearch --last\nsearch --pick best\n4\nsearch --last\nquit\n"
    status, said = told(lab.root, answers, env)
    assert status == 2  # of the last: there was no search of a training
    assert "much" in said
    assert "Best: 1, gptq, 4 bits." in said
    assert lab.recipe.quantize.algorithm == "gptq"
    assert "There was no search in this lab yet." in said


def test_a_row_is_told_as_the_model_reads_it(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "ok")
    rows = ['{"prompt": "Where?", "response": "Here."}\n', "{ no record\n"]
    (lab.root / "rows.jsonl").write_text("".join(rows * 1))
    lab.set({"data.file": "rows.jsonl"})
    status, said = told(lab.root, "2\nrow 1\nrow 2\nrow 3\nrow x\nq\n", env)
    assert "The model reads:\n<|user|>" in said
    assert "It learns to say:\nHere." in said
    assert "It cannot be used:" in said
    assert "There is no such row." in said
    assert "Write row and its number" in said
    assert status == 2, "training cannot start with this file"


@pytest.mark.parametrize("answers", [b"", b"\xe1\xff\n", b"2", b"\x1b[A\n\x00\n"])
def test_whatever_comes_in_it_ends_cleanly(answers: bytes, tmp_path: Path, env: dict[str, str]) -> None:
    status, said = told(lab_of(tmp_path, "ok").root, answers, env)
    assert status == 0
    assert said.rstrip().endswith("End of input.")


def test_what_is_missing_leads_to_the_step_that_makes_it(tmp_path: Path, env: dict[str, str]) -> None:
    _, said = told(lab_of(tmp_path, "ok").root, "6\n\nq\n", env)
    assert "This step starts from what step 5 makes. Do Optimize first" in said
    assert "Step 5 of 7: Optimize" in said


def test_a_dumb_terminal_gets_lines_by_itself_and_ctrl_c_asks(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "hang")
    with Terminal([*PROGRAM, str(lab.root)], tmp_path, {**env, "TERM": "dumb"}, size=(100, 40)) as terminal:
        terminal.until("(Enter) >", 60)
        terminal.send("3\r")
        terminal.until("Run Quantize")
        terminal.send("run\r")
        terminal.until("a word to people", 60)
        terminal.send("ctrl+c")
        terminal.until("Stop quantize-001?")
        terminal.until("lets it run >")
        terminal.send("\r")
        terminal.until("quantize-001 goes on.")
        assert lab.job("quantize").active
        terminal.send("ctrl+c")
        terminal.until(lambda text: text.count("Stop quantize-001?") == 2)
        terminal.send("y\r")
        terminal.until("Quantize was stopped", 60)
        terminal.until("Run again, about")
        terminal.until(lambda text: text.rstrip().endswith("(Enter) >"))
        assert lab.job("quantize").state == "cancelled"
        # Python loses one that comes between writing the question and reading the answer: a person presses again.
        terminal.press_until("ctrl+c", "Leave? [y/N]")
        terminal.send("n\r")
        terminal.send("q\r")
        assert terminal.until_over() == 130
        assert b"\x1b" not in terminal.raw


def test_a_job_that_runs_is_left_and_found_again(tmp_path: Path, env: dict[str, str]) -> None:
    lab = lab_of(tmp_path, "go")
    job = lab.start("quantize")
    status, said = told(lab.root, "q\n", env)
    assert status == 0
    assert "Wait until it is over (Enter) > q" in said
    assert "quantize-001 goes on by itself." in said
    (lab.root / "go").touch()
    status, said = told(lab.root, "\n", env)
    assert status == 0
    assert job.wait() == "succeeded"
