"""Labs of many jobs and of many events: a look takes its time in pieces, and loses nothing."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from core.files import write_json
from core.lab import Lab
from core.stages import STAGES
from tests.tui.labs import FakeJob, job_in
from tui import lab_watch
from tui.lab_watch import JobReader, LabWatch
from tui.screens.stage.controller import StageController
from tui.screens.stage.texts import StageTexts
from tui.session import Session


def watch(lab: Lab) -> LabWatch:
    return LabWatch(lab.folder, lambda _: None, lambda: None)


def many_events(job: FakeJob, count: int) -> None:
    """Metrics and progress as a long training tells them."""
    with (job.folder / "events.jsonl").open("a", encoding="utf-8") as stream:
        for step in range(1, count + 1):
            metric = {"v": 1, "t": "2026-11-20T10:01:00.000Z", "job": job.id, "type": "metric"}
            stream.write(json.dumps({**metric, "name": "loss", "step": step, "value": 1 / step}) + "\n")
            done = {"v": 1, "t": "", "job": job.id, "type": "progress", "phase": "training", "done": step}
            stream.write(json.dumps({**done, "total": count, "eta_s": None}) + "\n")


def test_the_newest_is_shown_while_older_events_are_still_read(lab: Lab) -> None:
    job = FakeJob(lab, "finetune").run()
    many_events(job, 20_000)
    job.end("succeeded", {"steps": 20_000})
    reader = JobReader(lab.job("finetune"))
    assert reader.poll(until=0)
    assert (reader.view.state, reader.view.done) == ("succeeded", 20_000)
    assert len(reader.view.train) < 1000
    while reader.poll(until=0):
        assert reader.view.done == 20_000
    assert reader.view.train[0][0] == 1
    assert reader.view.train[-1][0] == 20_000
    assert not reader.poll()


def test_a_job_that_goes_on_is_followed_after_many_events(lab: Lab) -> None:
    job = FakeJob(lab, "finetune").run()
    many_events(job, 1000)
    reader = JobReader(lab.job("finetune"))
    assert reader.poll(until=0)
    job.progress("writing", 1, 2)
    while reader.poll(until=0):
        pass
    assert (reader.view.phase, reader.view.done) == ("writing", 1)
    job.end("failed")
    assert reader.poll()
    assert reader.view.state == "failed"


def test_of_hundreds_of_jobs_only_what_is_shown_is_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 201):
        FakeJob(lab, "quantize", number).run().end("failed" if number % 2 else "succeeded")
    job_in(lab, "finetune", "succeeded")
    read: list[str] = []
    poll = JobReader.poll

    def note(self: JobReader, until: float) -> bool:
        read.append(self.job.id)
        return poll(self, until)

    monkeypatch.setattr(JobReader, "poll", note)
    look = watch(lab)
    look.look()
    look.look()
    assert read == ["quantize-200", "finetune-001"] * 2
    assert {name: view.state for name, view in look.snapshot().jobs.items()} == {
        "quantize": "succeeded",
        "finetune": "succeeded",
    }


def test_the_first_look_shows_what_runs_before_all_is_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job = FakeJob(lab, "finetune").run()
    many_events(job, 20_000)
    job_in(lab, "optimize", "failed")
    monkeypatch.setattr(lab_watch, "FIRST_S", 0.0)
    look = watch(lab)
    look.look()
    seen = look.snapshot().jobs
    assert (seen["finetune"].state, seen["finetune"].done) == ("running", 20_000)
    assert seen["optimize"].state == "failed"
    assert len(seen["finetune"].train) < 1000
    while look.look(listing=False):
        pass
    assert len(look.snapshot().jobs["finetune"].train) == 20_000
    job.let_go()


def test_of_a_training_that_went_on_the_runs_before_are_read(lab: Lab) -> None:
    def run(number: int, steps: range, ended: str) -> None:
        job = FakeJob(lab, "finetune", number).run()
        for step in steps:
            job.reporter.metric("loss", 100 * number + step, step)
        job.end(ended)

    run(1, range(1, 9), "succeeded")
    run(2, range(1, 5), "cancelled")
    run(3, range(3, 3), "failed")  # it came to no step
    run(4, range(3, 6), "crashed")
    run(5, range(5, 8), "cancelled")
    look = watch(lab)
    look.look()
    expected = [(1, 201), (2, 202), (3, 403), (4, 404), (5, 505), (6, 506), (7, 507)]
    assert look.snapshot().jobs["finetune"].train == tuple(expected)


@pytest.mark.parametrize("recipe", [1, [], None, {"finetune": 3}, {"finetune": {"adapter": 7, "rank": []}}])
def test_a_recipe_that_is_none_is_shown_as_far_as_it_is_one(lab: Lab, recipe: object) -> None:
    job = FakeJob(lab, "finetune").run()
    job.end("failed")
    write_json(job.folder / "spec.json", {"recipe": recipe})
    look = watch(lab)
    look.look()
    view = look.snapshot().jobs["finetune"]
    assert view.state == "failed"
    controller = StageController(STAGES["finetune"], Session(lab.root), StageTexts())
    assert controller.changed(view, {"finetune.rank": 8}) == ["Rank"] * (view.spec["recipe"] == recipe)


def test_many_events_take_little_memory(lab: Lab, tmp_path: Path) -> None:
    job = FakeJob(lab, "finetune").run()
    many_events(job, 50_000)
    reader = JobReader(lab.job("finetune"))
    tracemalloc.start()
    while reader.poll():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    job.let_go()
    assert len(reader.view.train) <= 20_000
    assert peak < 50 << 20


def test_a_job_seen_before_its_lock_is_looked_at_again(lab: Lab) -> None:
    job = FakeJob(lab, "quantize")
    job.let_go()
    reader = JobReader(lab.job("quantize"))
    reader.poll()
    assert reader.view.state == "crashed"
    job.end("succeeded", {})
    assert reader.poll()
    assert reader.view.state == "succeeded"
