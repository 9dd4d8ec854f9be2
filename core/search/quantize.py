"""The best way to quantize a model within limits.

A candidate is an algorithm and a form: bits, group size, kinds of layers that keep 8 bits. The form alone decides on
size and speed, so what is too large is refused by arithmetic, and among the candidates of one form quality alone
decides. Each is tried on some of the layers (:mod:`core.quantize.sample`), the likeliest first; one that is not among
the better half there is tried no further (successive halving, by Optuna). The few that promise most are made whole
and measured as the quantize stage does it, and answer as ONNX models on this machine for their speed.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.algorithms import ALGORITHMS, is_calibrated
from core.errors import Cancelled, LabError, RequestError
from core.events import Reporter
from core.files import content_stamp
from core.formats import duration, human_bytes, number
from core.language import changed, told
from core.model.faults import refuse
from core.model.folder import ModelFacts, model_facts
from core.model.sources import model_stamp, resolve_model
from core.quantize.stage import calibration_file, chosen_rows, make
from core.search.space import (
    Candidate,
    SearchLimits,
    WeightForm,
    algorithms_to_try,
    fitting_groups,
    forms_of,
    front,
    kinds_of,
    size_of,
)
from core.search.study import close_open, digest_of, halving, open_journal, open_study
from core.searched import Board, Try, write_board
from core.stage_context import StageContext, versions

if TYPE_CHECKING:
    import torch
    from optuna import Study
    from optuna.storages import JournalStorage

    from core.quantize.sample import HowRounded, SampledModel

FEW_TOKENS = 256
"""Held-out tokens on which candidates are compared before any is made whole."""

FINALISTS = 3
"""Candidates that are made whole, if time allows."""

MORE_FINALISTS = 3
"""So many more where none of those is within the limits."""

MIXED = 2
"""Kinds of layers that are given 8 bits, one after the other."""

SPOKEN = 48
"""Tokens that a finalist generates for its speed."""

TRYING_SHARE = 0.5
"""The part of a stated time that may go into trying; the rest is for making finalists whole."""


class _Part(Reporter):
    """Passes on what a part of the search tells, with its name before the phase; its metrics are not the search's."""

    def __init__(self, report: Reporter, name: str) -> None:
        self._report, self._name = report, name

    def progress(self, phase: str, done: float, total: float | None) -> None:
        begun = changed(phase, lambda text: text[:1].lower() + text[1:])
        self._report.progress(told("{name}: {phase}", name=self._name, phase=begun), done, total)

    def log(self, text: str, level: str = "info") -> None:
        self._report.log(text, level)

    def check_cancelled(self) -> None:
        self._report.check_cancelled()


