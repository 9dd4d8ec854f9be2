"""The training loop: it learns, it is measured, and it goes on exactly where it stopped."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import Cancelled, MachineError, StageError
from core.events import JobReporter, RecordingReporter, stop_takes
from core.finetune.checkpoints import NAME, Checkpoints, key_of
from core.finetune.loop import Course, Held, Settings, Trainer
from core.finetune.lora_layer import add_lora
from core.finetune.rows import TokenRow
from core.olive.checkpoint import load_model
from tests.core.finetune.helpers import quantized_tiny

SETTINGS = Settings(
    steps=12, batch_size=4, accumulation=1, learning_rate=5e-3, warmup_ratio=0.1, seed=3, save_steps=5
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_tiny(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def rows() -> list[TokenRow]:
    return [
        TokenRow([1 + i, 50, 51, 60 + i % 7, 70, 4], [False, False, False, True, True, True][:6])
        for i in range(30)
    ]


class CancelAt(RecordingReporter):
    """Asks to stop before a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def check_cancelled(self) -> None:
        if len(self.metrics("loss")) >= self.step:
            raise Cancelled


def trainer(
    base: Path,
    rows: list[TokenRow],
    report: RecordingReporter,
    settings: Settings = SETTINGS,
    checkpoints: Checkpoints | None = None,
    dropout: float = 0.1,
) -> Trainer:
    model = load_model(base)
    torch.manual_seed(settings.seed)
    add_lora(model, rank=4, alpha=8, dropout=dropout)
    return Trainer(model, rows[:-6], rows[-6:], settings, report, checkpoints=checkpoints)


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.trained.items()}


def test_it_learns_and_tells_of_every_step(base: Path, rows: list[TokenRow]) -> None:
    report = RecordingReporter()
    course = trainer(base, rows, report).train()
    before, after = course.eval_at(0), course.eval_at(12)
    assert before is not None
    assert after is not None
    assert after < 0.8 * before
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_s"):
        assert len(report.metrics(name)) == 12, name
        assert all(math.isfinite(value) for value in report.metrics(name))
    assert report.metrics("eval_loss") == [before, after]
    steps = [e["step"] for e in report.events if e["type"] == "metric" and e["name"] == "loss"]
    assert steps == list(range(1, 13))
    phases = [e["phase"] for e in report.events if e["type"] == "progress"]
    assert list(dict.fromkeys(phases)) == ["evaluating base", "training", "evaluating"]


def test_evaluation_every_so_many_steps(base: Path, rows: list[TokenRow]) -> None:
    course = trainer(base, rows, RecordingReporter(), dataclasses.replace(SETTINGS, eval_every=4)).train()
    assert [step for step, _ in course.eval_losses] == [0, 4, 8, 12]


MEASURED = dataclasses.replace(SETTINGS, eval_every=2)
BEST = dataclasses.replace(MEASURED, keep_best=True, save_steps=4)
EARLY = dataclasses.replace(BEST, stop_early=2)


def replace(made: Trainer, method: str, by: Callable[..., Any]) -> None:
    """Have the trainer do something else in a method."""
    setattr(made, method, by)


def measures(made: Trainer, losses: dict[int, float]) -> list[tuple[int, int]]:
    """Have the trainer find these held-out losses by step, and note each look as (step, rows)."""
    looks: list[tuple[int, int]] = []

    def held(step: int, rows: list[TokenRow], phase: str = "") -> Held:
        made.report.check_cancelled()
        looks.append((step, len(rows)))
        return Held(losses[step])

    replace(made, "_held_out", held)
    return looks


UP_AGAIN = {0: 3.0, 2: 2.0, 4: 1.0, 6: 1.5, 8: 1.4, 10: 1.3, 12: 1.2}


def test_measuring_changes_nothing_in_the_training(base: Path, rows: list[TokenRow]) -> None:
    plain, measured = (trainer(base, rows, RecordingReporter(), each) for each in (SETTINGS, MEASURED))
    wanted, course = plain.train(), measured.train()
    assert course.losses == wanted.losses
    assert [course.eval_at(step) for step in (0, 12)] == [wanted.eval_at(step) for step in (0, 12)]
    for name, weight in weights(plain).items():
        assert torch.equal(weights(measured)[name], weight), name


