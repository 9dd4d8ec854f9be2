"""Items of a very long list, read a page at a time in a thread of their own."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

PAGE = 200
"""Items read at once."""
_KEPT = 8
_AGAIN_S = 0.25


@dataclass
class _Page(Generic[T]):
    items: Sequence[T]
    sure: bool
    read_at: float
    fresh: bool = True


class PageCache(Generic[T]):
    """The pages that were asked for last. Asking never waits: what is not there yet is None.

    Args:
        load: reads ``(start, count)`` and tells whether these are just those items, or some from about
            there; called in this cache's thread, and must not raise.
        changed: called in that thread when a page has come.
    """

    def __init__(
        self, load: Callable[[int, int], tuple[Sequence[T], bool]], changed: Callable[[], object]
    ) -> None:
        self._load, self._changed = load, changed
        self._pages: OrderedDict[int, _Page[T]] = OrderedDict()
        self._wanted: list[int] = []
        self._due = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._age = 0
        self._reading: tuple[int, int] | None = None

    def get(self, index: int) -> T | None:
        """An item, or None while it is not there; asks for its page if that is missing or out of date."""
        number, place = divmod(index, PAGE)
        with self._due:
            page = self._pages.get(number)
            if page is None or not page.fresh or not page.sure:
                old = page is None or not page.fresh or time.monotonic() - page.read_at > _AGAIN_S
                if old and not self._closed and self._reading != (number, self._age):
                    self._want(number)
            if page is None:
                return None
            self._pages.move_to_end(number)
            return page.items[place] if place < len(page.items) else None

    def sure(self, index: int) -> bool:
        """Whether the item is just that one, and not one from about there."""
        with self._due:
            page = self._pages.get(index // PAGE)
            return page is not None and page.sure and page.fresh

    def outdated(self) -> None:
        """What is there is shown until it has been read again."""
        with self._due:
            self._age += 1
            for page in self._pages.values():
                page.fresh = False

    def close(self) -> None:
        """Read no more."""
        with self._due:
            self._closed = True
            self._due.notify()

    def _want(self, number: int) -> None:
        # The newest wish is served first, and old ones that nobody looks at any more are dropped.
        if number in self._wanted:
            self._wanted.remove(number)
        self._wanted.append(number)
        del self._wanted[:-3]
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="pages", daemon=True)
            self._thread.start()
        self._due.notify()

    def _serve(self) -> None:
        while True:
            with self._due:
                while not self._wanted and not self._closed:
                    self._due.wait()
                if self._closed:
                    return
                number, age = self._wanted.pop(), self._age
                self._reading = (number, age)
            items, sure = self._load(number * PAGE, PAGE)
            with self._due:
                self._reading = None
                page = _Page(items, sure, time.monotonic(), age == self._age)
                self._pages[number] = page
                self._pages.move_to_end(number)
                while len(self._pages) > _KEPT:
                    self._pages.popitem(last=False)
                if self._closed:
                    return
            self._changed()
