"""Step 1: is this machine able to run the lab, and what to do if not."""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual import work
from textual.app import ComposeResult
from textual.content import Content
from textual.geometry import Size
from textual.message import Message

from core.language import N_, _, shown
from core.text import clean
from tui.actions import helps_of, in_words
from tui.screens.base import StepScreen
from tui.steps import steps
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.plain_list import PlainList
from tui.widgets.problem import Helps
from tui.widgets.rail import Word
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.check import Check
    from tui.session import Session
    from tui.snapshot import Snapshot

STYLES = {
    "OK": "$text-success",
    "WARN": "bold $text-warning",
    "FAIL": "bold $text-error",
    "SKIP": QUIET,
}


_WORDS = {"FAIL": Word("FAIL", "failed"), "WARN": Word("WARN", "stale"), "OK": Word("OK", "done")}
"""What stands under the step in the rail."""


class CheckState(NamedTuple):
    """All that the screen shows.

    Attributes:
        checks: what has come in; when all are in, in the order in which to read them.
        over: whether all are in.
        problem: why looking itself failed.
    """

    checks: tuple[Check, ...] = ()
    over: bool = False
    problem: str = ""

    def count(self, state: str) -> int:
        """How many checks came out so."""
        return sum(check.state == state for check in self.checks)

    @property
    def worst(self) -> str:
        """FAIL, WARN or OK."""
        return next((state for state in ("FAIL", "WARN") if self.count(state)), "OK")

    @property
    def headline(self) -> Content:
        """What it comes to."""
        if self.problem:
            return Content(clean(_("The checks could not be made. {problem}", problem=self.problem)))
        if not self.over:
            return Content(_("Looking … {n} so far", n=len(self.checks)))
        if self.worst == "FAIL":
            return Content.assemble(
                (f"{self.count('FAIL')} FAIL", "bold $text-error"),
                ": " + _("mark the line to see what to do, then check again."),
            )
        if self.worst == "WARN":
            return Content.assemble(
                (_("This machine can run the lab."), "bold"),
                "  " + _("{count} WARN: good to know.", count=self.count("WARN")),
            )
        return Content.styled(_("This machine can run the lab."), "bold $text-success")

    def line(self, index: int) -> Content:
        """One check in a line."""
        check = self.checks[index]
        width = max(len(shown(each.name)) for each in self.checks)
        return Content.assemble(
            (f"{check.state:<5}", STYLES.get(check.state, "")),
            (f"{clean(shown(check.name), keep_newlines=False):<{width}}  ", "bold"),
            clean(shown(check.found), keep_newlines=False),
        )

    def detail(self, index: int) -> Content:
        """One check in full, with what to do."""
        if not self.checks:
            return Content("")
        check = self.checks[min(index, len(self.checks) - 1)]
        parts: list[Content | tuple[str, str]] = [
            (f"{check.state} ", STYLES.get(check.state, "")),
            Content(clean(shown(check.found))),
        ]
        if check.fix:
            parts += [("\n" + _("What to do:") + " ", "bold"), Content(clean(in_words(check.advice)))]
        return Content.assemble(*parts)


def as_here(check: Check, session: Session) -> Check:
    """Without a lab the command line says how to make one; the wizard makes it by itself."""
    if check.name == "recipe" and not session.exists and session.broken is None:
        return replace(
            check, state="SKIP", found=_("There is no lab here yet: it is made when you go on."), hint=""
        )
    return check


