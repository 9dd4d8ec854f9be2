"""How long the training records are, in tokens: what the estimates of memory and time are made from."""

from __future__ import annotations

from core.check.needs import Lengths
from core.check.types import Subject
from core.data import Split, load_examples, resolve_data_file
from core.data.model_text import model_folder, read_model_text
from core.errors import LabError

LARGEST_BYTES = 8 * 2**20
"""Files larger than this are not read for an estimate: their longest row is taken to be the recipe's limit."""

COUNTED = 2000
"""Records that are counted; more tell no more."""


def record_lengths(subject: Subject) -> Lengths | None:
    """The records' lengths by the model's own tokenizer; None where they cannot be told at once."""
    try:
        examples = small_split(subject)
    except (LabError, OSError):
        return None  # the data check tells what is wrong
    folder = model_folder(subject.recipe, subject.lab.root, unpack=False)
    if examples is None or folder is None or not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["".join(segment.text for segment in example.segments) for example in examples.train[:COUNTED]]
    limit = subject.recipe.data.max_seq_len
    counts = [min(limit, len(encoded.ids)) for encoded in tokenizer.encode_batch(texts)]
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
    if (
        subject.recipe.data.chat_template
        and model_folder(subject.recipe, subject.lab.root, unpack=False) is None
    ):
        return None  # the template comes with a model that is not here yet
    text = read_model_text(subject.recipe, subject.lab.root, unpack=False)
    return load_examples(
        subject.recipe,
        subject.lab.root,
        chat_template=text.template or None,
        eos=text.eos,
        bos=text.bos,
    )
