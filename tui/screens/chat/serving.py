"""The lab's model for other programs: ``olivepress serve`` in a process of its own, and what to tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content

from core.errors import LabError
from core.language import N_, _
from core.text import clean
from tui.child import Commands
from tui.screens.chat.controller import problem_of
from tui.screens.chat.dialogs import STYLES
from tui.screens.dialogs import Dialog
from tui.theme import QUIET
from tui.widgets.button import Button
from tui.widgets.problem import ProblemBox
from tui.widgets.row import FlowingRow
from tui.widgets.safe import Plain

USUAL_PORT = "8000"
ANY_PORT = "0"


class Served:
    """A server that lives until it is stopped or the wizard ends, whichever comes first.

    Attributes:
        url: what clients take for their base URL; empty until the model is loaded.
        running: it serves, or is about to.
        models: the names by which they ask for the base and for each adapter.
        error: why there is no server.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        """``changed`` is called when there is more to see."""
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self.running = False
        self.url = ""
        self.models: tuple[str, ...] = ()
        self.error: Exception | None = None

    def start(self, root: Path) -> None:
        """Serve the lab; on the usual port, or on any that is free where another program has that."""
        if not self.running:
            self.error, self.running = None, True
            self._task = asyncio.create_task(self._serve(root))

    async def stop(self) -> None:
        """End it, and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self.running = False  # a task that was never begun does not say so itself

    async def _serve(self, root: Path) -> None:
        try:
            async with Commands() as commands:
                try:
                    await commands.run("serve", str(root), "--port", USUAL_PORT, on_line=self._ready)
                except LabError as error:
                    if error.code != "serve.port":
                        raise
                    await commands.run("serve", str(root), "--port", ANY_PORT, on_line=self._ready)
        except Exception as error:  # shown, whatever it was
            self.error = error
        finally:
            self.url, self.models, self.running = "", (), False
            self._changed()

    def _ready(self, told: dict[str, Any]) -> None:
        self.url = str(told["url"])
        self.models = tuple(str(name) for name in told["models"])
        self._changed()


class ServeScreen(Dialog[None]):
    """Where the model answers other programs; the server goes on when this is closed."""

    CSS_PATH = STYLES
    AUTO_FOCUS = "#close"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", N_("Close"), show=False),
        Binding("y", "copy", N_("Copy"), show=False),
        Binding("f9,x", "stop", N_("Stop"), show=False),
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
    ]

    def __init__(self, served: Served, command: str) -> None:
        """``command``: the command line that does the same."""
        super().__init__()
        self._served = served
        self._command = command
        self._text = Plain("", id="served")
        self._problem = ProblemBox()

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Plain(_("The model for other programs"), classes="dialog-title")
            yield self._text
            yield self._problem
            with FlowingRow(classes="dialog-buttons"):
                yield Button(_("Copy the address"), id="copy", key="y", primary=True)
                yield Button(_("Stop the server"), id="stop", key="F9")
                yield Button(_("Close"), id="close", key="Esc")

    def on_mount(self) -> None:
        """Show how it stands."""
        self.look()

    def look(self) -> None:
        """Show how it stands now."""
        served = self._served
        self._problem.tell(problem_of(served.error) if served.error is not None else None)
        self.query_one("#copy", Button).display = bool(served.url)
        self.query_one("#stop", Button).display = served.running
        self.refresh_bindings()  # the footer names the buttons
        if served.url:
            names = [Content(f"  {clean(name, keep_newlines=False)}") for name in served.models]
            lines = [
                Content.assemble(
                    _("Address") + "  ",
                    (served.url, "bold"),
                    ("   " + _("an OpenAI client's base URL"), QUIET),
                ),
                Content(_("It answers to these names of models:")),
                *names,
                Content.styled(
                    _(
                        "Only programs on this machine can ask. It goes on until you stop it here or leave the wizard, "
                        "and takes as much memory as this chat does."
                    ),
                    QUIET,
                ),
                Content.styled(
                    _("Without the wizard: {command}", command=clean(self._command, keep_newlines=False)),
                    QUIET,
                ),
            ]
        elif served.running:
            lines = [Content(_("Loading the model; the address comes in a moment …"))]
        else:
            lines = [] if served.error is not None else [Content(_("The server has ended."))]
        self._text.show(Content("\n").join(lines))

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        event.stop()
        if event.button.id == "copy":
            self.action_copy()
        elif event.button.id == "stop":
            self.action_stop()
        else:
            self.dismiss(None)

    def action_copy(self) -> None:
        """Copy the address."""
        if self._served.url:
            self.app.copy_to_clipboard(self._served.url)
            self.notify(_("Copied, if your terminal allows it: {url}", url=self._served.url), markup=False)

    def action_stop(self) -> None:
        """End the server."""
        self.run_worker(self._served.stop())
