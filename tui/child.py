"""A command of ours as a child process, for what must not be loaded or waited for in the wizard."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from core.errors import LabError, error_from

_LINE = 1 << 22
"""The longest line that a command may print, in bytes."""


async def olivepress(
    *words: str, on_line: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Run ``olivepress WORDS --json``; return the last object that it printed.

    Cancelling the task ends the command, as Ctrl-C would, and at once if it does not obey.

    Args:
        on_line: gets every object as it is printed.

    Raises:
        LabError: it failed; with the title, detail and hint that it told.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "core.cli",
        *words,
        "--json",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    told = asyncio.ensure_future(process.stderr.read())
    last: dict[str, Any] = {}
    try:
        async for line in process.stdout:
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    last = found
                    if on_line is not None:
                        on_line(found)
        status = await process.wait()
        text = (await told).decode("utf-8", "replace")
    finally:
        told.cancel()
        if process.returncode is None:
            await _end(process)
    if status:
        raise error_of(last, text, status)
    return last


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), 1.5)
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            process.kill()


def error_of(last: dict[str, Any], text: str, status: int) -> LabError:
    """The error that a command told in its last object; where it told none, what stands on standard error."""
    error = last.get("error")
    if last.get("type") == "error" and isinstance(error, dict):
        return error_from(error, status)
    return LabError("The command failed.", "\n".join(text.splitlines()[-3:]))
