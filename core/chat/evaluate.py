"""The held-out questions put to base and tuned: their answers, and the loss on the answers expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.chat.response import Answer
from core.chat.session import ChatSession
from core.data import Example, load_examples
from core.errors import RequestError
from core.events import now
from core.files import read_if_whole, write_json
from core.formats import counted
from core.model.text import read_text
from core.similarity import rouge_l

if TYPE_CHECKING:
    from core.lab import Lab

PREFIX = "evaluation-"

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Side:
    """What one of the two made of a question.

    Attributes:
        answer: its answer, greedy, with its figures.
        loss: mean negative log likelihood of the expected answer's tokens, in nats.
        similarity: ROUGE-L F1 of answer and expected answer, 0 to 1.
    """

    answer: Answer
    loss: float
    similarity: float


@dataclass(frozen=True)
class EvaluatedRow:
    """A held-out question (from ``file``, ``line``), the answer expected, and what base and tuned said.

    ``before`` holds what the row has before the question, which was put to both as well: [role, text] each.
    """

    file: str
    line: int
    question: str
    expected: str
    base: Side
    tuned: Side
    before: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """All rows; ``total`` is how many questions are held out, more than ``rows`` if it was cut or stopped."""

    adapter: str
    created: str
    total: int
    rows: list[EvaluatedRow] = field(default_factory=list)

    def mean(self, side: str, figure: str) -> float | None:
        """The mean of ``loss`` or ``similarity`` over the rows of ``base`` or ``tuned``; None for none."""
        values = [float(getattr(getattr(row, side), figure)) for row in self.rows]
        return sum(values) / len(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """As it is saved: the means first, then the rows."""
        means = {
            side: {figure: self.mean(side, figure) for figure in ("loss", "similarity")}
            for side in ("base", "tuned")
        }
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"adapter": self.adapter, "created": self.created, "total": self.total, **means, "rows": rows}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Evaluation:
        """What :meth:`as_dict` gave. Raises TypeError, KeyError or ValueError for what it cannot have given."""
        rows = [
            EvaluatedRow(
                _known(str, item["file"]),
                _known(int, item["line"]),
                _known(str, item["question"]),
                _known(str, item["expected"]),
                _side(item["base"]),
                _side(item["tuned"]),
                _known(list, item.get("before", [])),
            )
            for item in _known(list, data["rows"])
        ]
        return cls(
            _known(str, data["adapter"]), _known(str, data["created"]), _known(int, data["total"]), rows
        )


def _known(kind: type[_Kind], value: object) -> _Kind:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__}, not {kind.__name__}")
    return value


def _side(data: dict[str, Any]) -> Side:
    loss, similarity = (_known(float, data[name]) for name in ("loss", "similarity"))
    return Side(Answer.from_dict(_known(dict, data["answer"])), loss, similarity)


def evaluation_path(chats_dir: Path, adapter: str) -> Path:
    """Where an adapter's evaluation is kept."""
    return chats_dir / f"{PREFIX}{adapter}.json"


def read_evaluation(chats_dir: Path, adapter: str) -> Evaluation | None:
    """The evaluation made last for an adapter; None if there is none that is whole."""
    data = read_if_whole(evaluation_path(chats_dir, adapter))
    try:
        return Evaluation.from_dict(data)
    except (TypeError, KeyError, ValueError, AttributeError):  # cut or edited
        return None


def held_out(lab: Lab) -> list[Example]:
    """The lab's held-out records that are a question with an answer.

    Raises:
        RequestError: there are none, or the data cannot be read.
    """
    recipe = lab.recipe
    split = load_examples(recipe, lab.folder.root, text=read_text(lab.folder.onnx_dir))
    found = [example for example in split.eval if example.answered is not None]
    if not found:
        rows, fraction = len(split.train) + len(split.eval), recipe.data.eval_fraction
        if split.eval:
            why, hint = "the rows held out are plain texts", "Give records with questions and answers."
        elif fraction:
            why, hint = "they ask one and the same question", "Give records with other questions."
        else:
            why, hint = "data.eval_fraction is 0", "Set data.eval_fraction in lab.toml, to 0.1 for example."
        raise RequestError("There are no held-out questions.", f"Of {counted(rows, 'row')}: {why}.", hint)
    return found


def evaluate(
    lab: Lab,
    session: ChatSession,
    *,
    adapter: str | None = None,
    limit: int | None = None,
    on_row: Callable[[int, int, EvaluatedRow], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Put the held-out questions to the base and an adapter, greedily, and save the result in the lab.

    The conversation of ``session`` is not touched; its model is used.

    Args:
        adapter: the tuned side; the session's own if None.
        limit: at most so many questions.
        on_row: told (rows done, rows in all, row) after each.
        stopped: asked after each row; true ends the evaluation with the rows it has.

    Raises:
        RequestError: no adapter, or no held-out questions.
        ChatError, MachineError: as asking does.
    """
    name = adapter or session.adapter or next(iter(session.adapters()), None)
    if name is None:
        raise RequestError("There is nothing to compare the base with.", "The model has no adapter.")
    examples = held_out(lab)
    chosen = examples if limit is None else examples[:limit]
    result = Evaluation(name, now(), len(examples))
    for number, example in enumerate(chosen, 1):
        expected = example.answer
        response = session.begin_alone(
            example.context, (None, name), tools=example.tools, temperature=0.0, repetition_penalty=1.0
        )
        answers = response.result()
        before, own = example.up_to_answer()
        segments = [*(dataclasses.replace(each, trained=False) for each in before), *([own] if own else [])]
        sides = []
        for side in (None, name):
            loss, _ = session.score(segments, side)
            answer = answers[side or ""]
            sides.append(Side(answer, loss, rouge_l(answer.answer, expected)))
        said = [[message.role, message.content] for message in example.context[:-1]]
        row = EvaluatedRow(example.file, example.line, example.question, expected, sides[0], sides[1], said)
        result.rows.append(row)
        if on_row is not None:
            on_row(number, len(chosen), row)
        if stopped():
            break
    write_json(evaluation_path(lab.folder.chats_dir, name), result.as_dict())
    return result
