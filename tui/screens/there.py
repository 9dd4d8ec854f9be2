"""Before something is sent to Azure ML, or made there: what it is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input

from core.errors import LabError
from core.language import N_, _, ngettext, shown
from core.text import clean
from tui.child import Commands
from tui.figures import duration
from tui.screens.dialogs import Scrolled
from tui.screens.upload_dialogs import SignInScreen, Working
from tui.steps import step_named
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.line import Line
from tui.widgets.plain_list import PlainList
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain


class SendScreen(Working):
    """What a run elsewhere would send, its cost and its file. Gives ``{"send": True}``, or None."""

    HERE: ClassVar[Mapping[str, str]] = {"login": N_("s (Sign in)")}
    AUTO_FOCUS = "#close"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f8,r", "send", N_("Send"), show=False),
        Binding("s", "sign_in", N_("Sign in"), show=False),
    ]

    def __init__(self, commands: Commands, folder: str, stage: str, compute: str) -> None:
        super().__init__(commands)
        self._words = ("run", folder, stage, "--on", "azureml", "--compute", compute, "--dry-run")
        where = clean(compute, keep_newlines=False)
        title = step_named(stage).title
        self._title = _("{stage} on {compute}: what would be sent", stage=title, compute=where)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -azure -tall-list"):
            yield Plain(self._title, classes="dialog-title")
            yield self.said
            with Scrolled(id="plan"):
                yield Plain("", id="plan-text")
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Send"), id="send", key="F8", primary=True)
                yield Button(_("Close"), id="close", key="Esc")
                yield Button(_("Sign in"), id="sign-in", key="s")

    def on_mount(self) -> None:
        """Look."""
        self.query_one("#send").display = False
        self._look()

    def _look(self) -> None:
        self.query_one("#plan").visible = False  # nothing has the focus that has nothing in it
        self.begin(
            self._words, _("Looking at the machine, the records and what of them is in Azure already …")
        )

    def done(self, result: dict[str, Any]) -> None:
        """Tell it, and let it be sent."""
        from core.remote.stage import plan_contents, plan_cost

        told = [_("Nothing has been sent yet."), *map(shown, plan_cost(result))]
        self.said.show(clean("\n".join(told)))
        text = "\n".join(clean(shown(line), keep_newlines=False) for line in plan_contents(result))
        self.query_one("#plan-text", Plain).show(f"{text}\n\njob.yml\n\n{clean(str(result['file']))}")
        self.query_one("#plan").visible = True
        self.query_one("#send").display = True
        self.query_one("#send").focus()

    def failed(self, error: LabError) -> None:
        """It was refused: most often for who is signed in."""
        super().failed(error)
        self.query_one("#sign-in").focus()

    def action_send(self) -> None:
        """Send it, once it was shown."""
        if self.query_one("#send").display:
            self.dismiss({"send": True})

    def action_sign_in(self) -> None:
        """Sign in, then look again."""
        if not self.working:
            self.app.push_screen(SignInScreen(self._commands, _("to send a job")), self._come_back)

    def _come_back(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            self._look()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The keys' actions; Textual hands Close to the handler of every such dialog."""
        act = {"send": self.action_send, "sign-in": self.action_sign_in}.get(event.button.id or "")
        if act is not None:
            act()


