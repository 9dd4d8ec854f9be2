"""Looks at every row of a recipe's data, with the same plan as training, in little memory."""

from __future__ import annotations

import re
import time
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.examples import no_rows, resolve_data_file, sample_fields
from core.data.files import passed_over, sets_in
from core.data.findings import OFTEN, Findings, control_characters, special_tokens, too_long
from core.data.mapping import FieldMap, Proposal, columns_of
from core.data.messages import verdict
from core.data.model_text import read_model_text
from core.data.plan import NO_FIELD, Plan, Record, settle
from core.data.reader import RowReader
from core.data.records import MEASURED, of_lengths, remember
from core.data.similar import Sketches, plain, text_key, word_hashes, words
from core.data.split import SAME_QUESTION, Splitter, split_rows
from core.data.tokens import COUNTED, TokenCounter, TokenStats, padding_share, token_stats
from core.data.types import Finding, Problem, Row, Segment
from core.data.unused import NotUsed, UnusedCounter
from core.errors import RequestError, has_help, with_told
from core.events import Reporter
from core.folder import LabFolder
from core.formats import listed, some
from core.language import N_, told, told_n, words_of
from core.model.auto import Chosen, facts_at_hand, resolve
from core.model.template import PLAIN, TemplateError
from core.options import AUTO
from core.recipe import Recipe


@dataclass
class DataReport:
    """The result of looking at every row.

    Attributes:
        path: the file or folder.
        rows: records found, broken ones included; `usable` ones can be trained on.
        fields: the names of the rows' fields.
        template: the plain template, or the model's own where `chat_template` is true.
        mapping: the fields that are the question and the answer.
        proposal: what the rows themselves suggest; `to_confirm` is true while it waits for a yes.
        tokens: lengths in tokens, of a pair of its longer text; the total is that of all texts.
        train, eval: how many usable rows are on each side.
        auto: the settings that follow model and data, see :class:`core.model.auto.Chosen`.
        epochs: how often training sees each row, with the recipe's steps and batch size.
        padding: share of the tokens in batches that is padding, 0 to 1.
        findings: all that is to be looked at.
        not_used: what of the records does not reach the model.
        not_learnt: how many rows say of themselves that they are not to be learnt, by what says so.
        turns_not_learnt: answers in the other rows that are shown and not learnt.
        pairs: how many usable rows have a rejected answer beside the chosen one.
        undesirable: how many usable rows have an answer that is to be avoided.
    """

    path: Path
    bytes: int
    rows: int = 0
    usable: int = 0
    fields: list[str] = field(default_factory=list)
    template: str = ""
    chat_template: bool = False
    mapping: FieldMap = field(default_factory=FieldMap)
    proposal: Proposal | None = None
    to_confirm: bool = False
    tokens: TokenStats = field(default_factory=TokenStats)
    max_seq_len: int = 0
    train: int = 0
    eval: int = 0
    auto: tuple[Chosen, ...] = ()
    epochs: float = 0.0
    padding: float = 0.0
    findings: Findings = field(default_factory=Findings)
    not_used: list[NotUsed] = field(default_factory=list)
    not_learnt: dict[str, int] = field(default_factory=dict)
    turns_not_learnt: int = 0
    pairs: int = 0
    undesirable: int = 0
    seconds: float = 0.0

    @property
    def cleanable(self) -> bool:
        """Whether rows have findings, and others are left without them."""
        return self.findings.of_rows > 0 and self.usable > self.findings.of_usable_rows

    @property
    def ok(self) -> bool:
        """Whether training can start with this file."""
        return self.findings.blocking == 0 and self.usable > 0

    def as_dict(self) -> dict[str, Any]:
        """JSON form, without the findings (there may be millions); their counts are in it."""
        why = with_told({"not_learnt": list(self.not_learnt)})
        return {
            **why,
            "ok": self.ok,
            "cleanable": self.cleanable,
            "file": str(self.path),
            "bytes": self.bytes,
            "rows": self.rows,
            "usable": self.usable,
            "fields": self.fields,
            "template": self.template,
            "chat_template": self.chat_template,
            "mapping": self.mapping.as_dict(),
            "proposal": self.proposal.as_dict() if self.proposal else None,
            "to_confirm": self.to_confirm,
            "tokens": self.tokens.as_dict(),
            "max_seq_len": self.max_seq_len,
            "train": self.train,
            "eval": self.eval,
            "auto": [each.as_dict() for each in self.auto],
            "epochs": float(f"{self.epochs:.6g}"),  # of a huge file a run may see very little
            "padding": round(self.padding, 4),
            "not_used": [each.as_dict() for each in self.not_used],
            "not_learnt": self.not_learnt,
            "turns_not_learnt": self.turns_not_learnt,
            "pairs": self.pairs,
            "undesirable": self.undesirable,
            "counts": dict(sorted(self.findings.counts.items())),
            "seconds": round(self.seconds, 2),
        }


