"""The held-out questions, answered by base and tuned model, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message

from core.chat.evaluate import Evaluation, evaluate
from core.text import clean
from tui.glyphs import bar, glyph
from tui.screens.chat.controller import problem_of
from tui.screens.chat.dialogs import STYLES
from tui.screens.dialogs import Dialog
from tui.widgets.button import Button
from tui.widgets.problem import ProblemBox
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.chat import ChatSession
    from core.chat.evaluate import EvaluatedRow, Side
    from core.lab import Lab


class EvaluationScreen(Dialog[None]):
    """Runs the evaluation, or shows the one made last; one question a page."""

    CSS_PATH = STYLES
    AUTO_FOCUS = "#page"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Close", show=False),
        Binding("left,p", "turn(-1)", show=False),
        Binding("right,n", "turn(1)", show=False),
        Binding("f9,x", "stop", "Stop", show=False),
        Binding("f8,r", "start", "Run", show=False),
    ]

    class Changed(Message):
        """Another row is done, or the end has come."""

    def __init__(self, lab: Lab, session: ChatSession, adapter: str, last: Evaluation | None) -> None:
        """``last``: the evaluation made before, shown at once; None starts one."""
        super().__init__()
        self._lab, self._session = lab, session
        self._result = last or Evaluation(adapter, "", 0)
        self._total = self._result.total
        self._error: Exception | None = None
        self.running = False
        self._stopping = False
        self._followed = True
        self.index = 0
        self._summary = Plain("")
        self._problem = ProblemBox()
        self._question = Plain("")
        self._sides = {name: Plain("", classes=f"-{name}") for name in ("base", "tuned")}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(
                f"Held-out questions: base and {clean(self._result.adapter, keep_newlines=False)}",
                classes="dialog-title",
            )
            yield self._summary
            yield self._problem
            with VerticalScroll(id="page", can_focus=True):
                yield self._question
                with Horizontal(classes="sides"):
                    yield from self._sides.values()
            with Horizontal(classes="dialog-buttons"):
                yield Button("Previous", id="before", key="p")
                yield Button("Next", id="after", key="n")
                yield Button("Run again", id="run", key="F8")
                yield Button("Stop", id="stop", key="F9")
                yield Button("Close", id="close", key="Esc")

    @property
    def rows(self) -> list[EvaluatedRow]:
        """The questions that were answered."""
        return self._result.rows

    def on_mount(self) -> None:
        """Show what there is, or begin."""
        if not self._result.created:
            self.action_start()
        self._show()

    def action_start(self) -> None:
        """Run it."""
        if self.running:
            return
        self._result = Evaluation(self._result.adapter, "", 0)
        self._total, self.index, self._error = 0, 0, None
        self.running, self._stopping, self._followed = True, False, True
        self._show()
        self._run_all()

    @work(thread=True, exit_on_error=False, group="evaluation")
    def _run_all(self) -> None:
        def tell(done: int, total: int, row: EvaluatedRow) -> None:
            self._total = total
            self.rows.append(row)
            self.post_message(self.Changed())

        try:
            result = evaluate(
                self._lab,
                self._session,
                adapter=self._result.adapter,
                on_row=tell,
                stopped=lambda: self._stopping or not self.is_running,
            )
            self._total = result.total
        except Exception as error:  # every failure is shown; none ends the app
            self._error = error
        self.running = False
        self.post_message(self.Changed())

    def on_evaluation_screen_changed(self, event: Changed) -> None:
        """Another page; the newest is shown until the user turns pages."""
        event.stop()
        if self._followed:
            self.index = max(0, len(self.rows) - 1)
        self._show()

    def _show(self) -> None:
        self.query_one("#stop", Button).display = self.running
        self.query_one("#run", Button).display = not self.running
        self.refresh_bindings()  # the footer names the buttons
        self._problem.tell(problem_of(self._error) if self._error else None)
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
        self._sides["tuned"].show(_side(self._result.adapter, row.tuned, row.base))

    def _means(self) -> Content:
        parts: list[Any] = []
        if self.running:
            share = len(self.rows) / self._total if self._total else 0.0
            room = bar(share, 12) + " " if self.size.width >= 100 else ""
            parts.append(f"{room}{len(self.rows)} of {self._total or '?'}")
        elif self.rows:
            parts.append(f"{len(self.rows)} of {max(self._total, len(self.rows))}")
        if self.rows:
            for figure, better in (("loss", -1), ("similarity", 1)):
                base, tuned = (self._result.mean(side, figure) or 0.0 for side in ("base", "tuned"))
                word = "better" if (tuned - base) * better > 0 else "worse" if tuned != base else "same"
                parts.append(
                    Content.assemble(
                        f"{figure} {base:.2f} {glyph('to')} ", (f"{tuned:.2f}", "bold"), f" {word}"
                    )
                )
        return Content(f" {glyph('dot')} ").join(Content(p) if isinstance(p, str) else p for p in parts)

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
