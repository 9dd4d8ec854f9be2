"""What follows the model and the data: the settings that are "auto", and how long the training records are in tokens.

The estimates of memory and time are made from both.
"""

from __future__ import annotations

from contextlib import suppress

from core.check.needs import Lengths
from core.check.types import Subject
from core.data import Split, load_examples, resolve_data_file
from core.data.model_text import read_model_text
from core.data.records import count, remembered
from core.data.tokens import TokenCounter
from core.errors import LabError
from core.events import Reporter
from core.model.auto import Facts, Resolved, facts_at_hand, resolve
from core.model.folder import ModelFacts
from core.options import AUTO

LARGEST_BYTES = 8 * 2**20
"""Files larger than this are not read for an estimate: their longest row is taken to be the recipe's limit."""

COUNTED = 2000
"""Records that are counted; more tell no more."""


def record_lengths(subject: Subject, limit: int) -> Lengths | None:
    """The records' lengths by the model's own tokenizer, of a GGUF file by bytes until its own is unpacked.

    None where they cannot be told at once.
    """
    try:
        examples = small_split(subject)
    except (LabError, OSError):
        return None  # the data check tells what is wrong
    text = read_model_text(subject.recipe, subject.lab.root, unpack=False)
    if examples is None or (text.tokenizer_file is None and not text.size):
        return None
    rows = examples.train[:COUNTED]
    texts = [segments for row in rows for segments in (row.segments, row.rejected) if segments]
    counts = [min(limit, count) for count in TokenCounter(text).count(texts)]
    if not counts:
        return None
    return Lengths(len(examples.train), sum(counts) / len(rows), max(counts))


def small_split(subject: Subject) -> Split | None:
    """The recipe's records as training would see them; None for a folder or a large file.

    Raises:
        RequestError: they cannot be used, with file and line.
    """
    path = resolve_data_file(subject.recipe, subject.lab.root)
    if path.is_dir() or path.stat().st_size > LARGEST_BYTES:
        return None
    text = read_model_text(subject.recipe, subject.lab.root, unpack=False)
    if subject.recipe.data.template == AUTO and not text.size:
        return None  # the template comes with a model that is not here yet
    return load_examples(subject.recipe, subject.lab.root, text=text)


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
