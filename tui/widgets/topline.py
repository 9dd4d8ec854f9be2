"""The top line: the program, the lab's folder, and while a job runs what the machine is doing."""

from __future__ import annotations

import os

from textual.content import Content
from textual.filter import LineFilter
from textual.widget import Widget

from core.text import clean
from tui.glyphs import glyph
from tui.reading import from_the_left


class TopLine(Widget):
    """One line, cut from the middle of the path when it is narrow."""

    DEFAULT_CSS = """
    TopLine { height: 1; width: 100%; background: $background; color: $text-muted; }
    """

    def __init__(self, lab: str) -> None:
        super().__init__()
        self._lab = clean(lab, keep_newlines=False)
        self._load = ""

    def lab_name(self) -> str:
        """The lab's folder, with the home as ``~``."""
        home = os.path.expanduser("~")
        return "~" + self._lab[len(home) :] if self._lab.startswith(home + os.sep) else self._lab

    def show(self, load: str) -> None:
        """Show the machine's load; empty while nothing runs."""
        if load != self._load:
            self._load = load
            self.refresh()

    def get_line_filters(self) -> list[LineFilter]:
        """The cells stand from the left in every language."""
        return from_the_left(super().get_line_filters())

    def render(self) -> Content:
        width = self.size.width
        name = " OlivePress "
        room = width - len(name) - len(self._load) - 3
        lab = self.lab_name()
        if len(lab) > room:
            lab = glyph("cut") + lab[len(lab) - max(0, room - 1) :] if room > 8 else ""
        left = Content.assemble((name, "bold $text-primary"), glyph("bar"), " ", Content(lab))
        pad = max(1, width - left.cell_length - len(self._load) - 1)
        return Content.assemble(left, " " * pad, (self._load, "bold $foreground"), " ")
