"""What of the records does not reach the model: counted, and judged by whether it changes their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.data import names
from core.data.columns import is_about, is_rejected, look, may_be_verdict, verdicts, words_of
from core.data.messages import there
from core.data.names import plain_name
from core.data.plan import Plan, Record
from core.data.types import Finding, Row, Unused
from core.formats import counted, listed
from core.language import told, told_n

_MEANINGFUL = frozenset(
    (
        *names.EXTRA,
        *names.PASSAGES,
        *names.MEDIA,
        *names.SYSTEM,
        *names.HISTORY,
        *names.TOOLS,
        *names.REASONING,
        *names.WEIGHT,
        *names.CHOICES,
        *names.CLEAR_PROMPT,
        *names.CLEAR_RESPONSE,
        *names.CHOSEN,
        *names.MESSAGES,
    )
)
_KEYS = frozenset(
    ("reasoning_content", "thoughts", "train_detail", "images", "image", "audio", "content", "value", "text")
)
_ANSWERS = frozenset((*names.CLEAR_RESPONSE, *(f"{name}s" for name in names.CLEAR_RESPONSE)))
_COMPARED = 50
_MOST = 1_000
"""Different names that are counted; of a file in which every row has names of its own the first ones tell enough."""


@dataclass
class NotUsed:
    """Something that does not reach the model.

    Attributes:
        what, name: as in :class:`~core.data.types.Unused`.
        rows: in how many rows it is; 0 for a list of a file and for a file.
        file, line: where it is first.
        matters: whether the records may mean something else without it.
        fix: what to do, for a file.
    """

    what: str
    name: str
    rows: int
    file: str
    line: int
    matters: bool = False
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, as `olivepress data --json` prints it."""
        return {name: value for name, value in asdict(self).items() if name != "fix"}


def unused_words(found: Sequence[Mapping[str, Any]], rows: int) -> str:
    """What is not used, on one line; "" where all is used. `rows` is how many there are."""
    columns = [_counted(repr(each["name"]), each["rows"], rows) for each in found if each["what"] == "column"]
    keys = [repr(each["name"]) for each in found if each["what"] == "key"]
    turns = [
        _counted(told("the {name}'s last turn", name=each["name"]), each["rows"], 0)
        for each in found
        if each["what"] == "turn"
    ]
    lists = [
        told("the list {name!r}", name=each["name"])
        if each["what"] == "list"
        else told("the file {name!r}", name=each["name"])
        for each in found
        if each["what"] in ("list", "file")
    ]
    said = [*([listed(columns)] if columns else []), *turns, *lists]
    if keys:
        said.append(told("in turns: {names}", names=", ".join(keys)))
    return listed(said, "; ") if said else ""


def _counted(name: str, count: int, rows: int) -> str:
    if count == rows:
        return name
    return told("{name} ({rows})", name=name, rows=counted(count, "row"))


