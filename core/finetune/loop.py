"""The training loop: AdamW on the adapter's matrices, measured, interruptible, and resumed exactly.

Written out rather than taken from a trainer class: each step reads one pair of numbers back from the
GPU and does nothing else that is not arithmetic.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from core.data.batch_order import BatchOrder
from core.errors import Cancelled, Do, StageError, Use
from core.events import Reporter
from core.finetune.captured import LAUNCH_BOUND, Graphs, Shape, Shapes
from core.finetune.checkpoints import Checkpoints
from core.finetune.fused import kept_tables, quick_turns
from core.finetune.gpus import rows_at_once, shares
from core.finetune.lora_layer import LoraLinear, RowDropout, share_dropout
from core.finetune.loss import Measure
from core.finetune.objective import Answers, Objective
from core.finetune.ranks import Ranks
from core.finetune.rows import JoinedTurns, PreferenceRow, Row, TokenRow
from core.finetune.trained import Trained
from core.hardware import keep_freed_memory
from core.language import told

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_GRAD_NORM = 1.0
SAVE_EVERY_S = 120.0
"""A checkpoint is kept at least so often, whatever ``save_steps`` says: a kill loses no more than that."""

MEASURED_SHARE = 0.15
"""Rows of a measurement while training, as a share of the rows trained on since the one before: of the time
it is about a third, since nothing goes backward."""

LEAST_MEASURED = 16
"""Held-out rows that are measured while training in any case, if there are so many."""

WARM_STEPS = 2
"""The first steps are left out of the speed that is reported: kernels are chosen in them."""


@dataclass(frozen=True)
class Settings:
    """What decides on the course of a training.

    Attributes:
        warmup_ratio: share of the steps in which the learning rate rises from near 0 to its highest;
            after that it falls along a cosine to a tenth of it.
        eval_every: measure on held-out rows every so many steps besides before and after; 0: no.
        stop_early: end when so many measurements in a row are no better than the best; 0: never.
        keep_best: end with the weights of the measurement that was best, not with the last ones.
        save_steps: keep a checkpoint every so many steps.
    """

    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    warmup_ratio: float
    seed: int
    eval_every: int = 0
    stop_early: int = 0
    keep_best: bool = False
    save_steps: int = 50

    @property
    def measured_rows(self) -> int:
        """Held-out rows that a measurement while training takes at most, so that it costs little."""
        trained = self.eval_every * self.batch_size * self.accumulation
        return max(LEAST_MEASURED, round(MEASURED_SHARE * trained))

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 1."""
        warm = max(1, round(self.steps * self.warmup_ratio))
        if step <= warm:
            return self.learning_rate * step / warm
        share = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass
class Course:
    """What was measured: losses are means over trained tokens, in nats, or over preferences.

    Attributes:
        losses: training loss of each step, from step 1.
        eval_losses: [step, held-out loss]; step 0 is the base.
        told: what else was measured on held-out rows, by its name: [step, value].
        kept_step: the step whose weights the training ended with.
        kept_loss, kept_told: their loss on all held-out rows, None where there are none, and what else was measured.
        resumed_from: the step of the checkpoint that this run resumed; 0 for none.
        training_s: time in all steps of this run, without measuring and saving.
        measuring_s: time in the measurements between steps of this run.
        seconds, steps_timed, tokens_timed: the same without the first steps, for the speed.
    """

    losses: list[float] = field(default_factory=list)
    eval_losses: list[list[float]] = field(default_factory=list)
    told: dict[str, list[list[float]]] = field(default_factory=dict)
    kept_step: int = 0
    kept_loss: float | None = None
    kept_told: dict[str, float] = field(default_factory=dict)
    resumed_from: int = 0
    training_s: float = 0.0
    measuring_s: float = 0.0
    seconds: float = 0.0
    steps_timed: int = 0
    tokens_timed: int = 0
    gpu_peak: int = 0

    def eval_at(self, step: int) -> float | None:
        """The held-out loss at a step, None if it was not measured there."""
        return next((loss for at, loss in self.eval_losses if at == step), None)

    def measured(self, step: int, held: Held) -> None:
        """Note what was measured at a step, in place of an earlier measurement of the same step."""
        self.eval_losses = _noted(self.eval_losses, step, held.loss)
        for name, value in held.told.items():
            self.told[name] = _noted(self.told.get(name, []), step, value)

    def without_gain(self) -> int:
        """How many measurements came after the best one."""
        losses = [loss for _, loss in self.eval_losses]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _noted(points: list[list[float]], step: int, value: float) -> list[list[float]]:
    return [point for point in points if point[0] != step] + [[step, value]]


