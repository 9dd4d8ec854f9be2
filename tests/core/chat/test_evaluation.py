"""Held-out rows are put to the model as training has them: system, earlier turns, tools, and then the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core import Lab
from core.chat.evaluate import evaluate
from core.data import Example
from core.model.messages import Message, text_of
from core.model.prompt_format import read_prompt_format
from core.options import AUTO


class Session:
    """Stands for a chat session: keeps what it is asked."""

    adapter = "one"

    def __init__(self) -> None:
        self.talks: list[list[Message]] = []
        self.scored: list[Any] = []

    def begin_alone(self, talk: Any, adapters: Any, **settings: Any) -> Any:
        from core.chat.response import Answer

        self.talks.append(list(talk))
        answers = {lane or "": Answer("so", lane, 1, 1, 0.1, 1.0, "end") for lane in adapters}
        return type("Response", (), {"result": lambda self: answers})()

    def score(self, segments: Any, adapter: str | None = None) -> tuple[float, int]:
        self.scored.append(segments)
        return 1.0, 1


TALK = [
    {"role": "system", "content": "You know the house."},
    {"role": "user", "content": "Where is the gate?"},
    {"role": "assistant", "content": "North."},
    {"role": "user", "content": "And the key?"},
    {"role": "assistant", "content": "Under the stone."},
]


def lab_with(tmp_path: Path, checkpoint: Path, rows: list[Any], **settings: Any) -> Lab:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lab = Lab.create(
        tmp_path / "lab",
        model=str(checkpoint),
        data=tmp_path / "rows.jsonl",
        settings={"data.eval_fraction": 0.9, **settings},
    )
    lab.folder.onnx_dir.parent.mkdir(parents=True, exist_ok=True)
    lab.folder.onnx_dir.symlink_to(checkpoint)
    return lab


def test_the_rows_own_turns_stand_before_its_last_question(tmp_path: Path, llama_checkpoint: Path) -> None:
    rows = [{"messages": [*TALK[:3], {**TALK[3], "content": f"And key {n}?"}, TALK[4]]} for n in range(9)]
    session: Any = Session()
    found = evaluate(lab_with(tmp_path, llama_checkpoint, rows, **{"data.template": "auto"}), session)
    assert found.rows
    for row, talk in zip(found.rows, session.talks, strict=True):
        assert [message.role for message in talk] == ["system", "user", "assistant", "user"]
        assert row.question == talk[-1].content
        assert row.question.startswith("And key ")
        assert row.expected == "Under the stone."
        assert row.before == [[message.role, message.content] for message in talk[:-1]]
    # Only the answer to that question is measured, behind all that stands before it.
    for segments in session.scored:
        assert [each.text for each in segments if each.trained] == ["Under the stone.<|end|>"]
        assert "North." in text_of(segments)


@pytest.mark.parametrize(
    "template", [AUTO, "Mood of the text, good or bad?\nText: {ask}\nMood: {reply}<|end|>"]
)
def test_what_is_asked_are_the_first_tokens_of_the_row(
    template: str, tmp_path: Path, llama_checkpoint: Path
) -> None:
    from core.data import load_examples

    names = ("ask", "reply") if template != AUTO else ("prompt", "response")
    rows = [{names[0]: f"text {n}?", names[1]: "good"} for n in range(8)]
    lab = lab_with(tmp_path, llama_checkpoint, rows, **{"data.template": template})
    form = read_prompt_format(llama_checkpoint, lab.recipe.data.template)
    split = load_examples(lab.recipe, lab.root)
    for example in [*split.train, *split.eval]:
        row = form.encode(example.segments)
        asked = form.prompt_ids(example.context)
        assert row.ids[: len(asked)] == asked
        assert not any(row.learnt[: len(asked)])
        assert all(row.learnt[len(asked) : len(asked) + 2])


def test_an_example_knows_the_answer_that_is_learnt_last() -> None:
    talk = (
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d", learnt=False),
    )
    example = Example("x.jsonl", 1, talk, ())
    assert (example.answer, example.question, example.context) == ("b", "a", talk[:1])
    assert Example("x.jsonl", 1, (), ()).answered is None
