"""What the data screen does in threads and processes: opening, judging, checking, finding."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from textual import work
from textual.events import ScreenResume
from textual.message import Message

from core.errors import LabError
from tui.pages import PageCache
from tui.rows import RowSource, View, stamp
from tui.screens.base import StepScreen

if TYPE_CHECKING:
    from core.data.background import BackgroundSurvey, SurveyState
    from core.data.mapping import Proposal
    from core.data.preview import Preview
    from core.data.types import Finding
    from core.recipe import Recipe
    from tui.rows import ShownRow

_POLL_S = 0.3
_COPIED = 1_000


class DataWork(StepScreen):
    """The state of the data screen, and the threads that bring it about.

    Attributes:
        source: the open file.
        view: by what its rows are judged.
        report: the figures of the whole file, while they are those of what stands in the form.
        state: how far the checking of all rows is.
    """

    class Looked(Message):
        """The file is open and the template is made; or not, for a reason."""

        def __init__(
            self, attempt: int, recipe: Recipe, source: RowSource | None, view: View, error: LabError | None
        ) -> None:
            super().__init__()
            self.attempt, self.recipe, self.source, self.view, self.error = (
                attempt,
                recipe,
                source,
                view,
                error,
            )

    class Changed(Message):
        """More rows or findings are there, or the count is known better."""

    class Started(Message):
        """The checking of all rows has started."""

        def __init__(self, key: object, survey: BackgroundSurvey | None, error: str) -> None:
            super().__init__()
            self.key, self.survey, self.error = key, survey, error

    class Rendered(Message):
        """A row was put through the template."""

        def __init__(self, index: int, row: ShownRow, view: View, seen: Preview | None) -> None:
            super().__init__()
            self.index, self.row, self.view, self.seen = index, row, view, seen

    class Found(Message):
        """The row of a finding was looked for."""

        def __init__(self, finding: Finding, index: int | None) -> None:
            super().__init__()
            self.finding, self.index = finding, index

    def __init__(self) -> None:
        super().__init__()
        self.source: RowSource | None = None
        self.view = View()
        self.report: dict[str, Any] | None = None
        self.state: SurveyState | None = None
        self.finding_count = 0
        self.opening = False
        self._error: LabError | None = None
        self._recipe: Recipe | None = None
        self._attempt = 0
        self._survey: BackgroundSurvey | None = None
        self._survey_key: object = None
        self._survey_report: dict[str, Any] | None = None
        self._findings: PageCache[Finding] | None = None
        self._poll: Any = None
        self._pending = threading.Event()

    @abstractmethod
    def recipe(self) -> Recipe:
        """The recipe with what stands in the form. Raises ValueError or LabError."""

    @abstractmethod
    def tell(self) -> None:
        """Show everything anew."""

    # What is known

    @property
    def kept(self) -> bool:
        """Whether ``lab.toml`` says what stands in the form."""
        return self.session.exists and self._recipe == self.session.recipe()

    @property
    def checking(self) -> bool:
        """Whether all rows are being checked."""
        return self._survey is not None and self.state is not None and self.state.state == "running"

    @property
    def proposed(self) -> Proposal | None:
        """What the rows suggest, while the recipe does not go with them and a yes would do."""
        previewer = self.view.previewer
        if previewer is None or previewer.problem is None or not previewer.proposal.mapping.complete:
            return None
        return previewer.proposal if previewer.plan is not None else None

    def trouble(self) -> dict[str, str] | None:
        """What keeps the records from being used, if anything does."""
        found: LabError | None = self.session.broken or self._error
        if found is None and self.view.previewer is not None:
            found = self.view.previewer.problem
        if found is None and self.source is not None:
            found = self.source.problem
        if found is None and self.state is not None and self.state.state == "failed":
            found = self.state.error
        return found.as_dict() if found is not None else None

    # Opening and judging

    def look(self) -> None:
        """Open the file and make the template, with what stands in the form, in a thread."""
        self._attempt += 1
        try:
            recipe = self.recipe()
        except LabError as error:
            self._error = error
            self.tell()
            return
        except ValueError:
            return  # the field itself says what is wrong
        self.opening = True
        self._look(recipe, self.source, self._attempt)

    @work(thread=True, exit_on_error=False, group="look")
    def _look(self, recipe: Recipe, open_now: RowSource | None, attempt: int) -> None:
        from core.data.examples import resolve_data_file
        from core.data.held_out import HeldOut
        from core.data.preview import Previewer

        source: RowSource | None = None
        view, problem = View(), None
        try:
            path = resolve_data_file(recipe, self.session.root)
            same = open_now is not None and open_now.stamp == stamp(path) and open_now.problem is None
            source = open_now if same else RowSource(path, self._changed)
            assert source is not None
            held_out = HeldOut(self.session.root, recipe)
            view = View(Previewer(self.session.root, recipe, source.sample), held_out)
        except LabError as error:
            problem = error
        except (OSError, ValueError, RecursionError) as error:
            problem = LabError("The records cannot be read.", f"{type(error).__name__}: {error}")
        self.post_message(self.Looked(attempt, recipe, source, view, problem))

    def on_data_work_looked(self, event: Looked) -> None:
        """Show the rows; an answer to an older question is dropped."""
        event.stop()
        if event.attempt != self._attempt or not self.is_mounted:
            if event.source is not None and event.source is not self.source:
                threading.Thread(target=event.source.close, daemon=True).start()
            return
        self.opening = False
        if self.source is not None and self.source is not event.source:
            threading.Thread(target=self.source.close, daemon=True).start()
        self.source, self.view, self._error = event.source, event.view, event.error
        self._recipe = event.recipe
        if event.source is not None:
            event.source.look_by(event.view)
        self._check_if_kept()
        self.tell()

    def on_screen_resume(self, event: ScreenResume) -> None:
        """The file may have been changed meanwhile, or be there now."""
        if not self.opening and (self.source is None or self.source.stamp != stamp(self.source.path)):
            self.look()

    def _changed(self) -> None:
        """Called in threads, as often as they like: one message is on its way at a time."""
        if not self._pending.is_set() and self.is_running:
            self._pending.set()
            self.post_message(self.Changed())

    def on_data_work_changed(self, event: Changed) -> None:
        """Show what has come."""
        event.stop()
        self._pending.clear()
        self.tell()

    def render_row(self, index: int, row: ShownRow, view: View) -> None:
        """Put a row through the template, in a thread."""
        self._put_through(index, row, view)

    @work(thread=True, exit_on_error=False, exclusive=True, group="render")
    def _put_through(self, index: int, row: ShownRow, view: View) -> None:
        seen = None
        if view.previewer is not None and row.row.fields is not None:
            seen = view.previewer.row(row.row.fields)
        self.post_message(self.Rendered(index, row, view, seen))

    # Checking all rows

    def _key(self, recipe: Recipe) -> object:
        return (recipe.data, recipe.model, self.source.stamp if self.source is not None else None)

    def check_anew(self) -> None:
        """Forget what was found, so that the next look checks all rows again."""
        self.end_survey()
        self._survey_key = None

    def _check_if_kept(self) -> None:
        """Check what stands in ``lab.toml``, and so only while the form says the same."""
        recipe = self._recipe
        if recipe is None or self.source is None:
            self.report, self.finding_count = None, 0
            return
        key = self._key(recipe)
        if key == self._survey_key:
            self.report = self._survey_report
            self.finding_count = sum((self.report or {}).get("counts", {}).values())
        elif self.kept and self._error is None:
            self.end_survey()
            self._survey_key = key
            self._start(key)
        else:
            self.report, self.finding_count = None, 0

    @work(thread=True, exit_on_error=False, group="survey")
    def _start(self, key: object) -> None:
        from core.data.background import BackgroundSurvey

        try:
            self.post_message(self.Started(key, BackgroundSurvey(self.session.root), ""))
        except OSError as error:
            self.post_message(self.Started(key, None, str(error)))

    def on_data_work_started(self, event: Started) -> None:
        """Follow it."""
        event.stop()
        if event.survey is None:
            self._error = LabError("The rows could not be checked.", event.error)
            self.tell()
        elif event.key != self._survey_key or not self.is_mounted:
            event.survey.close()
        else:
            self._survey = event.survey
            self._poll = self.set_interval(_POLL_S, self._follow)
            self._follow()

    def _follow(self) -> None:
        survey = self._survey
        if survey is None:
            return
        state = survey.poll()
        if state == self.state:
            return
        self.state = state
        if state.state == "running":
            self.tell_figures()
            return
        self._poll.stop()
        if state.report is not None:
            counts = state.report.get("counts") or {}
            self._survey_report = self.report = state.report
            self.finding_count = sum(counts.values())
            self._findings = PageCache(lambda start, many: self._read(survey, start, many), self._changed)
            self.olive.note("data", "OK" if not self.finding_count else f"{self.finding_count} found")
            self._look_again()
        self._check_if_kept()
        self.tell()

    def _look_again(self) -> None:
        """Which rows are held out is known now."""
        if self._recipe is not None:
            self.look()

    @staticmethod
    def _read(survey: BackgroundSurvey, start: int, many: int) -> tuple[list[Finding], bool]:
        try:
            return list(survey.findings(start, many)), True
        except (OSError, ValueError, KeyError):
            return [], True

    @abstractmethod
    def tell_figures(self) -> None:
        """Show how far the checking is."""

    def finding(self, index: int) -> Finding | None:
        """A finding, or None while it is not there."""
        return self._findings.get(index) if self._findings is not None and self.finding_count else None

    def finding_words(self) -> list[str]:
        """The first findings as they are copied."""
        if self._survey is None or not self.finding_count:
            return []
        found = self._read(self._survey, 0, _COPIED)[0]
        lines = [f"{each.file}:{each.line}: {each.kind}: {each.message} ({each.fix})" for each in found]
        if self.finding_count > len(lines):
            lines.append(
                f"and {self.finding_count - len(lines)} more: {self.session.command('data', '--json')} has all"
            )
        return lines

    def look_up(self, finding: Finding) -> None:
        """Look for the row of a finding, in a thread."""
        if self.source is not None:
            self._look_up(self.source, finding)

    @work(thread=True, exit_on_error=False, exclusive=True, group="find")
    def _look_up(self, source: RowSource, finding: Finding) -> None:
        try:
            index = source.find(finding.file, finding.row)
        except (LabError, OSError, ValueError):
            index = None
        if source is self.source:
            self.post_message(self.Found(finding, index))

    def action_stop(self) -> None:
        """Stop the checking."""
        if self._survey is not None:
            self._survey.cancel()

    def end_survey(self) -> None:
        """End the checking and forget what it found."""
        survey, self._survey = self._survey, None
        self.report = self._survey_report = self.state = None
        self.finding_count = 0
        if self._findings is not None:
            self._findings.close()
            self._findings = None
        if self._poll is not None:
            self._poll.stop()
        if survey is not None:
            survey.close()
