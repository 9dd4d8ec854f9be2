"""Texts that end an answer, though the model writes them in pieces. Only for the worker process."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Looks for the first of some texts in an answer."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)

    def split(self, text: str) -> tuple[str, str, bool]:
        """What of a text comes before a stop text, what may be the start of one, and whether there is a whole one."""
        places = [place for place in map(text.find, self._texts) if place >= 0]
        if places:
            return text[: min(places)], "", True
        held = max((_started(text, each) for each in self._texts), default=0)
        return text[: len(text) - held], text[len(text) - held :], False


def _started(text: str, stop: str) -> int:
    """How many characters at the end of a text are the start of a stop text."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
