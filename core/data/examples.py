"""The training examples of a recipe: read, mapped, put into the template, and split."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from core.data.plan import SAMPLE, Plan, make_plan
from core.data.readers import RowReader
from core.data.split import Splitter, split_rows
from core.data.template import ChatTemplate, TemplateError
from core.data.types import Example, Problem, Row, Split
from core.errors import RequestError
from core.events import Reporter
from core.recipe import SAMPLE_FILE, Recipe
from core.resources import sample_data


def resolve_data_file(recipe: Recipe, lab_root: Path) -> Path:
    """The file or folder with the records: relative to the lab, or the bundled sample by its name.

    Raises:
        RequestError: there is no such file.
    """
    named = Path(recipe.data.file).expanduser()
    path = named if named.is_absolute() else lab_root / named
    if path.exists():
        return path
    if recipe.data.file == SAMPLE_FILE and sample_data().exists():
        return sample_data()
    raise RequestError(
        "The data file does not exist.",
        f"data.file = {recipe.data.file!r} was looked for at {path}.",
        "Put the file there, or set data.file in lab.toml.",
    )


def sample_fields(path: Path) -> list[dict[str, object]]:
    """The fields of the first readable rows of a file or folder."""
    readable = (row.fields for row in RowReader(path) if row.fields is not None)
    return list(islice(readable, SAMPLE))


def chat_of(text: str | None, eos: str = "", bos: str = "") -> ChatTemplate | None:
    """A chat template from its text, None where there is none."""
    return ChatTemplate(text, eos=eos, bos=bos) if text else None


def load_examples(
    recipe: Recipe,
    lab_root: Path,
    *,
    chat_template: str | None = None,
    eos: str = "",
    bos: str = "",
    report: Reporter | None = None,
) -> Split:
    """Read all records of a recipe as examples, training and held-out ones apart.

    The text of a chat template may begin with the model's own start token: tokenize it without adding
    special tokens then.

    Args:
        chat_template: the model's own template (jinja2 text), needed where `data.chat_template` is true.
        eos: the end-of-text token, put after an answer whose template has no end marker.
        bos: the start-of-text token, for chat templates that name it.
        report: told of progress, and asked whether to stop.

    Raises:
        RequestError: no file, a broken or unusable row (with file and line), a template that names a
            field no row has, or fields in which question and answer cannot be told apart.
        Cancelled: `report` says so.
    """
    report = report or Reporter()
    path = resolve_data_file(recipe, lab_root)
    chat = chat_of(chat_template, eos, bos)
    plan: Plan | None = None
    examples: list[Example] = []
    splitter = Splitter()
    reader = RowReader(path)
    in_files = any(each.held_out for each in reader.files)
    for row in reader:
        if row.problem is not None or row.fields is None:
            raise _refused(path, row, row.problem)
        if plan is None:
            plan = make_plan(recipe, sample_fields(path), chat, eos=eos)
        example = make_example(plan, path, row)
        examples.append(example)
        splitter.add(example.prompt, held_out=row.held_out if in_files else None)
        if len(examples) % 256 == 0:
            report.check_cancelled()
            report.progress("reading the records", reader.done_bytes, reader.total_bytes)
    if not examples:
        raise RequestError("The data file has no records.", f"{path} is empty.", "Give a file with records.")
    held_out = split_rows(splitter, recipe, lab_root)
    return Split(
        [example for example, out in zip(examples, held_out, strict=True) if not out],
        [example for example, out in zip(examples, held_out, strict=True) if out],
    )


def make_example(plan: Plan, path: Path, row: Row) -> Example:
    """One row as an example.

    Raises:
        RequestError: the row is unusable; file and line are named.
    """
    record = plan.convert(row.fields or {})
    if isinstance(record, list):
        raise _refused(path, row, record[0])
    try:
        segments = plan.segments(record)
    except TemplateError as error:
        problem = Problem("template-error", str(error), "correct the row, or set data.chat_template = false")
        raise _refused(path, row, problem) from None
    return Example(row.file, row.line, record.messages, segments)


def _refused(path: Path, row: Row, problem: Problem | None) -> RequestError:
    problem = problem or Problem("unreadable-file", "it cannot be read", "remove it")
    where = path / row.file if path.is_dir() else path
    fix = problem.fix[:1].upper() + problem.fix[1:]
    hint = f"{fix}. `olivepress data` lists all such rows; with --clean OUT it writes a file without them."
    return RequestError("A data row cannot be used.", f"{where}, line {row.line}: {problem.message}.", hint)
