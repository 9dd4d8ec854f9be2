"""Waiting in tests: what does not come fails, and what must not hang is far from its limit when all is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def until(condition: Callable[[], object], seconds: float = 120, what: str = "the condition") -> None:
    """Wait until it holds; fail when it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true in {seconds:g} s"
        time.sleep(0.02)


@contextmanager
def soon(seconds: float = 30) -> Iterator[None]:
    """What is done inside does not wait for something that takes longer than this.

    No measure of speed (those are in ``benchmarks/``): on a quiet machine it is over in a fraction of the time.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"it took {took:.0f} s"
