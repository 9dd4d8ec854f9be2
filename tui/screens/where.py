"""Where a stage runs: on this machine, or on one of the Azure ML workspace. The list, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content

from core.errors import LabError, text_of
from core.language import N_, _, shown
from core.text import clean
from tui.child import Commands
from tui.figures import duration
from tui.glyphs import glyph
from tui.screens.upload_dialogs import SignInScreen, Working, WorkspaceScreen
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.plain_list import PlainList
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

HERE = N_("This machine")


class WhereScreen(Working):
    """Gives what was chosen as ``{"compute": name}``, an empty name for this machine, or None."""

    HERE: ClassVar[Mapping[str, str]] = {"login": N_("s (Sign in)"), "workspaces": N_("w (Workspace)")}
    AUTO_FOCUS = "#machines"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sign_in", N_("Sign in"), show=False),
        Binding("w", "workspace", N_("Workspace"), show=False),
        Binding("a", "again", N_("Look again"), show=False),
        Binding("n", "new", N_("New cluster"), show=False),
    ]

    def __init__(self, commands: Commands, folder: str, now: str) -> None:
        """Show the machines.

        Args:
            folder: the lab's.
            now: the compute that is chosen now; empty for this machine.
        """
        super().__init__(commands)
        self._folder, self._now = folder, now
        self._found: list[dict[str, Any]] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -azure -tall-list"):
            yield Plain(_("Where this step runs  (Enter chooses)"), classes="dialog-title")
            yield PlainList(id="machines")
            yield self.said
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Close"), id="close", key="Esc")
                yield Button(_("Sign in"), id="sign-in", key="s")
                yield Button(_("Workspace"), id="workspace", key="w")
                yield Button(_("New cluster"), id="new", key="n")

    def on_mount(self) -> None:
        """Ask Azure; this machine can be chosen meanwhile."""
        self._list()
        self.action_again()

    def action_again(self) -> None:
        """Ask Azure for its machines."""
        self.begin(("compute", self._folder), _("Asking Azure which machines the workspace has …"))

    def _list(self) -> None:
        self.query_one(PlainList).show(1 + len(self._found), self._line)

    def _line(self, index: int) -> Content:
        name = _(HERE) if index == 0 else clean(str(self._found[index - 1]["name"]), keep_newlines=False)
        chosen = self._now == ("" if index == 0 else self._found[index - 1]["name"])
        about = "" if index == 0 else facts(self._found[index - 1])
        mark = "  " + _("(chosen)") if chosen else ""
        if index and not self._found[index - 1].get("usable"):
            return Content.styled(f"{glyph('error')} {name}{mark}  {about}", "$text-error")
        return Content.assemble((name, "bold"), mark, (f"  {about}", QUIET))

    def done(self, result: dict[str, Any]) -> None:
        """They have come."""
        self._found = [
            each for each in result.get("compute", []) if isinstance(each, dict) and each.get("name")
        ]
        where = clean(str(result.get("workspace", "")), keep_newlines=False)
        self.said.show(
            _(
                "{n} in workspace {where}. Results come back here, and the chat goes on here.",
                n=len(self._found),
                where=where,
            )
            if self._found
            else _(
                "Workspace {where} has no compute yet. n makes a cluster, after its cost was shown.",
                where=where,
            )
        )
        self._list()

    def failed(self, error: LabError) -> None:
        """It was refused; this machine is there all the same."""
        super().failed(error)
        self._found = []
        self._list()

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """This one, if a job can run there."""
        event.stop()
        if event.index == 0:
            self.dismiss({"compute": ""})
            return
        chosen = self._found[event.index - 1]
        if not chosen.get("usable"):
            self.said.show(
                Content.styled(
                    _(
                        "No job can run on {name} now: {why}.",
                        name=clean(str(chosen["name"]), keep_newlines=False),
                        why=clean(shown(text_of(chosen, "why_not")), keep_newlines=False).rstrip("."),
                    ),
                    "bold $text-error",
                )
            )
            self.said.add_class("-wrong")
            return
        self.dismiss({"compute": str(chosen["name"])})

    def action_new(self) -> None:
        """Make a cluster, and run there."""
        if not self.working:
            from tui.screens.there import NewClusterScreen

            self.app.push_screen(NewClusterScreen(self._commands, self._folder), self._made)

    def _made(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            self.dismiss(result)

    def action_sign_in(self) -> None:
        """Sign in to Azure, then look again."""
        if not self.working:
            self.app.push_screen(SignInScreen(self._commands, _("to see its machines")), self._come_back)

    def action_workspace(self) -> None:
        """Choose the workspace, then look again."""
        if not self.working:
            self.app.push_screen(WorkspaceScreen(self._commands), self._chose_workspace)

    def _chose_workspace(self, chosen: dict[str, Any] | None) -> None:
        if chosen is not None:
            from core.azure.workspace import WorkspaceEntry, choose
            from core.folder import lab_folder

            known = {key: str(chosen.get(key, "")) for key in WorkspaceEntry.__dataclass_fields__}
            try:
                choose(lab_folder(self._folder).recipe_path, WorkspaceEntry(**known))
            except LabError as error:
                self.failed(error)
                return
        self._come_back(chosen)

    def _come_back(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            self.action_again()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The keys' actions; Textual hands Close to the handler of every such dialog."""
        acts = {"sign-in": self.action_sign_in, "workspace": self.action_workspace, "new": self.action_new}
        act = acts.get(event.button.id or "")
        if act is not None:
            act()


def facts(compute: dict[str, Any]) -> str:
    """What decides which machine it is, first what matters most where the line is cut: GPUs, price, size, quota."""
    parts = [] if compute.get("usable") else [str(compute.get("state") or "").lower()]
    if compute.get("gpus"):
        parts.append(f"{compute['gpus']} GPU")
    if compute.get("price") is not None:
        parts.append(f"{compute['price']:g} {compute.get('currency', '')}/h")
    if compute.get("low_priority"):
        parts.append(_("may be taken back"))
    parts.append(str(compute.get("size") or _("size not told")))
    if compute.get("quota_limit") is not None:
        parts.append(
            _("quota {used}/{limit}", used=compute.get("quota_used") or 0, limit=compute["quota_limit"])
        )
    if isinstance(compute.get("idle_s"), int):
        parts.append(_("idle {time}", time=duration(compute["idle_s"])))
    return clean(", ".join(filter(None, parts)), keep_newlines=False)
