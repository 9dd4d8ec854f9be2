"""A conversation with the lab's model, which runs in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chat.answer import Answer, Turn
from core.chat.connection import Connection, LoadListener
from core.chat.exchange import ChatEvent, Exchange
from core.chat.history import History
from core.chat.life import ModelLife
from core.chat.modelfolder import check_model, choose_adapter
from core.chat.protocol import (
    BASE,
    Adapted,
    Ask,
    Done,
    Message,
    Score,
    Scored,
    SetAdapter,
    Stop,
    Token,
)
from core.chat.settings import Sampling
from core.chat.transcript import Chat
from core.errors import RequestError
from core.folder import lab_command
from core.model.messages import Message as Talk
from core.model.messages import Segment
from core.options import AUTO

if TYPE_CHECKING:
    from core.lab import Lab


class ChatSession(ModelLife):
    """Several turns with one model; adapters, comparison, transcript.

    The model begins to load when the session is made; questions may be asked at once and wait for it.
    Methods that begin with ``begin`` return at once with an :class:`Exchange`; the others wait. One
    question is answered at a time. May be used from several threads.

    >>> with lab.chat(adapter="travel") as chat:  # doctest: +SKIP
    ...     for piece in chat.stream("What should I see in Chicago?"):
    ...         print(piece, end="")
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        adapter: str | None = None,
        settings: Sampling | None = None,
        system: str = "",
        template: str = AUTO,
        answer_field: str = "",
        context_tokens: int = 4096,
        chats_dir: Path | None = None,
        on_load: LoadListener | None = None,
    ) -> None:
        """Start to load the model of ``model_dir``.

        Args:
            adapter: the adapter to begin with; None for the base.
            template: how turns are written: "auto" for the model's own chat template, or a `{field}` text.
            answer_field: the field of that text that is the answer; empty to find it by its name.
            context_tokens: the longest conversation kept in memory.
            chats_dir: where transcripts go; none is kept if None.
            on_load: hears of the loading, from another thread: Progress, then Ready or Error.

        Raises:
            RequestError: there is no usable model in the folder, or no such adapter.
        """
        check_model(model_dir)
        self.model_dir = model_dir
        self.settings = settings or Sampling()
        self.history = History(str(model_dir), system, chats_dir)
        self._adapter = self._usual = adapter or BASE
        self._current: Exchange | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._model = Connection(model_dir, context_tokens, template, answer_field, self._adapter, on_load)

    @classmethod
    def open(
        cls,
        lab: Lab,
        adapter: str | None = "auto",
        *,
        system: str | None = None,
        keep: bool = True,
        on_load: LoadListener | None = None,
    ) -> ChatSession:
        """Chat with a lab's model, as its recipe's ``[chat]`` says.

        Args:
            adapter: a name, None for the base, ``"auto"`` for the lab's adapter if it has one.
            system: the system message, in place of the recipe's.
            keep: keep a transcript in the lab.

        Raises:
            RequestError: no model yet (says which step makes it), or no such adapter.
        """
        recipe = lab.recipe
        check_model(lab.folder.onnx_dir, lab.folder)
        return cls(
            lab.folder.onnx_dir,
            adapter=choose_adapter(lab.folder.onnx_dir, lab.adapters(), adapter, recipe.finetune.adapter),
            settings=Sampling.from_recipe(recipe.chat),
            system=recipe.chat.system if system is None else system,
            template=recipe.data.template,
            answer_field=recipe.data.response_field,
            context_tokens=recipe.chat.context_tokens,
            chats_dir=lab.folder.chats_dir if keep else None,
            on_load=on_load,
        )

    # Asking

    def begin(self, text: str, on_event: Callable[[ChatEvent], None] | None = None) -> Exchange:
        """Ask, and return at once.

        Raises:
            RequestError: the question is empty, or another is being answered.
            ChatError: the model's process is gone, see :meth:`restart`.
        """
        return self._begin(Turn(_asked(text), (self._adapter,), self._adapter), on_event)

    def stream(self, text: str) -> Iterator[str]:
        """Ask; the pieces of the answer as they come. Afterwards :attr:`last` has the figures.

        Leaving the loop early stops the answer. Raises as :meth:`begin` and :meth:`Exchange.result`.
        """
        return self._pieces(self.begin(text))

    def ask(self, text: str) -> Answer:
        """Ask and wait for the whole answer. Raises as :meth:`stream`."""
        return self._main_answer(self.begin(text))

    def begin_again(
        self, text: str | None = None, on_event: Callable[[ChatEvent], None] | None = None, *, turn: int = -1
    ) -> Exchange:
        """Answer a question anew: the last one, or an edited one; later turns go.

        Args:
            text: the question as it should have been; None to keep it (and shift the seed).
            turn: which turn, as a list index.

        Raises:
            RequestError: there is no such turn; and as :meth:`begin`.
        """
        with self._lock:
            self._check_free()
            try:
                place = range(len(self.turns))[turn]
            except IndexError:
                raise RequestError(
                    "There is no question to ask again.", "The conversation has none yet."
                ) from None
            old = self.turns[place]
            lanes, main = old.lanes, old.main
            if len(lanes) == 1:
                lanes, main = (self._adapter,), self._adapter
            attempt = old.attempt + 1 if text is None else 0
            new = Turn(old.question if text is None else _asked(text), lanes, main, attempt=attempt)
            return self._begin(new, on_event, replaces=place)

    def regenerate(self) -> Iterator[str]:
        """Another answer to the last question (the same one at temperature 0)."""
        return self._pieces(self.begin_again())

    def edit(self, text: str, turn: int = -1) -> Iterator[str]:
        """Put another question in the last one's place, or in that of ``turn``."""
        return self._pieces(self.begin_again(_asked(text), turn=turn))

    def begin_compare(
        self,
        text: str,
        adapters: Sequence[str | None] | None = None,
        on_event: Callable[[ChatEvent], None] | None = None,
    ) -> Exchange:
        """Ask two adapters (None is the base) the same question; their answers come by turns.

        Each goes on from its own earlier answers. By default the base and the session's adapter, or the
        lab's only one. Raises as :meth:`begin`, and RequestError where there is nothing to compare.
        """
        if adapters is None:
            tuned = self._adapter or self._usual or next(iter(self.adapters()), BASE)
            adapters = (None, tuned)
        lanes = tuple(adapter or BASE for adapter in adapters)
        if len(lanes) != 2 or lanes[0] == lanes[1]:
            raise RequestError(
                "There is nothing to compare.",
                f"The adapters of this model: {', '.join(self.adapters()) or 'none'}.",
                "Train one with: " + lab_command(self.model_dir, "run", "finetune", "optimize"),
            )
        main = self._adapter if self._adapter in lanes else lanes[1]
        return self._begin(Turn(_asked(text), lanes, main), on_event)

    def compare(self, text: str, adapters: Sequence[str | None] | None = None) -> tuple[Answer, Answer]:
        """Compare and wait: the first and the second adapter's answer (base and tuned)."""
        exchange = self.begin_compare(text, adapters)
        answers = exchange.result()
        first, second = exchange.turn.lanes
        return answers[first], answers[second]

    def begin_alone(
        self,
        question: str | Sequence[Talk],
        adapters: Sequence[str | None],
        on_event: Callable[[ChatEvent], None] | None = None,
        *,
        tools: Sequence[dict[str, Any]] = (),
        **settings: Any,
    ) -> Exchange:
        """Ask outside the conversation, which stays as it is: one or two adapters, nothing kept.

        Args:
            question: a question, put behind the session's system message; or a whole conversation, which is
                taken as it is.
            tools: what the model may call, for templates that write it.
            settings: sampling settings for this question only.

        Raises as :meth:`begin`.
        """
        lanes = tuple(adapter or BASE for adapter in adapters)
        if isinstance(question, str):
            system = self.history.system
            talk = [Talk("system", system)] if system else []
            talk.append(Talk("user", _asked(question)))
        else:
            talk = list(question)
        turn = Turn(talk[-1].content if talk else "", lanes, lanes[-1])
        messages = [message.as_dict() for message in talk]

        def record(_: Exchange, message: Message) -> None:
            if isinstance(message, Done):
                turn.answers[message.lane] = Answer.from_done(message)

        with self._lock:
            self._check_free()
            self._model.check()
            request = [{"adapter": lane, "messages": messages, "tools": list(tools)} for lane in lanes]
            return self._send(turn, request, self.settings.changed(**settings), record, on_event)

    def stop(self) -> None:
        """End the answer under way after the token in hand. From any thread; harmless when there is none."""
        current = self._current
        if current is not None:
            current.stop()

    @property
    def current(self) -> Exchange | None:
        """The question being answered."""
        return self._current

    # Adapters and settings

    @property
    def adapter(self) -> str | None:
        """The adapter in use; None for the base."""
        return self._adapter or None

    def adapters(self) -> list[str]:
        """The adapters beside the model, in alphabetical order, whether they fit or not."""
        return sorted(path.stem for path in (self.model_dir / "adapters").glob("*.onnx_adapter"))

    def set_adapter(self, adapter: str | None) -> float:
        """Use another adapter from the next question on (None: the base); returns the seconds it took.

        The weights are not loaded again. What was read under the other adapter cannot be used: the
        conversation is read anew with the next question, unless that adapter was in use before.

        Raises:
            RequestError: no such adapter, or it does not fit the model (says what differs).
        """
        name = adapter or BASE
        with self._lock:
            self._check_free()
        message = self._model.call(SetAdapter(self._model.worker.next_id(), name))
        assert isinstance(message, Adapted)
        if name != self._adapter:
            self._adapter = name
            self.history.switched(adapter)
        return message.seconds

    def set(self, **values: Any) -> Sampling:
        """Change sampling settings from the next answer on. Raises RequestError for impossible ones."""
        self.settings = self.settings.changed(**values)
        return self.settings

    def score(self, segments: Sequence[Segment], adapter: str | None = None) -> tuple[float, int]:
        """Loss of a text under an adapter: mean negative log likelihood in nats, and the tokens counted.

        Args:
            segments: the text; only tokens of its trained segments are measured.
        """
        parts = [[each.text, each.trained, list(each.cuts)] for each in segments]
        message = self._model.call(Score(self._model.worker.next_id(), adapter or BASE, parts))
        assert isinstance(message, Scored)
        return message.loss, message.tokens

    # Transcript

    @property
    def turns(self) -> list[Turn]:
        """All turns, also those no longer read. Not to be changed."""
        return self.history.turns

    @property
    def last(self) -> Answer | None:
        """The answer that came last, with its figures."""
        return self.history.last

    @property
    def transcript_path(self) -> Path | None:
        """The transcript's file; None before the first question."""
        return self.history.path

    def rename(self, name: str) -> None:
        """Name the conversation."""
        with self._lock:
            self.history.rename(name)

    def reopen(self, wanted: str) -> Chat:
        """Go on with an earlier conversation, by file name, name or number. RequestError if there is none."""
        with self._lock:
            self._check_free()
            return self.history.reopen(wanted)

    def new(self) -> None:
        """Begin another conversation, in another transcript."""
        with self._lock:
            self._check_free()
            self.history.clear()

    def markdown(self) -> str:
        """The conversation as a Markdown page."""
        with self._lock:
            return self.history.markdown()

    # Inside

    def _check_free(self) -> None:
        if self._current is not None and not self._current.over:
            raise RequestError(
                "An answer is under way.", "One question is answered at a time.", "Stop it first."
            )

    def _begin(
        self, turn: Turn, on_event: Callable[[ChatEvent], None] | None, replaces: int | None = None
    ) -> Exchange:
        with self._lock:
            self._check_free()
            self._model.check()
            history = self.history
            removed = [] if replaces is None else history.rewind(replaces)
            lanes = [
                {"adapter": lane, "messages": history.messages(lane, turn.question)} for lane in turn.lanes
            ]
            settings = self.settings.changed(seed=self.settings.seed + turn.attempt)
            history.add(turn)

            def record(exchange: Exchange, message: Message) -> None:
                with self._lock:
                    texts = {lane: exchange.so_far(lane) for lane in turn.lanes}
                    history.hear(turn, message, texts, removed)

            return self._send(turn, lanes, settings, record, on_event)

    def _send(
        self,
        turn: Turn,
        lanes: list[dict[str, Any]],
        settings: Sampling,
        record: Callable[[Exchange, Message], None],
        on_event: Callable[[ChatEvent], None] | None,
    ) -> Exchange:
        worker = self._model.worker
        number = worker.next_id()
        exchange = Exchange(turn, record, on_event, lambda: worker.send(Stop(number)))
        self._current = exchange
        worker.send(Ask(number, lanes, settings.as_dict()), exchange.hear)
        return exchange

    def _pieces(self, exchange: Exchange) -> Iterator[str]:
        try:
            for event in exchange:
                if isinstance(event, Token) and event.lane == exchange.turn.main:
                    yield event.text
            exchange.result()
        finally:
            if not exchange.over:
                exchange.stop()
                exchange.wait()

    def _main_answer(self, exchange: Exchange) -> Answer:
        return exchange.result()[exchange.turn.main]


def _asked(text: str) -> str:
    if not text.strip():
        raise RequestError("The question is empty.", "There is nothing to answer.", "Type a question.")
    return text.strip()
