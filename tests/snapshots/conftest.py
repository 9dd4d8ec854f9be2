"""The wizard's own fixtures hold here as well, and pictures are compared when they are drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_textual_snapshot import normalize_svg

from tests.tui.conftest import _quiet, lab
from tui.app import OlivePressApp

__all__ = ["_quiet", "lab"]

Compare = Callable[[OlivePressApp, tuple[int, int], Callable[[Any], Awaitable[None]]], bool]
LONGEST_S = 20
"""How long a screen may take to be drawn. A wrong picture is told as late; a right one is awaited no longer."""


@pytest.fixture
def snap_compare(snap_compare: Callable[..., bool], request: pytest.FixtureRequest) -> Compare:
    """Compare what the app shows after some steps with the stored picture of the test's name.

    What is on the screen comes from threads and timers, so it is looked at until it is that picture, and stays
    so, or the time is over: then the comparison fails and shows the difference. Where pictures are made anew,
    the screen has to stand still.
    """
    stored = request.path.parent / "__snapshots__" / request.path.stem / f"{request.node.name}.svg"
    anew = bool(request.config.option.update_snapshots) or not stored.exists()

    def compare(app: OlivePressApp, size: tuple[int, int], steps: Callable[[Any], Awaitable[None]]) -> bool:
        async def before(pilot: Any) -> None:
            await steps(pilot)
            await drawn(pilot, None if anew else stored)

        artist = request.config.pluginmanager.get_plugin("artist")
        if artist is not None:  # docs/make_pictures.py: the same scenes, at other sizes and in other colours
            artist.draw(app, steps)
            return True
        return snap_compare(app, terminal_size=size, run_before=before)

    return compare


async def drawn(pilot: Any, stored: Path | None) -> None:
    """Wait until the screen is the stored picture at two looks; without one, until it is the same at five."""
    wanted = normalize_svg(stored.read_text(encoding="utf-8")) if stored is not None else None
    end = asyncio.get_running_loop().time() + LONGEST_S
    last, times = wanted, 0
    while asyncio.get_running_loop().time() < end:
        await pilot.pause(0.05)
        seen = normalize_svg(pilot.app.export_screenshot(title=pilot.app.title, simplify=True))
        times = times + 1 if seen == last else 0
        if wanted is None:
            last = seen
        if times >= (5 if wanted is None else 2):  # a cursor blinks twice a second
            return
    assert wanted is not None, "the screen does not come to rest"
