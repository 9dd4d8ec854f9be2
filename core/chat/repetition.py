"""Whether an answer goes round in circles, as small or badly trained models do; told by its text alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from core.chat.settings import Sampling
from core.language import told

_LOOKED_AT = 2000
"""Characters at the end of a text in which a loop is looked for."""
_TIMES = 3
_LEAST = 60
"""A loop is at least so many rounds, and so many characters in all: ``ha ha ha`` is none."""
_LEAST_SIGNS = 200
"""The same for what has neither letters nor digits, such as the rule of a table."""
_LEAST_COUNTED = 200
"""The same for rounds that differ in their numbers: `1. See it. 2. See it.`; a table has some of those."""
_QUOTED = 40
_SENTENCE = 25
"""Characters from which a sentence that comes back tells something."""
_SENTENCES = 4
_BREAKS = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Repetition:
    """What comes again and again, in one line, and how often it came."""

    phrase: str
    times: int


def repetition(text: str) -> Repetition | None:
    """What a text repeats: a phrase that it goes round in at its end, or a sentence that comes back; or None."""
    end = text[-_LOOKED_AT:].rstrip()
    return _loop(end, _LEAST) or _loop(_NUMBER.sub("0", end), _LEAST_COUNTED) or _sentence(text)


def warning(text: str, settings: Sampling) -> str:
    """That an answer repeats itself, what, and what may help; empty where it does not. Not cleaned for a terminal."""
    found = repetition(text)
    if found is None:
        return ""
    phrase = found.phrase if len(found.phrase) <= _QUOTED else found.phrase[: _QUOTED - 1] + "…"
    return told(
        "It repeats itself, {times} times “{phrase}”: {advice}.",
        times=found.times,
        phrase=phrase,
        advice=advice(settings),
    )


def advice(settings: Sampling) -> str:
    """What to do about it, with settings as they are; the same words in every chat."""
    if settings.repetition_penalty < 1.1:
        return told("/set repetition_penalty 1.1 may help")
    if settings.temperature < 0.3:
        return told("/set temperature 0.7 may help")
    return told("/again may bring another answer")


def _loop(end: str, least: int) -> Repetition | None:
    """A phrase that the end consists of, however it is cut: the shortest there is."""
    runs = _common_with_start(end[::-1])
    for period in range(1, len(runs) // (_TIMES - 1) + 1):
        length = runs[period] + period if period < len(runs) else 0
        if length < _TIMES * period:
            continue
        phrase = end[len(end) - period :]
        if length >= (least if any(each.isalnum() for each in phrase) else _LEAST_SIGNS):
            begins = len(end) - length
            # The space behind the last round is not looked at, and counts.
            return Repetition(_from_a_word(end[begins : begins + period]), (length + 1) // period)
    return None


def _common_with_start(text: str) -> list[int]:
    """For each place, how much of the text's beginning stands there again (the Z function)."""
    found = [0] * len(text)
    left = right = 0
    for place in range(1, len(text)):
        length = min(right - place, found[place - left]) if place < right else 0
        while place + length < len(text) and text[length] == text[place + length]:
            length += 1
        found[place] = length
        if place + length > right:
            left, right = place, place + length
    return found


def _from_a_word(phrase: str) -> str:
    """A round of a loop, begun where a sentence begins, or a word: a loop may be cut anywhere."""
    places = [at for at, each in enumerate(phrase) if each.isalnum() and not phrase[at - 1].isalnum()]
    sentences = [at for at in places if re.search(r"[.!?\n]\s*$", phrase[:at] or phrase)]
    start = next(iter([*sentences, *places]), 0)
    return " ".join((phrase[start:] + phrase[:start]).split())


def _sentence(text: str) -> Repetition | None:
    sentences = [" ".join(each.split()) for each in _BREAKS.split(text)]
    often = Counter(each.lower() for each in sentences if len(each) >= _SENTENCE).most_common(1)
    if not often or often[0][1] < _SENTENCES:
        return None
    return Repetition(next(each for each in sentences if each.lower() == often[0][0]), often[0][1])
