"""Know before you start: is this machine able to run this recipe, and what to do if not.

>>> from core.check import run_checks
>>> for check in run_checks(lab):  # doctest: +SKIP
...     print(check.state, check.name, check.found, check.fix)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.check.types import FAIL, OK, SKIP, WARN, Check
from core.language import told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from core.check.types import Probe, Subject
    from core.lab import Lab
    from core.model.auto import Chosen

__all__ = ["FAIL", "OK", "SKIP", "WARN", "Check", "require", "run_checks", "settings_of", "subject_of"]


def subject_of(root: Path, stages: Sequence[str] | None = None) -> Subject:
    """What there is to check in a folder, with or without a lab. A wrong recipe is a check's finding, not an error."""
    from core.check.types import Subject
    from core.errors import RequestError
    from core.folder import LabFolder
    from core.recipe import Recipe, read_recipe
    from core.stages import default_stages

    folder = LabFolder(root.expanduser().resolve())
    chosen = tuple(stages or default_stages())
    try:
        return Subject(folder, read_recipe(folder.recipe_path), chosen)
    except RequestError:
        return Subject(folder, Recipe(), chosen, has_recipe=False)


def probes(*, verify: bool = False) -> list[Probe]:
    """Every probe, in the order in which people should read them.

    Args:
        verify: every byte of what was made is to be read, however long that takes.
    """
    from core.check import azure, data, devices, gpu, machine, model, packages, place, terminal
    from core.check.types import Probe
    from core.stages import STAGES

    return [
        Probe(told("python"), packages.python),
        Probe(told("packages"), packages.packages),
        Probe(told("tracker"), packages.tracker, stages=("finetune",)),
        Probe(told("recipe"), place.recipe),
        Probe(told("folder"), place.folder, stages=tuple(STAGES)),
        Probe(told("jobs"), place.other_job, stages=()),
        Probe(told("results"), place.results, limit_s=1800 if verify else 4.0, stages=()),
        Probe(told("gpu"), gpu.gpu),
        Probe(told("builds"), gpu.builds),
        Probe(told("device"), devices.devices, stages=("optimize",)),
        Probe(told("model"), model.model, stages=("quantize",)),
        Probe(told("weights"), model.weights, stages=("quantize",)),
        Probe(told("adapter"), model.adapter, stages=("optimize",)),
        Probe(told("memory"), machine.needs, limit_s=4.5),
        Probe(told("data"), data.data, stages=("quantize", "finetune")),
        Probe(told("azure"), azure.azure, stages=("upload",)),
        Probe(told("terminal"), terminal.terminal, stages=()),
    ]


def run_checks(
    root: Path | Lab,
    stages: Sequence[str] | None = None,
    on_check: Callable[[Check], object] | None = None,
    *,
    verify: bool = False,
    device: str = "",
) -> list[Check]:
    """All checks for a lab or for a folder that may become one, side by side, in under five seconds.

    Args:
        stages: the stages that are to run; the three that make the model if not given.
        on_check: called with each check as it comes.
        verify: read every byte of what was made, however long that takes.
        device: cpu, gpu or npu: say of each of its providers whether models can be built and run here.
    """
    from core.check.model import forget_answers
    from core.check.types import run_probes

    forget_answers()
    folder = root if isinstance(root, Path) else root.root
    subject = replace(subject_of(folder, stages), verify=verify, device=device)
    return run_probes(probes(verify=verify), subject, on_check)


def settings_of(root: Path) -> tuple[Chosen, ...]:
    """The settings that follow the model and the data, with what they are for a lab and why."""
    from core.check.model import facts_of
    from core.check.settings import resolved

    subject = subject_of(root)
    return resolved(subject, facts_of(subject)).chosen


ELSEWHERE = ("recipe", "data")
"""What is looked at before stages run on another machine: of that one nothing is known here."""


def require(
    lab: Lab,
    stages: Sequence[str],
    values: Mapping[str, Any] | None = None,
    *,
    elsewhere: bool = False,
) -> None:
    """Look at what matters for some stages before they start.

    Args:
        elsewhere: they run on another machine; of this one only the lab matters.
        values: settings of this run alone, ``{"finetune.gpus": 2}``.

    Raises:
        RequestError: the recipe, the data or the model that it names is wrong.
        MachineError: something else would make them fail. Each error's detail names every such check, its
            hint what to do.
    """
    from core.check.types import run_probes
    from core.data.model_text import model_folder
    from core.errors import Do, MachineError, RequestError, joined
    from core.formats import listed

    wanted = [
        probe
        for probe in probes()
        if set(probe.stages) & set(stages) and (not elsewhere or probe.name in ELSEWHERE)
    ]
    subject = subject_of(lab.root, stages)
    subject = replace(subject, recipe=subject.recipe.with_values(dict(values or {})))
    if set(stages) & {"quantize", "finetune"} and not elsewhere:
        # A GGUF file's tokenizer takes seconds the first time, longer than a check has: the run needs it anyway.
        model_folder(subject.recipe, lab.root)
    failed = [check for check in run_probes(wanted, subject) if check.state == FAIL]
    if not failed:
        return
    # A hub's refusal is about this machine or its user.
    wrong = any(
        check.code.startswith(("model.", "adapter.")) or check.name in ("recipe", "data") for check in failed
    )
    all_the_same = Do.of("run", lab.root, *stages, "--no-check")
    raise (RequestError if wrong else MachineError)(
        told("This cannot be run as it is asked for.")
        if wrong
        else told("This machine cannot run that as it is."),
        listed((told("{name}: {found}", name=check.name, found=check.found) for check in failed), "\n"),
        joined(
            [
                *(check.advice for check in failed if check.fix),
                # What is wrong with what was asked for, the stage refuses as well.
                *([] if wrong else [told("To run it all the same: {run}", run=all_the_same)]),
            ]
        ),
        code=next((check.code for check in failed if check.code), "check.failed"),
    )
