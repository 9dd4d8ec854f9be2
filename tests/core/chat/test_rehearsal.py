"""The chat on the rehearsal lab: the model that was quantized, tuned and built by the lab's own stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import Lab
from core.data import load_examples
from core.model.text import read_text
from core.resources import sample_data
from core.similarity import says_the_same

pytestmark = pytest.mark.slow


def test_turns_adapters_comparison_and_stop_tokens(rehearsal_lab: Path) -> None:
    lab = Lab.open(rehearsal_lab)
    with lab.chat() as chat:
        assert chat.adapter == lab.recipe.finetune.adapter  # the only one is used
        first = chat.ask("What should I see in Chicago?")
        assert first.stop == "end"
        assert "<|" not in first.answer
        second = chat.ask("Thank you. And in Rome?")
        assert second.prompt_tokens < first.prompt_tokens + 12
        pid = chat.pid
        chat.set_adapter(None)
        chat.set_adapter("travel")
        base, tuned = chat.compare("What should I see in Lisbon?")
        assert (base.adapter, tuned.adapter) == (None, "travel")
        assert base.answer != tuned.answer
        assert chat.pid == pid


def test_the_tuned_model_answers_as_trained_in_late_turns_too(rehearsal_lab: Path) -> None:
    lab = Lab.open(rehearsal_lab)
    rows = [json.loads(line) for line in sample_data().read_text(encoding="utf-8").splitlines()]
    asked = rows[::40][:10]
    with lab.chat(adapter="travel") as chat:
        said = [chat.ask(row["prompt"]) for row in asked]
        assert len(chat.turns) == 10
    assert all(answer.stop == "end" for answer in said)
    right = [says_the_same(answer.answer, row["response"]) for answer, row in zip(said, asked, strict=True)]
    # One row in ten was held out, so all ten cannot be asked for.
    assert sum(right) >= 6, [(row["prompt"], answer.answer) for row, answer in zip(asked, said, strict=True)]
    assert sum(right[5:]) >= 3


def test_tuning_lowers_the_loss_on_held_out_questions(rehearsal_lab: Path) -> None:
    lab = Lab.open(rehearsal_lab)
    rows = load_examples(lab.recipe, lab.root, text=read_text(lab.folder.onnx_dir)).eval[:10]
    with lab.chat() as chat:
        base, tuned = ([chat.score(row.segments, adapter)[0] for row in rows] for adapter in (None, "travel"))
    assert sum(tuned) < sum(base)
    assert sum(now < was for now, was in zip(tuned, base, strict=True)) >= 8
