"""One answer under way: reading the question, then choosing token after token. Only for the worker process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from core.chat.conversation import Detokenizer
from core.chat.lane import Lane
from core.chat.protocol import Done, Dropped, Message, Progress, Token
from core.chat.sampler import Sampler
from core.chat.settings import Sampling

FLUSH_SECONDS = 1 / 20
"""A piece waits for the next token's only if the last one left less than this ago. Models below 20 tokens
a second are shown token by token; with faster ones the eye sees little difference, and each message wakes a
reader, which takes the processor from a model that has it all (docs/chat.md, Speed)."""


class Stopwatch:
    """Time spent on one lane only, so that two lanes that take turns are each measured fairly."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._since = 0.0

    def start(self) -> None:
        """The lane's turn begins."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """The lane's turn ends."""
        self.spent += time.perf_counter() - self._since

    def now(self) -> float:
        """Seconds spent so far, in the midst of a turn."""
        return self.spent + time.perf_counter() - self._since


class Reply:
    """An answer in one lane.

    Attributes:
        watch: its time.
        question: the text and the ids to read.
        first: what is told before all else.
    """

    def __init__(
        self,
        request: int,
        name: str,
        lane: Lane,
        settings: Sampling,
        room: int,
        ends: set[int],
        detokenizer: Detokenizer,
        stopped: Callable[[], bool],
    ) -> None:
        """``room``: tokens that the answer may have at most. ``ends``: tokens that end it."""
        self.watch = Stopwatch()
        self.question: tuple[str, list[int]] = ("", [])
        self.first: Dropped | None = None
        self._request = request
        self._name = name
        self._lane = lane
        self._settings = settings
        self._room = room
        self._ends = ends
        self._detokenizer = detokenizer
        self._stopped = stopped
        self._pieces: list[str] = []
        self._unsent = ""

    def steps(self) -> Iterator[Message | None]:
        """Work in small steps; each may have something to tell."""
        lane, watch = self._lane, self.watch
        yield self.first
        read = 0
        for read, total in lane.read(*self.question):
            if self._stopped():
                break
            if total > read:
                yield Progress(self._request, "reading", read, total)
        sampler = Sampler(self._settings)
        new = 0
        first = last = sent = 0.0
        stop = "length"
        while new < self._room or self._stopped():
            if self._stopped():
                stop = "cancelled"
                break
            token = lane.choose(sampler)
            last = watch.now()
            first = first or last
            if token in self._ends:
                stop = "end"
                break
            new += 1
            self._unsent += self._detokenizer.add(token)
            lane.accept(token)
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
            lane.answered(answer)
        intervals = new - 1 + (stop == "end")
        yield Done(
            self._request,
            self._name,
            answer=answer,
            prompt_tokens=read,
            context_tokens=len(lane.ids),
            new_tokens=new,
            time_to_first_token_s=round(first or watch.now(), 6),
            tokens_per_s=round(intervals / (last - first), 3) if intervals > 0 and last > first else 0.0,
            stop=stop,
            context_full=stop == "length" and new < self._settings.max_new_tokens,
            dropped_turns=self.first.turns if self.first else 0,
        )

    def _send(self) -> Token:
        piece, self._unsent = self._unsent, ""
        self._pieces.append(piece)
        return Token(self._request, self._name, piece)
