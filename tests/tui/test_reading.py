"""Letters that are read from the right: joined and ordered, each with its style, in as many cells as before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from core.from_the_right import CELL, orders_by_itself
from tui.reading import FromTheRight

BLACK = Color(0, 0, 0)
RED, BLUE = Style(color="red"), Style(color="blue")


def drawn(*segments: Segment, base: str = "R") -> list[Segment]:
    return FromTheRight(base).apply(list(segments), BLACK)


def text(segments: list[Segment]) -> str:
    return "".join(each.text for each in segments)


def test_letters_are_joined_and_go_from_the_right_to_the_edge() -> None:
    assert text(drawn(Segment("سلام  "))) == "   ﻡﻼﺳ", "lam and alef are one sign, whose cell is filled"


def test_what_is_read_from_the_left_keeps_its_order_within() -> None:
    assert text(drawn(Segment("مدل float است"))) == "ﺖﺳﺍ float ﻝﺪﻣ"


def test_each_letter_keeps_its_style() -> None:
    found = drawn(Segment("ab ", RED), Segment("مد", BLUE), base="L")
    assert [(each.text, each.style) for each in found] == [("ab ", RED), ("ﺪﻣ", BLUE)]


def test_frames_and_cells_stay_where_they_are() -> None:
    assert text(drawn(Segment("│مد  │ x"))) == "│  ﺪﻣ│ x"
    assert text(drawn(Segment(f"1 مد {CELL}2 مد "), base="L")) == "1 ﺪﻣ 2 ﺪﻣ "


def test_what_is_drawn_already_is_left_alone() -> None:
    once = drawn(Segment("مدل"))
    assert drawn(*once) == once


@given(st.text(alphabet="abc 12()[]:/│بتمدلاگچژی\u200c،؟"))
def test_a_line_keeps_its_cells_and_loses_no_letter_from_the_left(line: str) -> None:
    found = text(drawn(Segment(line)))
    assert cell_len(found) == cell_len(line)
    assert sorted(char for char in found if char in "abc12:/") == sorted(
        char for char in line if char in "abc12:/"
    )


@pytest.mark.parametrize(
    ("variables", "does"),
    [
        ({}, False),
        ({"VTE_VERSION": "7600"}, True),
        ({"VTE_VERSION": "5400"}, False),
        ({"KONSOLE_VERSION": "1"}, True),
    ],
)
def test_terminals_that_do_it_by_themselves_are_known(variables: dict[str, str], does: bool) -> None:
    assert orders_by_itself(variables) is does
