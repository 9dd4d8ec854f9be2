"""The conversations held in memory, and which of them a question goes on with. Only for the worker process."""

from __future__ import annotations

from collections.abc import Callable

from core.chat.kv_cache import KVCache, common_prefix


class Caches:
    """At most so many caches; when another is needed the one used longest ago goes.

    One adapter may have several, for conversations that take turns.
    """

    def __init__(self, make: Callable[[str], KVCache], most: int) -> None:
        """``make`` gives an empty cache of an adapter."""
        self._make = make
        self._most = most
        self._kept: list[KVCache] = []  # the one used last stands last

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, adapter: str, words: str) -> KVCache:
        """The cache for a question: of a conversation that it goes on with, or an empty one.

        A cache is gone on with if at least half of it stays, in characters, since what is lost must be read again by
        whoever comes back to it; or if the same is asked again. The choice changes the time and never the answer.

        Args:
            words: the texts of the conversation, joined; :attr:`KVCache.words` is compared with it.
        """
        best, kept = None, 0
        for cache in self._kept:
            if cache.adapter == adapter:
                same = common_prefix(cache.words, words)
                if (2 * same >= len(cache.words) or same == len(words)) and same >= kept:
                    best, kept = cache, same
        if best is None and len(self._kept) >= self._most:
            oldest = self._kept.pop(0)
            if oldest.adapter == adapter:
                best = oldest  # what it has in common with the question, if only the template's start, stays
            del oldest  # else its memory is free before the next one takes any
        elif best is not None:
            self._kept.remove(best)
        best = self._make(adapter) if best is None else best
        self._kept.append(best)
        best.words = words
        return best

    def forget(self, cache: KVCache) -> None:
        """Give a cache up of which nobody knows what it holds."""
        if cache in self._kept:
            self._kept.remove(cache)
