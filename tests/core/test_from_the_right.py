"""Lines of the command line in a language that is read from the right, on a terminal that orders nothing itself."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from core.from_the_right import OrderedLines, ordered_here, ordered_text

RED, END = "\x1b[31m", "\x1b[0m"


def printed(*texts: str, waits: bool = True) -> str:
    """What a terminal of 80 columns gets of these texts, each flushed."""
    stream = io.StringIO()
    lines = OrderedLines(stream, waits=waits)
    for text in texts:
        print(text, end="", file=lines, flush=True)
    return stream.getvalue()


def test_a_line_is_joined_ordered_and_begins_at_the_right_edge() -> None:
    assert printed("مدل float است\n") == " " * (80 - 13) + "ﺖﺳﺍ float ﻝﺪﻣ\n"


def test_a_line_that_begins_from_the_left_stays_there() -> None:
    assert printed("--data: مدل\n") == "--data: ﻝﺪﻣ\n"
    assert printed("olivepress run\n") == "olivepress run\n"


def test_columns_of_a_table_are_ordered_each_by_itself() -> None:
    assert printed("run-1  مدل  2026-11-28\n") == "run-1  ﻝﺪﻣ  2026-11-28\n"
    assert printed("مدل   float\n").strip() == "float   ﻝﺪﻣ"
    assert printed("          مدل\n") == "          ﻝﺪﻣ\n", "the rest of a cell stays below its beginning"


def test_letters_that_stream_in_wait_for_the_end_of_their_line() -> None:
    assert printed("مد") == ""
    assert printed("مد", "ل\n").strip() == "ﻝﺪﻣ"
    assert printed("a b") == "a b", "what needs no order streams on"
    assert printed("مدل [y/N] ", waits=False).strip() == "[y/N] ﻝﺪﻣ", (
        "a question is seen before it is answered"
    )


def test_colours_stay_with_their_letters() -> None:
    assert ordered_text(f"ab {RED}مد{END} c") == f"ab {RED}ﺪﻣ{END} c"


def test_a_line_that_is_drawn_over_keeps_what_clears_it() -> None:
    assert printed("\rمدل 3\x1b[K", waits=False) == "\r3 ﻝﺪﻣ\x1b[K"


def test_a_long_line_is_folded_before_it_is_ordered() -> None:
    first, second = ordered_text("اول " * 20 + "آخر", 40).splitlines()[:2]
    assert cell_len(first) <= 40
    assert "ﻝﻭﺍ" in second
    assert ordered_text("اول " * 20 + "آخر", 40).splitlines()[-1].strip().startswith("ﺮﺧﺁ")


@given(st.text(alphabet="abc 12()[]:/│بتمدلاگچژی\u200c،؟"), st.integers(10, 100))
def test_no_letter_is_lost_and_no_line_is_too_long(line: str, width: int) -> None:
    line = "م" + line
    lines = ordered_text(line, width).split("\n")
    assert all(cell_len(each) <= width for each in lines)
    kept = "abc12:/"
    assert sorted(c for c in "".join(lines) if c in kept) == sorted(c for c in line if c in kept)


def test_the_setting_says_who_orders() -> None:
    assert ordered_here("wizard")
    assert not ordered_here("terminal")
