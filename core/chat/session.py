"""A conversation with the lab's model, which runs in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from core.chat.model_process import LoadListener, ModelProcess, check_model
from core.chat.protocol import BASE, Done, Load, ProtocolMessage, Ready, Token
from core.chat.response import Answer, ChatEvent, Response, Turn
from core.chat.settings import Sampling
from core.chat.transcript import Chat, History
from core.errors import LabError, RequestError, Use
from core.folder import adapter_names, lab_command
from core.formats import human_bytes
from core.language import told
from core.model.messages import Message, Segment
from core.options import AUTO

if TYPE_CHECKING:
    from core.lab import Lab


BYTES_A_TOKEN = 16
"""A question with more bytes than this for each token of the context is taken not to fit, and is not even tried."""

ALWAYS_TRIED = 64 * 1024
"""Bytes of a question that are worth a try in whatever context: the model then tells the number of tokens."""


class ChatSession:
    """Several turns with one model; adapters, comparison, transcript.

    The model begins to load when the session is made; questions may be asked at once and wait for it.
    Methods that begin with ``begin`` return at once with an :class:`Response`; the others wait. One
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
        self._longest = max(ALWAYS_TRIED, BYTES_A_TOKEN * context_tokens)
        self.settings = settings or Sampling()
        self.history = History(str(model_dir), system, chats_dir)
        self._adapter = self._usual = adapter or BASE
        self._current: Response | None = None
        self._lock = threading.RLock()
        self._closed = False
        load = Load(str(model_dir), context_tokens, template, self._adapter, answer_field)
        self._model = ModelProcess(load, on_load)

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

    # The model's process

    def wait_ready(self, timeout: float | None = None) -> Ready:
        """Wait until the model is loaded.

        Raises:
            ChatError, MachineError, RequestError: it could not be loaded, or the time ran out.
        """
        return self._model.wait_ready(timeout)

    @property
    def ready(self) -> Ready | None:
        """What is known of the loaded model; None while it loads."""
        return self._model.ready

    @property
    def alive(self) -> bool:
        """The model's process is there."""
        return self._model.alive

    @property
    def closed(self) -> bool:
        """:meth:`close` was called and :meth:`restart` not since: the memory is free, the turns are kept."""
        return self._closed

    @property
    def pid(self) -> int:
        """The id of the model's process."""
        return self._model.pid

    def restart(self) -> None:
        """Start the model again after its process has gone. The conversation is kept, and read anew."""
        self._closed = False
        self._model.restart(self._adapter)

    def close(self) -> None:
        """End the model's process and free its memory. The transcript stays."""
        self._closed = True
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Asking

    def begin(self, text: str, on_event: Callable[[ChatEvent], None] | None = None) -> Response:
        """Ask, and return at once.

        Raises:
            RequestError: the question is empty, or another is being answered.
            ChatError: the model's process is gone, see :meth:`restart`.
        """
        return self._begin(Turn(self._asked(text), (self._adapter,), self._adapter), on_event)

    def stream(self, text: str) -> Iterator[str]:
        """Ask; the pieces of the answer as they come. Afterwards :attr:`last` has the figures.

        Leaving the loop early stops the answer. Raises as :meth:`begin` and :meth:`Response.result`.
        """
        return self._pieces(self.begin(text))

    def ask(self, text: str) -> Answer:
        """Ask and wait for the whole answer. Raises as :meth:`stream`."""
        return self._main_answer(self.begin(text))

    def begin_again(
        self, text: str | None = None, on_event: Callable[[ChatEvent], None] | None = None, *, turn: int = -1
    ) -> Response:
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
                    told("There is no question to ask again."),
                    told("The conversation has none yet."),
                    code="chat.question",
                ) from None
            old = self.turns[place]
            adapters, main = old.adapters, old.main
            if len(adapters) == 1:
                adapters, main = (self._adapter,), self._adapter
            attempt = old.attempt + 1 if text is None else 0
            new = Turn(old.question if text is None else self._asked(text), adapters, main, attempt=attempt)
            return self._begin(new, on_event, replaces=place)

    def regenerate(self) -> Iterator[str]:
        """Another answer to the last question (the same one at temperature 0)."""
        return self._pieces(self.begin_again())

    def edit(self, text: str, turn: int = -1) -> Iterator[str]:
        """Put another question in the last one's place, or in that of ``turn``."""
        return self._pieces(self.begin_again(self._asked(text), turn=turn))

    def begin_compare(
        self,
        text: str,
        adapters: Sequence[str | None] | None = None,
        on_event: Callable[[ChatEvent], None] | None = None,
    ) -> Response:
        """Ask two adapters (None is the base) the same question; their answers come by turns.

        Each goes on from its own earlier answers. By default the base and the session's adapter, or the
        lab's only one. Raises as :meth:`begin`, and RequestError where there is nothing to compare.
        """
        if adapters is None:
            tuned = self._adapter or self._usual or next(iter(self.adapters()), BASE)
            adapters = (None, tuned)
        names = tuple(adapter or BASE for adapter in adapters)
        if len(names) != 2 or names[0] == names[1]:
            raise RequestError(
                told("There is nothing to compare."),
                told(
                    "The adapters of this model: {adapters}.",
                    adapters=", ".join(self.adapters()) or told("none"),
                ),
                told("Train one with: {run}", run=lab_command(self.model_dir, "run", "finetune", "optimize")),
                code="adapter.missing",
            )
        main = self._adapter if self._adapter in names else names[1]
        return self._begin(Turn(self._asked(text), names, main), on_event)

    def compare(self, text: str, adapters: Sequence[str | None] | None = None) -> tuple[Answer, Answer]:
        """Compare and wait: the first and the second adapter's answer (base and tuned)."""
        response = self.begin_compare(text, adapters)
        answers = response.result()
        first, second = response.turn.adapters
        return answers[first], answers[second]

    def begin_alone(
        self,
        question: str | Sequence[Message],
        adapters: Sequence[str | None],
        on_event: Callable[[ChatEvent], None] | None = None,
        *,
        tools: Sequence[dict[str, Any]] = (),
        **settings: Any,
    ) -> Response:
        """Ask outside the conversation, which stays as it is: one or two adapters, nothing kept.

        Args:
            question: a question, put behind the session's system message; or a whole conversation, which is
                taken as it is.
            tools: what the model may call, for templates that write it.
            settings: sampling settings for this question only.

        Raises as :meth:`begin`.
        """
        names = tuple(adapter or BASE for adapter in adapters)
        if isinstance(question, str):
            system = self.history.system
            messages = [Message("system", system)] if system else []
            messages.append(Message("user", self._asked(question)))
        else:
            messages = list(question)
            self._check_size("".join(message.content for message in messages))
        turn = Turn(messages[-1].content if messages else "", names, names[-1])
        written = [message.as_dict() for message in messages]

        def record(_: Response, message: ProtocolMessage) -> None:
            if isinstance(message, Done):
                turn.answers[message.adapter] = Answer.from_done(message)

        with self._lock:
            self._check_free()
            self._model.check()
            prompts = [{"adapter": name, "messages": written, "tools": list(tools)} for name in names]
            return self._send(turn, prompts, self.settings.changed(**settings), record, on_event)

    def stop(self) -> None:
        """End the answer under way after the token in hand. From any thread; harmless when there is none."""
        current = self._current
        if current is not None:
            current.stop()

    @property
    def current(self) -> Response | None:
        """The question being answered."""
        return self._current

    # Adapters and settings

    @property
    def adapter(self) -> str | None:
        """The adapter in use; None for the base."""
        return self._adapter or None

    def adapters(self) -> list[str]:
        """The adapters beside the model, in alphabetical order, whether they fit or not."""
        return adapter_names(self.model_dir)

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
        seconds = self._model.set_adapter(name)
        if name != self._adapter:
            self._adapter = name
            self.history.switched(adapter)
        return seconds

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
        return self._model.score(adapter or BASE, parts)

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
                told("An answer is under way."),
                told("One question is answered at a time."),
                told("Stop it first."),
                code="chat.busy",
            )

    def _begin(
        self, turn: Turn, on_event: Callable[[ChatEvent], None] | None, replaces: int | None = None
    ) -> Response:
        with self._lock:
            self._check_free()
            self._model.check()
            history = self.history
            removed = [] if replaces is None else history.rewind(replaces)
            prompts = [
                {"adapter": name, "messages": history.messages(name, turn.question)} for name in turn.adapters
            ]
            settings = self.settings.changed(seed=self.settings.seed + turn.attempt)

            def record(response: Response, message: ProtocolMessage) -> None:
                with self._lock:
                    texts = {name: response.so_far(name) for name in turn.adapters}
                    history.hear(turn, message, texts, removed)

            try:
                history.add(turn)
                return self._send(turn, prompts, settings, record, on_event)
            except LabError:
                with suppress(LabError):
                    history.put_back(turn, removed)
                raise

    def _send(
        self,
        turn: Turn,
        prompts: list[dict[str, Any]],
        settings: Sampling,
        record: Callable[[Response, ProtocolMessage], None],
        on_event: Callable[[ChatEvent], None] | None,
    ) -> Response:
        response = Response(turn, record, on_event, lambda: stop())
        stop = self._model.ask(prompts, settings.as_dict(), response.hear)
        self._current = response
        return response

    def _pieces(self, response: Response) -> Iterator[str]:
        try:
            for event in response:
                if isinstance(event, Token) and event.adapter == response.turn.main:
                    yield event.text
            response.result()
        finally:
            if not response.over:
                response.stop()
                response.wait()

    def _main_answer(self, response: Response) -> Answer:
        return response.result()[response.turn.main]

    def _asked(self, text: str) -> str:
        if not text.strip():
            raise RequestError(
                told("The question is empty."),
                told("There is nothing to answer."),
                told("Type a question."),
                code="chat.question",
            )
        self._check_size(text)
        return text.strip()

    def _check_size(self, text: str) -> None:
        """Refuse what cannot fit before it is copied, sent and cut into tokens, which takes 200 times its size."""
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > self._longest:
            raise RequestError(
                told("The question is longer than the context."),
                told(
                    "It has {size}; {longest} is the most for this context.",
                    size=human_bytes(size),
                    longest=human_bytes(self._longest),
                ),
                told("Shorten it, or raise {context_tokens}.", context_tokens=Use("chat.context_tokens")),
                code="chat.too-long",
            )


def choose_adapter(model_dir: Path, there: list[str], wanted: str | None, usual: str) -> str | None:
    """The adapter to begin with.

    Args:
        model_dir: where the model lies.
        there: the adapters beside it.
        wanted: a name, None for the base, or ``"auto"``: the only one, or ``usual`` if it is among several.

    Raises:
        RequestError: the one wanted is not there.
    """
    if wanted is None or wanted == "":
        return None
    if wanted in there:
        return wanted
    if wanted == "auto":
        if len(there) == 1:
            return there[0]
        return usual if usual in there else None
    raise RequestError(
        told("There is no adapter {wanted!r}.", wanted=wanted),
        told("The model has: {there}.", there=", ".join(there) or told("no adapter")),
        told(
            "Name one of those, or train it: {run}", run=lab_command(model_dir, "run", "finetune", "optimize")
        ),
        code="adapter.missing",
    )