class UnusedCounter:
    """Counts what does not reach the model, row by row."""

    def __init__(self, plan: Plan, *, labels: bool = True) -> None:
        """`labels`: whether it is still to be said which columns may tell good rows from bad ones."""
        self._plan = plan
        self._labels = labels and not plan.mapping.label
        self._used = plan.used
        self.found: dict[Unused, NotUsed] = {}

    def add(self, row: Row, record: Record) -> None:
        """Count one row that can be used."""
        for name, value in (row.fields or {}).items():
            if name not in self._used and there(value):
                self._count(Unused("column", name), row)
        for each in dict.fromkeys((*record.unused, *self._unshown(record))):
            self._count(each, row)

    def _unshown(self, record: Record) -> Iterable[Unused]:
        """What its messages have and the template does not write."""
        chat = self._plan.chat
        for key, what in (("reasoning_content", "reasoning"), ("name", "name")):
            if any(getattr(message, what) for message in record.messages) and (
                chat is None or not chat.shows(record.messages, record.tools, what)
            ):
                yield Unused("key", key)

    def add_source(self, what: str, file: str, name: str, fix: str = "") -> None:
        """Note a `list` of a JSON file, or a `file` of a folder, that is not read, and what to do."""
        self.found.setdefault(Unused(what, name), NotUsed(what, name, 0, file, 1, True, fix))

    def _count(self, each: Unused, row: Row) -> None:
        known = self.found.get(each)
        if known is None:
            if len(self.found) >= _MOST:
                return
            known = self.found[each] = NotUsed(each.what, each.name, 0, row.file, row.line)
        known.rows += 1

    def judge(self, sample: Sequence[Mapping[str, Any]]) -> list[Finding]:
        """Settle what matters, and say so.

        Args:
            sample: the fields of some rows.
        """
        records = [self._plan.convert(fields) for fields in sample[:_COMPARED]]
        pairs = [
            (fields, record)
            for fields, record in zip(sample, records, strict=False)
            if isinstance(record, Record)
        ]
        findings = []
        for each in self.found.values():
            message, fix = self._meaning(each, sample, pairs)
            each.matters = bool(message)
            if message:
                findings.append(Finding(each.file, each.line, "not-used", message, fix))
        return findings

    def _meaning(
        self, each: NotUsed, sample: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[Any, Record]]
    ) -> tuple[str, str]:
        """What is lost with it, and what to do; "" where it does not matter."""
        rows = counted(each.rows, "row")
        if each.what == "list":
            return (
                told("the list {each} in this file is not read", each=repr(each.name)),
                told("put it into a file of its own, or call the lists train and test"),
            )
        if each.what == "file":
            return told("the file {each} is not read", each=repr(each.name)), each.fix
        if each.what == "turn":
            return (
                told_n(
                    "{rows} ends with a turn of the {who}, which nobody answers and which is cut off",
                    "{rows} end with a turn of the {who}, which nobody answers and which is cut off",
                    each.rows,
                    rows=rows,
                    who=each.name,
                ),
                told("end each conversation with an answer, or leave it so if the rest is what you mean"),
            )
        if each.what == "key":
            if each.name not in _KEYS and not each.name.startswith(("tool_calls", "thoughts", "train")):
                return "", ""
            return (
                told(
                    "{each} of the turns in {rows} does not reach the model", each=repr(each.name), rows=rows
                ),
                told("use a model whose chat template writes it, or leave it so if it does not matter"),
            )
        return self._column(each, rows, sample, pairs)

    def _column(
        self,
        each: NotUsed,
        rows: str,
        sample: Sequence[Mapping[str, Any]],
        pairs: Sequence[tuple[Any, Record]],
    ) -> tuple[str, str]:
        name = each.name
        if is_rejected(name):
            return "", ""
        if may_be_verdict(sample, name):
            if not self._labels:
                return "", ""
            fix = told("leave out the rows that are not good, or leave it so")
            if verdicts(sample, name):
                fix = told("set data.label_field = {name} if it does (or to - if not)", name=repr(name))
            return told(
                "{name} may say how good a row is, and all rows are learnt whatever it says", name=repr(name)
            ), fix
        column = look(sample, [name])[name]
        plain = plain_name(name)
        meant = plain in _MEANINGFUL or not words_of(name).isdisjoint(names.CHOICES)
        if (
            is_about(name)
            or plain in names.META
            or not (meant or column.is_sentences or column.is_turns or column.nested > 0.5)
        ):
            return "", ""
        copied = pairs and all(_is_copy(fields.get(name), kept) for fields, kept in pairs)
        if copied and plain not in names.WEIGHT:
            return "", ""
        remedy = self._remedy(name, plain, is_text=column.is_text or column.passages > 0.5)
        return (
            (told("{name} in {rows} does not reach the model", name=repr(name), rows=rows), remedy)
            if remedy
            else ("", "")
        )

    def _remedy(self, name: str, plain: str, *, is_text: bool) -> str:  # noqa: PLR0911 - an answer for each case
        """What to do; "" where it is meant so."""
        plan, mapping = self._plan, self._plan.mapping
        if plain in names.MEDIA:
            return told("leave out the rows that cannot be answered without it: only text is trained on")
        if plain in names.WEIGHT:
            return told("leave out the rows that weigh little, or leave it so: all rows count alike")
        if plain in names.REASONING:
            return told("write it into the answer, or as reasoning_content into turns, or leave it so")
        if plain in names.SYSTEM and plan.chat is None:
            return told(
                "write {field} into data.template, or use the model's chat template", field="{system}"
            )
        if mapping.response and (plain in names.RESPONSE or not words_of(name).isdisjoint(_ANSWERS)):
            if is_rejected(mapping.response):
                return ""  # who takes the rejected answers has chosen
            if not is_text:
                return told(
                    "write it as text and set data.response_field = {name} if that is the answer",
                    name=repr(name),
                )
            return told(
                "set data.response_field = {name} if that is the answer, or leave it so", name=repr(name)
            )
        if name in mapping.prompt and "prompt" not in plan.template.fields:
            return told("write {field} into data.template, or leave it so", field="{prompt}")
        if is_text and not plan.mapped:
            return told("write {field} into data.template, or leave it so", field=f"{{{name}}}")
        if is_text and mapping.prompt:
            joined = "+".join((*mapping.prompt, name))
            return told(
                "set data.prompt_field = {joined} to put it behind the question, or leave it so",
                joined=repr(joined),
            )
        return told("write it into the question or the turns, or leave it so if it does not matter")


def _is_copy(value: Any, record: Record) -> bool:
    """Whether a value says nothing that the record does not say as well, or is all of it once more."""
    if not there(value):
        return True
    said = "\n".join(message.content for message in record.messages)
    if isinstance(value, str):
        text = value.strip()
        return text in said or (record.prompt.strip() in text and record.answer.strip() in text)
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        texts = [text for turn in value for text in turn.values() if isinstance(text, str)]
        return all(text.strip() in said or len(text) < 12 for text in texts)
    return False
