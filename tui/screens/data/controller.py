"""What the data screen knows and does, without a terminal: opening, judging, checking, finding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import LabError
from core.language import _
from tui.screens.data.pages import PageCache
from tui.screens.data.rows import RowSource, View, stamp

if TYPE_CHECKING:
    from core.data.background import BackgroundSurvey, SurveyState
    from core.data.clean import Cleaned
    from core.data.mapping import Proposal
    from core.data.preview import Preview
    from core.data.types import Finding
    from core.recipe import Recipe
    from tui.screens.data.rows import ShownRow
    from tui.session import Session

T = TypeVar("T")
_COPIED = 1_000
_NO_VIEW = View()


@dataclass(frozen=True, slots=True)
class Whole:
    """A row to be shown whole: its number from 0, and what the model sees of it by `view`."""

    index: int
    row: ShownRow
    view: View
    seen: Preview | None


@dataclass(frozen=True, slots=True)
class DataState:
    """All that the screen shows.

    Attributes:
        opening: whether a file is being opened.
        recipe: the settings by which that was done.
        source: the open file.
        count, exact: how many rows it has, and whether that is counted or estimated.
        view: by what its rows are judged.
        error: why there is none.
        survey: how far the check of all rows is.
        report: the figures of the whole file, while they are those of `recipe`.
        listing: whether findings are listed, in place of the rows.
        marked: the row that is marked, from 0; `goal` is one to mark when it is counted.
        marked_finding: the finding that is marked.
        jumped: a row that a finding led to, and that finding.
        whole: the row that is shown whole.
    """

    opening: bool = False
    recipe: Recipe | None = None
    source: RowSource | None = None
    count: int = 0
    exact: bool = False
    view: View = _NO_VIEW
    error: LabError | None = None
    survey: SurveyState | None = None
    report: dict[str, Any] | None = None
    listing: bool = False
    marked: int = 0
    goal: int | None = None
    marked_finding: int = 0
    jumped: tuple[int, Finding] | None = None
    whole: Whole | None = None

    @property
    def findings(self) -> int:
        """How many findings there are."""
        return sum((self.report or {}).get("counts", {}).values())

    @property
    def lost(self) -> bool:
        """Whether there is no file, and none is being opened."""
        return self.source is None and not self.opening

    @property
    def checking(self) -> bool:
        """Whether all rows are being checked."""
        return self.survey is not None and self.survey.state == "running"

    @property
    def proposed(self) -> Proposal | None:
        """What the rows suggest, while the recipe does not go with them and a yes would do."""
        previewer = self.view.previewer
        if previewer is None or previewer.problem is None or not previewer.proposal.mapping.complete:
            return None
        return previewer.proposal if previewer.plan is not None else None

    @property
    def trouble(self) -> LabError | None:
        """What keeps the records from being used, if anything does."""
        found = self.error
        if found is None and self.view.previewer is not None:
            found = self.view.previewer.problem
        if found is None and self.source is not None:
            found = self.source.problem
        if found is None and self.survey is not None and self.survey.state == "failed":
            found = self.survey.error
        return found


class DataController:
    """Brings the state about. All methods are for the screen's own thread.

    Args:
        thread: does something in a thread of its own.
        post: has something done in the screen's thread; may be called from any.
        changed: called when there is a new `state`.
    """

    def __init__(
        self,
        session: Session,
        thread: Callable[[Callable[[], None]], object],
        post: Callable[[Callable[[], None]], object],
        changed: Callable[[], object],
    ) -> None:
        self.state = DataState()
        self._session = session
        self._thread, self._post, self._changed = thread, post, changed
        self._closed = False
        self._attempt = 0
        self._wanted: tuple[int, ShownRow, View] | None = None
        self._came = threading.Event()
        self._survey: BackgroundSurvey | None = None
        self._survey_key: object = None
        self._survey_report: dict[str, Any] | None = None
        self._findings: PageCache[Finding] | None = None

    def _later(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do the job in a thread, then go on with its result here."""

        def work() -> None:
            result = job()
            self._post(lambda: then(result))

        self._thread(work)

    def _set(self, **changes: Any) -> None:
        before, self.state = self.state, replace(self.state, **changes)
        if self.state != before and not self._closed:
            self._changed()

    @property
    def kept(self) -> bool:
        """Whether ``lab.toml`` says what was looked at."""
        return self._session.exists and self.state.recipe == self._session.recipe()

    # Opening and judging

    def look(self, recipe: Recipe) -> None:
        """Open the file and make the template, with these settings."""
        self._attempt += 1
        attempt, open_now = self._attempt, self.state.source
        self._set(opening=True)
        self._later(lambda: self._open(recipe, open_now), lambda found: self._opened(attempt, recipe, *found))

    def refuse(self, error: LabError) -> None:
        """The settings cannot be used."""
        self._attempt += 1
        self._set(error=error, opening=False)

    @property
    def outdated(self) -> bool:
        """Whether the file was changed since it was opened, or may be there now."""
        source = self.state.source
        return not self.state.opening and (source is None or source.stamp != stamp(source.path))

    def _open(
        self, recipe: Recipe, open_now: RowSource | None
    ) -> tuple[RowSource | None, View, LabError | None]:
        from core.data.examples import resolve_data_file
        from core.data.preview import Previewer
        from core.data.split import HeldOut

        root = self._session.root
        source: RowSource | None = None
        try:
            path = resolve_data_file(recipe, root)
            same = open_now is not None and open_now.stamp == stamp(path) and open_now.problem is None
            source = open_now if same else RowSource(path, self._more)
            assert source is not None
            return (
                source,
                View(Previewer(root, recipe, source.sample, source.unreadable), HeldOut(root, recipe)),
                None,
            )
        except LabError as error:
            return source, View(), error
        except (OSError, ValueError, RecursionError) as error:
            told = LabError(_("The records cannot be read."), f"{type(error).__name__}: {error}")
            return source, View(), told

    def _opened(
        self, attempt: int, recipe: Recipe, source: RowSource | None, view: View, error: LabError | None
    ) -> None:
        """Show the rows; an answer to an older question is dropped."""
        before = self.state.source
        if attempt != self._attempt or self._closed:
            if source is not None and source is not before:
                self._thread(source.close)
            return
        if before is not None and before is not source:
            self._thread(before.close)
        changes: dict[str, Any] = {"opening": False, "recipe": recipe, "view": view, "error": error}
        changes |= {"source": source, "count": source.count if source is not None else 0}
        marked = self.state.marked
        if before is None or source is None or before.path != source.path:  # other rows, from the first on
            changes |= {"marked": 0, "goal": None, "jumped": None, "listing": False, "whole": None}
            marked = 0
        elif before is not source:  # the same file, written anew
            changes["jumped"] = None
        self._wanted = None
        self._set(**changes, exact=source is not None and source.exact)
        if marked >= self.state.count > 0:  # there may be fewer rows now, or not all are counted yet
            self.go(marked)
        if source is not None:
            source.look_by(view)
        self._check_if_kept()
        self._show_marked()

    # Rows

    def _more(self) -> None:
        """Rows have come. Called in threads, as often as they like: one call is on its way at a time."""
        if not self._came.is_set():
            self._came.set()
            self._post(self._take)

    def _take(self) -> None:
        self._came.clear()
        source = self.state.source
        if source is not None and not self._closed:
            self._set(count=source.count, exact=source.exact)
            if self.state.goal is not None and source.exact:
                self.go(self.state.goal)
            self._changed()  # pages may have come, which are no part of the state
            self._show_marked()

    def go(self, index: int) -> None:
        """Mark a row by its number from 0; one that is not counted yet is gone to when it is."""
        count, exact = self.state.count, self.state.exact
        if count:
            goal = index if index >= count and not exact else None
            self._set(marked=max(0, min(index, count - 1)), goal=goal, listing=False)
            self._show_marked()

    def mark(self, index: int) -> None:
        """A row was marked by hand."""
        if index != self.state.marked:
            self._set(marked=index, goal=None)
        self._show_marked()

    def _show_marked(self) -> None:
        """Have the marked row shown whole. It is rendered in a thread, as it may be long."""
        state = self.state
        row = state.source.pages.get(state.marked) if state.source is not None and state.count else None
        if row is None:
            if not state.count:
                self._set(whole=None)
            return
        wanted = (state.marked, row, state.view)
        if self._wanted is not None and all(
            one is other for one, other in zip(wanted, self._wanted, strict=True)
        ):
            return
        self._wanted = wanted

        def render() -> Whole:
            previewer, fields = state.view.previewer, row.row.fields
            seen = previewer.row(fields) if previewer is not None and fields is not None else None
            return Whole(state.marked, row, state.view, seen)

        def show(whole: Whole) -> None:
            if self._wanted is wanted:
                self._set(whole=whole)

        self._later(render, show)

    # Checking all rows

    def check_anew(self) -> None:
        """Forget what was found, so that the next look checks all rows again."""
        self._end_survey()
        self._survey_key = None

    def _check_if_kept(self) -> None:
        """Check what stands in ``lab.toml``, and so only while the form says the same."""
        recipe, source = self.state.recipe, self.state.source
        if recipe is None or source is None:
            self._set(report=None, listing=False)
            return
        key = (recipe.data, recipe.model, source.stamp)
        if key == self._survey_key:
            self._set(report=self._survey_report)
        elif self.kept and self.state.error is None:
            self._end_survey()
            self._survey_key = key
            self._later(self._start, lambda found: self._started(key, found))
        else:
            self._set(report=None, listing=False)

    def _start(self) -> BackgroundSurvey | LabError:
        from core.data.background import BackgroundSurvey

        try:
            return BackgroundSurvey(self._session.root)
        except LabError as error:
            return error

    def _started(self, key: object, found: BackgroundSurvey | LabError) -> None:
        if isinstance(found, LabError):
            self._set(error=found)
        elif key != self._survey_key or self._closed:
            self._thread(found.close)
        else:
            self._survey = found
            self.follow()

    def follow(self) -> None:
        """See how far the check is; cheap, for a timer."""
        survey = self._survey
        if survey is None or (state := survey.poll()) == self.state.survey:
            return
        if state.report is None:
            self._set(survey=state)
            return
        self._survey_report = state.report
        self._findings = PageCache(lambda start, count: (self._read(survey, start, count), True), self._more)
        self._set(survey=state)
        self._check_if_kept()
        if self.state.recipe is not None:
            self.look(self.state.recipe)  # which rows are held out is known now

    def stop_checking(self) -> None:
        """Stop the check."""
        if self._survey is not None:
            self._survey.cancel()

    def _end_survey(self) -> None:
        survey, self._survey = self._survey, None
        self._survey_report = None
        if self._findings is not None:
            self._findings.close()
            self._findings = None
        self._set(report=None, survey=None, listing=False, marked_finding=0)
        if survey is not None:
            self._thread(survey.close)

    # Findings

    @staticmethod
    def _read(survey: BackgroundSurvey, start: int, count: int) -> list[Finding]:
        try:
            return survey.findings(start, count)
        except LabError:
            return []

    def finding(self, index: int) -> Finding | None:
        """A finding, or None while it is not there."""
        return self._findings.get(index) if self._findings is not None and self.state.findings else None

    def list_findings(self, wanted: bool) -> None:
        """List the findings, or the rows."""
        self._set(listing=wanted and self.state.findings > 0)

    def mark_finding(self, index: int) -> None:
        """A finding was marked by hand."""
        self._set(marked_finding=index)

    def look_up(self, finding: Finding, done: Callable[[bool], None]) -> None:
        """Mark the row of a finding; then `done` is told whether there is one."""
        source = self.state.source
        if source is None:
            return

        def find() -> int | None:
            try:
                return source.find(finding.file, finding.row)
            except LabError:
                return None

        def found(index: int | None) -> None:
            if source is not self.state.source:
                return
            if index is not None:
                self._set(jumped=(index, finding), count=max(self.state.count, index + 1))
                self.go(index)
            done(index is not None)

        self._later(find, found)

    @property
    def cleanable(self) -> bool:
        """Whether a clean copy of the file can be written."""
        return self._survey is not None and bool((self.state.report or {}).get("cleanable"))

    def clean_path(self) -> Path | None:
        """Where it would be written."""
        from core.data.clean import clean_path

        source = self.state.source
        return clean_path(self._session.root, source.path) if source is not None else None

    def write_clean(
        self, out: Path, keep: Collection[str], then: Callable[[Cleaned | LabError], None]
    ) -> None:
        """Write it without the rows that have findings, but for kinds to `keep`; `then` is told what came of it."""
        survey = self._survey
        if survey is None:
            return

        def write() -> Cleaned | LabError:
            try:
                return survey.write_clean(out, keep)
            except LabError as error:
                return error

        self._later(write, then)

    def finding_words(self) -> list[str]:
        """The first findings as they are copied."""
        many = self.state.findings
        if self._survey is None or not many:
            return []
        found = self._read(self._survey, 0, _COPIED)
        lines = [f"{each.file}:{each.line}: {each.kind}: {each.message} ({each.fix})" for each in found]
        if many > len(lines):
            lines.append(
                _(
                    "and {many} more: {command} has all",
                    many=many - len(lines),
                    command=self._session.command("data", "--json"),
                )
            )
        return lines

    def close(self) -> None:
        """Let go of the file, and end the check: it is of no use any more."""
        self._closed = True
        source = self.state.source
        if source is not None:
            self._thread(source.close)
        self._end_survey()
