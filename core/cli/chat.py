"""``olivepress chat``: talk to the lab's model, by lines in any terminal, or one question and out."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from core.cli.parser import add_folder, add_json, add_set, parse_settings
from core.errors import Cancelled, RequestError
from core.formats import human_bytes
from core.language import _, shown, told
from core.process import LONGEST_LINE
from core.text import clean, command

if TYPE_CHECKING:
    from pathlib import Path

    from core.chat import ChatSession
    from core.stale import Older


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "chat",
        help=_("talk to the optimized model"),
        description=_(
            "Talk to the optimized model. With --prompt, or with a question on standard input, one "
            "answer is given; on a terminal without --prompt a conversation begins."
        ),
    )
    add_folder(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--adapter", metavar="ADAPTER", help=_("the adapter to use (default: the lab's, if it has one)")
    )
    which.add_argument("--no-adapter", action="store_true", help=_("talk to the base"))
    parser.add_argument(
        "--compare", action="store_true", help=_("let the base and the tuned model answer, side by side")
    )
    parser.add_argument("--prompt", metavar="TEXT", help=_("the question, for one answer"))
    parser.add_argument(
        "--open", metavar="CHAT", help=_("go on with an earlier chat: its name, file name or number")
    )
    add_set(parser, _("a chat setting, such as temperature=0.7"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Answer once, compare once, or converse."""
    from core.chat import ChatSession
    from core.lab import Lab
    from core.stale import older_answers

    lab = Lab.open(options.folder)
    if options.compare and options.no_adapter:
        raise RequestError(
            told("--compare needs an adapter."),
            told("--no-adapter leaves nothing to compare the base with."),
            code="usage",
        )
    settings = _settings(options.set)
    system = settings.pop("system", None)
    talk = options.prompt is None and sys.stdin.isatty()
    if talk and options.json:
        raise RequestError(
            told("--json needs a question."),
            hint=told('Give it with --prompt "..." or on standard input.'),
            code="chat.question",
        )
    older = older_answers(lab.folder, lab.recipe)
    question = None if talk else _question(options.prompt)
    adapter = None if options.no_adapter else options.adapter or "auto"
    progress = _LoadingLine()
    with ChatSession.open(lab, adapter, system=system, keep=talk, on_load=progress) as session:
        session.set(**settings)
        if options.open is not None:
            session.reopen(options.open)
        try:
            ready = session.wait_ready()
        finally:
            progress.end()
        say_if_older(older, (session.adapter,), lab.root)
        if question is None:
            from core.cli.chat_lines import LineChat

            return LineChat(lab, session, ready, compare=options.compare).run()
        found = older.get(session.adapter or "")
        said = {"stale": found.reason} if found is not None else {}
        return _ask(session, question, options.compare, options.json, said)


def say_if_older(older: Mapping[str, Older], adapters: Iterable[str | None], root: Path) -> None:
    """Tell on standard error that who answers is older than what the lab describes now."""
    for adapter in adapters:
        found = older.get(adapter or "")
        if found is not None:
            again = command("run", root)
            print(
                _(
                    "[{reason} Make it anew: {again}]",
                    reason=clean(found.reason, keep_newlines=False),
                    again=again,
                ),
                file=sys.stderr,
            )


def _settings(words: list[str]) -> dict[str, Any]:
    from core.recipe import OPTIONS

    for word in words:
        name = word.partition("=")[0].strip().removeprefix("chat.")
        if name not in OPTIONS["chat"]:
            near = difflib.get_close_matches(name, OPTIONS["chat"], n=1)
            hint = (
                told("Did you mean {near}?", near=near[0])
                if near
                else told("The settings are: {names}.", names=", ".join(OPTIONS["chat"]))
            )
            raise RequestError(
                told("There is no setting {name}.", name=name), hint=hint, code="recipe.unknown-key"
            )
    return {name.removeprefix("chat."): value for name, value in parse_settings(words, "chat").items()}


def _question(given: str | None) -> str:
    """The question of a one-shot run: ``--prompt``, or all of standard input."""
    text = given
    if text is None:
        raw = sys.stdin.buffer.read(LONGEST_LINE + 1)
        if len(raw) > LONGEST_LINE:
            raise RequestError(
                told("The question is longer than the context."),
                told("Standard input has more than {size}.", size=human_bytes(LONGEST_LINE)),
                told("Shorten it."),
                code="chat.too-long",
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(
                told("The question is not UTF-8 text."),
                told("Standard input, byte {start}.", start=error.start + 1),
                told("Save it as UTF-8."),
                code="chat.question",
            ) from None
    if not text.strip():
        raise RequestError(
            told("The question is empty."),
            told("There is nothing to answer."),
            told('Give one with --prompt "...".'),
            code="chat.question",
        )
    return text


def _ask(session: ChatSession, question: str, compare: bool, as_json: bool, said: Mapping[str, Any]) -> int:
    from core.cli.chat_lines import AnswerPrinter
    from core.cli.show import print_json

    response = session.begin_compare(question) if compare else session.begin(question)
    turn = response.turn
    response.follow((lambda event: None) if as_json else AnswerPrinter(turn.adapters).show)
    found = response.result()
    answers = [found[adapter] for adapter in turn.adapters]
    if as_json:
        said = {**said, "notices": turn.notices} if turn.notices else said
        each = [answer.as_dict() for answer in answers]
        print_json({**(dict(zip(("base", "tuned"), each, strict=True)) if compare else each[0]), **said})
    elif not compare:
        print(f"[{shown(answers[0].figures)}]", file=sys.stderr)
    return Cancelled.exit_status if any(answer.stop == "cancelled" for answer in answers) else 0


class _LoadingLine:
    """How far the loading is, on a terminal's standard error; nothing where nobody looks."""

    def __init__(self) -> None:
        from core.cli.show import redraws

        self._on = redraws(sys.stderr)

    def __call__(self, event: Any) -> None:
        from core.chat.protocol import Progress
        from core.cli.show import moving

        if self._on and isinstance(event, Progress) and event.total:
            share = event.done / event.total
            moving.show("  " + _("Loading the model: {percent} %", percent=int(100 * share)), share)

    def end(self) -> None:
        """Take the line away."""
        from core.cli.show import moving

        self._on = False
        moving.end()
