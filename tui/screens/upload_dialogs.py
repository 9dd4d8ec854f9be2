"""The upload step's dialogs: signing in, choosing the workspace, seeing what would go."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input
from textual.worker import Worker

from core.errors import LabError, text_of
from core.language import N_, _, shown
from core.text import clean
from tui.actions import in_words
from tui.child import Commands
from tui.figures import duration, human_bytes
from tui.screens.dialogs import Dialog, Scrolled
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.line import Line
from tui.widgets.plain_list import PlainList
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Hanging, Plain

METHODS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (N_("The Azure CLI's session (az login)"), ("login", "--method", "cli")),
    (
        N_("A code for your browser; stay signed in"),
        ("login", "--method", "device", "--allow-file"),
    ),
    (
        N_("A code for your browser; keep nothing on this machine"),
        ("login", "--method", "device", "--no-keep"),
    ),
    (N_("A service principal, from AZURE_CLIENT_ID and its secret"), ("login", "--method", "environment")),
    (N_("The identity of this Azure machine"), ("login", "--method", "managed")),
)
SIGN_OUT = (N_("Sign out"), ("logout",))
KEEPING = N_(
    "To keep you signed in, a token is stored: encrypted if this machine has a place for secrets, otherwise in a "
    "file that only you can read. If nothing is kept, each upload asks for a code."
)


def code_to_enter(prompt: dict[str, Any]) -> Content:
    """What to do with a device code, and how long there is."""
    try:
        ends = datetime.fromisoformat(str(prompt["expires"])).timestamp()
    except ValueError:
        ends = time.time()
    code, uri = (clean(str(prompt[key]), keep_newlines=False) for key in ("code", "uri"))
    return Content.assemble(
        _("Open") + "  ",
        (uri, "bold"),
        "  " + _("in a browser on any machine\nand enter the code") + "  ",
        (code, "bold reverse"),
        "  " + _("within {time}.", time=duration(round(max(0.0, ends - time.time())))),
    )


class Working(Dialog[dict[str, Any] | None]):
    """A dialog around one command at a time. Esc ends the work, and closes when there is none.

    Attributes:
        HERE: how to do right here what an error advises, for :func:`tui.actions.in_words`.
    """

    HERE: ClassVar[Mapping[str, str]] = {"login": N_("Esc and s"), "workspaces": N_("Esc and w")}

    CSS_PATH: ClassVar[list[str]] = ["dialogs.tcss", "upload.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", N_("Close"), show=False)]

    def __init__(self, commands: Commands) -> None:
        super().__init__()
        self.said = Plain(id="said")
        self._commands = commands
        self._work_now: Worker[None] | None = None

    @property
    def working(self) -> bool:
        """Whether a command runs."""
        return self._work_now is not None and self._work_now.is_running

    def begin(self, words: Sequence[str], saying: str) -> None:
        """Run a command; :meth:`line` gets what it prints, :meth:`done` its last object."""
        if self.working:
            return
        self.said.show(saying)
        self.said.remove_class("-wrong")
        self._work_now = self.run_worker(self._work(tuple(words)), exit_on_error=False)
        self._name_escape(_("Give up"))

    def _name_escape(self, words: str) -> None:
        self.query_one("#close", Button).label(words)

    async def _work(self, words: tuple[str, ...]) -> None:
        try:
            result = await self._commands.run(*words, on_line=self.line)
        except LabError as error:
            self._work_now = None
            self._name_escape(_("Close"))
            self.failed(error)
        else:
            self._work_now = None
            self._name_escape(_("Close"))
            self.done(result)

    def line(self, said: dict[str, Any]) -> None:
        """The command printed this; a code that is to be entered is shown."""
        if self.working and said.get("type") == "prompt":
            self.said.show(code_to_enter(said))

    def done(self, result: dict[str, Any]) -> None:
        """The command is through."""

    def failed(self, error: LabError) -> None:
        """The command failed: what it told."""
        parts: list[Content | tuple[str, str]] = [(clean(shown(error.title)), "bold $text-error")]
        if error.detail:
            parts.append(Content(f"\n{clean(shown(error.detail))}"))
        if error.hint:
            parts += [
                ("\n" + _("What to do:") + " ", "bold"),
                Content(clean(in_words(error.advice, here=self.HERE))),
            ]
        self.said.show(Content.assemble(*parts))
        self.said.add_class("-wrong")

    def stopped(self) -> None:
        """The work was ended by a person."""
        self._name_escape(_("Close"))
        self.said.show(_("Given up."))

    def action_close(self) -> None:
        """End the work, or close."""
        if self.working and self._work_now is not None:
            self._work_now.cancel()
            self._work_now = None
            self.stopped()
        else:
            self.dismiss(None)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Close."""
        event.stop()
        if event.button.id == "close":
            self.action_close()


