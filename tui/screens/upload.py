"""Step 7: the result, registered in a workspace with a version and tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from core.errors import LabError
from core.files import MANIFEST
from core.language import N_, _, ngettext
from core.text import clean
from tui.child import Commands
from tui.figures import human_bytes, time_left
from tui.glyphs import bar
from tui.labels import phase_words, progress
from tui.screens.dialogs import ErrorScreen
from tui.screens.stage.screen import StageScreen
from tui.screens.stage.texts import StageTexts
from tui.session import value_of
from tui.theme import QUIET
from tui.widgets.button import Button

if TYPE_CHECKING:
    from core.upload.contents import Contents
    from tui.screens.stage.controller import StageState
    from tui.session import Session
    from tui.snapshot import JobView, Snapshot
    from tui.steps import Step

WORKSPACE = ("upload.subscription", "upload.resource_group", "upload.workspace")
"""What names the workspace."""

STOPPED = N_("What has arrived is kept for the next upload; nothing is registered.")
"""What becomes of the work when an upload is stopped."""

_BYTES = ("upload", "reading", "arrived")
"""The phases that count bytes."""


def who() -> str:
    """Who is signed in, in a sentence; empty for nobody. Azure is not asked."""
    from core.azure.signin import found, remembered

    choice = remembered() or found()
    if choice is None:
        return ""
    names = {"cli": _("the Azure CLI"), "device": _("a code"), "environment": _("a service principal")}
    by = names.get(choice.method, _("this machine's identity"))
    user = clean(choice.user, keep_newlines=False)
    return (
        _("Signed in as {user}, by {by}.", user=user, by=by) if user else _("Would sign in by {by}.", by=by)
    )


def run_label(step: Step, job: JobView | None) -> str:
    """What the button says that starts it."""
    if job is None:
        return _("Upload")
    return {"succeeded": _("Upload again"), "cancelled": _("Go on")}.get(job.state, _("Try again"))


def _place_lines(result: Mapping[str, Any]) -> list[Content]:
    """Where it is: its id and its page."""
    found = []
    for key, word in (("uri", _("Path")), ("url", _("Page"))):
        text = clean(str(result.get(key) or ""), keep_newlines=False)
        if text:
            found.append(Content.assemble((f"{word}  ", QUIET), text))
    return found


@dataclass(frozen=True)
class UploadState:
    """The step's own buttons at one moment.

    Attributes:
        shown: whether they are there: not while it runs, not under a log that fills the screen.
        first: the button of what is to be done first, the stage's own ``run`` among them.
        can_look: whether there is something that could be sent.
    """

    shown: bool
    first: str
    can_look: bool


class UploadController:
    """What the upload's screen says beyond that of every stage: who, what would go, how fast it goes.

    Attributes:
        goes: what would be sent, as :meth:`look` found it; None while that is not known, or nothing.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.goes: Contents | None = None
        self._looked: tuple[int, ...] = ()
        self._rate: tuple[str, float, float] | None = None
        self._speed = 0.0

    def changed(self) -> bool:
        """Whether the model or the report is another than when somebody asked last."""
        lab = self.session.folder
        stamp = []
        for path in (lab.onnx_dir, lab.onnx_dir / MANIFEST, lab.report_path):
            try:
                stamp.append(path.stat().st_mtime_ns)
            except OSError:
                stamp.append(0)
        before, self._looked = self._looked, tuple(stamp)
        return before != self._looked

    def look(self) -> None:
        """See what would be sent; Azure is not asked. It takes a while on a slow disk: for a thread."""
        from core.upload.contents import collect

        try:
            self.goes = collect(self.session.folder, self.session.recipe())
        except LabError:  # said by whoever tries to send it
            self.goes = None
        except OSError:  # a file went while it was looked at: another look tells
            self.goes, self._looked = None, ()

    def advice(self, values: Mapping[str, Any], snapshot: Snapshot) -> str:
        """What would go, who is signed in, and what to do next."""
        goes = ""
        if self.goes is not None:
            goes = "\n" + ngettext(
                "{n} file, {total}, would go; d lists it.",
                "{n} files, {total}, would go; d lists them.",
                len(self.goes.items),
                total=human_bytes(self.goes.total),
            )
        empty = [key.split(".")[1].replace("_", " ") for key in WORKSPACE if not values[key]]
        signed_in = who()
        if not signed_in:
            what = _(
                "Nobody is signed in to Azure. To use the model without it: press k. To upload it: press s to sign "
                "in, then w to choose the workspace."
            )
            return f"{what}{goes}"
        if empty:
            return _(
                "{signed_in} Choose the workspace: press w (still empty: {empty}).{goes}",
                signed_in=signed_in,
                empty=", ".join(empty),
                goes=goes,
            )
        return f"{signed_in}{goes}"

    def state(self, stage: StageState) -> UploadState:
        """What to show of the step's own."""
        first = "run"
        if stage.job is not None and stage.job.state == "succeeded" and not stage.stale:
            first = "take"  # what was sent is not sent again by one Enter too many
        elif stage.job is None or stage.job.state == "failed":
            recipe = self.session.recipe()
            if not who():
                first = "take"  # signing in is for one way of several
            elif not all(value_of(recipe, key) for key in WORKSPACE):
                first = "workspace"
        return UploadState(
            shown=not stage.log and (stage.settings or not stage.active),
            first=first,
            can_look=not stage.blocked,
        )

    def progress(self, job: JobView) -> Content | str:
        """How far it is: a bar, the bytes, their speed and the time left."""
        if job.phase not in _BYTES or job.share is None:
            return progress(job)
        done, total = job.done or 0.0, job.total or 0.0
        now = monotonic()
        if self._rate is None or self._rate[0] != job.id + job.phase or done < self._rate[2]:
            self._rate, self._speed = (job.id + job.phase, now, done), 0.0
        elif done > self._rate[2] and now - self._rate[1] >= 1:
            self._speed = (done - self._rate[2]) / (now - self._rate[1])
            self._rate = (job.id + job.phase, now, done)
        parts = [_("{done} of {total}", done=human_bytes(done), total=human_bytes(total))]
        if job.state == "running":
            parts += [f"{human_bytes(self._speed)}/s"] if self._speed else []
            parts += [time_left(job.eta_s)]
        else:
            parts += [_("kept for the next time")]
        return Content.assemble(
            bar(job.share, 12),
            (f" {job.share:>4.0%}  ", "bold"),
            Content("  ".join([phase_words(job), *(part for part in parts if part)])),
        )


