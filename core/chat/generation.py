"""One answer under way: reading the question, then choosing token after token. Only for the worker process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from core.chat.detokenize import Detokenizers
from core.chat.kv_cache import KVCache
from core.chat.protocol import Done, Dropped, Progress, ProtocolMessage, Token
from core.chat.sampler import Sampler, log_probabilities
from core.chat.settings import Sampling
from core.chat.stopping import StopTexts

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
        asked: Mapping[str, Any],
        room: int,
        ends: set[int],
        detokenizers: Detokenizers,
        stopped: Callable[[], bool],
        dropped: Dropped | None = None,
    ) -> None:
        """An answer of the adapter ``name``.

        Args:
            question: the text and the ids to read.
            asked: the prompt, for its ``stop`` and ``logprobs`` (:class:`core.chat.protocol.Ask`).
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
        self._detokenizer = detokenizers.new()
        self._bytes_of = detokenizers.bytes_of
        self._stops = StopTexts(asked.get("stop", ()))
        self._alternatives: int | None = asked.get("logprobs")
        self._seen: list[Any] = []  # what is to be told of the token that was chosen last
        self._tokens: list[
            tuple[int, list[Any]]
        ] = []  # the same of those not yet told, and where each begins
        self._stopped = stopped
        self._dropped = dropped
        self._pieces: list[str] = []
        self._sent = 0  # characters
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
        look = None if self._alternatives is None else self._look
        new = 0
        first = last = sent = 0.0
        stop, held = "length", ""
        while new < self._room or self._stopped():
            if self._stopped():
                stop = "cancelled"
                break
            token = cache.choose(sampler, look)
            last = watch.now()
            first = first or last
            if token in self._ends:
                stop = "end"
                break
            new += 1
            self._note(held)
            piece = self._detokenizer.add(token)
            cache.accept(token)
            shown, held, ended = self._stops.split(held + piece)
            self._unsent += shown
            if ended:
                stop = "text"
                break
            if self._unsent and last - sent >= FLUSH_SECONDS:
                sent = last
                yield self._send()
            else:
                yield None
        if stop != "text" and self._flush(held):
            stop = "text"
        if self._unsent or self._tokens:
            yield self._send(whole=stop != "text")
        answer = "".join(self._pieces)
        if new and stop != "text":  # behind a stop text the cache holds more than the answer
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

    def _note(self, held: str) -> None:
        if self._seen:
            self._tokens.append((self._sent + len(self._unsent) + len(held), self._seen))

    def _flush(self, held: str) -> bool:
        """Take what was held back, at the end; returns whether a stop text was in it."""
        shown, held, ended = self._stops.split(held + self._detokenizer.flush())
        self._unsent += shown if ended else shown + held
        return ended

    def _send(self, whole: bool = False) -> Token:
        """What is not yet sent; ``whole``: with all that is left of its tokens."""
        piece, self._unsent = self._unsent, ""
        self._pieces.append(piece)
        self._sent += len(piece)
        told = [token for start, token in self._tokens if whole or start < self._sent]
        del self._tokens[: len(told)]
        return Token(self._name, piece, told)

    def _look(self, logits: Any, token: int) -> None:
        of_token, best = log_probabilities(logits, token, self._alternatives or 0)
        others = [[list(self._bytes_of(number)), value] for number, value in best]
        self._seen = [list(self._bytes_of(token)), of_token, others]