class QuantizeSearch:
    """One search.

    Args:
        algorithms, groups: to try; empty: those there are, and the usual ones that fit.
        mixed: whether forms with 8 bits for some kinds of layers, and for all, are tried.
        finalists: how many candidates are made whole.
    """

    def __init__(
        self,
        context: StageContext,
        limits: SearchLimits,
        *,
        algorithms: Sequence[str] = (),
        groups: Sequence[int] = (),
        mixed: bool = True,
        finalists: int = FINALISTS,
    ) -> None:
        self.context, self.report, self.limits = context, context.report, limits
        self.algorithms, self.groups, self.mixed = list(algorithms), list(groups), mixed
        self.finalists = finalists
        self.began = time.monotonic()
        self.candidates: list[Candidate] = []
        self.tries: list[Try] = []
        self.best: int | None = None
        self.note = ""
        self.counts: tuple[list[int], list[int]] = ([], [])
        self._seen: dict[int, dict[int, float]] = {}
        self._layer_s: dict[int, float] = {}
        self._whole_s: list[tuple[int, float]] = []

    # The whole of it

    def run(self) -> Board:
        """Search; the board of what was found.

        Raises:
            RequestError: the model or the data cannot be used, or nothing is within the limit of size.
            StageError, MachineError: a candidate that had to be made failed in a way that others would, too.
            Cancelled: asked to stop; what was measured is kept.
        """
        from core.quantize.sample import can_sample

        recipe, report = self.context.recipe, self.report
        source = resolve_model(
            recipe.model.source,
            self.context.lab.root,
            report,
            trust_remote_code=recipe.model.trust_remote_code,
        )
        self.path = source.path
        self.facts: ModelFacts = refuse(self.path, recipe, report)
        names = algorithms_to_try(self.algorithms)
        left_out = [name for name in names if not can_sample(name)]
        names = [name for name in names if can_sample(name)]
        if left_out:
            report.log(
                f"Not tried, since it cannot be tried on some layers: {', '.join(left_out)}.",
                "warning" if self.algorithms else "info",
            )
        if not names:
            raise RequestError(
                told(
                    "There is nothing to try: {names} cannot be tried on some layers.",
                    names=", ".join(left_out),
                ),
                hint=told("Name others as well, or quantize with it: quantize.algorithm."),
                code="search.algorithm",
            )
        groups = fitting_groups(self.facts, self.groups)
        self.rows, held_out = chosen_rows(self.context, self.path, self.facts)
        from core.quantize.verify import measured_rows

        self.held_out = held_out
        self.measured = measured_rows(self.facts, self.rows, held_out)
        storage = open_journal(self.context.lab.state_dir / "search.journal", report)
        self._refuse_at_once(names, groups)
        self.digest = digest_of(self._fingerprint())
        with SampledLayers(self) as sampled:
            self.counts = (sampled.few, sampled.more)
            kinds = self._sensitive(storage, sampled, groups[0]) if self.mixed else []
            self._list(names, forms_of(groups, kinds, eight=self.mixed))
            self._try_all(storage, sampled)
        self._finals(storage)
        return self._told(done=True)

    def _refuse_at_once(self, names: Sequence[str], groups: Sequence[int]) -> None:
        """Before anything is computed: where not even the smallest form is small enough."""
        smallest = min(size_of(self.facts, WeightForm(4, group)) for group in groups)
        if self.limits.size is not None and smallest > self.limits.size:
            raise RequestError(
                told("Nothing is as small as {size}.", size=human_bytes(self.limits.size)),
                told(
                    "With 4 bits and groups of {groups} the weights of {source} take {size}.",
                    groups=groups[0],
                    source=self.context.recipe.model.source,
                    size=human_bytes(smallest),
                ),
                told("Allow more, or start from a smaller model."),
                code="search.size",
            )

    def _fingerprint(self) -> dict[str, Any]:
        """All that the figures of a candidate depend on beside itself."""
        recipe = self.context.recipe
        quantize = dataclasses.asdict(recipe.quantize)
        for key in ("algorithm", "bits", "group_size", "eight_bit_layers"):
            del quantize[key]
        return {
            "model": model_stamp(recipe.model.source, self.context.lab.root),
            "records": content_stamp(calibration_file(recipe, self.context.lab.root)),
            "data": dataclasses.asdict(recipe.data),
            "quantize": quantize,
            "versions": versions("olivepress", "olive-ai", "torch", "transformers"),
        }

    def _whole_digest(self) -> str:
        """What the figures of a whole model depend on: those of its ONNX model are among them."""
        return digest_of(
            {
                **self._fingerprint(),
                "optimize": dataclasses.asdict(self.context.recipe.optimize),
                "runtime": versions("onnxruntime-genai", "onnxruntime"),
                "machine": platform.node(),
            }
        )

    # Some of the layers

    def _sensitive(
        self, storage: JournalStorage, sampled: SampledLayers, group: int
    ) -> list[tuple[str, ...]]:
        """The kinds of layers for which 8 bits help most for their bytes, the best first; told by plain rounding."""
        from core.quantize.sample import HowRounded

        units = kinds_of(self.facts)
        study = open_study(storage, f"{self.digest}/kinds")
        known: dict[str, float] = dict(study.user_attrs.get("divergence", {}))
        every = tuple(name for unit in units for name in unit)
        plain = size_of(self.facts, WeightForm(4, group))
        gains: dict[tuple[str, ...], float] = {}
        for at, unit in enumerate(units):
            self.report.progress(told("Measuring which layers need more bits"), at, len(units))
            key = "+".join(unit)
            if key not in known:
                others = tuple(name for name in every if name not in unit)
                how = HowRounded("rtn", 4, group, others)
                known[key] = sampled.divergence(how, sampled.few)
                study.set_user_attr("divergence", known)
            gains[unit] = known[key] / max(1, size_of(self.facts, WeightForm(4, group, unit)) - plain)
        self.report.progress(told("Measuring which layers need more bits"), len(units), len(units))
        order = sorted(units, key=lambda unit: -gains[unit])
        said = ", ".join(f"{'+'.join(unit)} {number(known['+'.join(unit)])}" for unit in order)
        self.report.log(
            f"Divergence by rounding only layers of a kind to 4 bits, most for its bytes first: {said}."
        )
        return order[: min(MIXED, len(order) - 1)]

    def _list(self, names: Sequence[str], forms: Sequence[WeightForm]) -> None:
        """Every candidate, with its size; those that are too large are refused."""
        for form in forms:
            size = size_of(self.facts, form)
            why = self.limits.broken_by(size, None, None)
            for name in names:
                if form.bits == 8 and is_calibrated(name):
                    continue  # at 8 bits rounding is so fine that nothing is left to find
                candidate = Candidate(name, form)
                self.candidates.append(candidate)
                self.tries.append(
                    Try(
                        len(self.tries) + 1,
                        candidate.title,
                        candidate.values,
                        "refused" if why else "waiting",
                        why,
                        size,
                    )
                )
        self._told()

    def _try_all(self, storage: JournalStorage, sampled: SampledLayers) -> None:
        """Every candidate that is not refused on some of the layers, as far as it is worth it."""
        open_ones = [at for at, each in enumerate(self.tries) if each.state == "waiting"]
        studies: dict[str, Study] = {}
        for done, at in enumerate(open_ones):
            self.report.check_cancelled()
            self.report.progress(told("Trying candidates on some layers"), done, len(open_ones))
            if (
                self._left() is not None
                and self._spent() > TRYING_SHARE * (self.limits.seconds or 0)
                and done
            ):
                self.note = f"Time ran out after {done} of {len(open_ones)} candidates were tried."
                break
            form = self.candidates[at].form
            if form.name not in studies:
                studies[form.name] = open_study(
                    storage, f"{self.digest}/{form.name}", halving(len(sampled.few), 2)
                )
                close_open(studies[form.name])
            self._try(studies[form.name], sampled, at)
            self._told()
        self.report.progress(told("Trying candidates on some layers"), len(open_ones), len(open_ones))

    def _try(self, study: Study, sampled: SampledLayers, at: int) -> None:
        """One candidate on a few layers, and on more if it is worth it."""
        from optuna.distributions import CategoricalDistribution
        from optuna.trial import TrialState

        from core.quantize.sample import HowRounded

        candidate = self.candidates[at]
        form = candidate.form
        same = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.params.get("algorithm") == candidate.algorithm
        ]
        ended = next(
            (trial for trial in same if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)), None
        )
        if ended is not None:
            dropped = ended.state == TrialState.PRUNED
            self._layer_s[at] = float(ended.user_attrs.get("layer_s", 0.0))
            seen = dict(ended.intermediate_values)
            self._estimated(at, seen, max(seen), dropped)
            return
        known = {step: value for trial in same for step, value in trial.intermediate_values.items()}
        study.enqueue_trial({"algorithm": candidate.algorithm})
        trial = study.ask({"algorithm": CategoricalDistribution(sorted(ALGORITHMS))})
        how = HowRounded(candidate.algorithm, form.bits, form.group_size, form.eight_bit)
        dropped = False
        for layers in (sampled.few, sampled.more):
            step = len(layers)
            if step not in known:
                began = time.monotonic()
                known[step] = sampled.divergence(how, layers)
                self._layer_s[at] = (time.monotonic() - began) / step
                trial.set_user_attr("layer_s", self._layer_s[at])
            trial.report(known[step], step)
            if dropped := trial.should_prune():
                break
            if len(sampled.more) == len(sampled.few):
                break
        study.tell(trial, state=TrialState.PRUNED) if dropped else study.tell(trial, known[step])
        self._estimated(at, known, step, dropped)

    def _estimated(self, at: int, known: dict[int, float], layers: int, dropped: bool) -> None:
        """Note what was seen on some layers."""
        part = layers / self.facts.layers
        self._seen[at] = known
        self.tries[at] = replace(
            self.tries[at],
            state="dropped" if dropped else "estimated",
            why=told("others do better on {layers} layers", layers=layers) if dropped else "",
            part=min(part, 0.999),
        )
        self._estimate()
        self.report.log(
            f"{self.candidates[at].title}: divergence about {number(self.tries[at].loss or 0.0)}, by {layers} of "
            f"{self.facts.layers} layers{'; dropped' if dropped else ''}."
        )

    def _estimate(self) -> None:
        """What the figures of some layers say of the whole: all on one scale, that of the models made whole.

        Where rounding is fine the divergences of layers add up, but layers differ. So what was seen on few layers
        is raised by as much as those grew that were seen on more, and all of it by as much as those that were made
        whole were above what was expected of them.
        """
        few, more = (len(each) for each in self.counts)
        grown = _middle(
            [seen[more] / seen[few] for seen in self._seen.values() if seen.get(few) and more in seen]
        )
        if grown is None:
            grown = more / few
        expected = {
            at: (seen[more] if more in seen else seen[few] * grown) * self.facts.layers / more
            for at, seen in self._seen.items()
        }
        measured = [self.tries[at] for at in expected if self.tries[at].state == "measured"]
        raised = _middle([(each.loss or 0.0) / expected[each.number - 1] for each in measured]) or 1.0
        for at, loss in expected.items():
            if self.tries[at].state in ("estimated", "dropped"):
                self.tries[at] = replace(self.tries[at], loss=loss * raised)

    # Whole models

    def _next(self) -> int | None:
        """The candidate that is to be made whole next; None where no more are worth it."""
        made = [at for at, each in enumerate(self.tries) if each.state in ("measured", "failed")]
        within = [at for at in made if self._within(at)]
        if len(made) >= self.finalists and (within or len(made) >= self.finalists + MORE_FINALISTS):
            return None
        slow = {
            self.candidates[at].form for at in made if self.limits.broken_by(None, None, self.tries[at].speed)
        }
        losses = {
            at: each.loss
            for at, each in enumerate(self.tries)
            if each.state in ("estimated", "dropped")
            and each.loss is not None
            and self.candidates[at].form not in slow
        }
        if not losses:
            return None
        order = sorted(losses, key=lambda at: (losses[at], self.tries[at].size))
        # The best and the one after it: an estimate may take one for the other. Then the front, for the choice.
        if len(made) < 2 or not within:
            return order[0]
        known = [at for at in (*made, *order) if self.tries[at].loss is not None]
        points = {at: (float(self.tries[at].size or 0), float(self.tries[at].loss or 0)) for at in known}
        rest = [at for at in front(points) if at in losses]
        # The one that stands furthest in size from those that are made.
        sizes = [self.tries[at].size or 0 for at in made]
        return max(
            rest,
            key=lambda at: min(abs((self.tries[at].size or 0) - size) for size in sizes),
            default=None,
        )

    def _within(self, at: int) -> bool:
        each = self.tries[at]
        return each.state == "measured" and not self.limits.broken_by(each.size, each.worse, each.speed)

    def _finals(self, storage: JournalStorage) -> None:
        """Make the most promising candidates whole, one after the other, and measure them."""
        study = open_study(storage, f"{self._whole_digest()}/whole")
        expected: list[torch.Tensor] | None = None
        while (at := self._next()) is not None:
            self.report.check_cancelled()
            key = f"{self.candidates[at].algorithm}/{self.candidates[at].form.name}"
            kept = study.user_attrs.get(key)
            if kept is None:
                takes, left = self._expected_s(at), self._left()
                if left is not None and takes > left and any(map(self._within, range(len(self.tries)))):
                    self.note = (
                        self.note or f"Time ran out before {self.candidates[at].title} could be made whole."
                    )
                    break
                if expected is None:
                    from core.quantize.verify import float_logits, running_device

                    expected = float_logits(
                        self.path,
                        self.measured,
                        self.report,
                        running_device(),
                        self.context.recipe.model.trust_remote_code,
                    )
                began = time.monotonic()
                kept = self._whole(at, expected)
                self._whole_s.append((at, time.monotonic() - began))
                study.set_user_attr(key, kept)
            self._note_whole(at, kept)
            self._estimate()
            self._told()
        if self.best is None and not self.note:
            self.note = told("No candidate is within the limits.")

    def _note_whole(self, at: int, kept: dict[str, Any]) -> None:
        """Put the figures of a whole model on the board."""
        if "failed" in kept:
            self.tries[at] = replace(self.tries[at], state="failed", why=kept["failed"])
            return
        why = self.limits.broken_by(kept["bytes"], kept["worse"], kept["speed"])
        self.tries[at] = replace(
            self.tries[at],
            state="measured",
            why=why,
            size=kept["bytes"],
            loss=kept["kl"],
            worse=kept["worse"],
            speed=kept["speed"],
            onnx_size=kept["onnx_bytes"],
            part=1.0,
        )
        said = f", {kept['speed']:.1f} tokens/s" if kept["speed"] is not None else ""
        self.report.log(
            f"{self.candidates[at].title}: {human_bytes(kept['bytes'])}, divergence {number(kept['kl'])}, "
            f"{100 * kept['worse']:+.1f} % perplexity{said}{f'; {why}' if why else ''}."
        )
        self.report.metric("kl_to_float", kept["kl"], at + 1)

    def _expected_s(self, at: int) -> float:
        """How long it will take to make a candidate whole."""
        layers = self._layer_s.get(at, 0.0) * self.facts.layers
        known = [
            seconds / max(1e-9, self._layer_s.get(other, 0.0) * self.facts.layers)
            for other, seconds in self._whole_s
            if self._layer_s.get(other)
        ]
        return layers * (max(known) if known else 1.3)

    def _whole(self, at: int, expected: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Make a candidate as the quantize stage would, and measure it; its figures."""
        from core.quantize.verify import verify

        candidate = self.candidates[at]
        work = self.context.work / "whole"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        context = replace(
            self.context,
            recipe=candidate.put_into(self.context.recipe),
            work=work,
            report=_Part(self.report, candidate.title),
        )
        began = time.monotonic()
        try:
            made, _ = make(context, self.path, self.facts, self.rows)
            quality = verify(context, self.path, made, self.rows, self.held_out, expected)
            seconds = time.monotonic() - began
            speed, onnx = self._speed(context, made)
            return {
                "bytes": model_facts(made).weight_bytes,
                "kl": quality.kl,
                "worse": quality.perplexity / quality.perplexity_float - 1,
                "agreement": quality.agreement,
                "speed": speed,
                "onnx_bytes": onnx,
                "seconds": round(seconds, 1),
            }
        except LabError as error:
            # What is wrong with one candidate need not be wrong with the next; a stop or a full disk is.
            if isinstance(error, Cancelled) or error.exit_status != 3:
                raise
            self.report.log(f"{candidate.title}: {error.title} {error.detail}", "warning")
            return {"failed": error.title}
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _speed(self, context: StageContext, made: Path) -> tuple[float | None, int | None]:
        """Tokens a second of its ONNX model here, and that model's bytes; None where it cannot be had here."""
        from core.optimize.speed import decoding_speed

        try:
            return decoding_speed(context, made, self.measured, SPOKEN)
        except LabError as error:
            if isinstance(error, Cancelled) or self.limits.speed is not None:
                raise
            self.report.log(f"Its speed is not known: {error.title} {error.detail}", "warning")
            return None, None

    # Time, and what is told

    def _spent(self) -> float:
        return time.monotonic() - self.began

    def _left(self) -> float | None:
        return None if self.limits.seconds is None else self.limits.seconds - self._spent()

    def _told(self, *, done: bool = False) -> Board:
        """Write the board as it stands."""
        points = {
            at: (float(each.size), float(each.loss))
            for at, each in enumerate(self.tries)
            if each.size and each.loss is not None and each.state in ("measured", "estimated")
        }
        first = set(front(points))
        self.tries = [replace(each, front=at in first) for at, each in enumerate(self.tries)]
        within = [at for at in range(len(self.tries)) if self._within(at)]
        best = min(within, key=lambda at: (self.tries[at].loss, self.tries[at].size), default=None)
        self.best = None if best is None else self.tries[best].number
        board = Board(
            "quantize",
            self.limits.words,
            tuple(self.tries),
            self.best,
            done,
            self.note,
            self.context.recipe.model.source,
        )
        write_board(self.context.lab, board)
        if done:
            self.report.log(f"The search took {duration(self._spent())}.")
        return board


def _middle(ratios: Sequence[float]) -> float | None:
    """The geometric mean of some ratios that are above 0; None where there is none."""
    logs = [math.log(each) for each in ratios if each > 0 and math.isfinite(each)]
    return math.exp(sum(logs) / len(logs)) if logs else None


class SampledLayers:
    """The float model, loaded when a figure is first wanted that no earlier search has measured."""

    def __init__(self, search: QuantizeSearch) -> None:
        from core.quantize.sample import spread_layers

        self._search = search
        layers = search.facts.layers
        first = max(2, -(-layers // 8))
        self.few, self.more = spread_layers(layers, [min(layers, first), min(layers, 2 * first)])
        self._model: SampledModel | None = None
        self._how: HowRounded | None = None
        self._rounded: dict[int, Any] = {}

    def __enter__(self) -> SampledLayers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._model is not None:
            self._model.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return self._search.context.work / "sampled"

    def divergence(self, how: HowRounded, layers: Sequence[int]) -> float:
        """Divergence from the float model with these layers rounded."""
        model = self._opened()
        if how != self._how:
            self._how = how
            self._rounded.clear()
        for index in layers:
            if index not in self._rounded:
                self._rounded[index] = model.rounded(index, how)
        return model.measure({index: self._rounded[index] for index in layers}).kl

    def _opened(self) -> SampledModel:
        if self._model is None:
            from core.olive.run import import_olive

            import_olive()
            from core.quantize.quality import within_budget
            from core.quantize.sample import SampledModel
            from core.quantize.verify import running_device

            search = self._search
            self._folder.mkdir(parents=True, exist_ok=True)
            few = within_budget(search.measured, search.facts.vocab_size, tokens=FEW_TOKENS)
            self._model = SampledModel(
                search.path,
                search.rows,
                few,
                self.more,
                self._folder,
                search.report,
                device=running_device(),
                trust_remote_code=search.context.recipe.model.trust_remote_code,
            )
        return self._model
