"""When an app under a Pilot has done all it was asked to: nothing waits to be handled, laid out or drawn.

Textual's Pilot looks at the process's use of the CPU instead, for up to a second a key: that says nothing on a machine
with other work, and is as long as many a test.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from textual._context import active_message_pump
from textual.app import App
from textual.message import Message
from textual.message_pump import MessagePump
from textual.pilot import Pilot

AT_ONCE = 5
"""How often the loop turns without anything to do: a key that was sent is a message after two turns."""

LONGEST_S = 1
"""How long an app is awaited that is given ever more to do."""

_wait_for_screen = Pilot._wait_for_screen


_handled_now: set[int] = set()
"""The calls in which a message is being handled."""


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Pilots wait until the app has settled, wherever they wait."""
    _handled_now.clear()
    numbers = itertools.count()
    dispatch = MessagePump._dispatch_message

    async def counted(pump: MessagePump, message: Message) -> None:
        number = next(numbers)
        _handled_now.add(number)
        try:
            await dispatch(pump, message)
        finally:
            _handled_now.discard(number)

    async def idle(*_: float, **__: float) -> None:
        await settled(active_message_pump.get().app)

    async def of_pilot(pilot: Pilot[Any], timeout: float = 30) -> bool:
        await settled(pilot.app)
        return pilot.app._exception is None

    monkeypatch.setattr(MessagePump, "_dispatch_message", counted)
    monkeypatch.setattr("textual.app.wait_for_idle", idle)
    monkeypatch.setattr("textual.pilot.wait_for_idle", idle)
    monkeypatch.setattr(Pilot, "_wait_for_screen", of_pilot)


async def settled(app: App[Any]) -> None:
    """Return when the app has nothing left to do, or is closing. What threads and timers will bring is not awaited.

    Where more and more comes in, as the words of an answer do, it is over when what waited in the beginning is done.
    """
    end = asyncio.get_running_loop().time() + LONGEST_S
    quiet = 0
    while quiet < AT_ONCE and app.is_running and app.screen_stack and app._exception is None:
        if busy(app):
            quiet = 0
            if asyncio.get_running_loop().time() > end:
                await _wait_for_screen(Pilot(app))
                return
            await asyncio.sleep(0.001)  # not 0: a handler may wait for a thread
        else:
            quiet += 1
            await asyncio.sleep(0)


def busy(app: App[Any]) -> bool:
    """Whether messages wait or are being handled, or something is to be laid out or drawn; the latter is done now."""
    if _handled_now or any(map(_waits, (app, *app._registry))):
        return True
    screen = app.screen
    due = (
        screen._layout_required
        or screen._scroll_required
        or screen._repaint_required
        or screen._recompose_required
        or screen._dirty_widgets
        or screen._callbacks
    )
    if due and not app._batch_count:
        screen._on_timer_update()
    return bool(due)


def _waits(pump: MessagePump) -> bool:
    return pump.is_running and bool(
        pump.message_queue_size or pump._next_callbacks or pump._pending_message is not None
    )
