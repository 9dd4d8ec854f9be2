"""Step 7: the result, registered in a workspace with a version and tags."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content

from core.formats import human_bytes, time_left
from core.text import clean
from tui.labels import progress
from tui.screens.dialogs import ErrorScreen
from tui.screens.stage import StageScreen
from tui.screens.stage_texts import StageTexts
from tui.session import value_of
from tui.signs import bar
from tui.widgets.push import Push

if TYPE_CHECKING:
    from tui.screens.stage_controller import StageState
    from tui.snapshot import JobView, Snapshot
    from tui.steps import Step

WORKSPACE = ("upload.subscription", "upload.resource_group", "upload.workspace")
"""What names the workspace."""

_BYTES = ("upload", "reading", "arrived")
"""The phases that count bytes."""


def who() -> str:
    """Who is signed in, in a sentence; empty for nobody. Azure is not asked."""
    from core.azure.signin import found, remembered

    choice = remembered() or found()
    if choice is None:
        return ""
    names = {"cli": "the Azure CLI", "device": "a code", "environment": "a service principal"}
    by = names.get(choice.method, "this machine's identity")
    user = clean(choice.user, keep_newlines=False)
    return f"Signed in as {user}, by {by}." if user else f"Would sign in by {by}."


def _run_label(step: Step, job: JobView | None) -> str:
    if job is None:
        return "Upload"
    return {"succeeded": "Upload again", "cancelled": "Go on"}.get(job.state, "Try again")


def _advice(values: Mapping[str, Any], snapshot: Snapshot) -> str:
    empty = [key.split(".")[1].replace("_", " ") for key in WORKSPACE if not values[key]]
    signed_in = who()
    if not signed_in:
        return "Nobody is signed in to Azure: press s. Then choose the workspace: press w."
    if empty:
        return f"{signed_in} Choose the workspace: press w (still empty: {', '.join(empty)})."
    return f"{signed_in} To see first what would be sent, press d."


def _place_lines(result: Mapping[str, Any]) -> list[Content]:
    """Where it is: its id and its page."""
    found = []
    for key, word in (("uri", "Path"), ("url", "Page")):
        text = clean(str(result.get(key) or ""), keep_newlines=False)
        if text:
            found.append(Content.assemble((f"{word}  ", "$foreground 60%"), text))
    return found


class Speed:
    """How far an upload is, with the bytes a second of the last seconds."""

    def __init__(self) -> None:
        self._rate: tuple[str, float, float] | None = None
        self._speed = 0.0

    def progress(self, job: JobView) -> Content | str:
        """A bar, the bytes, their speed and the time left."""
        if job.phase not in _BYTES or job.share is None:
            return progress(job)
        done, total = job.done or 0.0, job.total or 0.0
        now = monotonic()
        if self._rate is None or self._rate[0] != job.id + job.phase or done < self._rate[2]:
            self._rate, self._speed = (job.id + job.phase, now, done), 0.0
        elif now - self._rate[1] >= 1:
            self._speed = (done - self._rate[2]) / (now - self._rate[1])
            self._rate = (job.id + job.phase, now, done)
        parts = [f"{human_bytes(done)} of {human_bytes(total)}"]
        if job.state == "running":
            parts += [f"{human_bytes(self._speed)}/s"] if self._speed else []
            parts += [time_left(job.eta_s)]
        else:
            parts += ["kept for the next time"]
        return Content.assemble(
            (bar(job.share, 16), "$text-accent"),
            (f" {job.share:>4.0%}  ", "bold"),
            Content("  ".join([job.phase, *(part for part in parts if part)])),
        )


class UploadScreen(StageScreen):
    """Who, where to, under which name; nothing leaves before Upload is pressed."""

    NAME = "upload"
    LABELS: ClassVar[Mapping[str, str]] = {"run": "Upload"}
    CSS_PATH: ClassVar[list[str]] = ["stage.tcss", "upload.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sign_in", "Sign in", show=False),
        Binding("w", "workspace", "Workspace", show=False),
        Binding("d", "dry_run", "Dry run", show=False),
    ]

    def __init__(self) -> None:
        texts = StageTexts(_advice, _run_label, progress=Speed().progress, more_of=_place_lines)
        super().__init__(self.NAME, texts)

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

    def _words(self) -> tuple[str, ...]:
        """The same is done by a command of its own."""
        return ("upload",)

    def _draw_buttons(self, state: StageState) -> None:
        super()._draw_buttons(state)
        # What Enter does is what comes next: sign in, choose, upload.
        first = self._first(state)
        self.query_one("#run", Push).set_class(first == "#run", "-primary")
        for name in ("#sign-in", "#workspace", "#dry-run"):
            self.query_one(name, Push).set_class(name == first, "-primary")
        self.query_one("#dry-run", Push).disabled = self.missing(self.olive.snapshot) is not None

    def _arrange(self, state: StageState) -> None:
        """Its own buttons only where they help: not while it runs, not under a log that fills the screen."""
        super()._arrange(state)
        self.query_one("#azure").display = not state.log and (state.settings or not state.active)

    def _first(self, state: StageState) -> str:
        """The button of what is to be done first."""
        if state.job is not None and state.job.state != "failed":
            return "#run"
        if not who():
            return "#sign-in"
        recipe = self.session.recipe()
        return "#run" if all(value_of(recipe, key) for key in WORKSPACE) else "#workspace"

    def focus_first(self) -> None:
        """On what is to be done first, where nothing keeps the model from being uploaded."""
        state = self.state()
        if state.focus == "run":
            self.set_focus(self.query_one(self._first(state)))
        else:
            super().focus_first()

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

        self.app.push_screen(SignInScreen(who() or "nobody is signed in."), self._signed_in)

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
