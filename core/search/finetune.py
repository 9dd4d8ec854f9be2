"""The learning rate, rank and scale of a training, by short trainings of which the worse half is stopped early.

Optuna proposes (its tree-structured Parzen estimator, after the settings that the lab has now) and stops (successive
halving on the loss on held-out records). Each try is a training as the finetune stage does it, with the steps of a
short one: what is best there is the best start known for the whole.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.errors import Cancelled, LabError
from core.events import Reporter
from core.finetune.stage import fingerprint as finetune_fingerprint
from core.formats import duration, number
from core.language import told
from core.recipe import recipe_text
from core.search.space import SearchLimits
from core.search.study import close_open, digest_of, halving, open_journal, open_study
from core.searched import Board, Try, write_board
from core.stage_context import StageContext

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

TRIES = 12
"""Trainings, if nobody says how many."""

SHARE, LEAST, MOST = 0.25, 16, 200
"""A short training has this part of the steps of the whole, within these."""

RUNGS = 4
"""The parts of a short training after which a try may be stopped: a quarter, a half, all."""

RANKS = (4, 8, 16, 32, 64)
SCALES = (0.5, 1.0, 2.0, 4.0)
"""Alpha over rank."""

AROUND = 4.0
"""The rate is looked for from this part of the present one to this multiple of it."""


class _Stopped(Exception):
    """Others do better: this training is not gone on with."""


class _Short(Reporter):
    """Hears the losses of a short training, and ends it where it is not worth going on."""

    def __init__(self, report: Reporter, trial: Trial, name: str, first: int) -> None:
        self._report, self._trial, self._name, self._first = report, trial, name, first

    def progress(self, phase: str, done: float, total: float | None) -> None:
        self._report.progress(told("{name}: {phase}", name=self._name, phase=phase), done, total)

    def log(self, text: str, level: str = "info") -> None:
        if level in ("warning", "error"):
            self._report.log(text, level)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        if name == "eval_loss" and step is not None and step >= self._first:
            self._trial.report(value, step)
            if self._trial.should_prune():
                raise _Stopped

    def check_cancelled(self) -> None:
        self._report.check_cancelled()


class FinetuneSearch:
    """One search.

    Args:
        tries: trainings in all, those of earlier searches with the same data and base among them.
    """

    def __init__(self, context: StageContext, limits: SearchLimits, *, tries: int = TRIES) -> None:
        self.context, self.report, self.limits, self.wanted = context, context.report, limits, tries
        self.began = time.monotonic()
        finetune = context.recipe.finetune
        steps = max(LEAST, min(MOST, round(SHARE * finetune.steps)))
        self.steps = RUNGS * -(-min(steps, finetune.steps) // RUNGS)
        self.whole_steps = finetune.steps
        self.note = ""
        self._now: str = ""

    def run(self) -> Board:
        """Search; the board of what was found.

        Raises:
            RequestError: there is no quantized model, no usable data, or nothing is held out.
            MachineError: not enough memory.
            Cancelled: asked to stop; trainings that were done are kept.
        """
        import optuna
        from optuna.trial import TrialState

        study = open_study(
            open_journal(self.context.lab.state_dir / "search.journal", self.report),
            digest_of(self._fingerprint()),
            halving(self.steps // RUNGS),
            optuna.samplers.TPESampler(seed=self.context.recipe.finetune.seed, n_startup_trials=5),
        )
        for trial in close_open(study):
            study.enqueue_trial(trial.params)
        if not study.trials:
            study.enqueue_trial(self._present())
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        while (count := len(study.get_trials(deepcopy=False, states=done))) < self.wanted:
            self.report.check_cancelled()
            self._told(study)
            if self.limits.seconds is not None and count and self._next_takes(study) > self._left():
                self.note = f"Time ran out after {count} of {self.wanted} trainings."
                break
            trial = study.ask(self._space())
            self._now = f"{count + 1} of {self.wanted}"
            self._train(study, trial)
        return self._told(study, done=True)

    def _fingerprint(self) -> dict[str, Any]:
        """All that the figures of a try depend on beside its settings."""
        prints = finetune_fingerprint(self.context.lab, self.context.recipe)
        looked_for = (
            "learning_rate",
            "rank",
            "alpha",
            "adapter",
            "steps",
            "stop_early",
            "keep",
            "eval_every",
        )
        prints["finetune"] = {
            key: value for key, value in prints["finetune"].items() if key not in looked_for
        }
        return {**prints, "steps": self.steps, "rate": self._middle_rate()}

    def _middle_rate(self) -> float:
        return float(self.context.recipe.finetune.learning_rate)

    def _space(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        rate = self._middle_rate()
        low, high = max(1e-8, rate / AROUND), min(1.0, rate * AROUND)
        return {
            "learning_rate": FloatDistribution(low, high, log=True),
            "rank": CategoricalDistribution(sorted({*RANKS, self.context.recipe.finetune.rank})),
            "scale": CategoricalDistribution(sorted({*SCALES, self._present_scale()})),
        }

    def _present_scale(self) -> float:
        finetune = self.context.recipe.finetune
        return finetune.alpha / finetune.rank

    def _present(self) -> dict[str, Any]:
        """The settings that the lab has now: they are tried first, and all others have to be better."""
        return {
            "learning_rate": self._middle_rate(),
            "rank": self.context.recipe.finetune.rank,
            "scale": self._present_scale(),
        }

    def _train(self, study: Study, trial: Trial) -> None:
        """One short training, to its end or until others do better."""
        from optuna.trial import TrialState

        values = values_of(trial.params)
        began = time.monotonic()
        first = self.steps // RUNGS
        try:
            result = self._trained(values, _Short(self.report, trial, self._title(values), first))
        except _Stopped:
            trial.set_user_attr("seconds", time.monotonic() - began)
            study.tell(trial, state=TrialState.PRUNED)
            self.report.log(f"{self._title(values)}: stopped, others do better.")
            return
        except LabError as error:
            if isinstance(error, Cancelled) or error.exit_status != 3:
                raise
            # A rate at which the training goes astray is an answer too.
            trial.set_user_attr("why", error.title)
            trial.report(float("inf"), self.steps)
            study.tell(trial, state=TrialState.PRUNED)
            self.report.log(f"{self._title(values)}: {error.title}", "warning")
            return
        trial.set_user_attr("seconds", time.monotonic() - began)
        loss = float(result["eval_loss_tuned"])
        study.tell(trial, loss)
        self.report.log(f"{self._title(values)}: loss {number(loss)} on held-out records.")
        self.report.metric("eval_loss", loss, trial.number + 1)

    def _trained(self, values: dict[str, Any], report: Reporter) -> dict[str, Any]:
        from core.errors import RequestError, Use
        from core.files import write_atomic
        from core.finetune.training import Task, Training
        from core.olive.run import import_olive
        from core.tqdm_progress import reporting

        import_olive()
        keys = {name.partition(".")[2]: value for name, value in values.items()}
        finetune = replace(
            self.context.recipe.finetune,
            **keys,
            steps=self.steps,
            eval_every=self.steps // RUNGS,
            stop_early=0,
            keep="last",
            gpus=1,
        )
        recipe = replace(self.context.recipe, finetune=finetune)
        work = self.context.work / "try"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_atomic(work / "recipe.toml", recipe_text(recipe))
        task = Task(
            base=str(self.context.lab.quantized_dir),
            recipe=str(work / "recipe.toml"),
            data_root=str(self.context.lab.root),
            checkpoints="",
            checkpoint_key="",
            adapter=str(work / "adapter"),
        )
        try:
            with reporting(report, {"Loading weights": "loading", "Replacing submodules": "loading"}):
                training = Training(task, report)
                if not training.held_out.rows:
                    raise RequestError(
                        told("There is nothing to measure with."),
                        told("A search goes by the loss on held-out records; there are none."),
                        told("Raise {setting}.", setting=Use("data.eval_fraction")),
                        code="search.held-out",
                    )
                return training.run()
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _left(self) -> float:
        return (self.limits.seconds or 0.0) - (time.monotonic() - self.began)

    def _next_takes(self, study: Study) -> float:
        """The longest that a try took: the next may be one that is not stopped."""
        known = [float(trial.user_attrs.get("seconds", 0.0)) for trial in study.get_trials(deepcopy=False)]
        return max(known, default=0.0)

    @staticmethod
    def _title(values: dict[str, Any]) -> str:
        rank, alpha = values["finetune.rank"], values["finetune.alpha"]
        return f"rate {values['finetune.learning_rate']:g}, rank {rank}, alpha {alpha}"

    def _told(self, study: Study, *, done: bool = False) -> Board:
        """Write the board as it stands."""
        tries = [
            self._try(number_, trial)
            for number_, trial in enumerate(
                (
                    trial
                    for trial in study.get_trials(deepcopy=False)
                    if trial.params and trial.state.is_finished()
                ),
                1,
            )
            if trial.state.name != "FAIL"
        ]
        measured = [each for each in tries if each.state == "measured"]
        best = min(measured, key=lambda each: each.loss or 0.0, default=None)
        board = Board(
            "finetune",
            self.limits.words,
            tuple(tries),
            best.number if best else None,
            done,
            self.note,
            self.context.recipe.model.source,
        )
        write_board(self.context.lab, board)
        if done:
            self.report.log(f"The search took {duration(time.monotonic() - self.began)}.")
        return board

    def _try(self, number_: int, trial: FrozenTrial) -> Try:
        values = values_of(trial.params)
        finished = trial.state.name == "COMPLETE"
        seen = trial.intermediate_values
        step = max(seen, default=0)
        loss = trial.value if finished else seen.get(step)
        why = str(trial.user_attrs.get("why", "")) or (
            "" if finished else told("stopped at step {step} of {steps}", step=step, steps=self.steps)
        )
        return Try(
            number_,
            self._title(values),
            values,
            "measured" if finished else "failed" if "why" in trial.user_attrs else "dropped",
            why,
            loss=None if loss is None or loss == float("inf") else round(loss, 5),
            part=1.0 if finished else step / self.steps,
        )


def values_of(params: dict[str, Any]) -> dict[str, Any]:
    """The settings of ``lab.toml`` that a try stands for."""
    rank = int(params["rank"])
    return {
        "finetune.learning_rate": float(f"{params['learning_rate']:.2g}"),
        "finetune.rank": rank,
        "finetune.alpha": max(1, round(rank * float(params["scale"]))),
    }
