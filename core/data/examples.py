"""The training examples of a recipe: read, mapped, put into the template, and split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from core.data.model_text import read_model_text
from core.data.plan import SAMPLE, Plan, Record, make_plan
from core.data.reader import RowReader
from core.data.split import Splitter, split_rows
from core.data.types import Example, Problem, Row, Split
from core.errors import Do, RequestError, Use
from core.events import Reporter
from core.language import told, words_of
from core.model.template import TemplateError
from core.model.text import ModelText
from core.recipe import Recipe
from core.resources import bundled_data

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def resolve_data_file(recipe: Recipe, lab_root: Path) -> Path:
    """The file or folder with the records: relative to the lab, or the bundled sample by its name.

    Raises:
        RequestError: there is no such file.
    """
    named = Path(recipe.data.file).expanduser()
    path = named if named.is_absolute() else lab_root / named
    try:
        if path.is_file() or path.is_dir():
            return path
        if path.exists():
            raise RequestError(
                told("The data file is no file."),
                told("{path} is a device or a pipe.", path=path),
                told("Name a file or a folder."),
                code="data.unreadable",
            )
    except (OSError, ValueError) as error:
        raise RequestError(
            told("The data file cannot be read."),
            told("data.file = {file}: {error}.", file=repr(recipe.data.file), error=error),
            code="data.unreadable",
        ) from None
    bundled = bundled_data(recipe.data.file)
    if bundled is not None:
        return bundled
    raise RequestError(
        told("The data file does not exist."),
        told("data.file = {file} was looked for at {path}.", file=repr(recipe.data.file), path=path),
        told("Put the file there, or set {setting}.", setting=Use("data.file")),
        code="data.missing",
    )


def sample_fields(path: Path) -> list[dict[str, object]]:
    """The fields of the first readable rows of a file or folder."""
    readable = (row.fields for row in RowReader(path) if row.fields is not None)
    return list(islice(readable, SAMPLE))


def first_problem(path: Path) -> Problem | None:
    """What is wrong with the first row of a file or folder; where there is none, why that is."""
    reader = RowReader(path)
    first = next(iter(reader), None)
    return first.problem if first is not None else no_rows(reader.total_bytes)


def no_rows(bytes: int) -> Problem:
    """That a file of so many bytes holds no record."""
    if not bytes:
        return Problem("no-rows", told("the file is empty"), told("give a file with records"))
    what = told("the file has no records: blank lines, an empty list or the names of columns are all")
    return Problem("no-rows", what, told("give a file with records"))


def load_examples(
    recipe: Recipe,
    lab_root: Path,
    *,
    text: ModelText | None = None,
    chat_template: str | None = None,
    eos: str = "",
    bos: str = "",
    report: Reporter | None = None,
    limit: int | None = None,
    eval_limit: int | None = None,
) -> Split:
    """Read all records of a recipe as examples, training and held-out ones apart.

    Args:
        text: the text side of the model, where its folder was read already; else that of the recipe's
            model, as far as it is on this machine.
        chat_template, eos, bos: used in place of the model's own chat template (jinja2), end and start token.
        report: told of progress, and asked whether to stop.
        limit: at most so many training examples, drawn by `data.seed`. All rows are still read and
            split, but only those drawn are kept in memory: for files of millions of rows.
        eval_limit: the same for held-out examples.

    Raises:
        RequestError: no file, a broken or unusable row (with file and line), a template that names a
            field no row has, or fields in which question and answer cannot be told apart.
        Cancelled: `report` says so.
    """
    report = report or Reporter()
    path = resolve_data_file(recipe, lab_root)
    text = text or read_model_text(recipe, lab_root)
    text = replace(text, template=chat_template or text.template, eos=eos or text.eos, bos=bos or text.bos)
    splitter = Splitter()
    examples: list[Example] = []
    limited = limit is not None or eval_limit is not None
    for plan, row, record, in_files in _records(path, recipe, text, report):
        splitter.add(record.prompt, held_out=row.held_out if in_files else None)
        if not limited:
            examples.append(_example(plan, path, row, record))
    if not len(splitter):
        raise RequestError(
            told("The data file has no records to learn from."),
            told("{path} is empty, or every row in it says that it is not to be learnt.", path=path),
            told(
                "Give a file with records; {command} says what is in this one.",
                command=Do.of("data", lab_root),
            ),
            code="data.no-rows",
        )
    held_out = split_rows(splitter, recipe, lab_root)
    if limited:
        drawn = _drawn(held_out, limit, eval_limit, recipe.data.seed)
        every = enumerate(_records(path, recipe, text, report))
        examples = [_example(plan, path, row, record) for at, (plan, row, record, _) in every if drawn[at]]
        held_out = held_out[drawn]
    return Split(
        [example for example, out in zip(examples, held_out, strict=True) if not out],
        [example for example, out in zip(examples, held_out, strict=True) if out],
    )


def _records(
    path: Path, recipe: Recipe, text: ModelText, report: Reporter
) -> Iterator[tuple[Plan, Row, Record, bool]]:
    """Every row with its record, the plan, and whether files decide what is held out."""
    plan: Plan | None = None
    reader = RowReader(path)
    in_files = any(each.held_out for each in reader.files)
    for number, row in enumerate(reader):
        if row.problem is not None or row.fields is None:
            raise _refused(path, row, row.problem)
        if plan is None:
            plan = make_plan(recipe, sample_fields(path), text)
        record = plan.convert(row.fields)
        if isinstance(record, list):
            raise _refused(path, row, record[0])
        if not record.learnt:
            continue
        if number % 256 == 255:
            report.check_cancelled()
            report.progress(told("reading the records"), reader.done_bytes, reader.total_bytes)
        yield plan, row, record, in_files


def _drawn(
    held_out: NDArray[np.bool_], limit: int | None, eval_limit: int | None, seed: int
) -> NDArray[np.bool_]:
    """Which rows are kept under the limits."""
    import numpy as np

    keep = np.ones(len(held_out), dtype=bool)
    for side, most in (False, limit), (True, eval_limit):
        rows = np.flatnonzero(held_out == side)
        if most is not None and len(rows) > most:
            lot = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
            keep[rows[lot[most:]]] = False
    return keep


def _example(plan: Plan, path: Path, row: Row, record: Record) -> Example:
    try:
        segments, rejected = plan.segments(record), plan.rejected_segments(record)
    except TemplateError as error:
        raise _refused(path, row, Problem("template-error", words_of(error), error.fix)) from None
    return Example(row.file, row.line, record.messages, segments, record.tools, rejected, record.good)


def _refused(path: Path, row: Row, problem: Problem | None) -> RequestError:
    problem = problem or Problem("unreadable-file", told("it cannot be read"), told("remove it"))
    where = path / row.file if path.is_dir() else path
    hint = told(
        "{fix!c}. {command} lists all such rows, and whether a file can be written without them.",
        fix=problem.fix,
        command=Do.of("data", "DIR"),
    )
    number = told(" (row {number})", number=row.number) if row.number > row.line else ""
    detail = told(
        "{where}, line {line}{number}: {message}.",
        where=where,
        line=row.line,
        number=number,
        message=problem.message,
    )
    return RequestError(told("A data row cannot be used."), detail, hint, code="data.row")
