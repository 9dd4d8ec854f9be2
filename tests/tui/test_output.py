"""What is sent to the terminal draws the same picture in fewer bytes."""

from __future__ import annotations

import pyte
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.output import lean

_COLOURS = st.sampled_from(["", "red", "bright_black", "#102030", "#a9bd47", "color(208)", "default"])
_FLAGS = st.sets(st.sampled_from(["bold", "dim", "italic", "underline", "reverse", "strike"]))
_WORDS = st.sampled_from([" ", "   ", "loss", "━━──", "历史", "a b ", "⠙", "", " [x]"])


@st.composite
def _styles(draw: st.DrawFn) -> Style:
    back = draw(_COLOURS)
    words = [*sorted(draw(_FLAGS)), draw(_COLOURS), f"on {back}" if back else ""]
    return Style.parse(" ".join(filter(None, words)) or "none")


_LINES = st.lists(st.lists(st.tuples(_WORDS, _styles()), max_size=6), min_size=1, max_size=5)


def _written(lines: list[list[tuple[str, Style]]]) -> str:
    """As Textual writes an update: for each line where it stands, then its pieces; the cursor goes home at last."""
    console = Console(color_system="truecolor", force_terminal=True)
    strips = [Strip([Segment(text, style) for text, style in line]).render(console) for line in lines]
    return "\n".join(f"\x1b[{y};2H{strip}\x1b[{y};40H" for y, strip in enumerate(strips, 1)) + "\x1b[1;2H"


def _picture(data: str) -> list[object]:
    """What a terminal shows: of a blank only what is seen of it."""
    screen = pyte.Screen(60, 8)
    pyte.Stream(screen).feed(data.replace("\n", "\r\n"))
    rows: list[object] = []
    for y in range(8):
        cells = (screen.buffer[y][x] for x in range(60))
        rows.append([
            (" ", cell.bg) if cell.data == " " and not (cell.reverse or cell.underscore or cell.strikethrough) else cell
            for cell in cells
        ])  # fmt: skip
    return [*rows, (screen.cursor.x, screen.cursor.y), tuple(screen.cursor.attrs[1:])]


@given(st.lists(_LINES, min_size=1, max_size=3))
def test_the_picture_is_the_same_and_no_longer(updates: list[list[list[tuple[str, Style]]]]) -> None:
    full = [_written(update) for update in updates]
    lean_ones = [lean(each) for each in full]
    assert _picture("".join(lean_ones)) == _picture("".join(full))
    assert sum(map(len, lean_ones)) <= sum(map(len, full))


def test_a_line_of_one_colour_is_told_it_once() -> None:
    style = "38;2;228;228;220;48;2;22;24;19"
    words = f"\x1b[1;{style}mLoss \x1b[0m\x1b[{style}mfalls\x1b[0m"
    line = f"\x1b[48;2;22;24;19m \x1b[0m{words}\x1b[48;2;22;24;19m   \x1b[0m"
    assert lean(line) == "\x1b[48;2;22;24;19m \x1b[1;38;2;228;228;220mLoss \x1b[22mfalls   \x1b[m"


@given(st.text(st.sampled_from("ab \x1b]8;;\\\x07[?2026hJ\r\n")))
def test_what_is_no_style_goes_through_as_it_is(data: str) -> None:
    """Links, titles, what is copied, modes: told as they are, in their order."""
    assert lean(data) == data


def test_what_erases_does_so_in_its_own_colour() -> None:
    assert lean("\x1b[41mred\x1b[0m\x1b[2K") == "\x1b[41mred\x1b[m\x1b[2K"
    assert lean("\x1b[41m\x1b]52;c;bQ==\x07x\x1b[0m") == "\x1b[41m\x1b]52;c;bQ==\x07x\x1b[m"
