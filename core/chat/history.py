"""What was said: the turns of a conversation, kept in memory and in its transcript alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.chat.answer import FAILED, Answer, Turn
from core.chat.protocol import Done, Dropped, Error, Message
from core.chat.transcript import Chat, TranscriptWriter, as_markdown, find_chat
from core.errors import RequestError


class History:
    """The turns of one conversation. Not thread-safe by itself: its session holds the lock.

    Attributes:
        turns: all of them, also those no longer read.
        dropped: how many of the first are no longer read, because the context was full.
        last: the answer that came last.
        name: what the user called the conversation.
        system: the system message.
    """

    def __init__(self, model: str, system: str, folder: Path | None) -> None:
        """``folder``: where transcripts go; None keeps none."""
        self.turns: list[Turn] = []
        self.dropped = 0
        self.last: Answer | None = None
        self.name = ""
        self.system = system
        self._model = model
        self._folder = folder
        self._writer: TranscriptWriter | None = None

    @property
    def path(self) -> Path | None:
        """The transcript's file; None before the first question."""
        return self._writer.path if self._writer else None

    def messages(self, lane: str, question: str) -> list[dict[str, str]]:
        """What a lane reads for a question: the turns that were answered, with its own answers."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[self.dropped :]:
            answer = turn.answer_for(lane)
            if answer is not None and answer.answer:
                messages.append({"role": "user", "content": turn.question})
                messages.append({"role": "assistant", "content": answer.answer})
        messages.append({"role": "user", "content": question})
        return messages

    def add(self, turn: Turn) -> None:
        """A question is asked. Raises MachineError, and keeps nothing, if it cannot be written down."""
        self._write_question(turn)
        self.turns.append(turn)

    def rewind(self, kept: int) -> list[Turn]:
        """Go back to the first ``kept`` turns; returns those taken away."""
        removed = self.turns[kept:]
        self.write("rewind", to=kept)
        del self.turns[kept:]
        self.dropped = min(self.dropped, kept)
        return removed

    def hear(self, turn: Turn, message: Message, so_far: dict[str, str], removed: list[Turn]) -> None:
        """Keep what the worker tells of a turn.

        Args:
            so_far: the text of each lane as far as it came, kept where the model failed.
            removed: the turns that this one replaced; they come back if the question is refused.
        """
        if isinstance(message, Dropped):
            new = self._dropped_until(message.turns) - self.dropped
            if message.lane == turn.main and new > 0:
                self.dropped += new
                self.write("drop", turns=new)
        elif isinstance(message, Done):
            self._answered(turn, message.lane, Answer.from_done(message))
        elif isinstance(message, Error) and message.kind == "request":
            place = next((n for n, other in enumerate(self.turns) if other is turn), len(self.turns))
            self.turns[place:] = removed
            self.write("rewind", to=place)
            for old in removed:
                self._write_question(old)
                for answer in old.answers.values():
                    self.write("assistant", **answer.as_dict())
        elif isinstance(message, Error):
            for lane, text in so_far.items():
                if lane not in turn.answers and text:
                    self._answered(turn, lane, Answer(text, lane or None, stop=FAILED))

    def _answered(self, turn: Turn, lane: str, answer: Answer) -> None:
        turn.answers[lane] = answer
        if lane == turn.main:
            self.last = answer
        self.write("assistant", **answer.as_dict())

    def _dropped_until(self, count: int) -> int:
        """The index of the first turn left when ``count`` answered turns more are dropped."""
        place = self.dropped
        while count > 0 and place < len(self.turns) - 1:
            answer = self.turns[place].answer
            count -= 1 if answer is not None and answer.answer else 0
            place += 1
        return place

    # Transcript

    def rename(self, name: str) -> None:
        """Name the conversation."""
        self.name = " ".join(name.split())[:100]
        if self._writer is not None:
            self.write("name", name=self.name)

    def switched(self, adapter: str | None) -> None:
        """Another adapter answers from now on."""
        if self._writer is not None:
            self.write("adapter", adapter=adapter)

    def reopen(self, wanted: str) -> Chat:
        """Go on with an earlier conversation, by file name, name or number. RequestError if there is none."""
        if self._folder is None:
            raise RequestError("This chat keeps no transcripts.")
        chat = find_chat(self._folder, wanted)
        self.turns, self.dropped = chat.turns, chat.first
        self.name, self.system = chat.name, chat.system
        self.last = next((turn.answer for turn in reversed(self.turns) if turn.answer), None)
        self._writer = TranscriptWriter(self._folder, {}, chat.path)
        return chat

    def clear(self) -> None:
        """Begin another conversation, in another transcript."""
        self.turns, self.dropped, self.last, self.name, self._writer = [], 0, None, "", None

    def markdown(self) -> str:
        """The conversation as a Markdown page."""
        path = self.path or Path(self._model)
        return as_markdown(Chat(path, self.name, model=self._model, system=self.system, turns=self.turns))

    def _write_question(self, turn: Turn) -> None:
        fields = {"lanes": list(turn.lanes), "main": turn.main, "attempt": turn.attempt}
        self.write("user", text=turn.question, **fields)

    def write(self, kind: str, **fields: Any) -> None:
        """Append a record to the transcript, which begins with the first."""
        if self._folder is None:
            return
        if self._writer is None:
            self._writer = TranscriptWriter(
                self._folder, {"name": self.name, "model": self._model, "system": self.system}
            )
        self._writer.write(kind, **fields)
