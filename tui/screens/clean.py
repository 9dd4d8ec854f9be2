"""Room on the disk: what can go, with its size and its price; only what was ticked is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message

from core.errors import LabError
from core.folder import LabFolder
from core.language import N_, _
from core.space import SHARED, Removable, removable, remove
from core.text import clean
from tui.figures import human_bytes
from tui.screens.dialogs import Dialog
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.plain_list import PlainList
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain


class CleanScreen(Dialog[int]):
    """Gives how many bytes were removed."""

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#room"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "tick", N_("Tick"), show=False),
        Binding("r", "remove", show=False),
        Binding("escape,q", "close", show=False),
    ]

    class Found(Message):
        """What there is now; or why that cannot be told."""

        def __init__(self, found: Sequence[Removable], gone: int, problem: str) -> None:
            super().__init__()
            self.found, self.gone, self.problem = found, gone, problem

    def __init__(self, lab: LabFolder) -> None:
        super().__init__()
        self._lab = lab
        self._found: Sequence[Removable] = ()
        self._ticked: set[str] = set()
        self._gone = 0
        self.busy = True
        self._said = Plain(_("Looking at the sizes …"), id="said")
        self._price = Plain("", classes="dialog-hint")
        self._list = PlainList(id="room", empty="")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -pick"):
            yield Plain(_("What takes room and can go  (Enter ticks)"), classes="dialog-title")
            yield self._said
            yield self._list
            yield self._price
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Close"), id="close", key="Esc", primary=True)
                yield Button(_("Remove what is ticked"), id="remove", key="r")

    def on_mount(self) -> None:
        """Look; nothing can be removed before something is ticked."""
        self._draw()
        self._work([])

    @work(thread=True, exit_on_error=False, group="clean")
    def _work(self, names: Sequence[str]) -> None:
        """Remove what is named, and look again."""
        gone, problem = 0, ""
        try:
            gone = sum(each.bytes for each in remove(self._lab, names))
        except Exception as error:  # shown, whatever it is
            problem = error.shown() if isinstance(error, LabError) else str(error)
        try:
            found: Sequence[Removable] = removable(self._lab)
        except Exception as error:  # the same
            found, problem = (), error.shown() if isinstance(error, LabError) else str(error)
        self.post_message(self.Found(found, gone, problem))

    def on_clean_screen_found(self, event: Found) -> None:
        """Show it."""
        event.stop()
        self.busy = False
        self._found, self._gone = event.found, self._gone + event.gone
        self._ticked = set()
        self._draw(event.problem)

    def _draw(self, problem: str = "") -> None:
        ticked = sum(each.bytes for each in self._found if each.name in self._ticked)
        if problem:
            self._said.show(problem)
        elif not self.busy:
            gone = _("{size} are free again.", size=human_bytes(self._gone)) + " " if self._gone else ""
            self._said.show(
                gone
                + (_("Only what you tick is removed.") if self._found else _("There is nothing to remove."))
            )
        button = self.query_one("#remove", Button)
        button.disabled = self.busy or not self._ticked
        button.label(
            _("Remove {size}", size=human_bytes(ticked)) if self._ticked else _("Remove what is ticked")
        )
        self._list.show(len(self._found), self._line)
        self._draw_price(self._list.index)

    def _draw_price(self, index: int) -> None:
        """What the marked one is, where it lies, and what it takes to have it again."""
        if not self._found:
            self._price.show("")
            return
        each = self._found[min(index, len(self._found) - 1)]
        price = _("Costs: {cost}.", cost=each.cost) if each.cost else _("Nobody would miss it.")
        if each.kind == SHARED:
            price = _("Not removed here: other programs may use it (hf cache rm).")
        self._price.show(
            Content.assemble((price, "bold"), "\n", (clean(str(each.path), keep_newlines=False), QUIET))
        )

    def _line(self, index: int) -> Content:
        each = self._found[index]
        box = "   " if each.kind == SHARED else "[x]" if each.name in self._ticked else "[ ]"
        return Content.assemble(
            f"{box} ",
            (f"{human_bytes(each.bytes):>10}  ", "bold"),
            clean(each.what, keep_newlines=False),
            (f"  {clean(each.name, keep_newlines=False)}", QUIET),
        )

    def enter(self) -> str:
        """Tick the marked line, as the space bar does."""
        return _("Tick") if isinstance(self.focused, PlainList) else super().enter()

    def on_plain_list_moved(self, event: PlainList.Moved) -> None:
        """Tell of the marked one."""
        event.stop()
        self._draw_price(event.index)

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Tick it, or not."""
        event.stop()
        self.action_tick()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Remove or close."""
        event.stop()
        self.action_remove() if event.button.id == "remove" else self.action_close()

    def action_tick(self) -> None:
        """Tick the marked one, or take its tick away."""
        if self._found and not self.busy:
            each = self._found[self._list.index]
            if each.kind != SHARED:
                self._ticked ^= {each.name}
                self._draw()

    def action_remove(self) -> None:
        """Remove what is ticked."""
        if self._ticked and not self.busy:
            self.busy = True
            self._said.show("Removing …")
            names = sorted(self._ticked)
            self._draw()
            self.set_focus(self._list)
            self._work(names)

    def action_close(self) -> None:
        """Back to the screen."""
        self.dismiss(self._gone)
