"""How long the training records are, in tokens: what the estimates of memory and time are made from."""

from __future__ import annotations

from core.check.model import local_path
from core.check.needs import Lengths
from core.check.types import Subject
from core.data import load_examples, resolve_data_file
from core.errors import LabError
from core.resources import REHEARSAL, rehearsal_model
from core.sources import kind_of

LARGEST_BYTES = 8 * 2**20
"""Files larger than this are not read for an estimate: their longest row is taken to be the recipe's limit."""

COUNTED = 2000
"""Records that are counted; more tell no more."""


def record_lengths(subject: Subject) -> Lengths | None:
    """The records' lengths by the model's own tokenizer; None where they cannot be told at once."""
    kind = kind_of(subject.recipe.model.source, subject.lab.root)
    if kind not in ("folder", "rehearsal"):
        return None
    model = rehearsal_model() if subject.recipe.model.source == REHEARSAL else local_path(subject)
    tokenizer_file = model / "tokenizer.json"
    try:
        path = resolve_data_file(subject.recipe, subject.lab.root)
        if path.is_dir() or path.stat().st_size > LARGEST_BYTES or not tokenizer_file.is_file():
            return None
        template = model / "chat_template.jinja"
        split = load_examples(
            subject.recipe,
            subject.lab.root,
            chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
        )
    except (LabError, OSError):
        return None  # the data check tells what is wrong
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    texts = ["".join(segment.text for segment in example.segments) for example in split.train[:COUNTED]]
    limit = subject.recipe.data.max_seq_len
    counts = [min(limit, len(encoded.ids)) for encoded in tokenizer.encode_batch(texts)]
    if not counts:
        return None
    return Lengths(len(split.train), sum(counts) / len(counts), max(counts))
