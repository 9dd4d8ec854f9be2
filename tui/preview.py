"""Records as the data screen shows them: rows as they are, and as the model will see them.

Reading and the template are done by :mod:`core.data`, in a thread; nothing heavy is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import LabError
from core.recipe import Recipe

MOST_ROWS = 2_000
MOST_TEXT = 20_000


@dataclass(frozen=True)
class PreviewRow:
    """A record.

    Attributes:
        line: where it stands in its file, from 1.
        brief: its fields on one line.
        whole: its fields, one below the other, cut at 20 000 characters.
        pieces: the template applied to it: text, and whether it is learnt.
        problem: why it cannot be used; empty when it can.
    """

    file: str
    line: int
    brief: str
    whole: str
    pieces: tuple[tuple[str, bool], ...]
    problem: str = ""


@dataclass(frozen=True)
class Preview:
    """The first records of a file, and what they have in common.

    Attributes:
        path: the file, None if there is none.
        more: whether the file goes on after these rows.
        special: the model's special tokens, longest first.
        error: title, detail and hint when nothing can be shown.
    """

    path: Path | None = None
    rows: tuple[PreviewRow, ...] = ()
    fields: tuple[str, ...] = ()
    more: bool = False
    special: tuple[str, ...] = ()
    error: tuple[str, str, str] | None = None


def look(recipe: Recipe, root: Path, most: int = MOST_ROWS) -> Preview:
    """The first ``most`` records under this recipe. Never raises for what a file or a template may hold."""
    from core.data.examples import resolve_data_file
    from core.data.model_text import read_model_text
    from core.data.plan import make_plan
    from core.data.readers import RowReader

    path: Path | None = None
    try:
        path = resolve_data_file(recipe, root)
        rows: list[Any] = []
        more = False
        for row in RowReader(path):
            if len(rows) >= most:
                more = True
                break
            rows.append(row)
        fields = tuple(dict.fromkeys(str(name) for row in rows[:100] for name in (row.fields or {})))
        model = read_model_text(recipe, root)
        error: tuple[str, str, str] | None = None
        plan = None
        try:
            plan = make_plan(
                recipe, [row.fields for row in rows if row.fields is not None], model.chat, eos=model.eos
            )
        except LabError as problem:
            error = (problem.title, problem.detail, problem.hint)
        shown = tuple(_row(row, plan) for row in rows)
        return Preview(path, shown, fields, more, model.special, error)
    except LabError as problem:
        return Preview(path, error=(problem.title, problem.detail, problem.hint))
    except OSError as problem:
        return Preview(path, error=("The data file cannot be read.", f"{path}: {problem.strerror}", ""))


def _row(row: Any, plan: Any) -> PreviewRow:
    from core.data.template import TemplateError

    problem = ""
    pieces: tuple[tuple[str, bool], ...] = ()
    if row.problem is not None:
        problem = f"{row.problem.message}; {row.problem.fix}"
    elif plan is not None:
        record = plan.convert(row.fields)
        if isinstance(record, list):
            problem = "; ".join(f"{each.message}; {each.fix}" for each in record)
        else:
            try:
                pieces = tuple((part.text[:MOST_TEXT], part.trained) for part in plan.segments(record))
            except TemplateError as error:
                problem = str(error)
    fields = row.fields or {}
    brief = "  ".join(_short(value) for value in list(fields.values())[:4])
    whole = "\n".join(f"{name}: {_text(value)}" for name, value in fields.items())
    return PreviewRow(row.file, row.line, brief, whole[:MOST_TEXT], pieces, problem)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _short(value: Any) -> str:
    return _text(value)[:160]
