"""Step 7: the result, registered in a workspace with a version and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content

from core.formats import human_bytes, time_left
from core.text import clean
from tui.screens.dialogs import ErrorScreen
from tui.screens.stage import StageScreen
from tui.session import value_of
from tui.signs import bar
from tui.widgets.push import Push

if TYPE_CHECKING:
    from tui.snapshot import JobView, Snapshot

_BYTES = ("upload", "reading", "arrived")
"""The phases that count bytes."""


class UploadScreen(StageScreen):
    """Who, where to, under which name; nothing leaves before Upload is pressed."""

    NAME = "upload"
    LABELS: ClassVar[Mapping[str, str]] = {"run": "Upload"}
    CSS_PATH: ClassVar[list[str]] = ["stage.tcss", "upload.tcss"]  # type: ignore[assignment]
    MAIN: ClassVar[Sequence[str]] = (
        "upload.subscription",
        "upload.resource_group",
        "upload.workspace",
        "upload.name",
        "upload.version",
    )
    MORE: ClassVar[Sequence[str]] = ("upload.tags", "upload.concurrency")
    LONG: ClassVar[Sequence[str]] = ("upload.subscription",)
    FORCED: ClassVar[bool] = False  # an upload asks the workspace what is there
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sign_in", "Sign in", show=False),
        Binding("w", "workspace", "Workspace", show=False),
        Binding("d", "dry_run", "Dry run", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rate: tuple[str, float, float] | None = None
        self._speed = 0.0

    def body(self) -> ComposeResult:
        """As every stage, with a row of the step's own buttons: with the others they would not fit into 80 columns."""
        for widget in super().body():
            if widget is self.command:
                yield Horizontal(
                    Push("Sign in", id="sign-in", key="s"),
                    Push("Workspace", id="workspace", key="w"),
                    Push("Dry run", id="dry-run", key="d"),
                    id="azure",
                )
            yield widget

    def show(self, snapshot: Snapshot) -> None:
        """As every stage; the same is done by a command of its own."""
        super().show(snapshot)
        self.command.show(self.session.command("upload"))

    def _tell_buttons(self, view: JobView | None, missing: object) -> None:
        super()._tell_buttons(view, missing)
        # What Enter does is what comes next: sign in, choose, upload.
        first = self._first()
        self.query_one("#run", Push).set_class(first == "#run", "-primary")
        for name in ("#sign-in", "#workspace", "#dry-run"):
            push = self.query_one(name, Push)
            push.set_class(name == first, "-primary")
        self.query_one("#dry-run", Push).disabled = missing is not None

    def _arrange(self, form_shown: bool) -> None:
        """Its own buttons only where they help: not while it runs, not under a log that fills the screen."""
        super()._arrange(form_shown)
        view = self.view
        running = view is not None and view.active and not form_shown
        self.query_one("#azure").display = bool(self.query_one(".buttons").display) and not running

    def _first(self) -> str:
        """The button of what is to be done first."""
        if self.view is not None and self.view.state != "failed":
            return "#run"
        if not self.who():
            return "#sign-in"
        recipe = self.session.recipe()
        return "#run" if all(value_of(recipe, key) for key in self.MAIN[:3]) else "#workspace"

    def focus_first(self) -> None:
        """On what is to be done first, where nothing keeps the model from being uploaded."""
        super().focus_first()
        if self.focused is self.query_one("#run"):
            self.set_focus(self.query_one(self._first()))

    def _run_word(self, view: JobView | None) -> str:
        if view is None:
            return "Upload"
        return {"succeeded": "Upload again", "cancelled": "Go on"}.get(view.state, "Try again")

    def advice(self, values: Mapping[str, Any]) -> str:
        empty = [key.split(".")[1].replace("_", " ") for key in self.MAIN[:3] if not values[key]]
        who = self.who()
        if not who:
            return "Nobody is signed in to Azure: press s. Then choose the workspace: press w."
        if empty:
            return f"{who} Choose the workspace: press w (still empty: {', '.join(empty)})."
        return f"{who} To see first what would be sent, press d."

    def who(self) -> str:
        """Who is signed in, in a sentence; empty for nobody. Azure is not asked."""
        from core.azure.signin import found, remembered

        choice = remembered() or found()
        if choice is None:
            return ""
        names = {"cli": "the Azure CLI", "device": "a code", "environment": "a service principal"}
        by = names.get(choice.method, "this machine's identity")
        user = clean(choice.user, keep_newlines=False)
        return f"Signed in as {user}, by {by}." if user else f"Would sign in by {by}."

    def _tell_progress(self, view: JobView) -> None:
        super()._tell_progress(view)
        if view.phase not in _BYTES or view.share is None or not self.progress.display:
            return
        done, total = view.done or 0.0, view.total or 0.0
        now = monotonic()
        if self._rate is None or self._rate[0] != view.id + view.phase or done < self._rate[2]:
            self._rate, self._speed = (view.id + view.phase, now, done), 0.0
        elif now - self._rate[1] >= 1:
            self._speed = (done - self._rate[2]) / (now - self._rate[1])
            self._rate = (view.id + view.phase, now, done)
        parts = [f"{human_bytes(done)} of {human_bytes(total)}"]
        if view.state == "running":
            parts += [f"{human_bytes(self._speed)}/s"] if self._speed else []
            parts += [time_left(view.eta_s)]
        else:
            parts += ["kept for the next time"]
        self.progress.show(
            Content.assemble(
                (bar(view.share, 16), "$text-accent"),
                (f" {view.share:>4.0%}  ", "bold"),
                Content("  ".join([view.phase, *(part for part in parts if part)])),
            )
        )

    def result_text(self, result: Mapping[str, Any]) -> Content:
        """The numbers, then where it is: its id and its page."""
        lines = [super().result_text(result)]
        for key, word in (("uri", "Path"), ("url", "Page")):
            text = clean(str(result.get(key) or ""), keep_newlines=False)
            if text:
                lines.append(Content.assemble((f"{word}  ", "$foreground 60%"), text))
        return Content("\n").join(lines)

    # Sign in, workspace, dry run

    def on_push_pushed(self, event: Push.Pushed) -> None:
        """The step's own buttons; Textual hands the others to the handler of every stage."""
        own = {
            "sign-in": self.action_sign_in,
            "workspace": self.action_workspace,
            "dry-run": self.action_dry_run,
        }
        act = own.get(event.push.id or "")
        if act is not None:
            act()

    def action_sign_in(self) -> None:
        """The dialog of signing in."""
        from tui.screens.upload_dialogs import SignInScreen

        self.app.push_screen(SignInScreen(self.who() or "nobody is signed in."), self._signed_in)

    def _signed_in(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            user = result.get("user") or ""
            self.notify(
                f"Signed in as {user}." if result.get("type") == "signed_in" else "Signed out.", markup=False
            )
        self.refresh_from(self.olive.snapshot)
        self.focus_first()

    def action_workspace(self) -> None:
        """The dialog of the workspaces."""
        from tui.screens.upload_dialogs import WorkspaceScreen

        self.app.push_screen(WorkspaceScreen(), self._chosen)

    def _chosen(self, item: dict[str, Any] | None) -> None:
        if item is None:
            return
        values = dict(self.form.values()) if self.form.first_wrong() is None else {}
        values.update(
            {
                "upload.subscription": item.get("subscription", ""),
                "upload.resource_group": item.get("resource_group", ""),
                "upload.workspace": item.get("name", ""),
            }
        )
        if self._save(values):
            self.refresh_from(self.olive.snapshot)
            self.focus_first()

    def action_dry_run(self) -> None:
        """The dialog of what would go, for the settings as they stand."""
        from tui.screens.upload_dialogs import PlanScreen

        wrong = self.form.first_wrong()
        if wrong is not None:
            wrong.control.focus()
        elif self._save(self.form.values()):
            self.app.push_screen(PlanScreen(str(self.session.root)))

    def _save(self, values: dict[str, Any]) -> bool:
        try:
            self.session.save(values)
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.app.push_screen(ErrorScreen.of(error))
            return False
        return True
