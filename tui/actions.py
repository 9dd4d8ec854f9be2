"""What an error advises, in the wizard: words that name steps and keys, and buttons that do it.

An error carries what helps as data (:class:`core.errors.Do`, :class:`core.errors.Use`). The command line writes it
as a command; here, and only here, it becomes what a person presses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from core.errors import Do, Help, Use, apart, hint_of
from core.language import _
from core.stages import STAGES
from tui.labels import label, label_within
from tui.steps import Step, step_named, steps

if TYPE_CHECKING:
    from tui.app import OlivePressApp

MOST = 3
"""Buttons for one error."""

_STEPS: Mapping[str, tuple[str, str]] = {
    "check": ("check", ""),
    "data": ("data", ""),
    "chat": ("chat", ""),
    "evaluate": ("chat", "F8"),
    "login": ("upload", "s"),
    "logout": ("upload", "s"),
    "workspaces": ("upload", "w"),
    "upload": ("upload", ""),
}
"""The step, and the key there, that does what a command does."""


def advice_of(error: Mapping[str, Any]) -> tuple[str | Help, ...]:
    """The advice of an error that came as data."""
    return hint_of(error)


def in_words(
    advice: Sequence[str | Help], stage: str = "", here: Mapping[str, str] = MappingProxyType({})
) -> str:
    """An advice as the wizard says it: with steps and keys, and no command.

    Args:
        stage: the stage on whose own screen it stands, with the button that runs it.
        here: for other commands that can be done right where this is read, how; by their names.
    """
    return "".join(
        part
        if isinstance(part, str)
        else "F8"
        if runs(part, stage)
        else _(here[part.name])
        if isinstance(part, Do) and part.name in here
        else _words(part)
        for part in apart(advice)
    )


def runs(part: Help, stage: str) -> bool:
    """Whether it is to run that stage and nothing else, as the run button of its screen does."""
    return (
        not isinstance(part, Use)
        and part.name == "run"
        and "--no-check" not in part.words
        and [word for word in part.words if word in STAGES] == [stage]
    )


def _words(part: Help) -> str:
    if isinstance(part, Use):
        return str(part)
    if part.name == "run":
        if "--no-check" in part.words:
            return _("the last button")
        named = [step_named(word) for word in part.words if word in STAGES]
        return _(" and ").join(map(_step, named)) or _("the steps in their order")
    if part.name in ("cancel", "logs"):
        return _("{key} in {step}", key="F9" if part.name == "cancel" else "l", step=_step(_of_job(part)))
    if part.name == "data" and "--accept" in part.words:
        return _("{key} in {step}", key="a", step=_step(step_named("data")))
    if part.name == "clean":
        return _("the button below")
    if part.name == "new":
        return _("a lab is made when you go on")
    place, key = _STEPS.get(part.name, ("", ""))
    if not place:
        return _("a command outside of the wizard")
    return _("{key} in {step}", key=key, step=_step(step_named(place))) if key else _step(step_named(place))


def _step(step: Step) -> str:
    return _("step {number} ({title})", number=step.number, title=step.title)


def _of_job(part: Do) -> Step:
    stage = part.words[0].rsplit("-", 1)[0] if part.words else ""
    return step_named(stage) if stage in STAGES else steps()[0]


def helps_of(advice: Sequence[str | Help], stage: str = "") -> list[tuple[str, Help]]:
    """The buttons for an advice: what stands on each, and what it does. The first is the one to take.

    Args:
        stage: the stage that is to be run once a setting is another; empty where none is.
    """
    found: list[tuple[str, Help]] = []
    for part in apart(advice):
        if not isinstance(part, str) and (text := _button(part, stage)):
            found += [(text, part)] if all(text != other for other, _ in found) else []
    return found[:MOST]


def _button(part: Help, stage: str) -> str:
    """What stands on the button for this; empty where the wizard has none."""
    if isinstance(part, Use):
        if not part.values:
            return _("Change {option}", option=label_within(part.option))
        told = ", ".join(
            _value(option, value, alone=len(part.values) == 1) for option, value in part.values.items()
        )
        return _("{settings} and run", settings=told) if stage else told
    if part.name == "run":
        if "--no-check" in part.words:
            return _("Run all the same") if stage else ""
        first = next((word for word in part.words if word in STAGES), "")
        return _("Run {title}", title=step_named(first).title) if first else ""
    fixed = {
        "login": _("Sign in"),
        "workspaces": _("Choose a workspace"),
        "check": _("To {number} {title}", number=1, title=step_named("check").title),
        "clean": _("Free some space"),
        "data": _("Use the proposal")
        if "--accept" in part.words
        else _("To {number} {title}", number=2, title=step_named("data").title),
    }
    if part.name in ("cancel", "logs") and part.words:
        return (
            _("Stop {name}", name=part.words[0])
            if part.name == "cancel"
            else _("Show {name}", name=part.words[0])
        )
    return fixed.get(part.name, "")


def _option(name: str) -> str:
    return label(name.partition(".")[2])


def _value(option: str, value: object, *, alone: bool) -> str:
    if isinstance(value, bool):
        told = label_within(option)
        return _("Say yes to {option}", option=told) if value else _("Say no to {option}", option=told)
    return (
        _("Use {value}", value=value)
        if alone and not isinstance(value, str)
        else f"{_option(option)} {value}"
    )


async def do(app: OlivePressApp, part: Help, stage: str = "") -> None:
    """Do what an advice advises; what keeps it from being done is shown.

    Args:
        stage: the stage that is to be run once a setting is another.
    """
    while len(app.screen_stack) > 1:
        app.pop_screen()
    try:
        await _do(app, part, stage)
    except Exception as error:  # whatever it is, it is shown and not the end of the wizard
        from tui.screens.dialogs import ErrorScreen

        app.push_screen(ErrorScreen.of(error))


async def _do(app: OlivePressApp, part: Help, stage: str) -> None:
    if isinstance(part, Use):
        await _use(app, part, stage)
    elif part.name == "run":
        first = next((word for word in part.words if word in STAGES), stage)
        await app.go_to(first)
        app.current.run_now(checked="--no-check" not in part.words)
    elif part.name in ("cancel", "logs"):
        await app.go_to(_of_job(part).name)
        await app.run_action("screen.stop" if part.name == "cancel" else "screen.log", app.current)
    elif part.name == "clean":
        app.action_free_space()
    elif part.name in _STEPS:
        await app.go_to(_STEPS[part.name][0])
        action = {"login": "sign_in", "workspaces": "workspace"}.get(part.name, "")
        action = "accept" if part.name == "data" and "--accept" in part.words else action
        if action:
            await app.run_action(f"screen.{action}", app.current)


async def _use(app: OlivePressApp, part: Use, stage: str) -> None:
    """Keep the settings and run the stage; where only a person can tell the value, show the field."""
    if part.values:
        app.session.save(dict(part.values))
        app.look_now()
        app.current.refresh_from(app.snapshot)
        if stage:
            await app.go_to(stage)
            app.current.run_now()
        return
    section = part.option.partition(".")[0]
    here = app.current.step.name
    stages = [name for name, stage in STAGES.items() if section in stage.form]
    for name in dict.fromkeys((here, section, *stages, "data")):
        if name not in {step.name for step in steps()}:
            continue
        await app.go_to(name)
        if app.current.show_setting(part.option):
            return
