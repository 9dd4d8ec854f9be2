"""Which rows of the training records stand in which batch."""

from __future__ import annotations

import random
from collections.abc import Sequence

POOL = 32
"""Batches whose rows are sorted by length together: enough to pad little, few enough to stay random."""


class BatchOrder:
    """Which rows stand in which batch, for ever, from a seed: batch ``n`` can be asked for at any time.

    In each round every row comes once. Rows of like length come together, so that little is padding.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        if not lengths:
            raise ValueError("there are no rows")
        self._lengths = lengths
        self._size = batch_size
        self._seed = seed
        self.batches_a_round = -(-len(lengths) // batch_size)
        self._round = -1
        self._batches: list[list[int]] = []

    def batch(self, number: int) -> list[int]:
        """The row numbers of batch ``number`` (from 0)."""
        around, place = divmod(number, self.batches_a_round)
        if around != self._round:
            self._round, self._batches = around, self._shuffle(around)
        return self._batches[place]

    def _shuffle(self, around: int) -> list[list[int]]:
        chance = random.Random(f"{self._seed}/{around}")
        order = list(range(len(self._lengths)))
        chance.shuffle(order)
        batches = []
        for start in range(0, len(order), self._size * POOL):
            pool = sorted(order[start : start + self._size * POOL], key=lambda row: -self._lengths[row])
            batches += [pool[i : i + self._size] for i in range(0, len(pool), self._size)]
        chance.shuffle(batches)
        if around == 0:
            # The longest batch first: if memory is too small, that shows at once.
            longest = max(range(len(batches)), key=lambda b: max(self._lengths[r] for r in batches[b]))
            batches[0], batches[longest] = batches[longest], batches[0]
        return batches
