"""Commands of ours in a process of their own, for what must not be loaded or waited for in the wizard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from core.language import told
from core.process import Child

_OBEYS_S = 3.0


class Commands:
    """One process for one command after another; made for the first, and anew if it has died.

    What a command leaves in its process, such as a sign-in that is kept nowhere else, is there for the next.
    """

    def __init__(self) -> None:
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def run(
        self, *words: str, on_line: Callable[[dict[str, Any]], object] = lambda line: None
    ) -> dict[str, Any]:
        """Run ``olivepress WORDS --json``; return the last object that it printed.

        Cancelling the task ends the command, as Ctrl-C would, and kills the process if it does not obey.

        Args:
            on_line: gets every object as it is printed.

        Raises:
            LabError: it failed; as the command told it.
        """
        if self._child is None or self._child.dead.is_set():
            self._child = Child("core.cli.served", what=told("The command's process"))
        loop = asyncio.get_running_loop()
        call = self._child.start(
            {"words": list(words)}, lambda line: loop.call_soon_threadsafe(on_line, line)
        )
        answer = asyncio.wrap_future(call.future)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            call.cancel()
            await asyncio.wait({answer}, timeout=_OBEYS_S)
            if not answer.done():
                await self.close()
            elif not answer.cancelled():
                answer.exception()  # as a rule that it was cancelled
            raise

    async def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            child, self._child = self._child, None
            await asyncio.to_thread(child.close)
