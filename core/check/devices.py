"""What a device takes to build a model for it and to run it: the recipe's, or one that was asked about."""

from __future__ import annotations

from collections.abc import Iterator

from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import MachineError, RequestError
from core.language import told
from core.optimize.targets import Target, list_targets, require_target
from core.providers import PROVIDERS


def devices(subject: Subject) -> Iterator[Check]:
    """Whether the recipe's model can be built here; with a device asked about, every provider that it has."""
    if subject.device:
        yield from _providers_of(subject.device)
        return
    optimize = subject.recipe.optimize
    try:
        require_target(optimize.device, optimize.provider, optimize.precision)
    except (RequestError, MachineError) as error:
        yield Check.of(told("device"), error)


def _providers_of(device: str) -> Iterator[Check]:
    """A check for each: can build and run, can build alone, or cannot build. None at all fails."""
    usual: dict[str, Target] = {}
    for target in list_targets():
        if target.device == device:
            usual.setdefault(target.provider, target)
    none = not any(target.can_build for target in usual.values())
    for name, target in usual.items():
        short = name.removesuffix("ExecutionProvider")
        precisions = ", ".join(PROVIDERS[name].precisions)
        if target.can_run:
            yield Check(
                short, OK, told("models can be built and run here: {precisions}", precisions=precisions)
            )
        elif target.can_build:
            yield Check(short, WARN, target.why, target.fix)
        else:
            yield Check(short, FAIL if none else SKIP, target.why, target.fix)