class SignInScreen(Working):
    """Who we are in Azure. Gives what ``olivepress login`` told, or None."""

    HERE: ClassVar[Mapping[str, str]] = {"login": N_("sign in above")}
    AUTO_FOCUS = "#methods"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,c", "copy('code')", N_("Copy code"), show=False),
        Binding("u", "copy('uri')", N_("Copy address"), show=False),
    ]

    def __init__(self, commands: Commands, who: str) -> None:
        from core.azure.signin import remembered

        super().__init__(commands)
        self._who = who
        # What was only found, such as the CLI's session, is not ours to end.
        self._ways = (*METHODS, SIGN_OUT) if remembered() is not None else METHODS
        self._prompt: dict[str, Any] | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -azure"):
            yield Plain(
                _("Sign in to Azure: {who}  (Enter chooses)", who=self._who.rstrip(".")),
                classes="dialog-title",
            )
            yield PlainList(id="methods")
            yield Plain(KEEPING, id="keeping")
            yield Plain("", id="code")
            yield self.said
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Close"), id="close", key="Esc")
                yield Button(_("Copy code"), id="copy", key="y")
                yield Button(_("Copy address"), id="copy-uri", key="u")

    def on_mount(self) -> None:
        """Show the ways."""
        ways = self.query_one(PlainList)
        ways.styles.height = len(self._ways)
        ways.show(len(self._ways), lambda index: _(self._ways[index][0]))
        self._tell()
        self.set_interval(1.0, self._tell)

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """Sign in this way."""
        event.stop()
        self._prompt = None
        self.begin(self._ways[event.index][1], _("Asking Azure …"))
        self._tell()

    def line(self, said: dict[str, Any]) -> None:
        """The code has come."""
        if self.working and said.get("type") == "prompt":
            self._prompt = said
            self.said.show(_("Waiting until the code is entered. Esc gives up."))
            self._tell()

    def _tell(self) -> None:
        shown = self._prompt is not None
        for name in ("#code", "#copy", "#copy-uri"):
            self.query_one(name).display = shown
        self.query_one("#keeping").display = not shown and not self.said.has_class("-wrong")
        self.refresh_bindings()  # the footer names the buttons
        if self._prompt is None:
            return
        self.query_one("#code", Plain).show(code_to_enter(self._prompt))

    def enter(self) -> str:
        """One way at a time."""
        return "" if self.working and isinstance(self.focused, PlainList) else super().enter()

    def action_copy(self, what: str = "code") -> None:
        """Copy the code or the address."""
        if self._prompt is not None:
            self.app.copy_to_clipboard(str(self._prompt[what]))
            self.notify(_("Copied (if your terminal allows it)."), markup=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Copy; Textual hands Close to the handler of every such dialog."""
        if event.button.id in ("copy", "copy-uri"):
            self.action_copy("code" if event.button.id == "copy" else "uri")

    def stopped(self) -> None:
        """The sign-in was given up."""
        super().stopped()
        self._prompt = None
        self._tell()

    def failed(self, error: LabError) -> None:
        """It was refused."""
        super().failed(error)
        self._prompt = None
        self._tell()

    def done(self, result: dict[str, Any]) -> None:
        """Signed in or out."""
        self.dismiss(result)


class WorkspaceScreen(Working):
    """Which workspace: a list that filters as one types. Gives the one chosen, or None."""

    HERE: ClassVar[Mapping[str, str]] = {"login": N_("s (Sign in)")}
    AUTO_FOCUS = "#filter"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "list", show=False),
        Binding("s", "sign_in", N_("Sign in"), show=False),
    ]

    def __init__(self, commands: Commands) -> None:
        super().__init__(commands)
        self._all: list[dict[str, str]] = []
        self._refused = ""
        self._fitting: list[dict[str, str]] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -azure -tall-list"):
            yield Plain(_("Choose the workspace  (type to filter, Enter chooses)"), classes="dialog-title")
            yield Line(compact=True, id="filter", placeholder=_("words of its name, group or subscription"))
            yield self.said
            yield PlainList(id="workspaces")
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Close"), id="close", key="Esc")
                yield Button(_("Sign in"), id="sign-in", key="s")

    def on_mount(self) -> None:
        """Ask Azure."""
        self._ask()

    def _ask(self) -> None:
        self.query_one("#filter").display = True
        self.query_one("#sign-in").display = False
        self.query_one("#filter").focus()
        self.query_one(PlainList).show(0, lambda index: "", "")
        self.begin(("workspaces",), _("Asking Azure which workspaces you can see …"))

    def failed(self, error: LabError) -> None:
        """It was refused, most often for who is signed in; there is nothing to filter."""
        self.query_one("#sign-in").display = True
        self.query_one("#sign-in").focus()
        self.query_one("#filter").display = False
        super().failed(error)

    def action_sign_in(self) -> None:
        """Sign in, then ask again."""
        if self.query_one("#sign-in").display:
            self.app.push_screen(SignInScreen(self._commands, _("to see its workspaces")), self._come_back)

    def _come_back(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            self._ask()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The key's action; Textual hands Close to the handler of every such dialog."""
        if event.button.id == "sign-in":
            self.action_sign_in()

    def done(self, result: dict[str, Any]) -> None:
        """They have come."""
        self._all = [item for item in result.get("workspaces", []) if isinstance(item, dict)]
        refused = [clean(str(name), keep_newlines=False) for name in result.get("refused", ())]
        self._refused = (
            ". " + _("These subscriptions did not tell theirs: {names}", names=", ".join(refused))
            if refused
            else ""
        )
        self._filter()

    def _filter(self) -> None:
        words = self.query_one(Input).value.lower().split()
        self._fitting = [w for w in self._all if all(word in " ".join(w.values()).lower() for word in words)]
        found = self.query_one(PlainList)
        found.show(len(self._fitting), self._line, _("No match.") if self._all else "")
        if self._all:
            self.said.show(
                _("{done} of {total}", done=len(self._fitting), total=len(self._all)) + self._refused
            )

    def _line(self, index: int) -> Content:
        item = self._fitting[index]
        where = ", ".join(
            clean(item.get(key, ""), keep_newlines=False)
            for key in ("resource_group", "subscription_name", "location")
            if item.get(key)
        )
        return Content.assemble((clean(item["name"], keep_newlines=False), "bold"), (f"  {where}", QUIET))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types."""
        event.stop()
        self._filter()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the field takes the marked line."""
        event.stop()
        self.query_one(PlainList).action_choose()

    def action_list(self) -> None:
        """Down from the field goes to the list."""
        self.query_one(PlainList).focus()

    def enter(self) -> str:
        """In the field as in the list."""
        return super().enter() or (_("Choose") if self._fitting else "")

    def on_plain_list_chosen(self, event: PlainList.Chosen) -> None:
        """This one."""
        event.stop()
        if event.index < len(self._fitting):
            self.dismiss(self._fitting[event.index])


class PlanScreen(Working):
    """What an upload would send: first what lies here, then, after a look at Azure, what of it is there already."""

    AUTO_FOCUS = "#plan"

    def __init__(self, commands: Commands, folder: str, here: dict[str, Any], *, ask: bool) -> None:
        """Show what would go.

        Args:
            here: what would be sent, as far as it is known without Azure.
            ask: whether somebody is signed in and a workspace is chosen, so that Azure can be asked.
        """
        super().__init__(commands)
        self._folder, self._here, self._ask = folder, here, ask

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -azure -tall-list"):
            yield Plain(_("What would be uploaded"), classes="dialog-title")
            yield self.said
            with Scrolled(id="plan"):
                yield Hanging("", id="plan-text")
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Close"), id="close", key="Esc", primary=True)

    def on_mount(self) -> None:
        """Look."""
        self._list(self._here)
        if self._ask:
            words = ("upload", self._folder, "--dry-run")
            self.begin(words, _("Looking at the sign-in, the workspace and its storage …"))
            return
        files = self._here.get("contents", ())
        self.said.show(
            _(
                "{size} in {n} files would go. Sign in and choose the workspace to see where to, and what of it "
                "is there already.",
                size=human_bytes(sum(item["bytes"] for item in files)),
                n=len(files),
            )
        )

    def done(self, result: dict[str, Any]) -> None:
        """Tell it."""
        self.said.show(summary(result))
        self._list(result)

    def _list(self, plan: dict[str, Any]) -> None:
        lines = [f"{human_bytes(item['bytes']):>10}  {item['name']}" for item in plan.get("contents", ())]
        left = _("left out")
        lines += [
            f"{left:>10}  {item['name']}: {shown(text_of(item, 'why'))}" for item in plan.get("left_out", ())
        ]
        stale, may, tag = _("stale"), _("permission"), _("tag")
        lines += [f"{stale:>10}  {shown(text_of(plan, 'stale'))}"] if plan.get("stale") else []
        lines += [f"{may:>10}  {what}: {state}" for what, state in plan.get("rights", {}).items()]
        lines += [f"{tag:>10}  {key} = {value}" for key, value in plan.get("tags", {}).items()]
        self.query_one("#plan-text", Hanging).show(
            "\n".join(clean(line, keep_newlines=False) for line in lines)
        )


def summary(plan: dict[str, Any]) -> str:
    """A dry run in a sentence or two."""
    who = plan.get("identity", {}).get("user", "")
    what = f"{plan['name']}:{plan['version']}"
    if plan.get("registered"):
        return _(
            "This content is registered already as {what} in {where}: {size} would be sent. Signed in as "
            "{who}.",
            what=what,
            where=plan["workspace"],
            size=human_bytes(plan["bytes_to_send"]),
            who=who,
        )
    return _(
        "{sent} of {size} in {n} files would go to {where} and be registered as {what}. Nothing "
        "has been sent yet. Signed in as {who}.",
        sent=human_bytes(plan["bytes_to_send"]),
        size=human_bytes(plan["bytes"]),
        n=plan["files"],
        where=plan["workspace"],
        what=what,
        who=who,
    )
