"""A command of ours in a process of its own, for what must not be loaded or waited for in the wizard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.process import Child


async def olivepress(
    *words: str, on_line: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Run ``olivepress WORDS --json``; return the last object that it printed.

    Cancelling the task ends the command, as Ctrl-C would, and kills it if it does not obey.

    Args:
        on_line: gets every object as it is printed.

    Raises:
        LabError: it failed; as the command told it.
    """
    async with Child("core.cli.served", what="The command's process") as child:
        return await child.ask_async({"words": list(words)}, on_line)
