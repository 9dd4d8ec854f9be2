"""How many records there are and how long they are: counted once, and remembered in the lab.

Settings that follow the data (:mod:`core.model.auto`) need no more than that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.data.examples import load_examples, resolve_data_file
from core.data.model_text import read_model_text
from core.data.tokens import TokenCounter
from core.errors import LabError
from core.events import Reporter
from core.files import folder_stamp, read_if_whole, write_json
from core.folder import LabFolder
from core.model.auto import RecordCount, Resolved, facts_at_hand, resolve
from core.recipe import Recipe

MEASURED = 2000
"""Training rows whose tokens are counted for the mean length; more tell no more."""


def _key(recipe: Recipe, lab_root: Path) -> dict[str, Any]:
    """What the figures depend on. Raises RequestError where there is no data file."""
    path = resolve_data_file(recipe, lab_root)
    stat = path.stat()
    stamp: Any = folder_stamp(path) if path.is_dir() else [stat.st_size, stat.st_mtime_ns]
    return {
        "stamp": stamp,
        "data": dataclasses.asdict(recipe.data),
        "model": recipe.model.source,
        "objective": recipe.finetune.objective,
    }


def remembered(recipe: Recipe, lab_root: Path) -> RecordCount | None:
    """The figures of the recipe's data, if they were taken since it was changed last."""
    found = read_if_whole(LabFolder(lab_root).records_path)
    try:
        if found["key"] == _key(recipe, lab_root):
            return RecordCount(int(found["rows"]), float(found["tokens"]), int(found["pairs"]))
    except (KeyError, TypeError, ValueError, LabError, OSError):
        pass
    return None


def remember(recipe: Recipe, lab_root: Path, records: RecordCount) -> None:
    """Keep the figures in the lab, if there is one that can be written."""
    if not LabFolder(lab_root).recipe_path.is_file():
        return
    try:
        path = LabFolder(lab_root).records_path
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"key": _key(recipe, lab_root), **dataclasses.asdict(records)})
    except (LabError, OSError):
        pass  # they are counted again then


def count(recipe: Recipe, lab_root: Path, report: Reporter, *, unpack: bool = True) -> RecordCount:
    """The figures of the recipe's data: those remembered, or from reading all of it.

    Args:
        unpack: as :func:`~core.data.model_text.read_model_text` has it; without its tokenizer the tokens
            are estimated.

    Raises:
        LabError: the records cannot be used, as :func:`~core.data.examples.load_examples` says.
    """
    known = remembered(recipe, lab_root)
    if known is not None:
        return known
    text = read_model_text(recipe, lab_root, unpack=unpack)
    split = load_examples(recipe, lab_root, text=text, report=report)
    counter = TokenCounter(text)
    first = split.train[:MEASURED]
    lengths = counter.count([(*example.segments, *example.rejected) for example in first])
    pairs = sum(bool(example.rejected) for example in (*split.train, *split.eval))
    records = of_lengths(len(split.train), lengths, pairs)
    if not counter.estimated:
        remember(recipe, lab_root, records)
    return records


def of_lengths(rows: int, lengths: Sequence[int], pairs: int = 0) -> RecordCount:
    """The figures from the number of training rows, and the lengths of the first :data:`MEASURED` of them.

    Args:
        pairs: how many of all rows have a rejected answer.
    """
    first = lengths[:MEASURED]
    return RecordCount(rows, round(sum(map(int, first)) / len(first), 1) if len(first) else 0.0, pairs)


def resolve_at_hand(lab: LabFolder, recipe: Recipe) -> Resolved:
    """A recipe resolved by what is known at once: for showing it."""
    return resolve(recipe, facts_at_hand(lab, recipe), remembered(recipe, lab.root))
