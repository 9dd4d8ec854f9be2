"""Figures from few rows, with how sure they are: means by the bootstrap, shares by Wilson's interval, spreads.

All intervals are of 95 in 100. They are of the rows: with other held-out rows of the same kind the figure would lie
inside as a rule. The bootstrap (Efron 1979) draws the rows anew, with replacement, and takes the middle 95 of 100 of
what comes out; a share of none or all of a few rows has no such spread, so shares have Wilson's interval (1927).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from core.similarity import rouge_l, says_the_same, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 2000
_Z = 1.959964
"""Standard deviations on each side that hold 95 of 100 of a normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A figure, and between what it lies."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """As JSON gives it."""
        return {
            "value": _short(self.value),
            "low": _short(min(self.low, self.value)),
            "high": _short(max(self.high, self.value)),
        }


def ratio(sums: Sequence[float], counts: Sequence[float]) -> Interval:
    """The sum of ``sums`` over that of ``counts``, such as losses over tokens, with the rows drawn anew."""
    import numpy as np

    top, bottom = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    drawn = _draws(len(top))
    found = top[drawn].sum(axis=1) / np.maximum(bottom[drawn].sum(axis=1), 1e-12)
    low, high = np.percentile(found, (2.5, 97.5))
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high))


def mean(values: Sequence[float]) -> Interval:
    """The mean, with the rows drawn anew."""
    return ratio(values, [1.0] * len(values))


def difference(
    first: Sequence[float], second: Sequence[float], counts: Sequence[float] | None = None
) -> Interval:
    """How much more the second has than the first, row by row of the same rows."""
    apart = [b - a for a, b in zip(first, second, strict=True)]
    return ratio(apart, counts or [1.0] * len(apart))


def share(flags: Sequence[bool]) -> Interval:
    """The share that is true."""
    n = len(flags)
    p = sum(flags) / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def exponential(found: Interval) -> Interval:
    """Perplexity of a loss in nats."""
    return Interval(*(math.exp(min(each, 700.0)) for each in (found.value, found.low, found.high)))


def spread(values: Sequence[float]) -> Interval:
    """The middle of measured times or speeds, and between what eight in ten of them lie."""
    import numpy as np

    low, middle, high = np.percentile(np.asarray(values, dtype=np.float64), (10, 50, 90))
    return Interval(float(middle), float(low), float(high))


def _draws(rows: int) -> NDArray[np.int64]:
    import numpy as np

    return np.random.Generator(np.random.PCG64(0)).integers(0, rows, size=(DRAWS, rows))


@dataclass(frozen=True)
class Match:
    """How an answer compares with the one expected.

    Attributes:
        exact: word for word the same; case, punctuation and spaces do not count.
        right: it says the same (:func:`core.similarity.says_the_same`).
        words: ROUGE-L F1 of the words, 0 to 1.
        chrf: chrF of the letters, 0 to 100 (Popović 2015).
    """

    exact: bool
    right: bool
    words: float
    chrf: float


def match(answer: str, expected: str) -> Match:
    """Compare an answer with the one expected."""
    return Match(
        words_of(answer) == words_of(expected),
        says_the_same(answer, expected),
        rouge_l(answer, expected),
        float(_chrf().sentence_score(answer, [expected]).score),
    )


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _short(value: float) -> float:
    return float(f"{value:.6g}") if math.isfinite(value) else value
