"""The rail: the steps in a row, where you are, what is done, what runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.events import Click
from textual.filter import LineFilter
from textual.message import Message
from textual.widget import Widget

from core.language import _
from tui.glyphs import bar, glyph
from tui.labels import STATE_WORDS
from tui.reading import cell_end, from_the_left
from tui.snapshot import Snapshot
from tui.steps import steps
from tui.theme import QUIET


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
        self.states: dict[str, Word] = {}

    def show(self, states: dict[str, Word]) -> None:
        """Show these words under the steps; drawn only when one of them changed."""
        if states != self.states:
            self.states = dict(states)
            self.refresh()

    def _columns(self) -> list[int]:
        """How wide each step is: all the same, but where a title needs more and there is room for all."""
        return columns([cell_len(step.title) for step in steps()], self.size.width)

    def get_line_filters(self) -> list[LineFilter]:
        """The cells stand from the left in every language."""
        return from_the_left(super().get_line_filters())

    def render(self) -> Content:
        widths = self._columns()
        plain = self.app.current_theme.ansi
        names, words = [], []
        for step, width in zip(steps(), widths, strict=True):
            here = step.name == self.current
            word = self.states.get(step.name, NOTHING)
            mark = glyph("here") if here else " "
            room = width if width >= 11 or len(set(widths)) > 1 else width - 1
            name = set_cell_size(f"{mark}{step.number} {step.title}"[:room], width)
            indent = min(1, max(0, width - 1 - cell_len(word.text)))
            below = Content(" " * indent) + state_line(word, width - 1 - indent)
            below = below.pad_right(max(0, width - below.cell_length))
            if here and not plain:  # the step goes over into what is shown below it
                below = below.stylize_before("on $background")
            names.append(
                Content.styled(
                    name, ("bold underline" if plain else "bold $text-primary on $background") if here else ""
                )
            )
            names.append(Content(cell_end()))
            words += [below, Content(cell_end())]
        return Content.assemble(*names, "\n", *words)

    def on_click(self, event: Click) -> None:
        """Go to the step under the pointer."""
        end = 0
        for number, width in enumerate(self._columns(), 1):
            end += width
            if event.x < end:
                self.post_message(self.Chosen(number))
                return


def columns(titles: Sequence[int], room: int) -> list[int]:
    """The widths of the columns for titles of so many cells."""
    equal = max(8, room // len(titles))
    needed = [max(8, title + 3) for title in titles]
    if max(needed) <= equal or sum(needed) > room:
        return [equal] * len(titles)
    for _more in range(room - sum(needed)):
        needed[needed.index(min(needed))] += 1
    return needed


class Word(NamedTuple):
    """What stands under a step.

    Attributes:
        text: for people.
        look: how it looks, a key of :data:`_LOOKS`; empty: as what waits.
        share: how far a job is, drawn as a bar.
    """

    text: str
    look: str = ""
    share: float | None = None


NOTHING = Word("")


def state_line(word: Word, room: int) -> Content:
    """A state in so many cells: how far a job is as a bar with its figure, others with a sign where there is room."""
    text = word.text
    if word.share is not None:
        long = min(24, room - len(text) - 1)
        if long < 3:
            return Content.styled(text[:room], "bold $text-primary")
        return Content.assemble(bar(word.share, long), (f" {text}", "bold $text-primary"))
    style, sign = _LOOKS.get(word.look, (QUIET, ""))
    sign = f"{glyph(sign)} " if sign and cell_len(text) + 2 <= room else ""
    return Content.styled(f"{sign}{text}", style).truncate(room)


_LOOKS: Mapping[str, tuple[str, str]] = {
    "failed": ("bold $text-error", "error"),
    "done": ("$text-success", "done"),
    "busy": ("bold $text-primary", ""),
    "found": ("bold $text-warning", "warning"),
    "stale": ("$text-warning", "warning"),
    "stopped": ("$text-warning", "stopped"),
}
"""Of each look the style, and the name of its sign."""

_OF_STATES: Mapping[str, str] = {
    "queued": "busy",
    "running": "busy",
    "cancelling": "busy",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "stopped",
    "crashed": "failed",
}


def _of_state(state: str) -> Word:
    return Word(_(STATE_WORDS.get(state, state)), _OF_STATES.get(state, ""))


def rail_labels(snapshot: Snapshot, notes: Mapping[str, Word]) -> dict[str, Word]:
    """A word for each step: what it gave, what it does now, or what it needs."""
    labels = {}
    stale = Word(_("stale"), "stale")
    for step in steps():
        job = snapshot.jobs.get(step.name)
        needed = step.missing(snapshot)
        if job is not None and job.active:
            share = job.share
            labels[step.name] = (
                Word(f"{share:.0%}", share=int(100 * share + 0.5) / 100)
                if share is not None and job.state == "running"
                else _of_state(job.state)
            )
        elif step.name in snapshot.made and (job is None or job.state == "succeeded"):
            labels[step.name] = stale if step.name in snapshot.stale else _of_state("succeeded")
        elif job is not None and job.state == "succeeded" and step.name in snapshot.stale:
            labels[step.name] = stale
        elif job is not None:
            labels[step.name] = _of_state(job.state)
        elif needed is not None:
            labels[step.name] = Word(_("needs {number}", number=needed.number))
        else:
            begun = step.name in ("check", "data") and (snapshot.made or snapshot.jobs)
            usual = Word(_("ready")) if step.name == "chat" else NOTHING if begun else Word(_("to do"))
            labels[step.name] = notes.get(step.name, usual)
    return labels
