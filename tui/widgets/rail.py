"""The rail: the steps in a row, where you are, what is done, what runs."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from tui.glyphs import bar, glyph
from tui.labels import STATE_WORDS
from tui.snapshot import Snapshot
from tui.steps import steps


class Rail(Widget):
    """Two lines: the names of the steps, and under each its state in a word.

    A state is a word and not a colour alone. A click on a step goes there; by keyboard the digits do.
    """

    DEFAULT_CSS = """
    Rail { height: 2; width: 100%; background: $panel; color: $foreground; }
    """

    class Chosen(Message):
        """A step was clicked."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, current: str) -> None:
        super().__init__()
        self.current = current
        self.states: dict[str, str] = {}

    def show(self, states: dict[str, str]) -> None:
        """Show these words under the steps; drawn only when one of them changed."""
        if states != self.states:
            self.states = dict(states)
            self.refresh()

    def _column(self) -> int:
        return max(8, self.size.width // len(steps()))

    def render(self) -> Content:
        width = self._column()
        plain = self.app.current_theme.ansi
        names, words = [], []
        for step in steps():
            here = step.name == self.current
            word = self.states.get(step.name, "")
            mark = glyph("here") if here else " "
            name = f"{mark}{step.number} {step.title}"[: width if width >= 11 else width - 1].ljust(width)
            indent = min(1, max(0, width - 1 - len(word)))
            below = Content(" " * indent) + state_line(word, width - 1 - indent)
            below = below.pad_right(max(0, width - below.cell_length))
            if here and not plain:  # the step goes over into what is shown below it
                below = below.stylize_before("on $background")
            names.append(
                Content.styled(
                    name, ("bold reverse" if plain else "bold $text-primary on $background") if here else ""
                )
            )
            words.append(below)
        return Content.assemble(*names, "\n", *words)

    def on_click(self, event: Click) -> None:
        """Go to the step under the pointer."""
        place = event.x // self._column()
        if place < len(steps()):
            self.post_message(self.Chosen(place + 1))


def state_line(word: str, room: int) -> Content:
    """A state in so many cells: how far a job is as a bar with its figure, others with a sign where there is room."""
    if word.endswith("%"):
        long = min(24, room - len(word) - 1)
        if long < 3:
            return Content.styled(word[:room], "bold $text-primary")
        return Content.assemble(bar(int(word[:-1]) / 100, long), (f" {word}", "bold $text-primary"))
    style, sign = _look(word)
    sign = f"{glyph(sign)} " if sign and len(word) + 2 <= room else ""
    return Content.styled(f"{sign}{word}"[:room], style)


def _look(word: str) -> tuple[str, str]:
    """The style of a state, and the name of its sign."""
    if word in ("failed", "crashed", "FAIL"):
        return "bold $text-error", "error"
    if word.startswith(("done", "OK")):
        return "$text-success", "done"
    if word in ("running", "waiting", "stopping"):
        return "bold $text-primary", ""
    if word.endswith("found"):
        return "bold $text-warning", "warning"
    if word in ("stale", "WARN"):
        return "$text-warning", "warning"
    if word == "stopped":
        return "$text-warning", "stopped"
    return "$foreground 50%", ""


def rail_labels(snapshot: Snapshot, notes: Mapping[str, str]) -> dict[str, str]:
    """A word for each step: what it gave, what it does now, or what it needs."""
    labels = {}
    for step in steps():
        job = snapshot.jobs.get(step.name)
        needed = step.missing(snapshot)
        if job is not None and job.active:
            share = job.share
            labels[step.name] = (
                f"{share:.0%}" if share is not None and job.state == "running" else STATE_WORDS[job.state]
            )
        elif step.name in snapshot.made and (job is None or job.state == "succeeded"):
            labels[step.name] = "stale" if step.name in snapshot.stale else "done"
        elif job is not None and job.state == "succeeded" and step.name in snapshot.stale:
            labels[step.name] = "stale"
        elif job is not None:
            labels[step.name] = STATE_WORDS.get(job.state, job.state)
        elif needed is not None:
            labels[step.name] = f"needs {needed.number}"
        else:
            begun = step.name in ("check", "data") and (snapshot.made or snapshot.jobs)
            usual = "ready" if step.name == "chat" else "" if begun else "to do"
            labels[step.name] = notes.get(step.name, usual)
    return labels
