"""Step 2: the records, as they are and as the model will see them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input

from core.text import clean
from tui.preview import Preview, look
from tui.screens.base import StepScreen
from tui.screens.dialogs import ErrorScreen
from tui.signs import ascii_only, sign
from tui.widgets.form import Form
from tui.widgets.plain_list import PlainList
from tui.widgets.problem import Problem
from tui.widgets.push import Push
from tui.widgets.safe import Plain
from tui.words import number

if TYPE_CHECKING:
    from core.recipe import Recipe
    from tui.snapshot import Snapshot

_WAIT_S = 0.3


class DataScreen(StepScreen):
    """File, template and fields on top; rows on the left, the chosen one whole on the right."""

    NAME = "data"
    CSS_PATH = "data.tcss"
    MAIN = ("data.file", "data.template", "data.chat_template")
    MORE = (
        "data.prompt_field",
        "data.response_field",
        "data.messages_field",
        "data.eval_fraction",
        "data.max_seq_len",
        "data.answer_only",
        "data.seed",
    )

    class Looked(Message):
        """The first records were read."""

        def __init__(self, attempt: int, preview: Preview) -> None:
            super().__init__()
            self.attempt, self.preview = attempt, preview

    class Counted(Message):
        """All records were read, by a process of its own that may load a tokenizer."""

        def __init__(self, attempt: int, report: dict[str, Any] | None, problem: str) -> None:
            super().__init__()
            self.attempt, self.report, self.problem = attempt, report, problem

    def __init__(self) -> None:
        super().__init__()
        self.facts = Plain("Reading …", id="facts")
        self.problem = Problem(id="problem")
        self.rows = PlainList(id="rows", empty="No records.")
        self.whole = Plain(id="whole")
        self.preview = Preview()
        self.report: dict[str, Any] | None = None
        self._form: Form | None = None
        self._attempt = 0
        self._counting = False
        self._process: subprocess.Popen[str] | None = None
        self._timer: Any = None
        self._only_bad = False
        self._listed: list[int] = []

    @property
    def form(self) -> Form:
        """The form."""
        if self._form is None:
            self._form = Form(
                self.session.recipe(),
                self.MAIN,
                self.MORE,
                {"data.chat_template": {}},
                ("data.file", "data.template"),
            )
        return self._form

    def body(self) -> ComposeResult:
        yield self.form
        yield self.facts
        yield self.problem
        with Horizontal(classes="buttons"):
            yield Push("Next: Quantize", id="next", key="F4", primary=True)
            yield Push("Check all rows", id="run", key="F8")
            yield Push("Browse", id="browse")
            yield Push("Bad rows", id="bad")
        yield self.command
        with Horizontal(id="records"):
            yield self.rows
            with VerticalScroll(id="detail", can_focus=True), Vertical(id="detail-inner"):
                yield self.whole

    def on_mount(self) -> None:
        """Read the first records, and count them all."""
        super().on_mount()
        self.look()

    def show(self, snapshot: Snapshot) -> None:
        """The recipe may have been changed by hand."""
        self.command.show(self.session.command("data"))
        if self._form is not None and self.session.exists:
            self._form.put(self.session.recipe())
        broken = self.session.broken
        if broken is not None:
            self.problem.tell(broken.as_dict(), "FAIL")

    def focus_first(self) -> None:
        """On Next when the data is good."""
        self.set_focus(self.query_one("#next" if not self._bad() else "#browse", Push))

    # Reading

    def recipe(self) -> Recipe:
        """The recipe with what stands in the form. Raises ValueError or LabError."""
        values = self.form.values()
        values["data.template"] = unescape(values["data.template"])
        return self.session.recipe().with_values(values)

    def look(self) -> None:
        """Read the first records with what stands in the form, in a thread."""
        self._attempt += 1
        try:
            recipe = self.recipe()
        except Exception as error:
            self.facts.show(str(error))
            return
        self._look(recipe, self.session.root, self._attempt)

    @work(thread=True, exit_on_error=False, group="look")
    def _look(self, recipe: Recipe, root: Path, attempt: int) -> None:
        self.post_message(self.Looked(attempt, look(recipe, root)))

    def on_data_screen_looked(self, event: Looked) -> None:
        """Show the rows; an answer to an older question is dropped."""
        event.stop()
        if event.attempt != self._attempt:
            return
        self.preview = event.preview
        error = event.preview.error
        self.problem.tell(
            dict(zip(("title", "detail", "hint"), error, strict=True)) if error else None, "FAIL"
        )
        self._list()
        self._tell_facts()
        if error is None:
            self._count_if_kept()

    def _bad(self) -> list[int]:
        return [index for index, row in enumerate(self.preview.rows) if row.problem]

    def _list(self) -> None:
        bad = self._bad()
        self._only_bad = self._only_bad and bool(bad)
        self._listed = bad if self._only_bad else list(range(len(self.preview.rows)))
        self.rows.show(len(self._listed), self._line)
        push = self.query_one("#bad", Push)
        push.display = bool(bad)
        push.label("All rows" if self._only_bad else f"Bad rows ({len(bad)})")
        self._tell_row(self.rows.index)

    def _line(self, index: int) -> Content:
        row = self.preview.rows[self._listed[index]]
        mark = Content.styled("BAD ", "bold $text-error") if row.problem else Content("")
        return Content.assemble(
            (f"{row.line:>5} ", "$foreground 60%"), mark, clean(row.brief[:200], keep_newlines=False)
        )

    def on_plain_list_moved(self, event: PlainList.Moved) -> None:
        """Show the marked row whole."""
        event.stop()
        self._tell_row(event.index)

    def _tell_row(self, index: int) -> None:
        if not self._listed:
            self.whole.show("")
            return
        row = self.preview.rows[self._listed[min(index, len(self._listed) - 1)]]
        parts: list[Content | tuple[str, str]] = []
        if row.problem:
            parts.append(
                Content.styled(
                    clean(f"Line {row.line} cannot be used: {row.problem}") + "\n\n", "bold $text-error"
                )
            )
        if row.pieces:
            parts.append(
                Content.styled("What the model sees; underlined: what it learns to say\n", "$foreground 60%")
            )
            parts += [marked(text, trained, self.preview.special) for text, trained in row.pieces]
            parts.append(Content("\n\n"))
        parts.append(Content.styled("The record\n", "$foreground 60%"))
        parts.append(Content(clean(row.whole)))
        self.whole.show(Content.assemble(*parts))
        self.query_one("#detail", VerticalScroll).scroll_home(animate=False)

    def _tell_facts(self) -> None:
        rows, report = self.preview.rows, self.report
        if report is not None:
            lines = [report_line(report)]
            lengths = report_lengths(report)
            if lengths:
                lines.append(lengths)
            findings = report.get("findings", [])
            if findings:
                first = findings[0]
                many = f"{len(findings)} findings. First: " if len(findings) > 1 else "1 finding: "
                text = f"{many}line {first.get('line')}: {first.get('message')} ({first.get('fix')})"
                lines.append(Content.styled(clean(text, keep_newlines=False), "$text-warning"))
            self.facts.show(Content("\n").join(lines))
        elif rows:
            fields = ", ".join(self.preview.fields[:6])
            many = f"the first {number(len(rows))} rows" if self.preview.more else f"{number(len(rows))} rows"
            state = f"  {sign('dot')} counting all of them …" if self._counting else ""
            self.facts.show(clean(f"{many}  {sign('dot')}  fields: {fields}{state}"))
        else:
            self.facts.show("")

    # Counting

    def _count_if_kept(self) -> None:
        """Count with what stands in ``lab.toml``, and so only while the form says the same."""
        try:
            kept = self.session.exists and self.recipe() == self.session.recipe()
        except Exception:
            kept = False
        if kept and not self._counting and self.report is None:
            self.count()

    def count(self) -> None:
        """Read all records in another process, which may load a tokenizer."""
        self._counting = True
        self._tell_facts()
        self._count(self._attempt)

    @work(thread=True, exit_on_error=False, exclusive=True, group="count")
    def _count(self, attempt: int) -> None:
        command = [sys.executable, "-m", "core.cli", "data", str(self.session.root), "--json"]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            self._process = process
            out, err = process.communicate(timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.post_message(self.Counted(attempt, None, str(error)))
            return
        try:
            report = json.loads(out.strip().splitlines()[-1])
        except (ValueError, IndexError):
            report = None
        self.post_message(
            self.Counted(attempt, report if isinstance(report, dict) else None, err.strip()[-2000:])
        )

    def on_data_screen_counted(self, event: Counted) -> None:
        """Show the figures of the whole file."""
        event.stop()
        self._counting = False
        if event.attempt != self._attempt:
            self._count_if_kept()
        else:
            self.report = event.report
            if event.report is None and event.problem:
                self.problem.tell(
                    {"title": "The records could not be counted.", "detail": event.problem}, "FAIL"
                )
            if event.report is not None:
                found = len(event.report.get("findings", []))
                self.olive.note("data", "OK" if not found else f"{found} found")
        self._tell_facts()

    def on_unmount(self) -> None:
        """What still counts is of no use any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    # What a person does

    def on_form_edited(self, event: Form.Edited) -> None:
        """Show it at once, when the typing has paused."""
        event.stop()
        self.report = None
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_WAIT_S, self.look)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in a field keeps the settings."""
        event.stop()
        self.action_run()

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """A button."""
        event.stop()
        name = event.push.id
        if name == "next":
            if self.save():
                self.app.run_worker(self.olive.go_to("quantize"))
        elif name == "run":
            self.action_run()
        elif name == "browse":
            self.action_browse()
        elif name == "bad":
            self._only_bad = not self._only_bad
            self.rows.index = 0
            self._list()

    def save(self) -> bool:
        """Write the settings to ``lab.toml``; tells why if they cannot be."""
        try:
            values = self.form.values()
            values["data.template"] = unescape(values["data.template"])
            self.session.save(values)
        except Exception as error:
            self.app.push_screen(ErrorScreen.of(error))
            return False
        return True

    def action_run(self) -> None:
        """Keep the settings and check every row."""
        if self.save():
            self.report = None
            self._counting = False
            self.look()

    def action_browse(self) -> None:
        """Pick a file."""
        from tui.screens.pick import PickScreen

        start = self.preview.path.parent if self.preview.path else self.session.root
        self.app.push_screen(PickScreen(start if start.is_dir() else Path.cwd()), self._picked)

    def _picked(self, path: Path | None) -> None:
        if path is not None:
            field = self.form.fields["data.file"].control
            assert isinstance(field, Input)
            root = self.session.root
            field.value = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    def action_copy_report(self) -> None:
        """Copy what was found, as text."""
        findings = (self.report or {}).get("findings", [])
        text = "\n".join(
            f"{f.get('file')}:{f.get('line')}: {f.get('message')} ({f.get('fix')})" for f in findings
        )
        self.app.copy_to_clipboard(f"{self.facts.text}\n{text}".strip())
        self.notify("Copied (if your terminal allows it).", markup=False)


def unescape(text: str) -> str:
    r"""A template as it is typed on one line: ``\n`` and ``\t`` stand for what they mean."""
    return re.sub(r"\\([nt\\])", lambda m: {"n": "\n", "t": "\t", "\\": "\\"}[m.group(1)], text)


def marked(text: str, trained: bool, special: tuple[str, ...]) -> Content:
    """A piece of training text: what is learnt underlined, special tokens reversed, line ends visible."""
    base = "underline" if trained else ""
    shown = clean(text)
    if not special:
        return Content.styled(shown, base) if base else Content(shown)
    parts: list[Content] = []
    for piece in re.split("(" + "|".join(map(re.escape, special)) + ")", shown):
        style = "reverse" if piece in special else base
        parts.append(Content.styled(piece, style) if style else Content(piece))
    return Content("").join(parts)


def report_line(report: dict[str, Any]) -> Content:
    """Rows, split and token counts on one line."""
    tokens = report.get("tokens") or {}
    parts = [
        f"{number(report.get('rows', 0))} rows",
        f"{number(report.get('train', 0))} to learn, {number(report.get('eval', 0))} held out",
    ]
    if tokens.get("total"):
        about = "about " if tokens.get("estimated") else ""
        parts.append(
            f"tokens: {about}{number(tokens['total'])}, median {number(tokens.get('p50', 0))}, "
            f"longest {number(tokens.get('max', 0))}"
        )
    return Content.styled(f"  {sign('dot')}  ".join(parts), "bold")


def report_lengths(report: dict[str, Any]) -> Content | None:
    """The lengths of the records, drawn: one bar for each range of tokens."""
    bars = (report.get("tokens") or {}).get("histogram") or []
    if not bars:
        return None
    steps = " .:-=+*#" if ascii_only() else " ▁▂▃▄▅▆▇█"
    most = max(count for _, _, count in bars) or 1
    drawn = "".join(steps[0 if not c else max(1, round(c / most * (len(steps) - 1)))] * 2 for _, _, c in bars)
    return Content.assemble(
        (f"lengths {bars[0][0]} ", "$foreground 60%"),
        (drawn, "$text-secondary"),
        (f" {bars[-1][1]} tokens", "$foreground 60%"),
    )
