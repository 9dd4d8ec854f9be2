"""The data file: is it there, does it read, does the template fit its first rows."""

from __future__ import annotations

from collections.abc import Iterator

from core.check.settings import small_split
from core.check.types import FAIL, OK, Check, Subject
from core.data import resolve_data_file
from core.errors import Do, LabError
from core.files import folder_bytes
from core.formats import human_bytes
from core.language import told


def data(subject: Subject) -> Iterator[Check]:
    """The recipe's data file is there and, if it is not large, can be trained on. `olivepress data` tells more."""
    try:
        path = resolve_data_file(subject.recipe, subject.lab.root)
    except LabError as error:
        yield Check.of(told("data"), error)
        return
    size = folder_bytes(path) if path.is_dir() else path.stat().st_size
    if size == 0:
        yield Check(
            told("data"),
            FAIL,
            told("{path} is empty.", path=path),
            told("Put one JSON object on each line, with prompt and response."),
        )
        return
    try:
        small_split(subject)
    except LabError as error:
        yield Check.of(told("data"), error)
        return
    yield Check(
        told("data"),
        OK,
        told("{path}, {size}", path=path, size=human_bytes(size)),
        told("Look closer with: {data}", data=Do.of("data", subject.lab.root)),
    )
