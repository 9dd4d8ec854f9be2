"""A row of buttons that goes on in the next line where it does not fit into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.layout import ArrangeResult, Layout
from textual.layouts.horizontal import HorizontalLayout
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.geometry import Size


class Flow(Layout):
    """Beside one another as words are in a text: what would be cut begins a line of its own. Each is one line high."""

    name = "flow"

    def __init__(self) -> None:
        super().__init__()
        self._beside = HorizontalLayout()

    def arrange(
        self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True
    ) -> ArrangeResult:
        line = begin = 0
        placed: ArrangeResult = []
        for each in self._beside.arrange(parent, children, size, greedy):
            if each.region.x > begin and each.region.right - begin > size.width:
                line, begin = line + 1, each.region.x
            placed.append(each._replace(region=each.region.translate((-begin, line))))
        return placed


class FlowingRow(Widget):
    """Buttons beside one another, none of which is ever cut: other languages have longer words."""

    DEFAULT_CSS = """
    FlowingRow { width: 1fr; height: auto; }
    """

    def __init__(self, *buttons: Widget, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(*buttons, id=id, classes=classes)
        self._flow = Flow()

    @property
    def layout(self) -> Layout:
        return self._flow
