"""What is known of a data file, in one object for the command line and the screen."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.data.findings import Findings
from core.data.mapping import FieldMap, Proposal
from core.data.tokens import TokenStats
from core.data.types import Finding
from core.data.unused import NotUsed
from core.model.auto import Chosen


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
        tokens: lengths in tokens.
        train, eval: how many usable rows are on each side.
        auto: the settings that follow model and data, see :class:`core.model.auto.Chosen`.
        epochs: how often training sees each row, with the recipe's steps and batch size.
        padding: share of the tokens in batches that is padding, 0 to 1.
        findings: all that is to be looked at.
        not_used: what of the records does not reach the model.
        not_learnt: how many rows say of themselves that they are not to be learnt, by what says so.
        turns_not_learnt: answers in the other rows that are shown and not learnt.
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
        return {
            "ok": self.ok,
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
            "epochs": round(self.epochs, 2),
            "padding": round(self.padding, 4),
            "not_used": [each.as_dict() for each in self.not_used],
            "not_learnt": self.not_learnt,
            "turns_not_learnt": self.turns_not_learnt,
            "counts": dict(sorted(self.findings.counts.items())),
            "seconds": round(self.seconds, 2),
        }


def to_words(finding: Finding) -> str:
    """A finding on one line, for people (not yet cleaned of control codes)."""
    fix = finding.fix[:1].upper() + finding.fix[1:]
    # A JSON file may have all its rows on one line, and then only the row's number tells which it is.
    row = f" (row {finding.row})" if finding.row > finding.line else ""
    return f"{finding.file}:{finding.line}:{row} {finding.kind}: {finding.message}. {fix}."
