"""An error where it happened: what, where, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from core.text import clean
from tui.widgets.safe import Plain


class ProblemBox(Plain):
    """Title, the end of the detail, and the hint; nothing while there is no error."""

    DEFAULT_CSS = """
    ProblemBox { height: auto; border-left: outer $error; padding: 0 1; display: none; }
    ProblemBox.-shown { display: block; }
    """

    LINES = 8

    def __init__(self, *, id: str | None = None, brief: bool = False) -> None:
        """``brief``: the place is low, so what to do stands before the detail, whose end may be cut off."""
        super().__init__(id=id)
        self._brief = brief

    def tell(self, error: Mapping[str, str] | None, word: str = "FAILED") -> None:
        """Show this error, or none."""
        self.set_class(error is not None, "-shown")
        if error is None:
            return
        title, detail, hint = (clean(str(error.get(key, "") or "")) for key in ("title", "detail", "hint"))
        lines = detail.splitlines()
        if len(lines) > self.LINES and not self._brief:
            left = len(lines) - self.LINES
            what = "1 line before this is" if left == 1 else f"{left} lines before these are"
            lines = [f"({what} in the log)", *lines[-self.LINES :]]
        parts: list[Content | tuple[str, str]] = [
            (f"{word}  " if word else "", "bold $text-error"),
            (title, "bold $text-error"),
        ]
        told: list[Content | tuple[str, str]] = [Content("\n" + "\n".join(lines))] if lines else []
        advice: list[Content | tuple[str, str]] = [("\nWhat to do: ", "bold"), Content(hint)] if hint else []
        parts += [*advice, *told] if self._brief else [*told, *advice]
        self.show(Content.assemble(*parts))
