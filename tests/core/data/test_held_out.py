"""Held-out rows as a screen marks them: those that training leaves out, and no others."""

from __future__ import annotations

import json
from pathlib import Path

from core.data import load_examples
from core.data.split import HeldOut
from core.recipe import Recipe


def test_what_training_leaves_out_is_marked(tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is river {i}?", "response": f"In land {i}."} for i in range(40)]
    (tmp_path / "rivers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe().with_values({"data.file": "rivers.jsonl", "data.eval_fraction": 0.2})
    assert not HeldOut(tmp_path, recipe).holds(rows[0]["prompt"]), "nothing is remembered yet"
    split = load_examples(recipe, tmp_path)
    marked = HeldOut(tmp_path, recipe)
    assert {row["prompt"] for row in rows if marked.holds(row["prompt"])} == {
        example.prompt for example in split.eval
    }
    other = HeldOut(tmp_path, recipe.with_values({"data.seed": 7}))
    assert len(other) == 0, "another seed divides anew"


def test_a_spoilt_memory_marks_nothing(tmp_path: Path) -> None:
    recipe = Recipe().with_values({"data.file": "x.jsonl"})
    entry = {"seed": recipe.data.seed, "fraction": recipe.data.eval_fraction, "eval": "abc", "train": 3}
    broken: list[object] = [{"files": {"x.jsonl": entry}}, {"files": []}, []]
    for stored in broken:
        (tmp_path / "data_split.json").write_text(json.dumps(stored))
        assert not HeldOut(tmp_path, recipe).holds("Where?")
