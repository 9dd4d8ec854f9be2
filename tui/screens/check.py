"""Step 1: is this machine able to run the lab, and what to do if not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message

from core.text import clean
from tui.screens.base import StepScreen
from tui.widgets.plain_list import PlainList
from tui.widgets.push import Push
from tui.widgets.safe import Plain

if TYPE_CHECKING:
    from core.check import Check
    from tui.snapshot import Snapshot

STYLES = {
    "OK": "$text-success",
    "WARN": "bold $text-warning",
    "FAIL": "bold $text-error",
    "SKIP": "$foreground 60%",
}


class CheckScreen(StepScreen):
    """The checks as they come in; the marked one in full below, with what to do."""

    NAME = "check"
    LABELS: ClassVar[Mapping[str, str]] = {"run": "Check"}
    CSS_PATH = "check.tcss"

    class Came(Message):
        """One check came in."""

        def __init__(self, attempt: int, check: Check) -> None:
            super().__init__()
            self.attempt, self.check = attempt, check

    class Over(Message):
        """All checks are in, in the order in which to read them; or looking itself failed."""

        def __init__(self, attempt: int, checks: list[Check], problem: str = "") -> None:
            super().__init__()
            self.attempt, self.checks, self.problem = attempt, checks, problem

    def __init__(self) -> None:
        super().__init__()
        self.headline = Plain("Looking …", id="headline")
        self.list = PlainList(id="checks", empty="")
        self.detail = Plain("", id="check-detail")
        self.checks: list[Check] = []
        self._attempt = 0
        self._over = False

    def body(self) -> ComposeResult:
        yield self.headline
        yield self.list
        yield self.detail
        with Horizontal(classes="buttons"):
            yield Push("Next: Data", id="next", key="F4", primary=True)
            yield Push("Check again", id="run", key="F8")
            yield Push("Copy as text", id="copy", key="c")
        yield self.command

    def on_mount(self) -> None:
        """Draw first, then look."""
        self.call_after_refresh(self.action_run)

    def show(self, snapshot: Snapshot) -> None:
        """Nothing here depends on jobs."""
        self.command.show(self.session.command("check"))

    def focus_first(self) -> None:
        """On Next, for a warning does not stop anybody; after a FAIL on looking again."""
        failed = self._over and any(check.state == "FAIL" for check in self.checks)
        self.set_focus(self.query_one("#run" if failed else "#next", Push))

    def action_run(self) -> None:
        """Look at everything again."""
        self._attempt += 1
        self._over = False
        self.checks = []
        self._tell()
        self._look(self._attempt)

    @work(thread=True, exit_on_error=False, group="check")
    def _look(self, attempt: int) -> None:
        try:
            from core.check import run_checks

            found = run_checks(
                self.session.root, on_check=lambda check: self.post_message(self.Came(attempt, check))
            )
        except Exception as error:  # shown; the wizard goes on without the checks
            self.post_message(self.Over(attempt, [], f"{type(error).__name__}: {error}"))
        else:
            self.post_message(self.Over(attempt, found))

    def on_check_screen_came(self, event: Came) -> None:
        """Show it; an answer to an older look is dropped."""
        event.stop()
        if event.attempt == self._attempt and not self._over:
            self.checks.append(self._as_here(event.check))
            self._tell()

    def on_check_screen_over(self, event: Over) -> None:
        """All are in: put them in order, mark the first that wants something done."""
        event.stop()
        if event.attempt != self._attempt:
            return
        self._over = True
        if event.problem:
            self.headline.show(f"The checks could not be made. {event.problem}")
            return
        self.checks = [self._as_here(check) for check in event.checks]
        worst = next(
            (i for state in ("FAIL", "WARN") for i, c in enumerate(self.checks) if c.state == state), 0
        )
        self.list.index = worst
        self._tell()
        if self.focused is not None and self.focused.id in ("next", "run"):
            self.focus_first()
        states = [check.state for check in self.checks]
        self.olive.note("check", "FAIL" if "FAIL" in states else "WARN" if "WARN" in states else "OK")

    def _as_here(self, check: Check) -> Check:
        """Without a lab the command line says how to make one; the wizard makes it by itself."""
        if check.name == "recipe" and not self.session.exists and self.session.broken is None:
            return replace(
                check, state="SKIP", found="There is no lab here yet: it is made when you go on.", fix=""
            )
        return check

    def _tell(self) -> None:
        count = {state: sum(check.state == state for check in self.checks) for state in STYLES}
        if not self._over:
            self.headline.show(f"Looking … {len(self.checks)} so far")
        elif count["FAIL"]:
            self.headline.show(
                Content.assemble(
                    (f"{count['FAIL']} FAIL", "bold $text-error"), ": do what stands below, then check again."
                )
            )
        elif count["WARN"]:
            self.headline.show(
                Content.assemble(
                    ("This machine can run the lab.", "bold"), f"  {count['WARN']} WARN: good to know."
                )
            )
        else:
            self.headline.show(Content.styled("This machine can run the lab.", "bold $text-success"))
        self.list.show(len(self.checks), self._line)
        self._tell_detail(self.list.index)

    def _line(self, index: int) -> Content:
        check = self.checks[index]
        width = max(len(c.name) for c in self.checks)
        return Content.assemble(
            (f"{check.state:<5}", STYLES.get(check.state, "")),
            (f"{clean(check.name, keep_newlines=False):<{width}}  ", "bold"),
            clean(check.found, keep_newlines=False),
        )

    def on_plain_list_moved(self, event: PlainList.Moved) -> None:
        """Show the marked one in full."""
        event.stop()
        self._tell_detail(event.index)

    def _tell_detail(self, index: int) -> None:
        if not self.checks:
            self.detail.show("")
            return
        check = self.checks[min(index, len(self.checks) - 1)]
        parts: list[Content | tuple[str, str]] = [
            (f"{check.state} ", STYLES.get(check.state, "")),
            Content(clean(check.found)),
        ]
        if check.fix:
            parts += [("\nWhat to do: ", "bold"), Content(clean(check.fix))]
        self.detail.show(Content.assemble(*parts))

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        if event.push.id == "next":
            self.app.run_worker(self.olive.action_next())
        elif event.push.id == "run":
            self.action_run()
        else:
            self.action_copy_report()

    def action_copy_report(self) -> None:
        """Copy all checks as text, for a report of a problem."""
        from core.check.runner import as_markdown

        self.app.copy_to_clipboard(clean(as_markdown(self.checks)))
        self.notify("Copied (if your terminal allows it).", markup=False)
