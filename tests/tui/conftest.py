"""What the wizard's tests share: a lab, the app on it under a Pilot, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from core.check import Check
from core.lab import Lab
from tests.tui.settled import install, settled
from tui.app import OlivePressApp

Until = Callable[[Callable[[], object]], Awaitable[None]]

CHECKS = [
    Check("python", "OK", "Python 3.11.7 on Linux x86_64"),
    Check("packages", "OK", "olive-ai 0.13.0, torch 2.13.0, transformers 5.23.0"),
    Check("gpu", "WARN", "Driver 525.60 is older than torch wants.", "Update the driver to 550 or newer."),
    Check("disk", "OK", "9.1 GiB needed, 71.4 GiB free at /data/lab"),
    Check("terminal", "OK", "80x24, xterm-256color, true colour, UTF-8"),
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No machine is looked at, nothing waits for a clock, and a Pilot waits until the app has settled.

    The wizard keeps a person's settings, such as the language, and no test leaves them to another.
    """
    install(monkeypatch)
    monkeypatch.setenv("OLIVEPRESS_CONFIG", str(tmp_path_factory.mktemp("config")))
    monkeypatch.setattr("core.check.run_checks", fake_checks)
    monkeypatch.setattr("core.check.terminal.judge", lambda *_: CHECKS[-1])
    monkeypatch.setattr("core.check.require", lambda lab, stages, **more: None)
    monkeypatch.setattr("core.check.durations.expected_seconds", lambda root, stage: None)
    monkeypatch.setattr(OlivePressApp, "AGAIN_WITHIN_S", 60.0)
    monkeypatch.setattr("tui.machine_load.read", lambda: "GPU 7.3/80 GiB 97%")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    return iter([None])


def fake_checks(
    root: object, stages: object = None, on_check: Callable[[Check], object] | None = None
) -> list[Check]:
    """The same checks each time."""
    for check in CHECKS:
        if on_check is not None:
            on_check(check)
    return list(CHECKS)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab of the rehearsal model with a small data file of its own."""
    return Lab.create(tmp_path / "lab", settings={"finetune.steps": 100})


@asynccontextmanager
async def opened(
    root: Path, step: str = "", size: tuple[int, int] = (80, 24), **more: Any
) -> AsyncIterator[tuple[OlivePressApp, Any]]:
    """The app on a lab, drawn and settled."""
    app = OlivePressApp(root, step)
    async with app.run_test(size=size, notifications=True, **more) as pilot:
        await until(pilot, lambda: app.current.is_mounted and app._watch is not None)
        yield app, pilot


async def until(pilot: Any, condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait until the condition holds and the app has settled, so that all else that it shows is drawn as well.

    It fails when that does not come within the time.
    """
    end = asyncio.get_running_loop().time() + timeout
    while True:
        if condition():
            await settled(pilot.app)
            if condition():
                return
        if asyncio.get_running_loop().time() > end:
            meant = condition.__code__.co_names if isinstance(condition, FunctionType) else condition
            raise AssertionError(f"this did not come to hold: {meant}\n{screen_text(pilot.app)}")
        await asyncio.sleep(0.02)


def screen_text(app: OlivePressApp) -> str:
    """What is on the screen, as text."""
    height = app.size.height
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips[:height])
