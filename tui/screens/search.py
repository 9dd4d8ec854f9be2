"""The search for settings within limits: what is asked for, the choices as they are tried, and picking one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input

from core.errors import LabError, text_of
from core.language import N_, _, shown
from core.search.space import READERS, SearchLimits
from core.searched import Board, Try, ordered, read_board, refused_words
from core.text import clean
from tui.figures import human_bytes
from tui.labels import progress
from tui.screens.dialogs import Dialog
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.line import Line
from tui.widgets.plain_list import PlainList
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from tui.session import Session
    from tui.snapshot import JobView

LIMITS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "quantize": (
        ("size", N_("Size at most"), "2.5GiB"),
        ("loss", N_("Worse by at most"), "1%"),
        ("speed", N_("Tokens/s at least"), "20"),
        ("seconds", N_("Time for it"), "20m"),
    ),
    "finetune": (("seconds", N_("Time for it"), "20m"),),
}
"""For each kind of search the limits that a person can state: a key, what it is called, an example."""

LEGENDS: Mapping[str, str] = {
    "quantize": N_("* best within the limits, + no smaller one is better, ~ estimated"),
    "finetune": N_("* best, ~ estimated"),
}
"""For each kind of search what the marks of the table mean."""

LOOK_S = 0.5


class SearchScreen(Dialog[dict[str, Any] | None]):
    """Gives the settings of the choice that was picked, or None.

    Args:
        kind: of :data:`core.searched.KINDS`.
        newest: the lab's newest search, as the wizard has last seen it.
    """

    CSS_PATH: ClassVar[list[str]] = ["dialogs.tcss", "search.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f8", "search", N_("Search"), show=False),
        Binding("f9", "stop", N_("Stop"), show=False),
        Binding("escape", "close", N_("Close"), show=False),
    ]

    class Tried(Message):
        """The attempt to start or stop a search came to an end."""

        def __init__(self, error: Exception | None) -> None:
            super().__init__()
            self.error = error

    def __init__(self, kind: str, session: Session, newest: Callable[[], JobView | None]) -> None:
        super().__init__()
        self.kind, self.session, self.newest = kind, session, newest
        self.said = Plain(id="said")
        self.list = PlainList(id="tries", empty=_("Nothing has been tried yet. Empty limits mean: anything."))
        self._head = Plain(id="heads")
        self._legend = Plain(id="legend")
        self._busy = False
        self._problem = ""
        self._drawn: object = None
        self._tries: list[Try] = []

    def compose(self) -> ComposeResult:
        what = (
            _("a way to quantize") if self.kind == "quantize" else _("rate, rank and scale of the training")
        )
        with Vertical(classes="dialog -search"):
            yield Plain(_("Search for {what}", what=what), classes="dialog-title")
            with Horizontal(classes="limits"):
                for key, label, example in LIMITS[self.kind]:
                    with Vertical(classes="limit"):
                        yield Plain(_(label))
                        yield Line(
                            compact=True,
                            id=f"limit-{key}",
                            placeholder=_("such as {example}", example=example),
                        )
            yield self.said
            yield self._head
            yield self.list
            yield self._legend
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Search"), id="search", key="F8", primary=True)
                yield Button(_("Stop"), id="stop", key="F9")
                yield Button(_("Close"), id="close", key="Esc")

    def on_mount(self) -> None:
        """Show the last search, and look again while one runs."""
        self.set_interval(LOOK_S, self.look)
        self.look()
        self.set_focus(self.list if self._tries else self.query_one("#search"))

    # What is shown

    def look(self) -> None:
        """Everything from the lab's files, where they tell something else than they did."""
        board = read_board(self.session.folder, self.kind)
        job = self.newest()
        seen = (board, job, self._busy, self._problem)
        if seen == self._drawn or not self.is_current:
            return
        self._drawn = seen
        active = job is not None and job.active
        self._tries = [each for each in ordered(board) if each.state != "refused"] if board else []
        self.list.show(len(self._tries), partial(self._line, board))
        self._head.show(Content.styled(self._cells([head for head, _least in self._heads()]), QUIET))
        self._legend.show(Content.styled(_(LEGENDS[self.kind]), QUIET))
        self._head.display = self._legend.display = bool(self._tries)
        self.said.show(self._words(board, job))
        self.query_one("#search", Button).disabled = active or self._busy
        stop = self.query_one("#stop", Button)
        stop.display = active
        stop.disabled = job is not None and job.state == "cancelling"

    def _heads(self) -> list[tuple[str, int]]:
        """What stands in the columns before the settings, and how many cells its figures take."""
        if self.kind == "quantize":
            return [(_("divergence"), 8), (_("size"), 10), (_("tokens/s"), 8)]
        return [(_("held-out loss"), 8)]

    def _cells(self, texts: Sequence[str], mark: str = "") -> str:
        """A line of the table; without a mark the one above it, which no mark of the list stands before."""
        widths = [max(least, cell_len(head)) for head, least in self._heads()]
        cells = [" " * (width - cell_len(text)) + text for text, width in zip(texts, widths, strict=True)]
        return "  ".join([f"{mark or '   '} {cells[0]}", *cells[1:]])

    def _line(self, board: Board | None, index: int) -> Content:
        each = self._tries[index]
        best = board is not None and each.number == board.best
        cells = [each.loss_words]
        if self.kind == "quantize":
            cells.append(human_bytes(each.size or 0))
            cells.append(f"{each.speed:.1f}" if each.speed is not None else "")
        title = clean(shown(each.title), keep_newlines=False)
        told = each.why or ("" if each.state in ("measured", "estimated") else each.state)
        return Content.assemble(
            (self._cells(cells, "*" if best else "+" if each.front else " "), "bold" if best else ""),
            f"  {title}",
            (f"  {clean(shown(told), keep_newlines=False)}" if told else "", QUIET),
        )

    def _words(self, board: Board | None, job: JobView | None) -> Content | str:
        if self._problem:
            return Content.styled(clean(self._problem), "$text-error")
        if self._busy:
            return _("Starting …")
        if job is not None and job.active:
            return progress(job)
        if job is not None and job.state in ("failed", "crashed") and job.error:
            return Content.styled(
                clean(" ".join(shown(text_of(job.error, key)) for key in ("title", "detail"))), "$text-error"
            )
        if board is None:
            return _("Each choice is tried on a part of the model, the most promising as a whole.") if (
                self.kind == "quantize"
            ) else _("Short trainings; those that do worse are stopped early.")  # fmt: skip
        parts = [
            shown(board.note),
            _("Limits: {limits}.", limits=board.limits) if board.limits else "",
            shown(refused_words(board)),
        ]
        parts.append(_("Enter takes the marked one."))
        return " ".join(filter(None, parts))

    # What a person does

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        act = {"search": self.action_search, "stop": self.action_stop, "close": self.action_close}
        act[event.button.id or "close"]()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a limit."""
        event.stop()
        self.action_search()

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Take the settings of that choice."""
        event.stop()
        if event.index < len(self._tries):
            self.dismiss(dict(self._tries[event.index].values))

    def enter(self) -> str:
        """Use what is marked, or search within what is typed."""
        if isinstance(self.focused, Input):
            return _("Search")
        return _("Use") if self.focused is self.list and self._tries else super().enter()

    def limits(self) -> SearchLimits | None:
        """What stands in the fields; None where one is no limit, which then has the focus."""
        found: dict[str, float] = {}
        for key, label, example in LIMITS[self.kind]:
            field = self.query_one(f"#limit-{key}", Line)
            if not field.value.strip():
                continue
            try:
                found[key] = READERS[key](field.value)
            except ValueError as error:
                self._problem = _(
                    "{label}: {error}. An example: {example}.", label=_(label), error=error, example=example
                )
                self.set_focus(field)
                return None
        return SearchLimits.from_dict(found)

    def action_search(self) -> None:
        """Start the search."""
        job = self.newest()
        if self._busy or (job is not None and job.active):
            return
        self._problem = ""
        limits = self.limits()
        if limits is not None:
            self._busy = True
            self._try(partial(self._start, limits))
        self.look()

    def _start(self, limits: SearchLimits) -> None:
        from core.check import require

        lab = self.session.lab()
        require(lab, [self.kind])
        lab.start("search", options={"kind": self.kind, "limits": limits.as_dict()})

    def action_stop(self) -> None:
        """Ask the search to stop: what was measured is kept."""
        job = self.newest()
        if job is not None and job.active:
            self._try(partial(self._stop, job.id))

    def _stop(self, job: str) -> None:
        from core.lab import Lab

        Lab.at(self.session.root).job(job).cancel()

    @work(thread=True, exit_on_error=False, group="search")
    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.post_message(self.Tried(error))
        else:
            self.post_message(self.Tried(None))

    def on_search_screen_tried(self, event: Tried) -> None:
        """Say why it did not start."""
        event.stop()
        self._busy = False
        if event.error is not None:
            problem = event.error
            said = problem.shown() if isinstance(problem, LabError) else str(problem)
            self._problem = said.replace("\n", " ")
        self.look()

    def action_close(self) -> None:
        """Back to the step; a search goes on."""
        self.dismiss(None)