def test_measuring_while_training_takes_few_of_many_rows(base: Path, rows: list[TokenRow]) -> None:
    report = RecordingReporter()
    many = [
        TokenRow([*row.ids, *[4] * (at % 9)], [*row.trained, *[True] * (at % 9)])
        for at, row in enumerate(rows * 2)
    ]
    made = Trainer(trainer(base, rows, report).model, rows, many, MEASURED, report)
    looks = measures(made, {**UP_AGAIN, 0: 2.0})
    inner: Any = made._held_out

    def sampled(step: int, rows: list[TokenRow], phase: str = "") -> Held:
        """Of the base, the rows measured while training have a lower loss than all of them."""
        held: Held = inner(step, rows, phase)
        return Held(1.6) if (step, len(rows)) == (0, 16) else held

    replace(made, "_held_out", sampled)
    course = made.train()
    assert looks == [(0, 60), (0, 16), *((step, 16) for step in (2, 4, 6, 8, 10)), (12, 60)]
    assert course.eval_at(4) == pytest.approx(1.0 * 2.0 / 1.6), "told on the scale of all rows"
    assert (course.eval_at(0), course.eval_at(12)) == (2.0, 1.2)
    lengths = [len(row.ids) for row in made.sample]
    assert lengths == sorted(lengths)
    assert len({id(row) for row in made.sample}) == 16


def test_the_best_weights_are_kept_on_request(base: Path, rows: list[TokenRow]) -> None:
    at_four = trainer(base, rows, RecordingReporter(), SETTINGS)
    taken: dict[str, torch.Tensor] = {}
    step = at_four._step

    def note(number: int) -> None:
        step(number)
        if number == 4:
            taken.update(weights(at_four))

    replace(at_four, "_step", note)
    at_four.train()
    made = trainer(base, rows, RecordingReporter(), BEST)
    measures(made, UP_AGAIN)
    course = made.train()
    assert (course.kept_step, course.kept_loss, len(course.losses)) == (4, 1.0, 12)
    for name, weight in weights(made).items():
        assert torch.equal(weight, taken[name]), name


def test_all_rows_decide_which_weights_are_best(base: Path, rows: list[TokenRow]) -> None:
    """The few rows measured while training say 1.0, all of them 1.25: the last weights, at 1.2, are better."""
    straight = trainer(base, rows, RecordingReporter())
    straight.train()
    made = trainer(base, rows, RecordingReporter(), BEST)
    looks = measures(made, UP_AGAIN)
    inner: Any = made._held_out

    def worse(step: int, rows: list[TokenRow], phase: str = "") -> Held:
        held: Held = inner(step, rows, phase)
        return Held(1.25) if phase == "evaluating best" else held

    replace(made, "_held_out", worse)
    course = made.train()
    assert looks[-2:] == [(12, 6), (4, 6)]
    assert (course.kept_step, course.kept_loss) == (12, 1.2)
    for name, weight in weights(straight).items():
        assert torch.equal(weights(made)[name], weight), name


def test_few_rows_that_say_too_much_keep_no_better_step_from_being_the_best(
    base: Path, rows: list[TokenRow]
) -> None:
    """The few rows say 1.3 of step 4, which is more than the 1.2 of the last; all of them say 1.0."""
    made = trainer(base, rows, RecordingReporter(), BEST)
    measures(made, UP_AGAIN)
    inner: Any = made._held_out

    def too_high(step: int, rows: list[TokenRow], phase: str = "") -> Held:
        held: Held = inner(step, rows, phase)
        return held if phase else Held(held.loss + 0.3)

    replace(made, "_held_out", too_high)
    course = made.train()
    assert (course.kept_step, course.kept_loss) == (4, 1.0)


