"""The training loop: AdamW on the adapter's matrices, measured, interruptible, and resumed exactly.

Written out rather than taken from a trainer class: each step reads one pair of numbers back from the
GPU and does nothing else that is not arithmetic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from core.data.batch_order import BatchOrder
from core.errors import Cancelled, StageError
from core.events import Reporter
from core.finetune.checkpoints import Checkpoints
from core.finetune.loss import Measure
from core.finetune.rows import JoinedTurns, TokenBatch, TokenRow, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_GRAD_NORM = 1.0
SAVE_EVERY_S = 120.0
"""A checkpoint is kept at least so often, whatever ``save_steps`` says: a kill loses no more than that."""

WARM_STEPS = 2
"""The first steps are left out of the speed that is reported: kernels are chosen in them."""


@dataclass(frozen=True)
class Settings:
    """What decides on the course of a training.

    Attributes:
        warmup_ratio: share of the steps in which the learning rate rises from near 0 to its highest;
            after that it falls along a cosine to a tenth of it.
        eval_steps: measure on held-out rows every so many steps besides before and after; 0: no.
        save_steps: keep a checkpoint every so many steps.
    """

    steps: int
    batch_size: int
    accumulation: int
    learning_rate: float
    warmup_ratio: float
    seed: int
    eval_steps: int = 0
    save_steps: int = 50

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 1."""
        warm = max(1, round(self.steps * self.warmup_ratio))
        if step <= warm:
            return self.learning_rate * step / warm
        share = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass
class Course:
    """What was measured: losses are means over trained tokens, in nats.

    Attributes:
        losses: training loss of each step, from step 1.
        eval_losses: [step, held-out loss]; step 0 is the base.
        resumed_from: the step of the checkpoint that this run resumed; 0 for none.
        training_s: time in all steps of this run, without measuring and saving.
        seconds, steps_timed, tokens_timed: the same without the first steps, for the speed.
    """

    losses: list[float] = field(default_factory=list)
    eval_losses: list[list[float]] = field(default_factory=list)
    resumed_from: int = 0
    training_s: float = 0.0
    seconds: float = 0.0
    steps_timed: int = 0
    tokens_timed: int = 0
    gpu_peak: int = 0

    def eval_at(self, step: int) -> float | None:
        """The held-out loss at a step, None if it was not measured there."""
        return next((loss for at, loss in self.eval_losses if at == step), None)


