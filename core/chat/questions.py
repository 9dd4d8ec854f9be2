"""Questions to begin a chat with: some of those that were held out, which the model has not learnt."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from core.data.examples import resolve_data_file, sample_fields
from core.data.plan import Record, make_plan
from core.data.reader import RowReader
from core.data.split import HeldOut
from core.model.text import read_text

if TYPE_CHECKING:
    from core.lab import Lab

LOOKED_AT = 5000
"""Rows that are looked at; in a file of millions there is no need to see them all."""
LONGEST = 300
"""Characters of a question that is offered."""


def first_questions(lab: Lab, count: int = 3) -> list[str]:
    """The first held-out questions that can be asked by themselves, each once; fewer, or none, where there are no more.

    What is held out is known from the lab's last split; nothing is split anew.

    Raises:
        LabError: the data or the model's text files cannot be read.
    """
    recipe, root = lab.recipe, lab.folder.root
    held_out = HeldOut(root, recipe)
    path = resolve_data_file(recipe, root)
    reader = RowReader(path)
    by_files = any(each.held_out for each in reader.files)
    if not by_files and not len(held_out):
        return []
    plan = None
    found: dict[str, None] = {}
    for row in islice(reader, LOOKED_AT):
        if row.fields is None or (by_files and not row.held_out):
            continue
        plan = plan or make_plan(recipe, sample_fields(path), read_text(lab.folder.onnx_dir))
        record = plan.convert(row.fields)
        if isinstance(record, Record) and record.learnt and (by_files or held_out.holds(record.prompt)):
            question = _alone(record)
            if question:
                found[question] = None
        if len(found) == count:
            break
    return list(found)


def _alone(record: Record) -> str:
    """What a record asks, if that is all it says before the answer and is short; else nothing."""
    said = [each for each in record.messages if each.role != "system"]
    if [each.role for each in said] != ["user", "assistant"] or record.tools:
        return ""
    question = said[0].content.strip()
    return question if len(question) <= LONGEST else ""
