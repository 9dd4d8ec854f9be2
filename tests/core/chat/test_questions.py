"""Questions to begin with come from the rows that were held out, and can be asked as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.chat.questions import LONGEST, first_questions
from core.data import load_examples
from core.lab import Lab


@pytest.fixture
def talk_lab(tmp_path: Path) -> Lab:
    lab = Lab.create(tmp_path / "lab", settings={"data.file": "rows.jsonl", "data.eval_fraction": 0.3})
    towns = [
        "Avila",
        "Bruges",
        "Cusco",
        "Delft",
        "Evora",
        "Fes",
        "Ghent",
        "Hue",
        "Ipoh",
        "Jaipur",
        "Kyoto",
        "Lviv",
    ]
    rows = [{"prompt": f"What is {town} known for?", "response": f"{town} has a bridge."} for town in towns]
    (lab.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lab


def test_they_are_held_out_and_as_many_as_are_wanted(talk_lab: Lab) -> None:
    held_out = [example.question for example in load_examples(talk_lab.recipe, talk_lab.root).eval]
    assert len(held_out) > 3
    assert first_questions(talk_lab) == held_out[:3]
    assert first_questions(talk_lab, 1) == held_out[:1]


def test_nothing_is_split_for_them(talk_lab: Lab) -> None:
    assert first_questions(talk_lab) == []
    assert not (talk_lab.root / "data_split.json").exists()


def test_what_cannot_be_asked_by_itself_is_passed_over(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab", settings={"data.file": "parts"})
    (lab.root / "parts").mkdir()
    user, answer = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
    rows = [
        {"messages": [user, answer, {"role": "user", "content": "And then?"}, answer]},
        {"messages": [{"role": "user", "content": "long " * LONGEST}, answer]},
        {"messages": [{"role": "system", "content": "Be brief."}, user, answer]},
        {"messages": [user, answer]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (lab.root / "parts" / "test.jsonl").write_text(text)
    (lab.root / "parts" / "train.jsonl").write_text(text.replace("Where?", "Learnt?"))
    assert first_questions(lab) == ["Where?"]