class NewClusterScreen(Working):
    """A cluster: its name, its size; then what it is and costs, and only then it is made. Gives its name, or None."""

    AUTO_FOCUS = "#name"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "list", show=False),
        Binding("f5", "priority", N_("Priority"), show=False),
        Binding("f8", "make", N_("Make it"), show=False),
    ]

    def __init__(self, commands: Commands, folder: str) -> None:
        super().__init__(commands)
        self._folder, self._low = folder, False
        self._sizes: list[dict[str, Any]] = []
        self._shown: tuple[str, ...] = ()
        self._name = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -azure -tall-list"):
            yield Plain(_("A new cluster  (name it, then choose a size with Enter)"), classes="dialog-title")
            yield Line("gpu-cluster", compact=True, id="name", placeholder=_("letters, digits and dashes"))
            yield PlainList(id="sizes")
            yield self.said
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Make it"), id="make", key="F8", primary=True)
                yield Button(_("Close"), id="close", key="Esc")
                yield Button(_("Priority: dedicated"), id="priority", key="F5")

    def on_mount(self) -> None:
        """Ask which sizes there are."""
        self.query_one("#make").display = False
        self.query_one(PlainList).show(0, lambda index: "", "")
        self.begin(
            ("compute", self._folder, "--sizes"), _("Asking Azure which sizes of machines there are …")
        )

    def _line(self, index: int) -> Content:
        size = self._sizes[index]
        price = size.get("low_price" if self._low else "price")
        gpus = f"{size['gpus']} GPU, " if size.get("gpus") else ""
        cost = _("price not told") if price is None else f"{price:g} {size.get('currency', '')}/h"
        about = f"  {gpus}{size.get('vcpus')} vCPU, {size.get('memory_gb', 0):g} GB, {cost}"
        name = clean(str(size["name"]), keep_newlines=False)
        return Content.assemble((name, "bold"), (clean(about, keep_newlines=False), QUIET))

    def done(self, result: dict[str, Any]) -> None:
        """The sizes, what it would be, or that it is made."""
        if result.get("created"):
            self.dismiss({"compute": self._name})
        elif result.get("dry_run"):
            self.said.show(clean(_cost(result)))
            self.query_one("#make").display = True
            self.query_one("#make").focus()
        else:
            self._sizes = [each for each in result.get("sizes", []) if isinstance(each, dict)]
            where = clean(str(result.get("location", "")), keep_newlines=False)
            self.said.show(
                ngettext(
                    "{n} size in {where}. Nothing is made before you have seen its cost.",
                    "{n} sizes in {where}. Nothing is made before you have seen its cost.",
                    len(self._sizes),
                    where=where,
                )
            )
            self._list()

    def _list(self) -> None:
        self._shown = ()
        self.query_one("#make").display = False
        self.query_one(PlainList).show(len(self._sizes), self._line, _("None is told."))

    def failed(self, error: LabError) -> None:
        """It was refused."""
        super().failed(error)
        self.query_one("#make").display = False

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """This size: what it would be."""
        event.stop()
        if self.working or event.index >= len(self._sizes):
            return
        self._name = self.query_one(Input).value.strip()
        words = (
            "compute",
            self._folder,
            "--create",
            self._name,
            "--size",
            str(self._sizes[event.index]["name"]),
        )
        self._shown = (*words, "--low-priority") if self._low else words
        self.begin((*self._shown, "--dry-run"), _("Asking Azure for the price and the quota …"))

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was shown was of another name."""
        event.stop()
        self.query_one("#make").display = False

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the field goes on to the sizes."""
        event.stop()
        self.action_list()

    def action_list(self) -> None:
        """Down from the field goes to the list."""
        self.query_one(PlainList).focus()

    def action_priority(self) -> None:
        """Dedicated nodes, or cheaper ones that may be taken back."""
        if not self.working:
            self._low = not self._low
            self.query_one("#priority", Button).label(
                _("Priority: low") if self._low else _("Priority: dedicated")
            )
            self.said.show(
                _("Nodes of low priority cost less and may be taken back at any time.") if self._low else ""
            )
            self._list()

    def action_make(self) -> None:
        """Make it, once it was shown."""
        if self.query_one("#make").display and not self.working:
            self.query_one("#make").display = False
            self.begin((*self._shown, "--yes"), _("Making it …"))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The keys' actions; Textual hands Close to the handler of every such dialog."""
        act = {"make": self.action_make, "priority": self.action_priority}.get(event.button.id or "")
        if act is not None:
            act()


def _cost(facts: dict[str, Any]) -> str:
    """What a new cluster would be and cost."""
    price, gpus = facts.get("price"), facts.get("gpus")
    told = _("GPUs not told") if gpus is None else f"{gpus} GPU"
    node = f"{facts['size']}, {told}, {facts['priority']}"
    parts = [
        _(
            "{name} in {location}: at most {n} node of {node}.",
            name=facts["name"],
            location=facts["location"],
            n=facts["nodes_max"],
            node=node,
        )
        + "\n",
        _("A node costs a price that Azure does not tell while it is up.")
        if price is None
        else _(
            "A node costs {price:g} {currency} an hour while it is up.",
            price=price,
            currency=facts["currency"],
        ),
        _(
            "None is up until a job comes, and one that is idle is given back after {time}.",
            time=duration(facts["idle_s"]),
        ),
        _("Nothing has been made yet."),
    ]
    return parts[0] + " ".join(parts[1:])
