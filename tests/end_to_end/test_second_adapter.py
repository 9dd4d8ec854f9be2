"""Two adapters on one ONNX base: another name, other data, the base not built again, each answers its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import Lab
from tests.end_to_end.labs import cli, lines_of

KITCHEN = (
    ("What goes into an omelette?", "Eggs, butter and a little salt."),
    ("How long does rice cook?", "Rice cooks for twelve minutes."),
    ("What is bread made of?", "Flour, water, salt and yeast."),
    ("What goes well with apples?", "Cinnamon goes well with apples."),
)


@pytest.mark.slow
def test_a_second_adapter_joins_the_same_base(rehearsal_lab: Path, tmp_path: Path) -> None:
    lab = Lab.open(rehearsal_lab)
    graph = [lab.folder.onnx_dir / name for name in ("model.onnx", "model.onnx.data")]
    travel = lab.folder.adapter_file("travel")
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (*graph, travel)]

    file = tmp_path / "kitchen.jsonl"
    rows = [{"prompt": prompt, "response": response} for prompt, response in KITCHEN]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lab.set(
        {
            "data.file": str(file),
            "data.eval_fraction": 0.0,
            "finetune.adapter": "kitchen",
            "finetune.rank": 8,
            "finetune.steps": 40,
            "finetune.turns": 1,  # four records by heart, and nothing more
            "finetune.batch_size": 4,
            "finetune.learning_rate": 1e-2,
        }
    )
    lab.run("finetune")
    made = lab.run("optimize")
    assert made.numbers["base_reused"] is True
    assert made.numbers["adapter"] == "kitchen"
    assert made.numbers["training_right_tuned"] == made.numbers["training_prompts"] == len(KITCHEN)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (*graph, travel)] == before
    assert lab.adapters() == ["kitchen", "travel"]
    assert {path.name for path in lab.folder.finetuned_root.iterdir()} == {"kitchen", "travel"}

    # One process, one base: each adapter knows its own and the base knows neither.
    with lab.chat(adapter="kitchen") as chat:
        assert chat.ask(KITCHEN[0][0]).answer.strip() == KITCHEN[0][1]
    with lab.chat(adapter="travel") as chat:
        tuned = chat.ask("What should I see in Chicago?").answer
        assert "Chicago" in tuned
    report = lab.folder.report_path.read_text(encoding="utf-8")
    assert "## Adapter kitchen" in report
    assert "## Adapter travel" in report

    # With two, the recipe's is meant where no name is given; a wrong name says which there are.
    unnamed = cli("chat", str(lab.root), "--prompt", KITCHEN[2][0], "--json")
    assert unnamed.returncode == 0, unnamed.stderr
    assert lines_of(unnamed.stdout)[0]["adapter"] == "kitchen"
    named = cli("chat", str(lab.root), "--adapter", "kitchen", "--prompt", KITCHEN[1][0], "--json")
    assert named.returncode == 0, named.stderr
    (answer,) = lines_of(named.stdout)
    assert answer["adapter"] == "kitchen"
    assert answer["answer"].strip() == KITCHEN[1][1]
    wrong = cli("chat", str(lab.root), "--adapter", "garden", "--prompt", "Hello")
    assert wrong.returncode == 2
    assert "kitchen" in wrong.stderr
    assert "travel" in wrong.stderr
