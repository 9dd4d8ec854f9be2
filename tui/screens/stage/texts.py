"""What is said of one stage alone: advice, the words of its buttons and choices, the values that follow a choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from textual.content import Content

from core.algorithms import ALGORITHMS
from core.language import N_, _
from core.options import AUTO
from tui.figures import number
from tui.labels import progress
from tui.snapshot import JobView, Snapshot
from tui.steps import Step

if TYPE_CHECKING:
    from core.optimize.targets import Target

Values = Mapping[str, Any]


def _no_advice(values: Values, snapshot: Snapshot) -> str:
    """Nothing to say."""
    return ""


def _nothing_follows(values: Values) -> Values:
    """Every choice goes with every other."""
    return {}


def _no_more(result: Values) -> list[Content]:
    """The figures are all."""
    return []


def goes_on(job: JobView) -> bool:
    """Whether the next run goes on from a checkpoint of this one."""
    return job.state in ("cancelled", "crashed") and "checkpoint" in job.metrics


def _run(step: Step, job: JobView | None) -> str:
    """What a run would do, or do again."""
    if job is None:
        return _("Run {title}", title=step.title)
    if goes_on(job):
        return _("Go on from step {step}", step=number(job.metrics["checkpoint"]))
    return _("Run again") if job.state in ("succeeded", "cancelled") else _("Try again")


@dataclass(frozen=True)
class StageTexts:
    """What is said of one stage; every part has a usual form.

    Attributes:
        advice: a line about the settings: what this choice needs here, how long it takes. A value is "auto" only
            where nobody knows yet what it will be.
        run: the words of the run button.
        words: what is said for the choices of an option, where that depends on the machine.
        follows: values that have to come with those that were chosen.
        progress: how far a job is.
        more_of: lines below a result's figures.
        portable: whether the result can be taken along.
        stopped: what becomes of the work when it is stopped.
    """

    advice: Callable[[Values, Snapshot], str] = _no_advice
    run: Callable[[Step, JobView | None], str] = _run
    words: Callable[[], Mapping[str, Callable[[Any], str]]] = dict
    follows: Callable[[Values], Values] = _nothing_follows
    progress: Callable[[JobView], Content | str] = progress
    more_of: Callable[[Values], list[Content]] = _no_more
    portable: bool = False
    stopped: str = N_("What is half made is thrown away; what was there before stays as it is.")


def _quantize_advice(values: Values, snapshot: Snapshot) -> str:
    algorithm = ALGORITHMS.get(values["quantize.algorithm"])
    return _(algorithm.advice) if algorithm else ""


def _finetune_advice(values: Values, snapshot: Snapshot) -> str:
    steps, batch = values["finetune.steps"], values["finetune.batch_size"]
    stop = _("You can stop at any time: the next run goes on from the last checkpoint.")
    if AUTO in (steps, batch):
        return stop
    seen = steps * batch * values["finetune.gradient_accumulation"]
    return _("The model sees {seen} records, some more than once. {stop}", seen=number(seen), stop=stop)


@cache
def targets() -> list[Target]:
    """What can be built and run here, and why not; looked up once."""
    from core.optimize.targets import list_targets

    return list_targets()


_TARGET = ("optimize.device", "optimize.provider", "optimize.precision")


def _provider_words(provider: str) -> str:
    target = next((each for each in targets() if each.provider == provider), None)
    if target is None or (target.can_build and target.can_run):
        return provider
    why = _("can be built here, but not tried") if target.can_build else _("not here: {why}", why=target.why)
    return f"{provider} - {why}"


def _optimize_advice(values: Values, snapshot: Snapshot) -> str:
    chosen = tuple(values[name] for name in _TARGET)
    target = next((t for t in targets() if (t.device, t.provider, t.precision) == chosen), None)
    if target is None:
        return _("This precision does not go with this provider.")
    if not target.can_build:
        return _("This machine cannot build it: {why} {fix}", why=target.why, fix=target.fix)
    if "finetune" not in snapshot.made:
        return _(
            "There is no adapter yet, so the base model alone would be made. To have your own, do step 4 first."
        )
    if not target.can_run:
        return _("It can be built here, but not tried: {why} {fix}", why=target.why, fix=target.fix)
    return _("The adapter of step 4 is put beside the model, to be switched on and off while it runs.")


def _fitting_target(values: Values) -> Values:
    """A provider and a precision that fit the device."""
    device, provider, precision = (values[name] for name in _TARGET)
    fitting = [t for t in targets() if t.device == device]
    if fitting and provider not in {t.provider for t in fitting}:
        provider = next((t for t in fitting if t.can_build), fitting[0]).provider
    fitting = [t for t in fitting if t.provider == provider]
    if fitting and precision not in {t.precision for t in fitting}:
        precision = fitting[0].precision
    return {"optimize.provider": provider, "optimize.precision": precision}


TEXTS: Mapping[str, StageTexts] = {
    "quantize": StageTexts(_quantize_advice),
    "finetune": StageTexts(
        _finetune_advice,
        stopped=N_("It finishes its step and keeps a checkpoint: the next run goes on from there."),
    ),
    "optimize": StageTexts(
        _optimize_advice,
        words=lambda: {"optimize.provider": _provider_words},
        follows=_fitting_target,
        portable=True,
    ),
}
"""By stage; a stage that is not here has the usual texts."""