def test_it_stops_early_on_request_when_nothing_is_gained(base: Path, rows: list[TokenRow]) -> None:
    report = RecordingReporter()
    made = trainer(base, rows, report, EARLY)
    measures(made, UP_AGAIN)
    course = made.train()
    assert len(course.losses) == 8, "two measurements after that of step 4"
    assert course.kept_step == 4
    assert any("Stopped early at step 8 of 12" in e["text"] for e in report.events if e["type"] == "log")
    last = trainer(base, rows, RecordingReporter(), dataclasses.replace(EARLY, keep_best=False))
    measures(last, UP_AGAIN)
    assert last.train().kept_step == 8
    learning = trainer(base, rows, RecordingReporter(), EARLY)
    measures(learning, {step: 3.0 - step / 10 for step in UP_AGAIN})
    assert len(learning.train().losses) == 12


@pytest.mark.parametrize("settings", [MEASURED, BEST, EARLY], ids=["measured", "best", "early"])
@pytest.mark.parametrize("killed_in", [3, 5, 6, 7, 8])
def test_killed_and_run_again_it_measures_keeps_and_stops_the_same(
    base: Path, rows: list[TokenRow], tmp_path: Path, settings: Settings, killed_in: int
) -> None:
    straight = trainer(base, rows, RecordingReporter(), settings)
    measures(straight, UP_AGAIN)
    wanted = straight.train()
    kept = Checkpoints(tmp_path / "kept", "key")
    killed = trainer(base, rows, RecordingReporter(), settings, kept)
    measures(killed, UP_AGAIN)
    step = killed._step

    def kill(number: int) -> None:
        if number == killed_in:
            raise ZeroDivisionError
        step(number)

    replace(killed, "_step", kill)
    with pytest.raises(ZeroDivisionError):
        killed.train()
    again = trainer(base, rows, RecordingReporter(), settings, kept)
    measures(again, UP_AGAIN)
    course = again.train()
    assert course.losses == wanted.losses
    assert course.eval_losses == wanted.eval_losses
    assert (course.kept_step, course.kept_loss) == (wanted.kept_step, wanted.kept_loss)
    for name, weight in weights(straight).items():
        assert torch.equal(weights(again)[name], weight), name


@pytest.mark.parametrize("phase", ["", "evaluating", "evaluating best"])
def test_a_stop_while_measuring_loses_no_measurement_and_no_weights(
    base: Path, rows: list[TokenRow], tmp_path: Path, phase: str
) -> None:
    straight = trainer(base, rows, RecordingReporter(), BEST)
    measures(straight, UP_AGAIN)
    wanted = straight.train()
    kept = Checkpoints(tmp_path / "kept", "key")
    stopped = trainer(base, rows, RecordingReporter(), BEST, kept)
    measures(stopped, UP_AGAIN)
    inner: Any = stopped._held_out

    def stop(step: int, rows: list[TokenRow], named: str = "") -> Held:
        if named == phase and step >= 4:
            raise Cancelled
        held: Held = inner(step, rows, named)
        return held

    replace(stopped, "_held_out", stop)
    with pytest.raises(Cancelled) as caught:
        stopped.train()
    assert f"step {4 if phase == '' else 12} of 12" in (caught.value.detail or "")
    again = trainer(base, rows, RecordingReporter(), BEST, kept)
    measures(again, UP_AGAIN)
    course = again.train()
    assert (course.losses, course.eval_losses) == (wanted.losses, wanted.eval_losses)
    assert course.kept_step == wanted.kept_step == 4
    for name, weight in weights(straight).items():
        assert torch.equal(weights(again)[name], weight), name


def test_a_stopped_training_goes_on_to_the_same_bits(
    base: Path, rows: list[TokenRow], tmp_path: Path
) -> None:
    straight = trainer(base, rows, RecordingReporter())
    wanted = straight.train()

    kept = Checkpoints(tmp_path / "kept", "key")
    with pytest.raises(Cancelled):
        trainer(base, rows, CancelAt(7), checkpoints=kept).train()
    report = RecordingReporter()
    resumed = trainer(base, rows, report, checkpoints=kept)
    course = resumed.train()
    assert course.resumed_from == 7
    assert course.losses == wanted.losses
    assert course.eval_losses == wanted.eval_losses
    assert report.metrics("loss") == wanted.losses, "the new job shows the whole curve"
    for name, weight in weights(straight).items():
        assert torch.equal(weights(resumed)[name], weight), name


