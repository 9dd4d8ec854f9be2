"""The search for a training's settings: which tries are stopped, what is picked, and what a stop leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from core.errors import Cancelled, StageError
from core.events import RecordingReporter, Reporter
from core.folder import LabFolder
from core.search import finetune as searching
from core.search.finetune import RUNGS, FinetuneSearch
from core.search.space import SearchLimits
from core.stage_context import StageContext
from tests.recipes import settled

BEST = 3e-3


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    monkeypatch.setattr(searching, "finetune_fingerprint", lambda *_: {"finetune": {"rank": 8, "seed": 0}})
    lab = LabFolder(tmp_path)
    return StageContext(lab, settled({"finetune.steps": 400}), RecordingReporter(), tmp_path / "work", {}, {})


def trained(asked: list[dict[str, Any]], stop_at: int = 0) -> Any:
    """In place of a training: the loss falls faster the nearer the rate is to the best one."""

    def train(self: FinetuneSearch, values: dict[str, Any], report: Reporter) -> dict[str, Any]:
        asked.append(values)
        if len(asked) == stop_at:
            raise Cancelled
        off = abs(math.log(values["finetune.learning_rate"] / BEST)) + 1 / values["finetune.rank"]
        for rung in range(RUNGS + 1):
            loss = 3.0 - rung / RUNGS / (1 + off)
            report.metric("eval_loss", loss, rung * self.steps // RUNGS)
        return {"eval_loss_tuned": loss}

    return train


def test_the_best_is_found_the_worse_are_stopped_and_none_is_done_twice(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(FinetuneSearch, "_trained", trained(asked))
    board = FinetuneSearch(context, SearchLimits(), tries=10).run()
    assert board.done
    assert len(board.tries) == len(asked) == 10
    finetune = context.recipe.finetune
    assert asked[0]["finetune.learning_rate"] == pytest.approx(finetune.learning_rate), (
        "the present comes first"
    )
    assert (asked[0]["finetune.rank"], asked[0]["finetune.alpha"]) == (finetune.rank, finetune.alpha)
    states = [each.state for each in board.tries]
    assert states.count("dropped") >= 3
    best = board.picked(board.best or 0)
    assert best.state == "measured"
    losses = [each.loss for each in board.tries if each.state == "measured" and each.loss is not None]
    assert best.loss == min(losses)
    assert FinetuneSearch(context, SearchLimits(), tries=10).run() == board
    assert len(asked) == 10
    assert len(FinetuneSearch(context, SearchLimits(), tries=12).run().tries) == 12
    assert len(asked) == 12


def test_a_stopped_try_is_begun_again_and_the_others_are_kept(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(FinetuneSearch, "_trained", trained(asked, stop_at=3))
    with pytest.raises(Cancelled):
        FinetuneSearch(context, SearchLimits(), tries=5).run()
    board = FinetuneSearch(context, SearchLimits(), tries=5).run()
    assert asked[3] == asked[2]
    assert len(asked) == 6
    assert len(board.tries) == 5


def test_a_training_that_goes_astray_is_an_answer(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    sane = trained(asked)

    def train(self: FinetuneSearch, values: dict[str, Any], report: Reporter) -> dict[str, Any]:
        if len(asked) == 1:
            asked.append(values)
            raise StageError("The training went astray.")
        result: dict[str, Any] = sane(self, values, report)
        return result

    monkeypatch.setattr(FinetuneSearch, "_trained", train)
    board = FinetuneSearch(context, SearchLimits(), tries=3).run()
    assert [each.state for each in board.tries][1] == "failed"
    assert board.tries[1].why == "The training went astray."
    assert board.picked(board.best or 0).state == "measured"
