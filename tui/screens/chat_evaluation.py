"""The held-out questions, answered by base and tuned model, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen

from core.text import clean
from tui.signs import bar, sign
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat import ChatSession
    from core.chat.evaluate import Evaluation, Row, Side
    from core.lab import Lab


class EvaluationScreen(ModalScreen[None]):
    """Runs the evaluation, or shows the one made last; one question a page."""

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#page"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Close", show=False),
        Binding("left,p", "turn(-1)", show=False),
        Binding("right,n", "turn(1)", show=False),
        Binding("f9,x", "stop", "Stop", show=False),
        Binding("f8,r", "start", "Run", show=False),
    ]
    DEFAULT_CSS = """
    EvaluationScreen #page { height: 1fr; scrollbar-size-vertical: 1; }
    EvaluationScreen .sides { height: auto; margin: 1 0 0 0; }
    EvaluationScreen .-tuned { border-left: solid $panel; padding: 0 0 0 1; margin: 0 0 0 1; }
    """

    class Answered(Message):
        """A row is done."""

        def __init__(self, done: int, total: int, row: Row) -> None:
            super().__init__()
            self.done, self.total, self.row = done, total, row

    class Ended(Message):
        """All are done, or it was stopped, or it failed."""

        def __init__(self, result: Evaluation | None, error: Exception | None) -> None:
            super().__init__()
            self.result, self.error = result, error

    def __init__(self, lab: Lab, session: ChatSession, adapter: str, last: Evaluation | None) -> None:
        """``last``: the evaluation made before, shown at once; None starts one."""
        super().__init__()
        self._lab, self._session, self._adapter = lab, session, adapter
        self.rows: list[Row] = list(last.rows) if last else []
        self._last = last
        self._done, self._total = len(self.rows), last.total if last else 0
        self.running = False
        self._stopping = False
        self._followed = True
        self.index = 0
        self._summary = Plain("")
        self._problem = Problem()
        self._question = Plain("")
        self._sides = {name: Plain("", classes=f"-{name}") for name in ("base", "tuned")}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(
                f"Held-out questions: base and {clean(self._adapter, keep_newlines=False)}",
                classes="dialog-title",
            )
            yield self._summary
            yield self._problem
            with VerticalScroll(id="page", can_focus=True):
                yield self._question
                with Horizontal(classes="sides"):
                    yield from self._sides.values()
            with Horizontal(classes="dialog-buttons"):
                yield Push("Previous", id="before", key="p")
                yield Push("Next", id="after", key="n")
                yield Push("Run again", id="run", key="F8")
                yield Push("Stop", id="stop", key="F9")
                yield Push("Close", id="close", key="Esc")

    def on_mount(self) -> None:
        """Show what there is, or begin."""
        if self._last is None:
            self.action_start()
        self._show()

    def action_start(self) -> None:
        """Run it."""
        if self.running:
            return
        self.rows, self._done, self._total, self.index = [], 0, 0, 0
        self.running, self._stopping, self._followed = True, False, True
        self._problem.tell(None)
        self._show()
        self._run_all()

    @work(thread=True, exit_on_error=False, group="evaluation")
    def _run_all(self) -> None:
        from core.chat.evaluate import evaluate

        try:
            result = evaluate(
                self._lab,
                self._session,
                adapter=self._adapter,
                on_row=self._tell_row,
                stopped=lambda: self._stopping or not self.is_running,
            )
        except Exception as error:  # every failure is shown; none ends the app
            self.post_message(self.Ended(None, error))
        else:
            self.post_message(self.Ended(result, None))

    def _tell_row(self, done: int, total: int, row: Row) -> None:
        """Called in the thread."""
        self.post_message(self.Answered(done, total, row))

    def on_evaluation_screen_answered(self, event: Answered) -> None:
        """Another page; the newest is shown until the user turns pages."""
        event.stop()
        self.rows.append(event.row)
        self._done, self._total = event.done, event.total
        if self._followed:
            self.index = len(self.rows) - 1
        self._show()

    def on_evaluation_screen_ended(self, event: Ended) -> None:
        """Show the means."""
        event.stop()
        self.running = False
        if event.result is not None:
            self._total = event.result.total
        if event.error is not None:
            told = getattr(event.error, "as_dict", None)
            self._problem.tell(
                told() if told else {"title": "That did not work.", "detail": str(event.error)}
            )
        self._show()

    def _show(self) -> None:
        self.query_one("#stop", Push).display = self.running
        self.query_one("#run", Push).display = not self.running
        self._summary.show(self._means())
        if not self.rows:
            self._question.show("The first answers are on their way …" if self.running else "")
            for side in self._sides.values():
                side.show("")
            return
        row = self.rows[self.index]
        self._question.show(
            Content.assemble(
                (f"Question {self.index + 1} of {len(self.rows)}", "bold"),
                (f"  {clean(row.file, keep_newlines=False)}, line {row.line}\n", "$foreground 60%"),
                clean(row.question),
                ("\n\nExpected  ", "bold"),
                clean(row.expected),
            )
        )
        self._sides["base"].show(_side("base", row.base))
        self._sides["tuned"].show(_side(self._adapter, row.tuned, row.base))

    def _means(self) -> Content:
        parts: list[Any] = []
        if self.running:
            share = self._done / self._total if self._total else 0.0
            room = bar(share, 12) + " " if self.size.width >= 100 else ""
            parts.append(f"{room}{self._done} of {self._total or '?'}")
        elif self.rows:
            parts.append(f"{len(self.rows)} of {max(self._total, len(self.rows))}")
        if self.rows:
            for figure, better in (("loss", -1), ("similarity", 1)):
                base, tuned = (
                    sum(getattr(getattr(row, side), figure) for row in self.rows) / len(self.rows)
                    for side in ("base", "tuned")
                )
                word = "better" if (tuned - base) * better > 0 else "worse" if tuned != base else "same"
                parts.append(
                    Content.assemble(
                        f"{figure} {base:.2f} {sign('to')} ", (f"{tuned:.2f}", "bold"), f" {word}"
                    )
                )
        return Content(f" {sign('dot')} ").join(Content(p) if isinstance(p, str) else p for p in parts)

    def action_turn(self, by: int) -> None:
        """The page before or after."""
        if not self.rows:
            return
        self.index = max(0, min(len(self.rows) - 1, self.index + by))
        self._followed = self.index == len(self.rows) - 1
        self._show()
        self.query_one("#page", VerticalScroll).scroll_home(animate=False)

    def action_stop(self) -> None:
        """End it after the question in hand, whose answer is cut short."""
        if self.running:
            self._stopping = True
            self._session.stop()

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        {
            "before": lambda: self.action_turn(-1),
            "after": lambda: self.action_turn(1),
            "run": self.action_start,
            "stop": self.action_stop,
            "close": self.action_close,
        }[event.push.id or "close"]()

    def action_close(self) -> None:
        """Back to the chat; what runs is stopped, and what it has is kept."""
        self.action_stop()
        self.dismiss(None)


def _side(name: str, side: Side, base: Side | None = None) -> Content:
    change = ""
    if base is not None:
        change = " (better)" if side.loss < base.loss else " (worse)" if side.loss > base.loss else " (same)"
    return Content.assemble(
        (clean(name, keep_newlines=False), "bold $text-secondary"),
        (f"  loss {side.loss:.3f}{change}, similarity {side.similarity:.2f}\n", "$foreground 60%"),
        clean(side.answer.answer) or "(nothing)",
    )
