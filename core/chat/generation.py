"""One answer under way: reading the question, then choosing token after token. Only for the worker process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from core.chat.detokenize import Detokenizer
from core.chat.kv_cache import KVCache
from core.chat.protocol import Done, Dropped, Progress, ProtocolMessage, Token
from core.chat.sampler import Sampler
from core.chat.settings import Sampling

FLUSH_SECONDS = 1 / 20
"""A piece waits for the next token's only if the last one left less than this ago. Models below 20 tokens
a second are shown token by token; with faster ones the eye sees little difference, and each message wakes a
reader, which takes the processor from a model that has it all (docs/chat.md, Speed)."""


class Stopwatch:
    """Time spent on one answer only, so that two that take turns are each measured fairly."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._since = 0.0

    def start(self) -> None:
        """The answer's turn begins."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """The answer's turn ends."""
        self.spent += time.perf_counter() - self._since

    def now(self) -> float:
        """Seconds spent so far, in the midst of a turn."""
        return self.spent + time.perf_counter() - self._since


class Generation:
    """One answer under way.

    Attributes:
        watch: its time.
    """

    def __init__(
        self,
        name: str,
        cache: KVCache,
        question: tuple[str, list[int]],
        settings: Sampling,
        *,
        room: int,
        ends: set[int],
        detokenizer: Detokenizer,
        stopped: Callable[[], bool],
        dropped: Dropped | None = None,
    ) -> None:
        """An answer of the adapter ``name``.

        Args:
            question: the text and the ids to read.
            room: tokens that the answer may have at most.
            ends: tokens that end it.
            dropped: the turns that had to go for it, which is told before all else.
        """
        self.watch = Stopwatch()
        self._name = name
        self._cache = cache
        self._question = question
        self._settings = settings
        self._room = room
        self._ends = ends
        self._detokenizer = detokenizer
        self._stopped = stopped
        self._dropped = dropped
        self._pieces: list[str] = []
        self._unsent = ""

    def steps(self) -> Iterator[ProtocolMessage | None]:
        """Work in small steps; each may have something to tell."""
        cache, watch = self._cache, self.watch
        yield self._dropped
        read = 0
        for read, total in cache.read(*self._question):
            if self._stopped():
                break
            if total > read:
                yield Progress("reading", read, total)
        sampler = Sampler(self._settings)
        new = 0
        first = last = sent = 0.0
        stop = "length"
        while new < self._room or self._stopped():
            if self._stopped():
                stop = "cancelled"
                break
            token = cache.choose(sampler)
            last = watch.now()
            first = first or last
            if token in self._ends:
                stop = "end"
                break
            new += 1
            self._unsent += self._detokenizer.add(token)
            cache.accept(token)
            if self._unsent and last - sent >= FLUSH_SECONDS:
                sent = last
                yield self._send()
            else:
                yield None
        self._unsent += self._detokenizer.flush()
        if self._unsent:
            yield self._send()
        answer = "".join(self._pieces)
        if new:
            cache.answered(answer)
        intervals = new - 1 + (stop == "end")
        yield Done(
            self._name,
            answer=answer,
            prompt_tokens=read,
            context_tokens=len(cache.ids),
            new_tokens=new,
            time_to_first_token_s=round(first or watch.now(), 6),
            tokens_per_s=round(intervals / (last - first), 3) if intervals > 0 and last > first else 0.0,
            stop=stop,
            context_full=stop == "length" and new < self._settings.max_new_tokens,
            dropped_turns=self._dropped.turns if self._dropped else 0,
        )

    def _send(self) -> Token:
        piece, self._unsent = self._unsent, ""
        self._pieces.append(piece)
        return Token(self._name, piece)
