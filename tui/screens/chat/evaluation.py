"""What every step cost and gave: the evaluate stage started and stopped, its figures, and the answers page by page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len, set_cell_size
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content

from core.evaluated import TITLES, Answered, between, figure, lines_of, measured, read_rows, two_sides
from core.files import MANIFEST, read_if_whole
from core.language import N_, _, shown
from core.stages import STAGES
from core.text import clean
from tui.figures import number, time_left
from tui.glyphs import bar, glyph
from tui.labels import phase_words
from tui.screens.chat.controller import problem_of
from tui.screens.chat.dialogs import STYLES
from tui.screens.dialogs import Dialog
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.problem import ProblemBox
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.lab import Lab
    from tui.app import OlivePressApp
    from tui.snapshot import JobView

LOOK_S = 0.25

ABOUT = N_(
    "Puts the held-out records to the float model, the quantized one and the ONNX one, with adapter and without: which "
    "is closer to the records, what was forgotten, and what each takes to run. It takes some minutes, and goes on by "
    "itself when this is closed."
)


_LEFT = 31
"""Columns of the names of the figures."""


class EvaluationScreen(Dialog[None]):
    """The figures on the first page, then a question a page.

    Attributes:
        rows: the questions that were answered.
        index: the page: 0 for the figures, then the questions.
    """

    CSS_PATH = STYLES
    AUTO_FOCUS = "#page"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", N_("Close"), show=False),
        Binding("left,p", "turn(-1)", show=False),
        Binding("right,n", "turn(1)", show=False),
        Binding("f9,x", "stop", N_("Stop"), show=False),
        Binding("f8,r", "start", N_("Run"), show=False),
    ]

    def __init__(self, lab: Lab, adapter: str, rows: int | None = None) -> None:
        """``rows``: held-out records at most, in place of the recipe's."""
        super().__init__()
        self._lab, self._adapter = lab, adapter
        self._values: dict[str, Any] = {"finetune.adapter": adapter}
        if rows is not None:
            self._values["evaluate.rows"] = rows
        self._error: Exception | None = None
        self._starting = False
        self._shown: object = None
        self.index = 0
        self.rows: list[Answered] = []
        self.result: Mapping[str, Any] = {}
        self._summary = Plain("")
        self._problem = ProblemBox()
        self._text = Plain("")
        self._sides = {name: Plain("", classes=f"-{name}") for name in ("base", "tuned")}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(
                _("Evaluation with the adapter {adapter}", adapter=clean(self._adapter, keep_newlines=False)),
                classes="dialog-title",
            )
            yield self._summary
            yield self._problem
            with VerticalScroll(id="page", can_focus=True):
                yield self._text
                with Horizontal(classes="sides"):
                    yield from self._sides.values()
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Previous"), id="before", key="p")
                yield Button(_("Next"), id="after", key="n")
                yield Button(_("Run"), id="run", key="F8")
                yield Button(_("Stop"), id="stop", key="F9")
                yield Button(_("Close"), id="close", key="Esc")

    @property
    def job(self) -> JobView | None:
        """The newest job of the stage."""
        app: OlivePressApp = self.app  # type: ignore[assignment]
        return app.snapshot.jobs.get("evaluate")

    @property
    def running(self) -> bool:
        """Whether a job is at work, or about to be."""
        return self._starting or (self.job is not None and self.job.active)

    def on_mount(self) -> None:
        """Show what there is, and look again at a steady pace."""
        self._read()
        self._look()
        self.set_interval(LOOK_S, self._look)

    def _read(self) -> None:
        """Read the result that lies in the lab."""
        folder = self._lab.folder.evaluation_dir(self._adapter)
        manifest = read_if_whole(folder / MANIFEST)
        result = manifest.get("result") if isinstance(manifest, dict) else None
        self.result = result if isinstance(result, Mapping) else {}
        self.rows = read_rows(folder)
        self.index = min(self.index, len(self.rows))

    def _look(self) -> None:
        """Draw, if there is anything new to draw."""
        app: OlivePressApp = self.app  # type: ignore[assignment]
        job = self.job
        seen = (job, self._starting, self._error, self.index, app.snapshot.stale.get("evaluate"))
        if seen == self._shown:
            return
        if job is not None and not job.active:
            self._read()
        self._shown = seen
        self._draw()

    def action_start(self) -> None:
        """Run it; where nothing has changed, all of it is measured again."""
        if not self.running:
            self._starting, self._error = True, None
            self._start()
            self._look()

    @work(thread=True, exit_on_error=False, group="evaluation")
    def _start(self) -> None:
        try:
            self._lab.start("evaluate", values=self._values, force=self._is_new())
        except Exception as error:  # every failure is shown; none ends the app
            self._error = error
        self._starting = False

    def _is_new(self) -> bool:
        """Whether the result there is would be found unchanged, so that only another run of all of it is meant."""
        app: OlivePressApp = self.app  # type: ignore[assignment]
        return bool(self.result) and "evaluate" not in app.snapshot.stale

    def action_stop(self) -> None:
        """End the job; what was measured is kept, and the next run goes on from there."""
        job = self.job
        if job is not None and job.active:
            self._stop(job.id)

    @work(thread=True, exit_on_error=False, group="evaluation")
    def _stop(self, job: str) -> None:
        try:
            self._lab.job(job).cancel()
        except Exception as error:  # shown, whatever it was
            self._error = error

    def action_turn(self, by: int) -> None:
        """The page before or after."""
        index = max(0, min(len(self.rows), self.index + by))
        if index != self.index:
            self.index = index
            self._look()
            self.query_one("#page", VerticalScroll).scroll_home(animate=False)

    def action_close(self) -> None:
        """Back to the chat; what runs goes on by itself."""
        if self.running:
            self.notify(_("The evaluation goes on by itself."), markup=False)
        self.dismiss(None)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        {
            "before": lambda: self.action_turn(-1),
            "after": lambda: self.action_turn(1),
            "run": self.action_start,
            "stop": self.action_stop,
            "close": self.action_close,
        }[event.button.id or "close"]()

    # Drawing

    def _draw(self) -> None:
        running = self.running
        self.query_one("#stop", Button).display = running
        self.query_one("#run", Button).display = not running
        self.query_one("#run", Button).label(_("Run again") if self.result else _("Run"))
        for name in ("before", "after"):
            self.query_one(f"#{name}", Button).display = bool(self.rows)
        self.refresh_bindings()  # the footer names the buttons
        self._problem.tell(self._told())
        self._summary.show(self._headline())
        self._summary.display = running or not self.index  # the answers need its room
        page = self.rows[self.index - 1] if self.index else None
        self._text.show(self._figures() if page is None else self._question(page))
        for side in self._sides.values():
            side.display = page is not None
        if page is not None and (names := two_sides(page.answers)):
            for side, name in zip(self._sides.values(), names, strict=True):
                side.show(_side(page, name))

    def _told(self) -> Any:
        """What went wrong: with the start, or with the last job."""
        if self._error is not None:
            return problem_of(self._error)
        job = self.job
        if job is None or job.state not in ("failed", "crashed"):
            return None
        error = self._lab.job(job.id).error()
        return problem_of(error) if error is not None else None

    def _headline(self) -> Content:
        job = self.job
        if self._starting:
            return Content(_("Starting …"))
        if job is not None and job.active:
            share = job.share
            words = [phase_words(job) or _("Starting …")]
            if share is not None and job.total:
                words = [
                    f"{bar(share, 12)} {words[0]}",
                    _("{done} of {total}", done=number(job.done or 0), total=number(job.total)),
                ]
            words += [time_left(job.eta_s)] if job.eta_s is not None else []
            return Content(f" {glyph('dot')} ".join(words))
        app: OlivePressApp = self.app  # type: ignore[assignment]
        judged = STAGES["evaluate"].assessment(self.result)
        if not judged.text:
            return Content(_("Not evaluated yet."))
        style = "$text-warning" if judged.poor else "$text-success"
        parts: list[Any] = [(clean(judged.text, keep_newlines=False), style)]
        if why := app.snapshot.stale.get("evaluate"):
            parts.append(
                (
                    "\n" + _("Older than the lab: {why}.", why=clean(shown(why), keep_newlines=False)),
                    "$text-warning",
                )
            )
        return Content.assemble(*parts)

    def _figures(self) -> Content:
        """The first page: two variants side by side, or what this is."""
        there = dict(measured(self.result))
        names = list(there)[:1] + list(there)[-1:]
        if not there:
            return Content(_(ABOUT))
        heads = [_(TITLES[name]) for name in names]
        roomy = self.size.width >= 110  # for the intervals
        wide = 30 if roomy else 20
        lines: list[Any] = [
            (" " * _LEFT + "".join(f"{head:<{wide}}" for head in heads).rstrip() + "\n", "bold")
        ]
        for key, label, show in lines_of(self.result):
            found = [figure(there[name], key) for name in names]
            cells = [
                shown(between(there[name], key, show) if roomy else "" if value is None else show(value))
                for name, value in zip(names, found, strict=True)
            ]
            named = _(label)
            if cell_len(named) >= _LEFT:  # a long one has a line of its own: nothing of it is cut
                lines.append(f"{named}\n")
                named = ""
            lines.append(
                set_cell_size(named, _LEFT) + "".join(f"{cell:<{wide}}" for cell in cells).rstrip() + "\n"
            )
        if roomy:
            lines.append(
                (
                    "\n"
                    + _("In brackets: where it would lie 95 times in 100; eight times in ten for speeds."),
                    "dim",
                )
            )
        lines.append(("\n" + _("On the next pages: the answers. All figures are in report.html."), "dim"))
        return Content.assemble(*lines)

    def _question(self, row: Answered) -> Content:
        return Content.assemble(
            (_("Question {number} of {total}", number=self.index, total=len(self.rows)), "bold"),
            (
                "  "
                + _("{path}, line {line}", path=clean(row.file, keep_newlines=False), line=row.line)
                + "\n",
                QUIET,
            ),
            clean(row.question),
            ("\n\n" + _("Expected") + "  ", "bold"),
            clean(row.expected),
        )


def _side(row: Answered, name: str) -> Content:
    loss = figure(row.losses, name)
    told = "" if loss is None else "  " + _("loss {loss:.3f}", loss=loss)
    return Content.assemble(
        (_(TITLES.get(name, clean(name, keep_newlines=False))), "bold $text-secondary"),
        (f"{told}\n", QUIET),
        clean(row.answers.get(name, "")) or _("(nothing)"),
    )