def to_words(finding: Finding) -> str:
    """A finding on one line, for people (not yet cleaned of control codes)."""
    # A JSON file may have all its rows on one line, and then only the row's number tells which it is.
    place = f"{finding.file}:{finding.line}:"
    if finding.row > finding.line:
        place = told("{place} (row {row})", place=place, row=finding.row)
    kind, message, fix = finding.kind, finding.message, finding.fix
    return told("{place} {kind}: {message}. {fix!c}.", place=place, kind=kind, message=message, fix=fix)


if TYPE_CHECKING:
    from numpy.typing import NDArray

READING = "reading the rows"
COMPARING = "comparing the rows"
NEAR_ANSWER = 0.8
NEAR_QUESTION = 0.7
"""Overlap (Jaccard) of words from which question and answer make a near duplicate."""
FEWEST_COPIES = 3
"""A record that stands there twice is a duplicate like any other."""
SHOWN_OFTEN = 20
"""At most so many such records are told."""
_BATCH = 256


class Survey:
    """One pass over the rows, then comparisons among them."""

    def __init__(self, recipe: Recipe, lab_root: Path, report: Reporter) -> None:
        self.recipe = recipe
        self.root = lab_root
        self.report = report
        self.path = resolve_data_file(recipe, lab_root)
        self.reader = RowReader(self.path)
        self.model = read_model_text(recipe, lab_root)
        self._special = self.model.special_pattern
        self.counter = TokenCounter(self.model)
        self.facts = facts_at_hand(LabFolder(lab_root), recipe)
        self.limit = resolve(recipe, self.facts, None).recipe.data.max_seq_len
        self.result = DataReport(self.path, self.reader.total_bytes, max_seq_len=self.limit)
        self.findings: Findings = self.result.findings
        self.splitter = Splitter()
        self.answers = Sketches(pairs=True)
        self._files = {each.name: index for index, each in enumerate(self.reader.files)}
        self._keys, self._lines, self._numbers, self._file_of = array("Q"), array("I"), array("I"), array("I")
        self._lengths, self._read_lengths = array("I"), array("I")
        self._waiting: list[tuple[Row, tuple[Segment, ...], tuple[Segment, ...]]] = []
        self._sample: list[dict[str, object]] = []
        self._unused: UnusedCounter | None = None

    def run(self) -> DataReport:
        """Do it all.

        Raises:
            RequestError: there is no file, or it cannot be opened.
            Cancelled: the reporter says so.
        """
        began = time.monotonic()
        try:
            plan = self._settle()
            self._read(plan)
            self._compare()
        finally:
            self.splitter.sketches.close()
            self.answers.close()
        self.findings.sort()
        self.result.seconds = time.monotonic() - began
        return self.result

    def _settle(self) -> Plan | None:
        """The plan of the recipe, or of the proposal where the recipe's does not go with the rows."""
        sample = self._sample = sample_fields(self.path)
        result, data = self.result, self.recipe.data
        result.fields = columns_of(sample)
        result.template = data.template
        if not sample:
            return None
        settled = settle(self.recipe, sample, self.model)
        result.proposal, plan = settled.proposal, settled.plan
        self._template_markers()
        if settled.problem is not None:
            self._recipe_finding(settled.problem)
        if plan is None:
            return None
        if settled.problem is not None:
            result.to_confirm = True
            result.template = settled.proposal.template
        result.chat_template = plan.chat is not None
        if result.template == AUTO and not result.chat_template:
            result.template = PLAIN
        result.mapping = plan.mapping if plan.mapped else _direct_map(plan)
        self._unused = UnusedCounter(plan, labels=data.label_field != NO_FIELD)
        return plan

    def _recipe_finding(self, error: RequestError) -> None:
        kind = "unmapped" if error.code == "data.unmapped" else "template-field"
        message = told("{title!d}: {detail!d}", title=error.title, detail=error.detail)
        # How the proposal is taken is told beside the findings, in the words of who shows them.
        proposed = has_help(error.advice) and error.code != "data.no-preferences"
        fix = told("take the proposal, or name the fields") if proposed else told("{hint!d}", hint=error.hint)
        self.findings.add(Finding("lab.toml", recipe_line(self.root, "data"), kind, message, fix))

    def _template_markers(self) -> None:
        """Marks in the template that are not what they look like: no tokens of the model, no line breaks."""
        if "\\n" in self.recipe.data.template:
            message = told(
                "data.template has a backslash and an n, which the model reads as these two letters"
            )
            fix = told('in lab.toml a line break is \\n between double quotes, "…"')
            line = recipe_line(self.root, "template")
            self.findings.add(Finding("lab.toml", line, "template-model", message, fix))
        if self.recipe.data.template == AUTO or not self.model.special:
            return
        markers = dict.fromkeys(
            re.findall(r"<\|[^|<>\s]+\|>|</?s>|<(?:start|end)_of_turn>", self.recipe.data.template)
        )
        strange = [marker for marker in markers if marker not in self.model.special]
        if strange:
            fix = (
                told('set data.template = "auto" to use the model\'s own chat template')
                if self.model.template
                else told("use the model's tokens")
            )
            message = told_n(
                "{names} in data.template is no token of this model",
                "{names} in data.template are no tokens of this model",
                len(strange),
                names=", ".join(strange),
            )
            line = recipe_line(self.root, "template")
            self.findings.add(Finding("lab.toml", line, "template-model", message, fix))

    def _read(self, plan: Plan | None) -> None:
        in_files = any(each.held_out for each in self.reader.files)
        for row in self.reader:
            self.result.rows += 1
            if self.result.rows % _BATCH == 0:
                self.report.check_cancelled()
                self.report.progress(READING, self.reader.done_bytes, self.reader.total_bytes)
            if row.fields is None:
                self._add(row, row.problem)
                continue
            self._add(row, row.note)
            if plan is not None:
                self._usable(plan, row, in_files)
        self._flush()
        self.report.progress(READING, self.reader.total_bytes, self.reader.total_bytes)
        if not self.result.rows:
            wrong = no_rows(self.reader.total_bytes)
            self.findings.add(Finding(self.path.name, 1, wrong.kind, wrong.message, wrong.fix))
        self._judge()

    def _judge(self) -> None:
        """Say what of the rows is not used or not learnt."""
        result, unused = self.result, self._unused
        if unused is None:
            return
        for each in self.reader.files:
            for name in each.others:
                unused.add_source("list", each.name, name)
        for name, fix in passed_over(self.path).items():
            unused.add_source("file", name, name, fix)
        for finding in unused.judge(self._sample):
            self.findings.add(finding)
        result.not_used = list(unused.found.values())
        sets = sets_in(self.path, self.reader.files)
        if sets:
            message = told(
                "{count} sets of records are read as one: {names}", count=len(sets), names=some(sets, 6)
            )
            fix = told(
                "set data.file to the folder or file of the one that you mean, or leave it so if it is "
                "all of them"
            )
            self.findings.add(Finding(self.path.name, 1, "several-sets", message, fix))
        if result.not_learnt and not self._keys:
            message = told("no row is left to learn: {names}", names=listed(result.not_learnt, "; "))
            fix = told("mark some answers as good")
            if self.result.mapping.label:
                fix = told('mark some answers as good, or set data.label_field = "-" to learn from all')
            self.findings.add(Finding(self.path.name, 1, "no-rows", message, fix))

    def _not_learnt(self, plan: Plan, row: Row, record: Record) -> None:
        label, mapping = plan.mapping.label, plan.mapping
        if record.same:
            both = told(
                "{messages} and {rejected} say the same",
                messages=repr(mapping.messages or mapping.response),
                rejected=repr(mapping.rejected),
            )
            self._add(
                row,
                Problem(
                    "same-answers", told("{both}, so it prefers nothing", both=both), told("remove the row")
                ),
            )
            self.result.not_learnt[both] = self.result.not_learnt.get(both, 0) + 1
            return
        said = verdict((row.fields or {}).get(label)) if label else None
        why = (
            told("{label} says no", label=repr(label))
            if said is False
            else told("every answer in them is marked as not to be learnt")
        )
        self.result.not_learnt[why] = self.result.not_learnt.get(why, 0) + 1

    def _usable(self, plan: Plan, row: Row, in_files: bool) -> None:
        record = plan.convert(row.fields or {})
        if isinstance(record, list):
            for problem in record:
                self._add(row, problem)
            return
        if not record.learnt:
            self._not_learnt(plan, row, record)
            return
        other = record.rejected
        texts = [message.content for message in record.messages] or [record.prompt]
        texts += [message.content for message in other.messages] if other else []
        try:
            segments, rejected = plan.segments(record), plan.rejected_segments(record)
        except TemplateError as error:
            self._add(row, Problem("template-error", words_of(error), error.fix))
            return
        if self._unused is not None:
            self._unused.add(row, record)
        self.result.turns_not_learnt += sum(not message.learnt for message in record.messages)
        self.result.pairs += other is not None
        self.result.undesirable += not record.good
        self._add(row, control_characters(texts))
        self._add(row, special_tokens(texts, self._special, read=not record.messages))
        self._waiting.append((row, segments, rejected))
        asked, answer = plain(record.prompt), plain(record.answer)
        if other is not None:
            answer += f"\0{plain(other.answer)}"
        self.splitter.add(asked, held_out=row.held_out if in_files else None)
        self.answers.add(word_hashes(words(answer or asked), answer or asked))
        self._keys.append(text_key(f"{asked}\0{answer}"))
        self._lines.append(row.line)
        self._numbers.append(row.number)
        self._file_of.append(self._files[row.file])
        if len(self._waiting) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        limit = self.limit
        lengths = self.counter.count([segments for _, segments, _ in self._waiting])
        others = self.counter.count([segments for _, _, segments in self._waiting])
        for chosen, other, (row, segments, rejected) in zip(lengths, others, self._waiting, strict=True):
            other = other if rejected else 0
            length = max(chosen, other)
            self._lengths.append(length)
            self._read_lengths.append(chosen + other)
            segments = segments if chosen == length else rejected
            if length > limit:
                ahead = self.counter.count([segments[:1]])[0] if not segments[0].trained else None
                long = sum(len(segment.text) for segment in segments) > COUNTED
                self._add(row, too_long(length, limit, ahead, estimated=long or self.counter.estimated))
        self._waiting.clear()

    def _add(self, row: Row, problem: Problem | None) -> None:
        if problem is not None:
            self.findings.add(
                Finding(
                    row.file, row.line, problem.kind, problem.message, problem.fix, row.number, problem.quote
                )
            )

    def _compare(self) -> None:
        import numpy as np

        result, recipe = self.result, self.recipe
        result.usable = len(self._keys)
        lengths = (
            np.frombuffer(self._lengths, dtype=f"u{self._lengths.itemsize}")
            if result.usable
            else np.empty(0, int)
        )
        stats = token_stats(lengths, self.limit, estimated=self.counter.estimated)
        result.tokens = replace(stats, total=sum(self._read_lengths))
        if not result.usable:
            return
        self.report.check_cancelled()
        self.report.progress(COMPARING, 0, 3)
        held_out = split_rows(self.splitter, recipe, self.root)
        result.eval = int(held_out.sum())
        result.train = result.usable - result.eval
        self.report.check_cancelled()
        self.report.progress(COMPARING, 1, 3)
        leaks = self._leaks(held_out)
        self.report.check_cancelled()
        self.report.progress(COMPARING, 2, 3)
        first = self._duplicates(held_out, leaks)
        self.report.progress(COMPARING, 3, 3)
        train = lengths[~held_out]
        read = np.frombuffer(self._read_lengths, dtype=f"u{self._read_lengths.itemsize}")[~held_out]
        records = of_lengths(result.train, read[:MEASURED].tolist(), result.pairs)
        if not self.counter.estimated:
            remember(recipe, self.root, records)
        resolved = resolve(recipe, self.facts, records)
        result.auto = resolved.chosen
        tune = resolved.recipe.finetune
        if result.train:
            result.epochs = tune.steps * tune.batch_size * tune.gradient_accumulation / result.train
            result.padding = padding_share(train, self.limit, tune.batch_size, tune.seed)
            self._seen_often(first[~held_out])

    def _seen_often(self, first: NDArray[Any]) -> None:
        """Tell which records stand in the file so often that training would see little else.

        Args:
            first: of each row to train on the first one that says the same.
        """
        import numpy as np

        rows, times = np.unique(first, return_counts=True)
        often = (times >= FEWEST_COPIES) & (times * self.result.epochs > OFTEN)
        for at in np.flatnonzero(often)[np.argsort(-times[often], kind="stable")][:SHOWN_OFTEN].tolist():
            file, line = self._where(int(rows[at]))
            seen = round(int(times[at]) * self.result.epochs)
            message = told(
                "what it says stands {times:,} times among the rows to learn, so training would see it "
                "{seen:,} times and learn it by heart",
                times=int(times[at]),
                seen=seen,
            )
            self.findings.add(Finding(file, line, "seen-often", message, told("leave its repetitions out")))

    def _where(self, index: int) -> tuple[str, int]:
        return self.reader.files[self._file_of[index]].name, self._lines[index]

    def _note(self, index: int, other: int, kind: str, message: str, fix: str) -> None:
        file, line = self._where(index)
        other_file, other_line = self._where(other)
        place = told("line {line}", line=other_line)
        if file != other_file:
            place = told("{file}, line {line}", file=other_file, line=other_line)
        if (file, line) == (other_file, other_line):
            place = told("row {row}", row=self._numbers[other])
        self.findings.add(Finding(file, line, kind, told(message, place=place), fix, self._numbers[index]))

    def _leaks(self, held_out: NDArray[Any]) -> NDArray[Any]:
        """Training rows whose question is held out as well; they are reported and returned as a mask."""
        import numpy as np

        leaks = np.zeros(len(held_out), dtype=bool)
        if not held_out.any() or held_out.all():
            return leaks
        roots = self.splitter.sketches.clusters(SAME_QUESTION)
        witness = np.full(len(roots), -1, dtype=np.int64)
        out = np.flatnonzero(held_out)[::-1]
        witness[roots[out]] = out  # the first held-out row of each cluster is written last
        leaks = ~held_out & (witness[roots] >= 0)
        message = N_("its question is also held out for measuring, at {place}")
        for index in np.flatnonzero(leaks).tolist():
            self._note(
                index, int(witness[roots[index]]), "in-held-out", message, told("remove one of the two")
            )
        return np.asarray(leaks)

    def _duplicates(self, held_out: NDArray[Any], leaks: NDArray[Any]) -> NDArray[Any]:
        """Report rows that say the same, or nearly so; of each row the first one that says the same is returned."""
        import numpy as np

        keys = np.frombuffer(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.concatenate(([True], ordered[1:] != ordered[:-1]))
        firsts = order[np.flatnonzero(starts)]
        first = np.empty(len(keys), dtype=np.int64)
        first[order] = firsts[np.cumsum(starts) - 1]
        for index in np.flatnonzero(first != np.arange(len(keys))).tolist():
            if not (leaks[index] or leaks[first[index]]):
                self._note(
                    index,
                    int(first[index]),
                    "duplicate",
                    N_("it says the same as {place}"),
                    told("remove one of the two"),
                )
        nearest = np.full(len(keys), len(keys), dtype=np.int64)
        for left, right in self.answers.pairs(NEAR_ANSWER):
            self.report.check_cancelled()
            differ = (
                (keys[left] != keys[right]) & (first[right] == right) & (held_out[left] == held_out[right])
            )
            left, right = left[differ], right[differ]
            if len(left):
                near = self.splitter.sketches.near(left, right, NEAR_QUESTION)
                np.minimum.at(nearest, right[near], left[near])
        message = N_("it says nearly the same as {place}")
        for index in np.flatnonzero(nearest < len(keys)).tolist():
            self._note(
                index, int(nearest[index]), "near-duplicate", message, told("keep the better of the two")
            )
        return first


def _direct_map(plan: Plan) -> FieldMap:
    """The mapping that a template with the rows' own field names amounts to."""
    asked = tuple(name for name in plan.template.fields if name != plan.answer)
    return FieldMap(asked, plan.answer) if plan.answer else FieldMap(text=plan.template.fields[0])


def recipe_line(lab_root: Path, key: str) -> int:
    """The line of a key of `[data]` in `lab.toml`, of the table where the key is missing, or 1."""
    try:
        lines = (lab_root / "lab.toml").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return 1
    table, inside = 1, False
    for number, line in enumerate(lines, 1):
        if line.strip().startswith("["):
            inside = line.strip().startswith("[data]")
            table = number if inside else table
        elif inside and re.match(rf"\s*{re.escape(key)}\s*=", line):
            return number
    return table


def summary(lab_root: Path, recipe: Recipe, report: Reporter | None = None) -> DataReport:
    """Look at every row of a recipe's data; see :class:`~core.data.survey.DataReport`.

    Nothing is written but the split's memory (`data_split.json` in the lab).

    Args:
        report: told of progress (in bytes read, then in three steps) and asked whether to stop.

    Raises:
        RequestError: there is no file, or it cannot be opened. All that is wrong inside it is a finding.
        Cancelled: `report` says so.
    """
    return Survey(recipe, lab_root, report or Reporter()).run()