class UploadScreen(StageScreen):
    """Who, where to, under which name; nothing leaves before Upload is pressed."""

    NAME = "upload"
    LABELS: ClassVar[Mapping[str, str]] = {"run": N_("Upload")}
    CSS_PATH: ClassVar[list[str]] = ["stage/stage.tcss", "upload.tcss"]  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sign_in", N_("Sign in"), show=False),
        Binding("w", "workspace", N_("Workspace"), show=False),
        Binding("d", "dry_run", N_("Dry run"), show=False),
    ]

    def __init__(self) -> None:
        super().__init__(
            self.NAME,
            StageTexts(
                lambda values, snapshot: self.upload.advice(values, snapshot),
                run_label,
                progress=lambda job: self.upload.progress(job),
                more_of=_place_lines,
                stopped=STOPPED,
            ),
        )
        self.commands = Commands()
        self._upload: UploadController | None = None

    @property
    def upload(self) -> UploadController:
        """What is the step's own; made when the lab is known."""
        if self._upload is None:
            self._upload = UploadController(self.session)
        return self._upload

    async def on_unmount(self) -> None:
        """The end of the process that the dialogs share, and of a sign-in that is kept nowhere else."""
        await self.commands.close()

    def show(self, snapshot: Snapshot) -> None:
        """As every stage; what would be sent is looked up beside it."""
        if self.upload.changed():
            self._look()
        super().show(snapshot)

    @work(thread=True, exit_on_error=False, exclusive=True, group="look")
    def _look(self) -> None:
        self.upload.look()
        self.call_later(self.draw)

    def own_buttons(self) -> ComposeResult:
        yield Button(_("Sign in"), id="sign-in", key="s")
        yield Button(_("Workspace"), id="workspace", key="w")
        yield Button(_("Dry run"), id="dry-run", key="d")

    def _words(self) -> tuple[str, ...]:
        """The same is done by a command of its own."""
        return ("upload",)

    def _draw_buttons(self, state: StageState) -> None:
        super()._draw_buttons(state)
        # What Enter does is what comes next: see what there is, choose, upload.
        own = self.upload.state(state)
        for name in ("take", "run", "sign-in", "workspace", "dry-run"):
            self.query_one(f"#{name}", Button).set_class(name == own.first, "-primary")
        self.query_one("#dry-run", Button).disabled = not own.can_look
        for name in ("take", "sign-in", "workspace", "dry-run"):
            self.query_one(f"#{name}", Button).display = own.shown

    def focus_first(self) -> None:
        """On what is to be done first, where nothing keeps the model from being uploaded."""
        state = self.state()
        if state.focus == "run":
            self.set_focus(self.query_one(f"#{self.upload.state(state).first}"))
        else:
            super().focus_first()

    # Sign in, workspace, dry run

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The step's own buttons; Textual hands the others to the handler of every stage."""
        own = {
            "sign-in": self.action_sign_in,
            "workspace": self.action_workspace,
            "dry-run": self.action_dry_run,
        }
        act = own.get(event.button.id or "")
        if act is not None:
            act()

    def action_sign_in(self) -> None:
        """The dialog of signing in."""
        from tui.screens.upload_dialogs import SignInScreen

        self.app.push_screen(SignInScreen(self.commands, who() or _("nobody is signed in.")), self._signed_in)

    def _signed_in(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            user = result.get("user") or ""
            self.notify(
                _("Signed in as {user}.", user=user)
                if result.get("type") == "signed_in"
                else _("Signed out."),
                markup=False,
            )
        self.refresh_from(self.olive.snapshot)
        self.focus_first()

    def action_workspace(self) -> None:
        """The dialog of the workspaces."""
        from tui.screens.upload_dialogs import WorkspaceScreen

        self.app.push_screen(WorkspaceScreen(self.commands), self._chosen)

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
            recipe = self.session.recipe()
            known = bool(who()) and all(value_of(recipe, key) for key in WORKSPACE)
            here = self.upload.goes
            self.app.push_screen(
                PlanScreen(self.commands, str(self.session.root), here.as_dict() if here else {}, ask=known)
            )

    def _save(self, values: dict[str, Any]) -> bool:
        try:
            self.session.save(values)
        except Exception as error:  # whatever it is, it is shown and not the end of the wizard
            self.app.push_screen(ErrorScreen.of(error))
            return False
        return True
