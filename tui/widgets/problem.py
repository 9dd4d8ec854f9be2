"""An error where it happened: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from core.text import clean
from tui.widgets.safe import Plain


class Problem(Plain):
    """Title, the end of the detail, and the hint; nothing while there is no error."""

    DEFAULT_CSS = """
    Problem { height: auto; border-left: outer $error; padding: 0 1; display: none; }
    Problem.-shown { display: block; }
    """

    LINES = 8

    def tell(self, error: Mapping[str, str] | None, word: str = "FAILED") -> None:
        """Show this error, or none."""
        self.set_class(error is not None, "-shown")
        if error is None:
            return
        title, detail, hint = (clean(str(error.get(key, "") or "")) for key in ("title", "detail", "hint"))
        lines = detail.splitlines()
        if len(lines) > self.LINES:
            lines = [f"({len(lines) - self.LINES} lines before these: see the log)", *lines[-self.LINES :]]
        parts: list[Content | tuple[str, str]] = [
            (f"{word}  " if word else "", "bold $text-error"),
            (title, "bold $text-error"),
        ]
        if lines:
            parts.append(Content("\n" + "\n".join(lines)))
        if hint:
            parts += [("\nWhat to do: ", "bold"), Content(hint)]
        self.show(Content.assemble(*parts))
