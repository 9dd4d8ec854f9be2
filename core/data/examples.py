"""The training examples of a recipe: read, mapped, put into the template, and split."""

from __future__ import annotations

from pathlib import Path

from core.data.readers import iter_rows
from core.data.split import assign
from core.data.template import ChatTemplate, Template, TemplateError
from core.data.types import Example, Message, Segment, Split
from core.errors import RequestError
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


def load_examples(
    recipe: Recipe, lab_root: Path, *, chat_template: str | None = None, eos: str = "", bos: str = ""
) -> Split:
    """Read all records of a recipe as examples, training and held-out ones apart.

    Args:
        chat_template: the model's own template (jinja2 text), needed where `data.chat_template` is true.
        eos: the end-of-text token, put after an answer whose template has no end marker.
        bos: the start-of-text token, for chat templates that name it.

    Raises:
        RequestError: no file, a broken or unusable row (with file and line), or a template that
            names a field no row has.
    """
    path = resolve_data_file(recipe, lab_root)
    chat = None
    if recipe.data.chat_template:
        if not chat_template:
            raise RequestError(
                "The model has no chat template.",
                "data.chat_template is true, and the model's tokenizer files hold no template.",
                "Set data.chat_template = false and write data.template.",
            )
        chat = ChatTemplate(chat_template, eos=eos, bos=bos)
    try:
        template = Template.parse(recipe.data.template)
    except TemplateError as error:
        raise RequestError("The template cannot be used.", f"data.template: {error}.") from None
    answer = template.answer_field(recipe.data.response_field)
    examples: list[Example] = []
    for row in iter_rows(path):
        where = f"{path}, line {row.line}"
        if row.problem is not None or row.fields is None:
            detail = row.problem.message if row.problem else "unreadable"
            raise RequestError(
                "A data row cannot be read.", f"{where}: {detail}.", "Correct or remove the line."
            )
        values = {}
        for name in template.fields:
            value = row.fields.get(name)
            if value is None:
                raise RequestError(
                    "A data row lacks a field of the template.",
                    f"{where}: it has no {name!r}; its fields are {', '.join(map(repr, row.fields))}.",
                    "Correct the row, or data.template.",
                )
            if not isinstance(value, str):
                raise RequestError(
                    "A data row has a value of the wrong type.",
                    f"{where}: {name!r} is {type(value).__name__}, not text.",
                    "Write the value in quotes.",
                )
            if not value.strip():
                raise RequestError(
                    "A data row has an empty field.",
                    f"{where}: {name!r} is empty.",
                    "Fill it in or remove the row.",
                )
            values[name] = value
        asked = "\n".join(values[name] for name in template.fields if name != answer)
        messages = (Message("user", asked), Message("assistant", values[answer])) if answer else ()
        try:
            segments = (
                chat.segments(messages) if chat and messages else template.segments(values, answer, eos)
            )
        except TemplateError as error:
            raise RequestError("A data row does not fit the template.", f"{where}: {error}.") from None
        if not recipe.data.answer_only:
            segments = (Segment("".join(segment.text for segment in segments), True),)
        examples.append(Example(row.file, row.line, messages, segments))
    if not examples:
        raise RequestError(
            "The data file has no records.", f"{path}", "Give a file with at least one record."
        )
    held_out = assign([example.prompt for example in examples], recipe.data.eval_fraction, recipe.data.seed)
    return Split(
        [example for example, out in zip(examples, held_out, strict=True) if not out],
        [example for example, out in zip(examples, held_out, strict=True) if out],
    )
