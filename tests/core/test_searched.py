"""The board of a search: told to people, kept, picked from by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.cli import main
from core.lab import Lab
from core.searched import Board, Try, board_path, plot, read_board, refused_words, table, write_board

TRIES = (
    Try(
        1,
        "awq, 4 bits",
        {"quantize.algorithm": "awq", "quantize.group_size": 64},
        "measured",
        size=3_000_000,
        loss=0.05,
        worse=0.021,
        speed=31.25,
        part=1.0,
        front=True,
    ),
    Try(
        2,
        "rtn\x1b[2J",
        {"quantize.algorithm": "rtn"},
        "dropped",
        "others do better",
        3_000_000,
        0.2,
        part=0.25,
    ),
    Try(
        3, "rtn, 8 bits", {"quantize.algorithm": "rtn", "quantize.bits": 8}, "refused", "too large", 6_000_000
    ),
)
BOARD = Board("quantize", "at most 3.1 MiB", TRIES, 1, True)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab.create(tmp_path / "lab")
    text = lab.folder.recipe_path.read_text()
    lab.folder.recipe_path.write_text(text.replace("[quantize]", "# my own words\n[quantize]"))
    return lab


def test_a_board_comes_back_and_a_damaged_one_is_none(lab: Lab) -> None:
    assert read_board(lab.folder, "quantize") is None
    write_board(lab.folder, BOARD)
    assert read_board(lab.folder, "quantize") == BOARD
    whole = BOARD.as_dict()
    for damage in {}, {"number": "1"}, {"title": None}, {"loss": float("nan")}, {"size": "large"}:
        whole["tries"] = [{"number": 1, **({"title": "x", "values": {}} if damage else {}), **damage}]
        board_path(lab.folder, "quantize").write_text(json.dumps(whole))
        assert read_board(lab.folder, "quantize") is None


def test_the_table_and_the_plot_are_clean_and_an_estimate_is_marked() -> None:
    found = table(BOARD)
    assert [row[:3] for row in found.rows] == [("*", "1", "awq, 4 bits"), ("", "2", "rtn")]
    assert found.rows[0][4:7] == ("0.050", "2.1 %", "31.2")
    assert found.rows[1][4] == "~0.200"
    assert refused_words(BOARD) == "1 further choice of 5.7 MiB and more: too large."
    lines = plot(TRIES[:2])
    assert [line for line in lines if "*" in line] == [lines[11]]
    assert "~" in lines[0]
    assert plot(TRIES[:1]) == []


def test_picking_one_writes_it_into_the_recipe_and_keeps_the_comments(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(lab.root)
    assert main(["search", root, "--pick", "best"]) == 2
    assert "no search in this lab" in capsys.readouterr().err
    write_board(lab.folder, BOARD)
    assert main(["search", root, "--pick", "best"]) == 0
    assert (lab.recipe.quantize.algorithm, lab.recipe.quantize.group_size) == ("awq", 64)
    assert "# my own words" in lab.folder.recipe_path.read_text()
    capsys.readouterr()
    assert main(["search", root, "--pick", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == {"quantize.algorithm": "rtn"}
    assert lab.recipe.quantize.algorithm == "rtn"
    assert main(["search", root, "--pick", "9"]) == 2
    assert "no try 9" in capsys.readouterr().err


def test_the_last_search_is_shown_again(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    write_board(lab.folder, BOARD)
    assert main(["search", str(lab.root), "--last"]) == 0
    shown = capsys.readouterr().out
    assert "Best: 1, awq, 4 bits." in shown
    assert "\x1b" not in shown
    assert main(["search", str(lab.root), "--last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-size", "large"], "no number with a unit"),
        (["--within", "20 weeks"], "no time"),
        (["--finetune", "--max-size", "2GB"], "--max-size is a limit of quantize"),
    ],
)
def test_a_wrong_limit_is_a_wrong_request(
    words: list[str], said: str, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(lab.root), *words]) == 2
    assert said in capsys.readouterr().err
