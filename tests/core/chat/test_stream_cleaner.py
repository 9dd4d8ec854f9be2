"""Escape codes in an answer are taken out, wherever the stream is cut."""

from __future__ import annotations

import pytest

from core.text import StreamCleaner, clean

NASTY = [
    "a\x1b[31mred\x1b[0m b",
    "title \x1b]0;owned\x07 after",
    "link \x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\ end",
    "clear\x1b[2J\x1b[H\x9b5A up",
    "two\x1b(B letters\x1b= ok",
    "שלום 日本 <think>x</think> [/INST] [bold]",
    "bell\x07 null\x00 cr\rlf\n bidi \u202e end",
]


@pytest.mark.parametrize("text", NASTY)
def test_every_cut_gives_the_same(text: str) -> None:
    for place in range(len(text) + 1):
        cleaner = StreamCleaner()
        parts = [cleaner.add(text[:place]), cleaner.add(text[place:]), cleaner.flush()]
        assert "".join(parts) == clean(text)
    cleaner = StreamCleaner()
    assert "".join([*(cleaner.add(char) for char in text), cleaner.flush()]) == clean(text)


def test_an_escape_without_end_does_not_hold_the_answer_for_ever() -> None:
    cleaner = StreamCleaner()
    cleaner.add("\x1b]0;")
    shown = "".join(cleaner.add("word ") for _ in range(2000))
    assert "\x1b" not in shown
    assert "word" in shown