class Trainer:
    """Trains the parameters of ``model`` that require gradients.

    Args:
        model: causal language model with adapter layers in it, on its device.
        rows, held_out: training rows and rows to measure with (may be empty).
        pad_id: token to pad with; any will do.
        checkpoints: where to keep and find what is needed to go on; None: nowhere.
        turns: how the rows of a batch are joined.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[TokenRow],
        held_out: Sequence[TokenRow],
        settings: Settings,
        report: Reporter,
        *,
        pad_id: int = 0,
        checkpoints: Checkpoints | None = None,
        turns: JoinedTurns = JoinedTurns(),  # noqa: B008 - frozen
    ) -> None:
        self.model = model
        self.rows = rows
        self.held_out = sorted(held_out, key=lambda row: len(row.ids))
        self.settings = settings
        self.report = report
        self.pad_id = pad_id
        self.checkpoints = checkpoints
        self.turns = turns
        self.device = next(model.parameters()).device
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        self.order = BatchOrder([len(row.ids) for row in rows], settings.batch_size, settings.seed)
        self.measure = Measure(model)
        self.course = Course()
        self._whole = True
        self._saved_at = time.monotonic()
        self._kept = 0
        self._step_s = 0.0
        self._ahead: dict[int, list[TokenBatch]] = {}

    def train(self) -> Course:
        """Train to the last step, from the checkpoint if there is one.

        Raises:
            Cancelled: the user asked to stop; the step at work was finished and a checkpoint kept.
            StageError: the loss or its gradient is not a number.
            torch.OutOfMemoryError: the GPU has too little memory.
        """
        done = self._resume()
        if not self.measure.try_out(torch.tensor([self.rows[0].ids[:32]], device=self.device)):
            self.report.log(
                "This architecture makes its logits in a way of its own; all of them are computed."
            )
        settings = self.settings
        self._saved_at = time.monotonic()
        try:
            if done == 0:
                torch.manual_seed(settings.seed)
                self._evaluate(0, "evaluating base")
            while done < settings.steps:
                self.report.check_cancelled()
                began = time.monotonic()
                with self.report.unbroken():
                    self._step(done + 1)
                    done += 1
                self._step_s = took = time.monotonic() - began
                self.report.stop_takes(took)
                self.report.progress("training", done, settings.steps)
                if done == settings.steps:
                    break
                if settings.eval_steps and done % settings.eval_steps == 0:
                    self._evaluate(done, "evaluating")
                # By the clock too, so that the next step ends within the time that may be lost.
                if done % settings.save_steps == 0 or time.monotonic() - self._saved_at + took > SAVE_EVERY_S:
                    self._save(done)
            self._evaluate(done, "evaluating")
        except (Cancelled, KeyboardInterrupt):
            with self.report.unbroken():
                raise self._stopped(done) from None
        return self.course

    def _stopped(self, done: int) -> Cancelled:
        """Keep what there is, and say where the training stands."""
        steps = self.settings.steps
        if not done:
            return Cancelled(detail="Stopped before the first step.")
        if self._whole:
            self._save(done)
        self.report.log(f"Stopped at step {done} of {steps}.")
        if self._kept == 0:
            return Cancelled(detail=f"Stopped at step {done} of {steps}. No checkpoint was kept.")
        return Cancelled(
            detail=f"Stopped at step {done} of {steps}.",
            hint=f"The next run goes on from step {self._kept}.",
        )

    def _step(self, step: int) -> None:
        started = time.perf_counter()
        settings = self.settings
        self._whole = False  # a signal may stop the program anywhere
        self.model.train()
        batches = self._ahead.pop(step, None) or self._batches(step)
        # The mean over all trained tokens of the step, whatever batch they are in.
        targets = sum(len(batch.targets) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self.measure(batch) / targets
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRAD_NORM)
        rate = settings.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if step < settings.steps:
            self._ahead[step + 1] = self._batches(step + 1)  # while the GPU works
        mean, size = torch.stack((total, norm)).tolist()  # the step's one wait for the GPU
        if not (math.isfinite(mean) and math.isfinite(size)):
            raise StageError(
                "The training went astray.",
                f"At step {step} of {settings.steps} the loss is {mean:.4g} and its gradient {size:.4g}.",
                f"Lower finetune.learning_rate (it is {settings.learning_rate:g}), "
                "raise finetune.warmup_ratio, or look for broken records with: olivepress data DIR",
            )
        seconds = time.perf_counter() - started
        tokens = sum(batch.tokens for batch in batches)
        self.course.losses.append(mean)
        self.course.training_s += seconds
        if step - self.course.resumed_from > WARM_STEPS or settings.steps <= WARM_STEPS:
            self.course.seconds += seconds
            self.course.steps_timed += 1
            self.course.tokens_timed += tokens
        self.report.metric("loss", mean, step)
        self.report.metric("learning_rate", rate, step)
        self.report.metric("grad_norm", size, step)
        self.report.metric("tokens_per_s", tokens / seconds, step)
        if self.device.type == "cuda":
            self.course.gpu_peak = torch.cuda.max_memory_allocated(self.device)
        self._whole = True

    def _batches(self, step: int) -> list[TokenBatch]:
        accumulation = self.settings.accumulation
        return [
            collate(
                self.turns.join([self.rows[row] for row in self.order.batch(number)], number),
                self.pad_id,
                self.device,
            )
            for number in range((step - 1) * accumulation, step * accumulation)
        ]

    @torch.no_grad()
    def _evaluate(self, step: int, phase: str) -> None:
        """Mean loss over the held-out rows' trained tokens."""
        if not self.held_out:
            return
        self.model.eval()
        size = self.settings.batch_size
        total, targets = torch.zeros((), device=self.device), 0
        for start in range(0, len(self.held_out), size):
            self.report.check_cancelled()
            self.report.progress(phase, start, len(self.held_out))
            batch = collate(self.held_out[start : start + size], self.pad_id, self.device)
            total += self.measure(batch)
            targets += len(batch.targets)
        mean = float(total) / targets
        self.report.progress(phase, len(self.held_out), len(self.held_out))
        if not math.isfinite(mean):
            raise StageError(
                "The model gives no numbers.",
                f"Its loss on the held-out records is {mean} at step {step}.",
                "Quantize again, with more bits or another algorithm."
                if step == 0
                else f"Lower finetune.learning_rate (it is {self.settings.learning_rate:g}).",
            )
        self.course.eval_losses.append([step, mean])
        self.report.metric("eval_loss", mean, step)

    def _save(self, step: int) -> None:
        if self.checkpoints is None or step == self._kept:
            return
        state: dict[str, Any] = {
            "step": step,
            "step_s": self._step_s,
            "trained": {name: p.detach() for name, p in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "losses": self.course.losses,
            "eval_losses": self.course.eval_losses,
        }
        if self.device.type == "cuda":
            state["random_gpu"] = torch.cuda.get_rng_state(self.device)
        self.checkpoints.save(state)
        self._kept, self._saved_at = step, time.monotonic()
        self.report.log(f"Kept a checkpoint of step {step}.", "debug")

    def _resume(self) -> int:
        """Take up the last checkpoint; the step it is of, 0 if there is none."""
        state = self.checkpoints.load() if self.checkpoints else None
        if state is None or set(state["trained"]) != set(self.trained):
            if self.checkpoints is not None and self.checkpoints.damaged():
                self.report.log("The checkpoint is damaged: the training begins anew.", "warning")
            return 0
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_gpu" in state:
            torch.cuda.set_rng_state(state["random_gpu"], self.device)
        step = int(state["step"])
        self.report.stop_takes(float(state.get("step_s", 0)))
        self.course.resumed_from = self._kept = step
        self.course.losses = list(state["losses"])
        self.course.eval_losses = [list(pair) for pair in state["eval_losses"]]
        self.report.log(f"Goes on from the checkpoint of step {step}.")
        # The new job shows the whole curve, as if it had not been interrupted.
        for at, loss in self.course.eval_losses:
            self.report.metric("eval_loss", loss, int(at))
        for at, loss in enumerate(self.course.losses, 1):
            self.report.metric("loss", loss, at)
        self.report.progress("training", step, self.settings.steps)
        return step
