"""Optuna as the memory of a search, and as what tells early that a try is not worth going on with.

Olive has a search of its own, on Optuna too, but each of its tries is a whole run of the passes: there is no
calibration that tries share, no limit that is known before a try, and none is stopped half way. Optuna alone, asked
and told by us, is less code than teaching Olive these three.

A study lies in a journal in the lab, under the digest of all that its figures depend on. A try that was measured
there is not measured again: neither after a stop, nor in a search with other limits.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.events import Reporter
from core.files import explained
from core.text import first_line

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial


def digest_of(prints: Mapping[str, Any]) -> str:
    """One short word for all that a study's figures depend on."""
    return hashlib.sha256(json.dumps(prints, sort_keys=True, default=str).encode()).hexdigest()[:24]


def open_journal(path: Path, report: Reporter) -> JournalStorage:
    """The journal in a file, a new one where there is none. One that cannot be read is set aside.

    Only the lab's one search has it open, so a lock that is found there was left by a process that was killed.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{path}.lock").unlink(missing_ok=True)
        _drop_half_line(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            storage.get_all_studies()
        except Exception as error:  # whatever stands there
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            report.log(
                f"What earlier searches measured cannot be read ({first_line(error)}): it lies in {aside}, and all is "
                "measured anew.",
                "warning",
            )
            storage = JournalStorage(JournalFileBackend(str(path)))
    return storage


def _drop_half_line(path: Path) -> None:
    """Cut off what a killed process had begun to write: the next line would be put behind it."""
    if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        with path.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)


def open_study(
    storage: JournalStorage, name: str, pruner: BasePruner | None = None, sampler: BaseSampler | None = None
) -> Study:
    """The study of that name, in which the smallest value is the best."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize",
            pruner=pruner or optuna.pruners.NopPruner(),
            sampler=sampler or optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )


def halving(first: int, factor: int = 2) -> BasePruner:
    """Successive halving: a try goes on beyond ``first`` steps, and twice that, while it is among the better part."""
    import optuna

    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)


def close_open(study: Study) -> list[FrozenTrial]:
    """End the tries that a killed process left running; they are returned, with what they had measured."""
    from optuna.trial import TrialState

    left: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
    return left
