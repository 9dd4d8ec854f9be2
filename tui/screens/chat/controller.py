"""What the chat's screen does, without a screen: the session, what is under way, and what is to be seen of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from core.chat.commands import Command, Completion, complete, help_text, setting
from core.errors import LabError, RequestError
from core.language import N_, _, pgettext
from core.text import clean
from tui.figures import counted, human_bytes
from tui.glyphs import bar, glyph
from tui.steps import step_named

if TYPE_CHECKING:
    from core.chat import ChatEvent, ChatSession, Response, Turn
    from core.lab import Lab
    from core.stale import Older

SHOWN = 20
"""Turns on the screen; earlier ones come back with a button."""

NOT_HERE = ("quit",)
HELP = N_(
    "Enter sends, Ctrl+J begins another line; what is pasted keeps its lines.\n"
    "Up in the empty box edits the last question. F9 stops an answer.\n"
    "PgUp and PgDn scroll, Esc leaves the box.\n"
    "A question that begins with / is typed with two."
)
"""What stands below the list of commands."""


def help_of_chat() -> str:
    """The commands of the chat, and its keys."""
    return f"{help_text(without=('help',))}\n\n{_(HELP)}"


@dataclass(frozen=True)
class Live:
    """The turn that is being answered.

    Attributes:
        texts: what has come of each answer.
        waiting: what happens before the first word.
    """

    turn: Turn
    texts: Mapping[str, str]
    waiting: str


@dataclass(frozen=True)
class ChatView:
    """All that is to be seen of a chat at one moment.

    Attributes:
        turns: the conversation's newest turns.
        live: the one that is being answered; the last of ``turns``, unless it was asked outside of them.
        status: who answers and how, or what is missing.
        stale: that who answers is older than what the lab describes, and what to press; empty where that is not so.
        problem: what went wrong, with ``word`` before it.
        notes: what the model's loading told; shown as long as nothing was asked (``intro``).
        gone: there is no model, though there should be: it ended, or was not loaded.
        buttons: those that make sense now.
        samples: questions to begin with, as long as nothing was asked.
        hint: the keys that matter in the box now.
    """

    turns: tuple[Turn, ...] = ()
    live: Live | None = None
    status: str = ""
    stale: str = ""
    problem: Mapping[str, str] | None = None
    word: str = ""
    notes: tuple[str, ...] = ()
    intro: bool = True
    busy: bool = False
    loading: bool = False
    editing: bool = False
    compare: bool = False
    gone: bool = False
    buttons: frozenset[str] = frozenset()
    samples: tuple[str, ...] = ()
    hint: str = ""


class ChatController:
    """A conversation and what is being done with it.

    Methods of the model's life and :meth:`switch` wait, and are for threads; all others return at once.

    Attributes:
        chat: the session; None until the first model's process is there.
        response: the question that is being answered.
        compare: the two adapters that answer side by side, if two do.
        older: why the base (``""``) and adapters are older than what the lab describes now, where they are.
    """

    def __init__(self, lab: Callable[[], Lab], changed: Callable[[], object]) -> None:
        """A chat with the model of ``lab``; ``changed`` is called, from any thread, when there is more to see."""
        self._lab = lab
        self._changed = changed
        self.chat: ChatSession | None = None
        self.response: Response | None = None
        self.compare: tuple[str | None, str | None] | None = None
        self.older: Mapping[str, Older] = {}
        self.editing = False
        self._shown = SHOWN
        self._attempt = 0
        self._loading: tuple[float, float | None] | None = None
        self._problem: tuple[Mapping[str, str], str] | None = None
        self._news = ""
        self._waiting = ""
        self._first_word = False
        self._refused = ""
        self._samples: tuple[str, ...] = ()
        self._listed: list[tuple[str, str]] | None = None

    # The model

    @property
    def loading(self) -> bool:
        """The model is on its way."""
        return self._loading is not None

    @property
    def wanted(self) -> bool:
        """There is no model, and none on its way."""
        return not self.loading and (self.chat is None or self.chat.closed)

    def load(self) -> Callable[[], None]:
        """The model is to be loaded, or loaded again; what waits for it is returned, for a thread."""
        self._attempt += 1
        self._loading, self._problem, self._news, self.editing = (0, None), None, "", False
        self._changed()
        return partial(self._load, self._attempt, self.chat)

    def _load(self, attempt: int, chat: ChatSession | None) -> None:
        from core.chat import ChatSession

        try:
            if chat is None:
                chat = ChatSession.open(self._lab(), on_load=self._hear_load)
            else:
                chat.restart()
            if attempt != self._attempt:  # left while it was started
                chat.close()
                return
            self.chat = chat
            self._changed()
            self._samples = self._read_samples()
            self._changed()
            chat.wait_ready()
        except Exception as error:  # shown, whatever it was
            if attempt != self._attempt:
                return
            self.fail(error, _("FAILED"))
        if attempt == self._attempt:
            self._loading = None
            self._changed()

    def _read_samples(self) -> tuple[str, ...]:
        from core.chat.questions import first_questions

        try:
            return tuple(first_questions(self._lab()))
        except (LabError, OSError):  # step 2 tells what is wrong with the data; a chat can do without
            return ()

    def _hear_load(self, event: object) -> None:
        from core.chat.protocol import Progress

        if isinstance(event, Progress) and self.loading:
            self._loading = event.done, event.total
            self._changed()

    def leave(self) -> Callable[[], None] | None:
        """Give the model's memory back, unless it answers; what waits for that is returned, for a thread."""
        if self.response is not None:
            return None
        self._attempt += 1
        self._loading = None
        return self.chat.close if self.chat is not None and not self.chat.closed else None

    def close(self) -> None:
        """The wizard ends, and so does the model, whatever it does."""
        self._attempt += 1
        if self.chat is not None:
            self.chat.close()

    # Asking

    def ask(self, question: str) -> None:
        """Ask, or ask the question that was edited.

        Raises:
            LabError: the question cannot be asked.
        """
        chat = self._there()
        if self.editing:
            self._begin(partial(chat.begin_again, question))
        elif self.compare is not None:
            self._begin(partial(chat.begin_compare, question, self.compare))
        else:
            self._begin(partial(chat.begin, question))

    def _begin(self, ask: Callable[..., Response]) -> None:
        self._problem, self._news, self._waiting = None, "", _("reading …")
        self._first_word, self._shown = True, SHOWN
        self.response = ask(on_event=self._hear)
        self.editing = False

    def _hear(self, event: ChatEvent) -> None:
        """Called by the reader thread; only the first word and the end are hurried, the rest is drawn at a pace."""
        hurried = event.type in ("done", "finished", "error")
        if event.type == "progress":
            self._waiting = _(
                "reading {done:g} of {total:g} tokens",
                done=event.done,  # type: ignore[union-attr]
                total=event.total or 0,  # type: ignore[union-attr]
            )
        elif event.type == "token" and self._first_word:
            self._first_word, hurried = False, True
        if hurried:
            self._changed()

    def settle(self) -> bool:
        """If the answer has come to its end: note how. Whether it has."""
        response = self.response
        if response is None or not response.over:
            return False
        self.response = None
        if response.error is not None:
            refused = all(turn is not response.turn for turn in self._turns)
            if refused:
                self._refused = response.turn.question
            self.fail(response.error, _("NOT ASKED") if refused else _("FAILED"))
        return True

    def take_back(self) -> str:
        """The question that was refused, once."""
        question, self._refused = self._refused, ""
        return question

    def stop(self) -> None:
        """Stop the answer; the conversation goes on."""
        if self.response is not None:
            self.response.stop()

    # Everything else that can be done

    def do(self, command: Command) -> None:
        """Do what needs nothing but its words.

        Raises:
            LabError: it cannot be done.
        """
        chat, words = self._there(), command.words
        if command.name == "again":
            self._begin(chat.begin_again)
        elif command.name == "edit" and words:
            self._begin(partial(chat.begin_again, words))
        elif command.name == "compare":
            self._begin(partial(chat.begin_compare, words, self.compare))
        elif command.name == "set":
            name, value = setting(words)
            chat.set(**{name: value})
        elif command.name == "name":
            chat.rename(words)
        elif command.name in ("new", "open"):
            chat.reopen(words) if command.name == "open" else chat.new()
            self._shown = SHOWN
        self._changed()

    def _there(self) -> ChatSession:
        if self.chat is None:
            raise RequestError(
                _("The model is not there yet."), _("It is still loading."), _("Try again in a moment.")
            )
        return self.chat

    def edit(self) -> str:
        """The last question is to be edited; its text, or nothing if that cannot be now."""
        if not self._turns or self.response is not None:
            return ""
        self.editing = True
        self._changed()
        return self._turns[-1].question

    def leave_editing(self) -> str:
        """Something else is done: the question stays as it was. Its text, if it was being edited."""
        if not self.editing:
            return ""
        self.editing = False
        self._changed()
        return self._turns[-1].question if self._turns else ""

    def compare_with(self, pair: tuple[str | None, str | None] | None) -> None:
        """Two adapters answer side by side from now on, or one."""
        self.compare = pair
        self._changed()

    def switch(self, adapter: str | None) -> None:
        """Another adapter answers from now on; waits until it is there."""
        try:
            seconds = self._there().set_adapter(adapter)
        except Exception as error:  # shown, whatever it was
            self.fail(error)
        else:
            self._problem = None
            self._news = _("switched in {seconds:.0f} ms", seconds=seconds * 1000)
        self._changed()

    def tuned(self) -> str | None:
        """The adapter that is compared with the base: the one in use, or the first there is."""
        chat = self._there()
        return chat.adapter or next(iter(chat.adapters()), None)

    def show_earlier(self) -> None:
        """More of the conversation's turns are to be seen."""
        self._shown += SHOWN
        self._changed()

    def fail(self, error: Exception, word: str = "") -> None:
        """Something went wrong, and is to be seen."""
        self._problem = problem_of(error), word or _("NOT DONE")
        self._changed()

    # What is to be seen

    @property
    def _turns(self) -> list[Turn]:
        return self.chat.turns if self.chat is not None else []

    def view(self, missing: str = "", wide: bool = True, roomy: bool = True) -> ChatView:
        """The chat as it is now.

        Args:
            missing: what must be done before there is a model, if it is not.
            wide: there is room for a row of buttons, and ``roomy``: for all of them.
        """
        chat, response, turns = self.chat, self.response, self._turns
        ready = chat.ready if chat is not None else None
        there = chat is not None and not chat.closed
        alive = chat is not None and there and chat.alive and (self.loading or ready is not None)
        busy = response is not None
        problem, word = self._problem or (None, "")
        gone = not missing and not alive and not self.loading and (there or problem is not None)
        notes = () if ready is None else (*ready.notes, *(_unfit(*each) for each in ready.refused.items()))
        buttons = {
            "goal": bool(missing),
            "stop": busy,
            "restart": gone,
            "again": wide and alive and not busy and bool(turns),
            "copy": wide and chat is not None and chat.last is not None,
            "compare": alive and not busy,
            "adapter": alive and not busy,
            "set": alive,
            "chats": alive and not busy,
            "run": alive and not busy and not self.loading,
            "serve": alive and not busy and not self.loading and (roomy or not turns),
            "earlier": len(turns) > self._shown,
        }
        return ChatView(
            turns=tuple(turns[-self._shown :]),
            live=None if response is None else self._live(response),
            status=missing or self._status(),
            stale="" if missing else self._stale(),
            problem=problem,
            word=word,
            notes=notes,
            intro=not turns and not busy and (alive or self.loading or bool(missing)),
            busy=busy,
            loading=self.loading,
            editing=self.editing,
            compare=self.compare is not None,
            gone=gone,
            samples=() if turns or busy or missing or gone else self._samples,
            hint="" if missing else _("/ commands") if gone else self._hint(),
            buttons=frozenset(name for name, shown in buttons.items() if shown),
        )

    def _live(self, response: Response) -> Live:
        turn = response.turn
        texts = {adapter: response.so_far(adapter) for adapter in turn.adapters}
        return Live(turn, texts, self._waiting)

    def _stale(self) -> str:
        """That who answers is older than what the lab describes now, and what to press."""
        if self.chat is None:
            return ""
        names = (self.chat.adapter,) if self.compare is None else self.compare
        # One sentence is enough for a comparison: what makes the adapter anew makes the base anew.
        keys = sorted((name or "" for name in names), key=lambda name: not name)
        older = next((self.older[key] for key in keys if key in self.older), None)
        if older is None:
            return ""
        return _(
            "{reason} Press Esc, then {number}, to make it anew.",
            reason=older.reason,
            number=step_named(older.stage).number,
        )

    def _hint(self) -> str:
        dot = f" {glyph('dot')} "
        if self.editing:
            return dot.join((_("Enter asks it anew"), _("Esc leaves it as it was")))
        sends = _("F9 stops the answer") if self.response is not None else _("Enter sends")
        parts = [sends, _("Ctrl+J new line"), _("/ commands")]
        if self._turns and self.response is None:
            parts.append(_("Up edits the last"))
        return dot.join(parts)

    def completions(self, line: str) -> list[Completion]:
        """How a line that begins with / can go on here."""
        if not line.startswith("/open "):
            self._listed = None
        return complete(
            line, {"adapter": self._adapters, "set": self._settings, "open": self._chats}, NOT_HERE
        )

    def _adapters(self) -> list[tuple[str, str]]:
        names = self.chat.adapters() if self.chat is not None else []
        refused = self.chat.ready.refused if self.chat is not None and self.chat.ready is not None else {}
        found = [(name, _("does not fit") if name in refused else "") for name in names]
        return [*found, ("none", _("the base"))]

    def _settings(self) -> list[tuple[str, str]]:
        now = self.chat.settings.as_dict() if self.chat is not None else {}
        return [(f"{name} ", _("now {value:g}", value=value)) for name, value in now.items()]

    def _chats(self) -> list[tuple[str, str]]:
        if self._listed is None:  # they are read once for all that is typed behind the command
            from core.chat.transcript import list_chats

            chats = list_chats(self._lab().folder.chats_dir)
            self._listed = [(chat.name or chat.path.stem, chat.title) for chat in chats]
        return self._listed

    def _status(self) -> str:
        """Who answers, what has just changed about that, how, and how much of the context is used."""
        chat, dot = self.chat, f" {glyph('dot')} "
        if self._loading is not None:
            done, total = self._loading
            if not total:
                return _("Loading the model") + " …"
            far = _("{done} of {total}", done=human_bytes(done), total=human_bytes(total))
            return " ".join((_("Loading the model"), bar(done / total, 16).plain, far))
        if chat is None and self._problem is None:
            return ""
        if self.editing:
            return _("Editing the last question")
        if chat is None or chat.ready is None or not chat.alive:
            return dot.join((_("The model is not there"), _("Start again, or /restart, loads it anew")))
        pair = self.compare
        base = pgettext("adapter", "base")
        who = " | ".join(name or base for name in pair) if pair is not None else chat.adapter or base
        settings = chat.settings
        how = (
            _("temperature {temperature:g}", temperature=settings.temperature)
            if settings.temperature
            else _("likeliest words")
        )
        # What is cut off on a narrow terminal is what matters least.
        parts = [clean(who, keep_newlines=False)[:30], *([self._news] if self._news else []), how]
        if chat.last is not None and chat.last.context_tokens:
            parts.append(
                _(
                    "context {used} of {total}",
                    used=chat.last.context_tokens,
                    total=chat.ready.context_tokens,
                )
            )
        if chat.history.dropped:
            parts.append(_("{turns} dropped", turns=counted(chat.history.dropped, "turn")))
        parts.append(_("up to {count} tokens", count=settings.max_new_tokens))
        if chat.history.name:
            parts.append(clean(chat.history.name, keep_newlines=False))
        return dot.join(parts)


def problem_of(error: Exception) -> dict[str, str]:
    """An exception for the place where problems are shown."""
    if isinstance(error, LabError):
        return error.as_dict()
    return {"title": _("That did not work."), "detail": f"{type(error).__name__}: {error}"}


def _unfit(adapter: str, why: str) -> str:
    return _("The adapter {adapter} does not fit: {why}", adapter=adapter, why=why)
