"""How long a run will take: the estimate, and what earlier runs in this lab make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.check import subject_of
from core.check.durations import expected_seconds
from core.check.machine import estimates
from core.check.needs import Machine
from core.files import write_json
from core.lab import Lab
from tests.tui.labs import END, FakeJob

TOOK = 200.0
"""Seconds from START to END of the made-up jobs."""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab on a machine whose memory does not move."""
    monkeypatch.setattr("core.check.machine.machine", lambda: Machine(0, 2))
    return Lab.create(tmp_path / "lab", settings={"finetune.steps": 5000})


def ran(lab: Lab, number: int = 1, state: str = "succeeded", **result: Any) -> FakeJob:
    """A run of finetune with the recipe of now."""
    return FakeJob(lab, "finetune", number).run().end(state, result or {"steps": 5000})


def estimated(lab: Lab) -> float:
    """What would be said without any run."""
    return estimates(subject_of(lab.root, ["finetune"]))["finetune"].seconds


def test_without_a_run_it_is_the_estimate(lab: Lab) -> None:
    assert expected_seconds(lab.root, "finetune") == estimated(lab)
    assert expected_seconds(lab.root, "upload") is None


def test_the_same_again_takes_what_it_took(lab: Lab) -> None:
    ran(lab)
    assert expected_seconds(lab.root, "finetune") == pytest.approx(TOOK)
    assert expected_seconds(lab.root, "quantize") == estimates(subject_of(lab.root))["quantize"].seconds


def test_another_length_follows_in_proportion(lab: Lab) -> None:
    ran(lab)
    before = estimated(lab)
    lab.set({"finetune.steps": 10000})
    assert expected_seconds(lab.root, "finetune") == pytest.approx(TOOK * estimated(lab) / before)
    assert estimated(lab) > 1.5 * before


def test_runs_that_tell_nothing_do_not_count(lab: Lab) -> None:
    ran(lab, 1, "failed")
    ran(lab, 2, resumed_from=40)
    reused = ran(lab, 3)
    end = {
        "v": 1,
        "state": "succeeded",
        "exit_status": 0,
        "error": None,
        "result": {"steps": 1},
        "ended": END,
    }
    write_json(reused.folder / "done.json", {**end, "reused": True})
    (ran(lab, 4).folder / "spec.json").write_text("{}")
    FakeJob(lab, "finetune", 5).run().let_go()
    assert expected_seconds(lab.root, "finetune") == estimated(lab)


def test_a_run_of_another_model_does_not_count(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab)
    spec = dict(lab.job(job.id).spec)
    spec["recipe"]["model"]["source"] = str(tmp_path / "another")
    write_json(job.folder / "spec.json", spec)
    assert expected_seconds(lab.root, "finetune") == estimated(lab)


def test_nothing_is_said_of_a_model_or_records_that_are_not_here(lab: Lab) -> None:
    lab.set({"model.source": "nobody/such-a-model"})
    assert expected_seconds(lab.root, "finetune") is None
    (lab.root / "lab.toml").write_text("[model]\nsource = 3\n")
    assert expected_seconds(lab.root, "nothing") is None
