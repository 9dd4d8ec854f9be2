"""What is sent to the terminal, without what would change nothing there: more than half of it, over a slow link.

Textual writes each piece of a line with all of its colours and a reset behind it, and blanks between pieces are pieces
as well.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import NamedTuple

from textual.driver import Driver

_PIECES = re.compile(
    r"\x1b\[(?P<style>[0-9;]*)m|(?P<neutral>(?:\x1b\[[0-9;]*H|\r?\n)+)"
    r"|(?P<blank> +(?![^\x1b\r\n]))|(?P<text>[^\x1b\r\n]+)"
    r"|(?P<other>\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[<-?]?[0-9;]*[ -/]*[@-~]|.)",
    re.DOTALL,
)
_FRONT, _BACK = re.compile("[39][0-9]"), re.compile("4[0-9]|10[0-7]")
_OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "5": "25", "7": "27", "9": "29"}
_SEEN_ON_BLANKS = frozenset({"4", "7", "9", "21", "53"})


class _Style(NamedTuple):
    """How cells are drawn: what is switched on, the colour of the text, that behind it; empty is the terminal's."""

    flags: frozenset[str] = frozenset()
    front: str = ""
    back: str = ""

    @classmethod
    @lru_cache(4096)
    def of(cls, codes: str) -> _Style:
        """The style of the parameters of one ``SGR``, which come after a reset."""
        flags, front, back = set(), "", ""
        each = iter(codes.split(";"))
        for code in each:
            if code in ("38", "48"):
                kind = next(each, "")
                colour = ";".join([code, kind, *(next(each, "") for _ in range(3 if kind == "2" else 1))])
                front, back = (colour, back) if code == "38" else (front, colour)
            elif _FRONT.fullmatch(code):
                front = code
            elif _BACK.fullmatch(code):
                back = code
            elif code not in ("", "0"):
                flags.add(code)
        return cls(frozenset(flags), front, back)

    def looks_blank_as(self, other: _Style) -> bool:
        """Whether a blank looks the same in both."""
        mine, others = self.flags & _SEEN_ON_BLANKS, other.flags & _SEEN_ON_BLANKS
        return not mine and not others and self.back == other.back

    @lru_cache(4096)  # noqa: B019 - a style holds nothing
    def after(self, before: _Style) -> str:
        """The ``SGR`` that makes this style of that one."""
        codes, kept = [], before.flags & self.flags
        if ended := before.flags - self.flags:
            codes = sorted({_OFF.get(flag, "0") for flag in ended})
            if "0" in codes:
                codes, before, kept = ["0"], _Style(), frozenset()
            elif "22" in codes:
                kept -= {"1", "2"}
        codes += sorted(self.flags - kept)
        codes += [self.front or "39"] * (self.front != before.front)
        codes += [self.back or "49"] * (self.back != before.back)
        return f"\x1b[{';'.join(codes)}m" if codes else ""


def lean(data: str) -> str:
    """The same picture in fewer bytes. It begins and ends with the terminal's own style, as Textual's updates do."""
    own = _Style()
    have = want = own
    out: list[str] = []
    for found in _PIECES.finditer(data):
        kind, piece = found.lastgroup, found[0]
        if kind == "style":
            want = _Style.of(found["style"])
            continue
        if kind != "neutral" and want != have and not (kind == "blank" and want.looks_blank_as(have)):
            out.append("\x1b[m" if want == own else want.after(have))
            have = want
        # Of moves to a place only the last one counts.
        out.append(piece[piece.rfind("\x1b") :] if kind == "neutral" and not piece.endswith("\n") else piece)
    if have != want:
        out.append("\x1b[m" if want == own else want.after(have))
    return "".join(out)


def lean_driver(driver: type[Driver]) -> type[Driver]:
    """This driver, sending less. On Windows Textual cuts what it writes anywhere, so there it sends all."""
    if sys.platform == "win32":
        return driver

    class Lean(driver):  # type: ignore[misc,valid-type]
        """The terminal's driver with fewer bytes."""

        def write(self, data: str) -> None:
            super().write(lean(data) if "\x1b[" in data else data)

    return Lean
