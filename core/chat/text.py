"""The model's words for a terminal, piece by piece."""

from __future__ import annotations

import re

from core.text import clean

_LONGEST_ESCAPE = 4096
# An escape sequence that has begun and not ended: what follows may belong to it.
_UNFINISHED = re.compile(r"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|\x9b[0-?]*[ -/]*)\Z")


class StreamCleaner:
    """:func:`core.text.clean` for text that comes in pieces: an escape code cut in two is still taken out."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What of the text so far may be shown."""
        text = self._held + piece
        match = _UNFINISHED.search(text)
        if match and len(match.group()) <= _LONGEST_ESCAPE:
            self._held = text[match.start() :]
            text = text[: match.start()]
        else:
            self._held = ""
        return clean(text)

    def flush(self) -> str:
        """The rest, at the end of an answer."""
        text, self._held = self._held, ""
        return clean(text)
