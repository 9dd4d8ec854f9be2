"""The settings that follow the model and the data: what they are for this lab."""

from __future__ import annotations

from contextlib import suppress

from core.check.lengths import LARGEST_BYTES
from core.check.types import Subject
from core.data import resolve_data_file
from core.data.records import count, remembered
from core.errors import LabError
from core.events import Reporter
from core.model.auto import Facts, Resolved, facts_at_hand, resolve
from core.model.folder import ModelFacts


def resolved(subject: Subject, model: ModelFacts | None) -> Resolved:
    """The recipe with every "auto" resolved, as far as it can be told at once.

    Args:
        model: what is known of a model that is not on this machine.
    """
    recipe, lab = subject.recipe, subject.lab
    facts = facts_at_hand(lab, recipe)
    if facts is None and model is not None:
        facts = Facts.of_model(model)
    records = remembered(recipe, lab.root)
    if records is None:
        with suppress(LabError, OSError):  # the data check tells what is wrong
            path = resolve_data_file(recipe, lab.root)
            if path.is_file() and path.stat().st_size <= LARGEST_BYTES:
                records = count(recipe, lab.root, Reporter(), unpack=False)
    return resolve(recipe, facts, records)
