"""How long the training records are, in tokens: what the estimates of memory and time are made from."""

from __future__ import annotations

from core.check.needs import Lengths
from core.check.types import Subject
from core.data import Split, load_examples, resolve_data_file
from core.data.model_text import read_model_text
from core.data.tokens import TokenCounter
from core.errors import LabError
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
    rows = [example.segments for example in examples.train[:COUNTED]]
    counts = [min(limit, count) for count in TokenCounter(text).count(rows)]
    if not counts:
        return None
    return Lengths(len(examples.train), sum(counts) / len(counts), max(counts))


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