def test_a_crash_goes_on_from_the_last_kept_step(
    base: Path, rows: list[TokenRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = trainer(base, rows, RecordingReporter()).train()
    kept = Checkpoints(tmp_path / "kept", "key")
    crashing = trainer(base, rows, RecordingReporter(), checkpoints=kept)
    step = crashing._step

    def crash(number: int) -> None:
        if number == 9:
            raise ZeroDivisionError
        step(number)

    monkeypatch.setattr(crashing, "_step", crash)
    with pytest.raises(ZeroDivisionError):
        crashing.train()
    course = trainer(base, rows, RecordingReporter(), checkpoints=kept).train()
    assert course.resumed_from == 5
    assert course.losses == wanted.losses


def test_a_signal_in_the_middle_of_a_step_keeps_no_half_of_it(
    base: Path, rows: list[TokenRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path / "kept", "key")
    made = trainer(base, rows, RecordingReporter(), checkpoints=kept)
    optimize: Any = made.optimizer.step

    def stop() -> None:
        optimize()
        if len(made.course.losses) == 6:
            raise Cancelled

    monkeypatch.setattr(made.optimizer, "step", stop)
    with pytest.raises(Cancelled):
        made.train()
    state = kept.load()
    assert state is not None
    assert state["step"] == 5


def test_a_stop_says_where_and_the_next_run_goes_on_from_there(
    base: Path, rows: list[TokenRow], tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path / "kept", "key")
    with pytest.raises(Cancelled) as caught:
        trainer(base, rows, CancelAt(7), checkpoints=kept).train()
    assert caught.value.detail == "Stopped at step 7 of 12."
    assert caught.value.hint == "The next run goes on from step 7."
    with pytest.raises(Cancelled) as caught:
        trainer(base, rows, CancelAt(0)).train()
    assert caught.value.detail == "Stopped before the first step."
    with pytest.raises(Cancelled) as caught:
        trainer(base, rows, CancelAt(3)).train()
    assert "No checkpoint was kept" in caught.value.detail


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_worker_waits_for_the_end_of_the_step(
    base: Path, rows: list[TokenRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    wanted = trainer(base, rows, RecordingReporter()).train()
    kept = Checkpoints(tmp_path / "kept", "key")
    report = JobReporter(tmp_path, "finetune-001")
    model = load_model(base)
    torch.manual_seed(SETTINGS.seed)
    add_lora(model, rank=4, alpha=8, dropout=0.1)
    made = Trainer(model, rows[:-6], rows[-6:], SETTINGS, report, checkpoints=kept)
    optimize: Any = made.optimizer.step

    def signalled() -> None:
        optimize()
        if len(made.course.losses) == 6:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(made.optimizer, "step", signalled)
    before = signal.signal(number, lambda *_: report.interrupt())
    try:
        with pytest.raises(Cancelled) as caught:
            made.train()
    finally:
        signal.signal(number, before)
    assert caught.value.detail == "Stopped at step 7 of 12."
    assert stop_takes(tmp_path) > 0
    course = trainer(base, rows, RecordingReporter(), checkpoints=kept).train()
    assert course.resumed_from == 7
    assert course.losses == wanted.losses


def test_a_checkpoint_is_kept_by_the_clock_too(
    base: Path, rows: list[TokenRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 50 s: after the second and each second from then on, so that no more than two minutes can be lost."""
    settings = dataclasses.replace(SETTINGS, save_steps=1000)
    made = trainer(base, rows, RecordingReporter(), settings, Checkpoints(tmp_path / "kept", "key"))
    clock, step, saved = [0.0], made._step, list[int]()

    def slow(number: int) -> None:
        step(number)
        clock[0] += 50

    monkeypatch.setattr("core.finetune.loop.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(made, "_step", slow)
    monkeypatch.setattr(made.checkpoints, "save", lambda state: saved.append(state["step"]))
    made.train()
    assert saved == [2, 4, 6, 8, 10]


def test_a_disk_that_fills_during_a_checkpoint_is_the_reason(tmp_path: Path) -> None:
    """Torch says only that its writer failed; /dev/full refuses as a full disk does."""
    kept = Checkpoints(tmp_path / "kept", "key")
    kept.folder.mkdir()
    (kept.folder / f".{NAME}.half").symlink_to("/dev/full")
    with pytest.raises(MachineError) as caught:
        kept.save({"weights": torch.zeros(1 << 20)})
    assert caught.value.code == "disk.full"


def test_another_training_does_not_take_the_checkpoint(
    base: Path, rows: list[TokenRow], tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        trainer(base, rows, CancelAt(7), checkpoints=Checkpoints(tmp_path, key_of({"rank": 4}))).train()
    assert Checkpoints(tmp_path, key_of({"rank": 4})).load() is not None
    assert Checkpoints(tmp_path, key_of({"rank": 8})).load() is None


def test_a_checkpoint_that_another_version_kept_is_not_used_and_that_is_said(
    base: Path, rows: list[TokenRow], tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path, "key")
    with pytest.raises(Cancelled):
        trainer(base, rows, CancelAt(7), checkpoints=kept).train()
    state = kept.load()
    assert state is not None
    kept.save({**{name: value for name, value in state.items() if name != "moments"}, "optimizer": {}})
    report = RecordingReporter()
    trainer(base, rows, report, checkpoints=kept).train()
    assert report.metrics("loss")[0] == pytest.approx(state["losses"][0])
    assert [event for event in report.events if "Another version" in str(event)]


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept", "key")
    assert kept.load() is None
    kept.save({"step": 3, "trained": {"a": torch.ones(1000)}})
    whole = (kept.folder / NAME).read_bytes()
    (kept.folder / NAME).write_bytes(whole[: len(whole) // 2])
    assert kept.load() is None
    (kept.folder / NAME).write_bytes(b"")
    assert kept.load() is None
    kept.clear()
    assert not kept.folder.exists()


def test_a_rate_that_is_far_too_high_is_named(
    base: Path, rows: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(base, rows, RecordingReporter())
    with torch.no_grad():
        next(iter(made.trained.values())).fill_(float("nan"))
    monkeypatch.setattr(made, "_held_out", lambda step, rows, phase="": Held(1.0))
    with pytest.raises(StageError) as failure:
        made.train()
    assert "step 1 of 12" in failure.value.detail
    assert "finetune.learning_rate" in failure.value.hint


def test_a_base_that_gives_no_numbers_is_named(base: Path, rows: list[TokenRow]) -> None:
    made = trainer(base, rows, RecordingReporter())
    with torch.no_grad():
        made.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(StageError, match="no numbers"):
        made.train()


def test_two_small_batches_make_the_step_of_a_large_one(base: Path, rows: list[TokenRow]) -> None:
    def first_step(batch: int, accumulation: int) -> tuple[Course, dict[str, torch.Tensor]]:
        settings = dataclasses.replace(SETTINGS, steps=1, batch_size=batch, accumulation=accumulation)
        made = trainer(base, rows[:8] + rows[-6:], RecordingReporter(), settings, dropout=0.0)
        # All eight rows are in the step either way.
        return made.train(), weights(made)

    large, wanted = first_step(8, 1)
    small, found = first_step(4, 2)
    assert small.losses[0] == pytest.approx(large.losses[0], rel=1e-5)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = Settings(100, 8, 1, 1e-3, 0.1, 0)
    rates = [settings.rate(step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)
    assert Settings(1, 8, 1, 1e-3, 0.0, 0).rate(1) == 1e-3


@pytest.mark.parametrize(("arch", "fused"), [("phi3", 5), ("qwen3", 9), ("gemma", 0)])
def test_norms_are_fused_only_where_that_is_the_same(arch: str, fused: int, tmp_path: Path) -> None:
    from core.finetune.device import fuse_norms
    from tests.tiny_models import make_tiny

    model = load_model(make_tiny(arch, tmp_path))
    ids = torch.tensor([[1, 2, 3, 50, 60]])
    before = model(input_ids=ids).logits
    state = torch.get_rng_state()
    assert fuse_norms(model) == fused
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-3, atol=1e-3)
