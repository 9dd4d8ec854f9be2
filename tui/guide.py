"""The guide of a step: what stands behind it, a question to think about, what to look at. It opens by itself once.

The texts are those of :data:`tui.help.TOPICS`. Which guides a user has seen is kept with the user and not with the lab.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content

from core.errors import LabError
from core.files import read_if_whole, write_json
from core.language import N_, _
from core.user_dirs import state_dir
from tui.help import TOPICS
from tui.screens.dialogs import Dialog, Scrolled
from tui.steps import Step
from tui.widgets.safe import Plain

SWITCH = "OLIVEPRESS_GUIDE"
"""The environment variable that keeps guides from opening by themselves, where it is ``off``: for scripts."""


def has_guide(step: str) -> bool:
    """Whether there is anything to tell of a step."""
    return step in TOPICS and bool(TOPICS[step].why)


def is_first_visit(step: str) -> bool:
    """Whether this user has not seen the step's guide; from now on it counts as seen."""
    if not has_guide(step) or os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return False
    seen = _seen()
    if step in seen:
        return False
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_json(_path(), {"seen": [*seen, step]})
    except (LabError, OSError):  # a home that cannot be written: it would open again and again
        return False
    return True


def _path() -> Path:
    return state_dir() / "guides.json"


def _seen() -> list[str]:
    found = None
    with suppress(OSError):
        found = read_if_whole(_path())
    seen = found.get("seen") if isinstance(found, dict) else None
    return [str(each) for each in seen] if isinstance(seen, list) else []


def guide_lines(step: Step) -> list[Content]:
    """A step's guide, a paragraph a line."""
    topic = TOPICS[step.name]
    return [
        Content.styled(_("What stands behind it"), "bold"),
        Content(_(topic.why)),
        Content(""),
        Content.styled(_("To think about"), "bold"),
        Content(_(topic.question)),
        Content(""),
        Content.styled(_("What to look at"), "bold"),
        Content(_(topic.look)),
    ]


class GuideScreen(Dialog[str]):
    """The guide of a step. On a wide terminal it stands at the side; the step's keys work from here."""

    CSS_PATH = "screens/dialogs.tcss"
    AUTO_FOCUS = "Scrolled"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,escape,i,q", "close", N_("To the step")),
        Binding("f2,question_mark", "answer('app.help')", N_("Help")),
        Binding("f3,comma", "answer('app.back')", show=False),
        Binding("f4,full_stop", "answer('app.next')", N_("Next")),
        Binding("f8,r", "answer('screen.run')", show=False),
    ]

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -guide"):
            yield Plain(_("{title}: guide", title=self._step.title), classes="dialog-title")
            with Scrolled(classes="dialog-text"):
                yield Plain(Content("\n").join(guide_lines(self._step)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key that would lead nowhere from the step leads nowhere from here."""
        if parameters in (("app.back",), ("app.next",)):
            return self.app.check_action(str(parameters[0]).removeprefix("app."), ())
        return super().check_action(action, parameters)

    def action_close(self) -> None:
        """Back to the step."""
        self.dismiss("")

    def action_answer(self, action: str) -> None:
        """Back to the step, and do there what the key stands for."""
        self.dismiss(action)