@dataclass(frozen=True)
class Held:
    """What was measured on held-out rows: the mean loss, and what else the objective tells, by its name."""

    loss: float
    told: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The weights, on the CPU, at the measurement while training whose loss was the lowest."""

    step: int
    loss: float
    trained: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Part:
    """What this rank has of one batch of a step.

    Attributes:
        number: the batch's, from the first of the training on.
        rows: how many rows the whole batch has.
        places: which of them these are.
    """

    number: int
    batch: Any
    rows: int
    places: list[int]


@dataclass(frozen=True)
class _Step:
    """What this rank has of a step, and what all ranks have: what its rows count, and tokens that are not padding."""

    parts: list[_Part]
    weight: int
    tokens: int


class Trainer:
    """Trains the parameters of ``model`` that require gradients.

    Args:
        model: causal language model with adapter layers in it, on its device.
        rows, held_out: training rows and rows to measure with (may be empty).
        objective: what is trained for, made of the model's :class:`~core.finetune.loss.Measure` and its device; the
            loss of the answers if None.
        checkpoints: where to keep and find what is needed to go on; None: nowhere.
        turns: how the rows of a batch are joined.
        ranks: the processes that train this together; each makes a trainer of the same, and rank 0 alone keeps
            checkpoints.
        capture: whether steps may be captured as CUDA graphs, where that is faster.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        settings: Settings,
        report: Reporter,
        *,
        objective: Callable[[Measure, torch.device], Objective] | None = None,
        checkpoints: Checkpoints | None = None,
        turns: JoinedTurns = JoinedTurns(),  # noqa: B008 - frozen
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        capture: bool = True,
    ) -> None:
        self.model = model
        self.rows = rows
        self.held_out = sorted(held_out, key=lambda row: row.width)
        self.sample = _spread(self.held_out, settings.measured_rows)
        self.settings = settings
        self.report = report
        self.checkpoints = checkpoints
        self.turns = turns
        self.ranks = ranks
        self.device = next(model.parameters()).device
        self.order = BatchOrder([row.width for row in rows], settings.batch_size, settings.seed)
        self.measure = Measure(model)
        self.objective = (objective or Answers)(self.measure, self.device)
        self._dropouts = [module for module in model.modules() if isinstance(module, RowDropout)]
        self.course = Course()
        self._whole = True
        self._saved_at = time.monotonic()
        self._kept = 0
        self._step_s = 0.0
        self._measure_s = 0.0
        self._sample_ratio = 1.0
        self._best: Best | None = None
        self._ahead: dict[int, _Step] = {}
        self._stop_asked = False
        said = 1 + len(self.objective.told)
        self._flat = Trained(model, ranks, said)
        self.trained = self._flat.parameters
        self._devices = {self.device, *self._flat.devices}
        self.optimizer = torch.optim.AdamW(
            self._flat.flat, lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        self._shapes = self._to_capture() if capture else None
        self._graphs: Graphs | None = None
        self._total = torch.zeros(said, device=self.device)
        self._weight = torch.ones((), device=self.device)

    def train(self) -> Course:
        """Train to the last step, from the checkpoint if there is one.

        Raises:
            Cancelled: the user asked to stop; the step at work was finished and a checkpoint kept.
            StageError: the loss or its gradient is not a number.
            torch.OutOfMemoryError: the GPU has too little memory.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        done = self._resume()
        if self.ranks.count > 1:
            self.ranks.begin_alike(self._digest(done), self.trained.values(), self.device)
        if not self.measure.try_out(torch.tensor([self.rows[0].ids[:32]], device=self.device)):
            self.report.log(
                "This architecture makes its logits in a way of its own; all of them are computed."
            )
        if self._shapes is not None and self.measure.chosen_only:
            self._graphs = Graphs(
                self._learn, (*self._flat.gradients, self._total), self._shapes.uses, self.report
            )
        try:
            # On a CPU the tables are little beside the rest, and would only take memory.
            tables = kept_tables(self.model) if self.device.type == "cuda" else nullcontext()
            with tables, quick_turns(self.model):
                return self._train(done)
        finally:
            self._flat.release()

    def _train(self, done: int) -> Course:
        settings = self.settings
        self._saved_at = time.monotonic()
        try:
            if done == 0:
                self._ask_base()
                self._evaluate_base()
            # A stop may have come between a step and its measurement.
            self._measure(done)
            while done < settings.steps and not self._gains_nothing(done):
                self._stop_if_asked()
                began = time.monotonic()
                with self.report.unbroken():
                    self._step(done + 1)
                    done += 1
                self._step_s = took = time.monotonic() - began
                self.report.stop_takes(took)
                self.report.progress(told("training"), done, settings.steps)
                if done == settings.steps:
                    break
                self._measure(done)
                # By the clock too, so that the next step ends within the time that may be lost.
                ahead = took + self._measure_s
                if (
                    done % settings.save_steps == 0
                    or time.monotonic() - self._saved_at + ahead > SAVE_EVERY_S
                ):
                    self._save(done)
            self._finish(done)
        except (Cancelled, KeyboardInterrupt):
            with self.report.unbroken():
                raise self._stopped(done) from None
        return self.course

    def _stopped(self, done: int) -> Cancelled:
        """Keep what there is, and say where the training stands."""
        steps = self.settings.steps
        if not done:
            return Cancelled(detail=told("Stopped before the first step."))
        if self._whole:
            self._save(done)
        self.report.log(f"Stopped at step {done} of {steps}.")
        if self._kept == 0:
            return Cancelled(
                detail=told(
                    "Stopped at step {done} of {steps}. No checkpoint was kept.", done=done, steps=steps
                )
            )
        return Cancelled(
            detail=told("Stopped at step {done} of {steps}.", done=done, steps=steps),
            hint=told("The next run goes on from step {kept}.", kept=self._kept),
        )

    def _asked(self) -> bool:
        """Whether somebody asked this rank to stop."""
        try:
            self.report.check_cancelled()
        except Cancelled:
            return True
        return False

    def _stop_if_asked(self) -> None:
        """End the training here, if all ranks know that they are to: one that left alone would be waited for."""
        if self.ranks.count == 1:
            self.report.check_cancelled()
        elif self._stop_asked:
            raise Cancelled

    def _step(self, step: int) -> None:
        started = time.perf_counter()
        settings = self.settings
        self._whole = False  # a signal may stop the program anywhere
        if not self.model.training:
            self.model.train()
        this = self._ahead.pop(step, None) or self._share_of(step)
        self._total.zero_()
        self._weight.fill_(this.weight)
        self._flat.begin()
        for part in this.parts:
            # Of the batch alone, so that what is dropped is the same after a stop and on any number of ranks.
            seed = random.Random(f"{settings.seed}/dropout/{part.number}").getrandbits(62)
            torch.manual_seed(seed)
            share_dropout(self._dropouts, part.rows, part.places, self.objective.texts)
            if self._graphs is not None:
                self._graphs.learn(part.batch, seed)
            else:
                self._learn(part.batch)
        total = self._total
        rate = settings.rate(step)
        with self.ranks.meeting():
            stops = torch.zeros((), device=self.device)
            if self.ranks.count > 1:
                total, stops = self._flat.sum(total, stop=self._asked())
            norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRAD_NORM).to(self.device)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self._flat.clear()
            if step < settings.steps:
                self._ahead[step + 1] = self._share_of(step + 1)  # while the GPU works
            # The step's one wait for the GPU.
            mean, *said, size, asked = torch.cat((total, torch.stack((norm, stops)))).tolist()
        self._stop_asked = asked > 0
        if not (math.isfinite(mean) and math.isfinite(size)):
            raise self._astray(
                told(
                    "At step {step} of {steps} the loss is {mean:.4g} and its gradient {size:.4g}.",
                    step=step,
                    steps=settings.steps,
                    mean=mean,
                    size=size,
                )
            )
        seconds = time.perf_counter() - started
        tokens = this.tokens
        self.course.losses.append(mean)
        self.course.training_s += seconds
        if step - self.course.resumed_from > WARM_STEPS or settings.steps <= WARM_STEPS:
            self.course.seconds += seconds
            self.course.steps_timed += 1
            self.course.tokens_timed += tokens
        self.report.metric("loss", mean, step)
        for name, value in zip(self.objective.told, said, strict=True):
            self.report.metric(name, value, step)
        self.report.metric("learning_rate", rate, step)
        self.report.metric("grad_norm", size, step)
        self.report.metric("tokens_per_s", tokens / seconds, step)
        if self.device.type == "cuda":
            peak = max(map(torch.cuda.max_memory_allocated, self._devices))
            self.course.gpu_peak = max(self.course.gpu_peak, peak)
        self._whole = True

    def _learn(self, batch: Any) -> None:
        """Go forward and backward: the mean over all that the step counts, whatever batch it is in."""
        judged = self.objective.judge(batch)
        (judged.loss / self._weight).backward()
        self._flat.collect()
        self._total += judged.numbers / self._weight

    def _to_capture(self) -> Shapes | None:
        """The shapes to which batches are padded; None where a step takes no longer than to start its kernels."""
        settings, ranks = self.settings, self.ranks
        one = self.device.type == "cuda" and len(self._devices) == 1
        # Rows of padding have no part in what is dropped for a whole batch that several have.
        if not one or not isinstance(self.objective, Answers) or (ranks.count > 1 and self._dropouts):
            return None
        numbers = sum(
            m.in_features * m.out_features for m in self.model.modules() if isinstance(m, LoraLinear)
        )
        at_once = rows_at_once(settings.batch_size, settings.accumulation, ranks.count)
        if 4 * numbers * at_once * max(row.width for row in self.rows) > LAUNCH_BOUND:
            return None
        return Shapes(self._shapes_met())

    def _shapes_met(self) -> Iterator[Shape]:
        """The shapes of all that this rank will have of batches."""
        settings, ranks = self.settings, self.ranks
        for step in range(settings.steps):
            numbers = range(step * settings.accumulation, (step + 1) * settings.accumulation)
            batches = [self._batch(number) for number in numbers]
            mine = shares([len(rows) for rows in batches], ranks.rank, ranks.count)
            for rows, places in zip(batches, mine, strict=True):
                if places:
                    yield _shape([rows[place] for place in places], max(row.width for row in rows))

    def _astray(self, detail: str) -> StageError:
        return StageError(
            told("The training went astray."),
            detail,
            told(
                "Lower {setting} (it is {learning_rate:g}), raise {setting2}, or look for broken records "
                "with: {command}",
                setting=Use("finetune.learning_rate"),
                learning_rate=self.settings.learning_rate,
                setting2=Use("finetune.warmup_ratio"),
                command=Do.of("data", "DIR"),
            ),
            code="finetune.astray",
        )

    def _share_of(self, step: int) -> _Step:
        """What this rank has of a step."""
        accumulation = self.settings.accumulation
        numbers = range((step - 1) * accumulation, step * accumulation)
        batches = [self._batch(number) for number in numbers]
        mine = shares([len(rows) for rows in batches], self.ranks.rank, self.ranks.count)
        parts = [
            self._part(number, rows, places)
            for number, rows, places in zip(numbers, batches, mine, strict=True)
            if places
        ]
        every = [row for rows in batches for row in rows]
        return _Step(parts, sum(row.weight for row in every), sum(row.tokens for row in every))

    def _part(self, number: int, rows: list[Row], places: list[int]) -> _Part:
        """What this rank has of a batch, in one of the shapes that are captured; so it is whether or not they are."""
        here, width = [rows[place] for place in places], max(row.width for row in rows)
        shape = self._shapes.of(_shape(here, width)) if self._shapes is not None else None
        if shape is None:
            # As wide as the whole batch, so that each row is computed as it is with the others.
            return _Part(number, self.objective.batch(here, width=width), len(rows), places)
        answers: Any = self.objective
        batch = answers.batch(here, width=shape.width, count=shape.rows, learnt=shape.places)
        if self.ranks.count > 1:
            return _Part(number, batch, len(rows), places)
        return _Part(number, batch, shape.rows, list(range(shape.rows)))

    def _batch(self, number: int) -> list[Row]:
        rows = [self.rows[row] for row in self.order.batch(number)]
        answers = [row for row in rows if isinstance(row, TokenRow)]
        return list(self.turns.join(answers, number)) if len(answers) == len(rows) else rows

    def _digest(self, done: int) -> int:
        """A number that tells what is trained on, and from which step."""
        sums = [row.sums() for row in (*self.rows, *self.held_out)]
        return zlib.crc32(repr((done, self.settings, self.turns, sums)).encode())

    @torch.no_grad()
    def _ask_base(self) -> None:
        """Have the base say what it thinks of each row that will be met, where the objective compares with it."""
        table = self.objective.reference
        if table is None:
            return
        settings = self.settings
        met: Sequence[int] = range(len(self.rows))
        if (batches := settings.steps * settings.accumulation) < self.order.batches_a_round:
            met = sorted(row for number in range(batches) for row in self.order.batch(number))
        rows = sorted((*(self.rows[row] for row in met), *self.held_out), key=lambda row: row.width)
        said = torch.zeros_like(table, device=self.device)

        def ask(some: Sequence[Row]) -> None:
            said[[row.number for row in some if isinstance(row, PreferenceRow)]] = self.objective.base_says(
                some
            )

        self._go_through(rows, ask, said, "asking the base")
        table.copy_(said)

    def _evaluate_base(self) -> None:
        """Measure the base, and how far the rows measured while training stand from all of them."""
        if not self.held_out:
            return
        held = self._held_out(0, self.held_out, "evaluating base")
        if self.settings.eval_every and len(self.sample) < len(self.held_out):
            sampled = self._held_out(0, self.sample).loss
            self._sample_ratio = held.loss / sampled if sampled > 0 else 1.0
        self._note(0, held)

    def _measure(self, step: int) -> None:
        """Measure between two steps where one is due and was not taken yet."""
        every, steps = self.settings.eval_every, self.settings.steps
        due = every > 0 and 0 < step < steps and step % every == 0
        if not due or not self.held_out or self.course.eval_at(step) is not None:
            return
        began = time.monotonic()
        # No progress of its own: the training's would begin its estimate of the time anew after each.
        held = self._held_out(step, self.sample)
        held = Held(held.loss * self._sample_ratio, held.told)
        if self.settings.keep_best and (self._best is None or held.loss < self._best.loss):
            self._best = Best(step, held.loss, self._weights())
        self._measure_s = time.monotonic() - began
        self.course.measuring_s += self._measure_s
        self._note(step, held)

    def _gains_nothing(self, step: int) -> bool:
        """Whether the training ends here because the held-out loss no longer becomes lower."""
        wanted = self.settings.stop_early
        if not wanted or self.course.without_gain() < wanted:
            return False
        self.report.log(
            f"Stopped early at step {step} of {self.settings.steps}: the held-out loss has not become lower "
            f"over the last {wanted} measurements."
        )
        return True

    def _finish(self, step: int) -> None:
        """Measure on all held-out rows, and end with the weights that are to be kept."""
        course, best = self.course, self._best
        course.kept_step = step
        if not self.held_out:
            return
        held = self._held_out(step, self.held_out, "evaluating")
        course.kept_loss, course.kept_told = held.loss, held.told
        if best is not None and best.step < step:
            # A stop while other weights are in the model must not keep them as those of this step.
            self._save(step)
            self._whole = False
            last = self._weights()
            self._flat.put(best.trained)
            # The sample only nominates, and its loss cannot be held against that of all rows: these decide.
            of_best = self._held_out(best.step, self.held_out, "evaluating best")
            if of_best.loss < held.loss:
                self._note(step, held)
                course.kept_step, course.kept_loss = best.step, of_best.loss
                course.kept_told = of_best.told
                self.report.log(
                    f"The held-out loss was lowest at step {best.step}: the adapter is that of this step."
                )
                return
            self._flat.put(last)
        self._note(step, held)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().to("cpu", copy=True) for name, p in self.trained.items()}

    @torch.no_grad()
    def _held_out(self, step: int, rows: Sequence[Row], phase: str = "") -> Held:
        """What these rows lose, and what else is measured; with the name of a phase, its progress is told."""
        total = torch.zeros(1 + len(self.objective.told), device=self.device, dtype=torch.float64)

        def add(some: Sequence[Row]) -> None:
            total.add_(self.objective.judge(self.objective.batch(some)).numbers)

        self._go_through(rows, add, total, phase)
        weight = sum(row.weight for row in rows)
        mean, *said = (total / weight).tolist()
        if not math.isfinite(mean) and step:
            raise self._astray(
                told(
                    "After step {step} of {steps} the loss on held-out records is {mean}.",
                    step=step,
                    steps=self.settings.steps,
                    mean=mean,
                )
            )
        if not math.isfinite(mean):
            raise StageError(
                told("The model gives no numbers."),
                told("Its loss on the held-out records is {mean} at step 0.", mean=mean),
                told("Quantize again, with more bits or another algorithm."),
                code="finetune.astray",
            )
        return Held(mean, dict(zip(self.objective.told, said, strict=True)))

    def _go_through(
        self,
        rows: Sequence[Row],
        do: Callable[[Sequence[Row]], None],
        sums: torch.Tensor,
        phase: str = "",
    ) -> None:
        """Do something with the rows, those that fit at once together, each rank with its share of them.

        Args:
            sums: what comes of it, which is added up over the ranks.
            phase: under this name its progress is told.
        """
        self.model.eval()
        settings, ranks, stop = self.settings, self.ranks, False
        size = rows_at_once(settings.batch_size, settings.accumulation, ranks.count)
        for number, start in enumerate(range(0, len(rows), size)):
            if phase:
                self.report.progress(phase, start, len(rows))
            if number % ranks.count != ranks.rank:
                continue
            if ranks.count == 1:
                self.report.check_cancelled()
            elif stop := self._asked():
                break
            do(rows[start : start + size])
        if ranks.count > 1:
            with ranks.meeting():
                stops = torch.full((1,), float(stop), dtype=sums.dtype, device=self.device)
                ranks.sum(stops)
                ranks.sum(sums)
                stop = float(stops) > 0
            if stop:
                raise Cancelled
        if phase:
            self.report.progress(phase, len(rows), len(rows))

    def _note(self, step: int, held: Held) -> None:
        self.course.measured(step, held)
        self.report.metric("eval_loss", held.loss, step)
        for name, value in held.told.items():
            self.report.metric(f"eval_{name}", value, step)

    def _save(self, step: int) -> None:
        if self.checkpoints is None or step == self._kept or not self.ranks.first:
            return
        state: dict[str, Any] = {
            "step": step,
            "step_s": self._step_s,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "moments": self._flat.moments(self.optimizer),
            "losses": self.course.losses,
            "eval_losses": self.course.eval_losses,
            "told": self.course.told,
            "sample_ratio": self._sample_ratio,
        }
        if self.objective.reference is not None:
            state["reference"] = self.objective.reference
        if self._best is not None:
            state["best"] = vars(self._best)
        with self.ranks.excused():
            self.checkpoints.save(state)
        self._kept, self._saved_at = step, time.monotonic()
        self.report.log(f"Kept a checkpoint of step {step}.", "debug")
        self.report.metric("checkpoint", step, step)

    def _resume(self) -> int:
        """Take up the last checkpoint; the step it is of, 0 if there is none."""
        state = self.checkpoints.load() if self.checkpoints else None
        if state is None:
            if self.checkpoints is not None and self.checkpoints.damaged():
                self.report.log("The checkpoint is damaged: the training begins anew.", "warning")
            return 0
        if not set(state.get("trained", ())) == set(state.get("moments", ())) == set(self.trained):
            self.report.log("Another version kept the checkpoint: the training begins anew.", "warning")
            return 0
        self._flat.put(state["trained"])
        step = int(state["step"])
        self._flat.put_moments(self.optimizer, state["moments"], step)
        self.report.stop_takes(float(state.get("step_s", 0)))
        self.course.resumed_from = self._kept = step
        self.course.losses = list(state["losses"])
        self.course.eval_losses = [list(pair) for pair in state["eval_losses"]]
        self.course.told = {
            name: [list(pair) for pair in said] for name, said in state.get("told", {}).items()
        }
        if self.objective.reference is not None:
            self.objective.reference.copy_(state["reference"])
        self._sample_ratio = float(state.get("sample_ratio", 1.0))
        self._best = Best(**state["best"]) if "best" in state else None
        self.report.log(f"Goes on from the checkpoint of step {step}.")
        self.report.metric("checkpoint", step, step)
        # The new job shows the whole curve, as if it had not been interrupted.
        for at, loss in self.course.eval_losses:
            self.report.metric("eval_loss", loss, int(at))
        for name, said in self.course.told.items():
            for at, value in said:
                self.report.metric(f"eval_{name}", value, int(at))
        for at, loss in enumerate(self.course.losses, 1):
            self.report.metric("loss", loss, at)
        self.report.progress(told("training"), step, self.settings.steps)
        return step


def _shape(rows: Sequence[Row], width: int) -> Shape:
    """What some rows of a batch need that is so wide."""
    return Shape(len(rows), width, sum(row.weight for row in rows))


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` of the rows, at even distances, so that short and long ones are among them."""
    count = min(most, len(rows))
    return [rows[(2 * at + 1) * len(rows) // (2 * count)] for at in range(count)]