class CheckScreen(StepScreen):
    """The checks as they come in; the marked one in full below, with what to do."""

    NAME = "check"
    LABELS: ClassVar[Mapping[str, str]] = {"run": N_("Check again")}
    CSS_PATH = "check.tcss"

    class Seen(Message):
        """There is more to show."""

        def __init__(self, attempt: int, state: CheckState) -> None:
            super().__init__()
            self.attempt, self.state = attempt, state

    def __init__(self) -> None:
        super().__init__()
        self.headline = Plain("Looking …", id="headline")
        self.list = PlainList(id="checks", empty="")
        self.list.add_class("framed", update=False)
        self.detail = Plain("", id="check-detail")
        self.helps = Helps()
        self.state = CheckState()
        self._attempt = 0
        self._seen_size = Size(0, 0)
        self._looked_at: object = None

    def body(self) -> ComposeResult:
        yield self.headline
        yield self.list

    def side(self) -> ComposeResult:
        yield self.detail
        yield self.helps
        with FlowingRow(classes="buttons"):
            yield Button(_("Next: {title}", title=steps()[1].title), id="next", key="F4", primary=True)
            yield Button(_("Check again"), id="run", key="F8")
            yield Button(_("Copy as text"), id="copy", key="c")
        yield self.command

    def lay_out(self) -> None:
        """The line that tells of the terminal tells of the one that it has become."""
        if not self.state.over or self.size == self._seen_size:
            return
        from core.check.terminal import judge

        self._seen_size = self.size
        environment = {**os.environ, **({"NO_COLOR": "1"} if self.app.no_color else {})}
        now = judge(environment, *self.size, locale.getpreferredencoding(False))
        checks = (now if each.name == now.name else each for each in self.state.checks)
        self._draw(self.state._replace(checks=tuple(checks)))

    def show(self, snapshot: Snapshot) -> None:
        """Look, and look again by itself where the recipe or what is made is another than at the last look."""
        self.command.show(self.session.command("check"))
        subject = (self.session.stamp(), snapshot.made)
        if self.is_current and self._looked_at != subject:
            self._looked_at = subject
            self.call_after_refresh(self.action_run)  # draw first

    def focus_first(self) -> None:
        """On Next, for a warning does not stop anybody; after a FAIL on what helps, or on looking again."""
        failed = self.state.over and self.state.worst == "FAIL"
        helps = self.helps.first if failed else None
        self.set_focus(helps or self.query_one("#run" if failed else "#next", Button))

    def run_now(self, *, checked: bool = True) -> None:
        """Look again."""
        self.action_run()

    def action_run(self) -> None:
        """Look at everything again."""
        self._attempt += 1
        self._seen_size = self.size
        self._draw(CheckState())
        self._look(self._attempt)

    @work(thread=True, exit_on_error=False, group="check")
    def _look(self, attempt: int) -> None:
        state = CheckState()

        def came(check: Check) -> None:
            nonlocal state
            state = state._replace(checks=(*state.checks, as_here(check, self.session)))
            self.post_message(self.Seen(attempt, state))

        try:
            from core.check import run_checks

            found = run_checks(self.session.root, on_check=came)
            state = CheckState(tuple(as_here(each, self.session) for each in found), over=True)
        except Exception as error:  # shown; the wizard goes on without the checks
            state = CheckState(over=True, problem=f"{type(error).__name__}: {error}")
        self.post_message(self.Seen(attempt, state))

    def on_check_screen_seen(self, event: Seen) -> None:
        """Show it; an answer to an older look is dropped."""
        event.stop()
        if event.attempt != self._attempt:
            return
        if event.state.over and not event.state.problem:
            marked = {"FAIL", "WARN"} & {event.state.worst}
            self.list.index = next((i for i, c in enumerate(event.state.checks) if c.state in marked), 0)
        self._draw(event.state)
        if event.state.over and not event.state.problem:
            if self.focused is not None and self.focused.id in ("next", "run", "help-0"):
                self.focus_first()
            self.olive.note("check", _WORDS[event.state.worst])

    def _draw(self, state: CheckState) -> None:
        """The one place where the state gets onto the screen."""
        self.state = state
        self.headline.show(state.headline)
        stops = state.over and state.worst == "FAIL"
        self.query_one("#next", Button).set_class(not stops, "-primary")
        self.list.show(len(state.checks), state.line)
        self._draw_detail(self.list.index)
        self.query_one("#run", Button).set_class(stops and self.helps.first is None, "-primary")

    def _draw_detail(self, index: int) -> None:
        """The marked check in full, and what helps."""
        self.detail.show(self.state.detail(index))
        checks = self.state.checks
        self.helps.offer(helps_of(checks[min(index, len(checks) - 1)].advice) if checks else [], "")

    def on_plain_list_moved(self, event: PlainList.Moved) -> None:
        """Show the marked one in full."""
        event.stop()
        self._draw_detail(event.index)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        if event.button.id == "next":
            self.app.run_worker(self.olive.action_next())
        elif event.button.id == "run":
            self.action_run()
        else:
            self.action_copy_report()

    def action_copy_report(self) -> None:
        """Copy all checks as text, for a report of a problem."""
        from core.check.types import as_markdown

        self.app.copy_to_clipboard(clean(as_markdown(self.state.checks)))
        self.notify(_("Copied (if your terminal allows it)."), markup=False)
