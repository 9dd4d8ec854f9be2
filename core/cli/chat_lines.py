"""The chat by lines: works in any terminal, a dumb one too. No colours, no cursor movement."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.chat import ChatError, ChatEvent, ChatSession, Response
from core.chat.commands import Command, complete, help_text, parse, setting
from core.chat.protocol import Done, Dropped, Error, Finished, Notice, Ready, Token
from core.chat.repetition import warning
from core.errors import LabError, RequestError
from core.formats import counted
from core.language import N_, _, shown, told
from core.text import StreamCleaner, clean

if TYPE_CHECKING:
    from core.lab import Lab

NOT_HERE = ("copy", "serve")
HELP = N_(
    "Type a question. A line that ends with \\ goes on in the next. Ctrl-C stops an answer, Ctrl-D ends the chat.\n"
    "A question that begins with / is typed with two."
)


class AnswerPrinter:
    """Prints answers as they come. Of two adapters the first is shown live and the second after it."""

    def __init__(self, adapters: tuple[str, ...]) -> None:
        self._adapters = adapters
        self._cleaners = {adapter: StreamCleaner() for adapter in adapters}
        self._kept = dict.fromkeys(adapters, "")
        self._ended: dict[str, Done] = {}
        self._place = 0
        self._begun = False

    def show(self, event: ChatEvent) -> None:
        """Print what an event adds."""
        if isinstance(event, Notice | Dropped):
            self._note(shown(event.text))
        elif isinstance(event, Token):
            self._add(event.adapter, self._cleaners[event.adapter].add(event.text))
        elif isinstance(event, Done):
            self._add(event.adapter, self._cleaners[event.adapter].flush())
            self._ended[event.adapter] = event
            self._advance()
        elif isinstance(event, Error | Finished):
            while isinstance(event, Error) and self._place < len(self._adapters):
                self._show_kept()
                self._place += 1
            if self._begun:
                print(flush=True)
                self._begun = False

    def _add(self, adapter: str, text: str) -> None:
        self._kept[adapter] += text
        if self._place < len(self._adapters) and self._adapters[self._place] == adapter:
            self._show_kept()

    def _show_kept(self) -> None:
        adapter = self._adapters[self._place]
        text, self._kept[adapter] = self._kept[adapter], ""
        if not text:
            return
        if not self._begun and len(self._adapters) > 1:
            print(f"--- {adapter or 'base'}")
        self._begun = True
        print(text, end="", flush=True)

    def _advance(self) -> None:
        while self._place < len(self._adapters) and self._adapters[self._place] in self._ended:
            self._show_kept()
            done = self._ended[self._adapters[self._place]]
            if self._begun:
                print(flush=True)
                self._begun = False
            if len(self._adapters) > 1:
                from core.chat import Answer

                self._note(shown(Answer.from_done(done).figures))
            self._place += 1
            if self._place < len(self._adapters):
                self._show_kept()

    def _note(self, text: str) -> None:
        print(f"[{clean(text, keep_newlines=False)}]", file=sys.stderr, flush=True)


class LineChat:
    """An interactive conversation over ``input`` and ``print``."""

    def __init__(self, lab: Lab, session: ChatSession, ready: Ready, *, compare: bool = False) -> None:
        self._lab = lab
        self._session = session
        self._ready = ready
        self._compare = compare
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda __: print(f"{_(HELP)}\n{help_text(without=NOT_HERE)}"),
            "adapter": self._adapter,
            "compare": self._compared,
            "again": lambda __: self._follow(self._session.begin_again()),
            "edit": self._edit,
            "set": self._set,
            "chats": lambda __: self._list(),
            "open": self._open,
            "new": lambda __: self._session.new(),
            "name": self._session.rename,
            "save": self._save,
            "evaluate": self._evaluate,
            "restart": lambda __: self._restart(),
        }

    def run(self) -> int:
        """Converse until the user leaves; returns the exit status."""
        with contextlib.suppress(ImportError):
            # Gives input() editing, history and completion; several lines that are pasted come as one.
            import readline

            readline.set_completer_delims("")
            readline.set_completer(self._completed)
            readline.parse_and_bind("tab: complete")
        notes = [
            *self._ready.notes,
            *(told("adapter {name}: {why}", name=name, why=why) for name, why in self._ready.refused.items()),
        ]
        for note in notes:
            print(f"[{clean(shown(note), keep_newlines=False)}]", file=sys.stderr)
        print(_("Talking to {who}. /help lists the commands, /quit ends.", who=self._who()))
        while True:
            try:
                line = self._read(f"{self._who()}> ")
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print("\n" + _("[Ctrl-D or /quit ends the chat]"), file=sys.stderr)
                continue
            try:
                command = parse(line.strip(), NOT_HERE)
                if isinstance(command, Command) and command.name == "quit":
                    return 0
                self._do(command)
            except ChatError as error:
                _show(error)
                if error.died:
                    print(_("[/restart starts the model again, then /again asks again]"), file=sys.stderr)
            except LabError as error:
                _show(error)
            except KeyboardInterrupt:
                print("\n" + _("[stopped]"), file=sys.stderr)

    def _completed(self, line: str, number: int) -> str | None:
        """One of the ways in which a line can go on, as readline asks for them."""
        words = {
            "adapter": lambda: [(name, "") for name in (*self._session.adapters(), "none")],
            "set": lambda: [(f"{name} ", "") for name in self._session.settings.as_dict()],
        }
        found = complete(line, words, NOT_HERE)
        return found[number].line if number < len(found) else None

    def _who(self) -> str:
        return self._session.adapter or "base"

    def _read(self, prompt: str) -> str:
        from core.cli.show import on_screen

        line = input(on_screen(prompt))
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input("... ")
        # Bytes that are no UTF-8 come as lone surrogates.
        return line.encode("utf-8", "replace").decode()

    def _do(self, command: Command | str) -> None:
        if isinstance(command, Command):
            self._commands[command.name](command.words)
        elif command:
            ask = self._session.begin_compare if self._compare else self._session.begin
            self._follow(ask(command))

    def _compared(self, question: str) -> None:
        if question:
            self._follow(self._session.begin_compare(question))
            return
        self._compare = not self._compare
        print(
            _("[base and tuned answer from now on]")
            if self._compare
            else _("[{who} answers from now on]", who=self._who()),
            file=sys.stderr,
        )

    def _follow(self, response: Response) -> None:
        response.follow(AnswerPrinter(response.turn.adapters).show)
        answers = response.result()
        if len(answers) == 1:
            print(f"[{shown(answers[response.turn.main].figures)}]", file=sys.stderr)
        for name, answer in answers.items():
            if said := warning(answer.answer, self._session.settings):
                said = shown(said) if len(answers) == 1 else f"{name or 'base'}: {shown(said)}"
                print(f"[{clean(said, keep_newlines=False)}]", file=sys.stderr)

    def _adapter(self, name: str) -> None:
        if name:
            self._use(None if name == "none" else name)
            return
        refused = self._ready.refused
        for known in self._session.adapters():
            mark = "*" if known == self._session.adapter else " "
            print(
                mark,
                _("{adapter}: does not fit, {reason}", adapter=known, reason=refused[known])
                if known in refused
                else known,
            )
        print("*" if self._session.adapter is None else " ", _("none: the base"))

    def _use(self, adapter: str | None) -> None:
        seconds = self._session.set_adapter(adapter)
        print(
            _(
                "[{who} answers from now on; switched in {seconds:.0f} ms]",
                who=self._who(),
                seconds=seconds * 1000,
            ),
            file=sys.stderr,
        )
        self._say_if_older()

    def _say_if_older(self) -> None:
        from core.cli.chat import say_if_older
        from core.stale import older_answers

        older = older_answers(self._lab.folder, self._lab.recipe)
        say_if_older(older, (self._session.adapter,), self._lab.root)

    def _edit(self, text: str) -> None:
        if not self._session.turns:
            raise RequestError(told("There is no question to edit."), code="chat.command")
        if not text:
            print(_("It was: {question}", question=clean(self._session.turns[-1].question)))
            text = self._read("edit> ")
        self._follow(self._session.begin_again(text))

    def _set(self, words: str) -> None:
        name, value = setting(words)
        if value:
            self._session.set(**{name: value})
        for known, current in self._session.settings.as_dict().items():
            if not name or known == name:
                print(f"  {known} = {current}")

    def _list(self) -> None:
        from core.chat.transcript import list_chats

        chats = list_chats(self._lab.folder.chats_dir)
        for number, chat in enumerate(chats, 1):
            print(
                f"{number:>3}  {chat.path.stem}  {shown(counted(len(chat.turns), 'turn')):>9}  {chat.title}"
            )
        if not chats:
            print(_("There are none yet."))

    def _open(self, wanted: str) -> None:
        if not wanted:
            self._list()
            return
        chat = self._session.reopen(wanted)
        for turn in chat.turns:
            print(f"> {clean(turn.question)}")
            for adapter in turn.adapters:
                answer = turn.answers.get(adapter)
                said = clean(answer.answer) if answer else _("(no answer)")
                print(f"{adapter or 'base'}: {said}")

    def _save(self, name: str) -> None:
        from core.files import write_atomic

        kept = self._session.transcript_path or self._lab.folder.chats_dir / "chat"
        try:
            path = Path(name).expanduser() if name else kept.with_suffix(".md")
            there = _("{path} is there already. Overwrite it? [y/N] ", path=clean(str(path)))
            if name and path.exists() and not self._agreed(there):
                print(_("Nothing was written."))
                return
            write_atomic(path, self._session.markdown())
        except (OSError, RuntimeError) as error:  # a folder, a loop of links, a home that nobody has
            raise RequestError(
                told("The file cannot be written."), told("{error}.", error=error), code="chat.command"
            ) from None
        print(_("Wrote {path}", path=clean(str(path), keep_newlines=False)))

    def _agreed(self, question: str) -> bool:
        try:
            return self._read(question).strip().lower() in ("y", "yes")
        except EOFError:
            return False

    def _evaluate(self, words: str) -> None:
        from core.cli.evaluate import print_variants
        from core.cli.show import EventPrinter, print_result

        if words and not (words.isdecimal() and len(words) < 10 and int(words) > 0):
            raise RequestError(
                told("/evaluate takes a number of records."),
                told("{words} is none.", words=repr(words[:40])),
                code="chat.command",
            )
        values: dict[str, Any] = {"evaluate.rows": int(words)} if words else {}
        if self._session.adapter:
            values["finetune.adapter"] = self._session.adapter
        done = self._lab.run("evaluate", on_event=EventPrinter(), values=values)
        print_result("evaluate", done.numbers)
        print_variants(done.numbers)

    def _restart(self) -> None:
        self._session.restart()
        self._ready = self._session.wait_ready()
        print(_("[the model is there again; the conversation is kept]"), file=sys.stderr)


def _show(error: LabError) -> None:
    from core.cli.show import print_error

    print_error(error)
