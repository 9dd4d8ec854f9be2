"""One row as training will see it, cut into pieces that a screen can mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.data.examples import first_problem, resolve_data_file, sample_fields
from core.data.model_text import read_model_text
from core.data.plan import settle
from core.data.types import Problem, Segment
from core.errors import RequestError
from core.language import told, words_of
from core.model.template import TemplateError
from core.recipe import Recipe


@dataclass(frozen=True)
class Piece:
    """A piece of a rendered row. `kind`: `prompt`, `answer` (learnt) or `special` (a token of the model).

    `trained` tells for a special token whether it is learnt, as the end of the answer is.
    """

    text: str
    kind: str
    trained: bool


@dataclass(frozen=True)
class Preview:
    """A rendered row: its pieces, those of the same row with its rejected answer, or what is wrong with it."""

    pieces: tuple[Piece, ...]
    problems: tuple[Problem, ...] = ()
    rejected: tuple[Piece, ...] = ()

    @property
    def text(self) -> str:
        """The training text."""
        return "".join(piece.text for piece in self.pieces)


class Previewer:
    """Renders rows of a recipe's data; made once, it renders each row in well under a millisecond.

    Args:
        sample: the fields of the first rows, where they have been read already (reading Parquet loads
            pyarrow into the calling process); else they are read here.
        unreadable: what is wrong with the first row, where the sample is empty.

    Attributes:
        problem: why the recipe does not go with the rows, or None; rows are then rendered as the
            `proposal` would have them, if there is one.
        proposal: what the rows suggest.

    Raises:
        RequestError: there is no data file, or it cannot be read.
    """

    def __init__(
        self,
        lab_root: Path,
        recipe: Recipe,
        sample: Sequence[Mapping[str, Any]] | None = None,
        unreadable: Problem | None = None,
    ) -> None:
        model = read_model_text(recipe, lab_root)
        if sample is None:
            path = resolve_data_file(recipe, lab_root)
            sample, unreadable = sample_fields(path), first_problem(path)
        self._special = model.special_pattern
        settled = settle(recipe, sample, model, unreadable)
        self.proposal, self.plan, self.problem = settled.proposal, settled.plan, settled.problem

    def row(self, fields: dict[str, Any] | None) -> Preview:
        """One row (its fields as a reader or pager gives them) as training would see it."""
        if fields is None or self.plan is None:
            return Preview((), () if self.problem is None else (_as_problem(self.problem),))
        record = self.plan.convert(fields)
        if isinstance(record, list):
            return Preview((), tuple(record))
        try:
            segments = self.plan.segments(record)
            if not record.learnt:
                segments = tuple(replace(segment, trained=False) for segment in segments)
            rejected = self._pieces(self.plan.rejected_segments(record))
            return Preview(tuple(self._pieces(segments)), rejected=tuple(rejected))
        except TemplateError as error:
            return Preview((), (Problem("template-error", words_of(error), told("correct the row")),))

    def _pieces(self, segments: Iterable[Segment]) -> Iterable[Piece]:
        for segment in segments:
            kind = "answer" if segment.trained else "prompt"
            at = 0
            for match in self._special.finditer(segment.text) if self._special else ():
                if match.start() > at:
                    yield Piece(segment.text[at : match.start()], kind, segment.trained)
                yield Piece(match.group(), "special", segment.trained)
                at = match.end()
            if at < len(segment.text):
                yield Piece(segment.text[at:], kind, segment.trained)


def _as_problem(error: RequestError) -> Problem:
    return Problem("unmapped", told("{title} {detail}", title=error.title, detail=error.detail), error.hint)


def preview(lab_root: Path, recipe: Recipe, fields: dict[str, Any]) -> Preview:
    """One row through the recipe's template; make a :class:`Previewer` for more than one."""
    return Previewer(lab_root, recipe).row(fields)
