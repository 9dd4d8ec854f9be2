"""The commands and their options, in any order, and what to say when the words of a command line are wrong."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, NoReturn

from core.cli.commands import COMMANDS, LANGUAGE
from core.errors import RequestError
from core.language import LANGUAGES, N_, _, told, words_of
from core.options import without_comma
from core.stages import STAGES
from core.text import command
from core.version import __version__

_MODULES = {
    "show": "status",
    "logs": "status",
    "cancel": "status",
    "logout": "login",
    "workspaces": "login",
    "fetch": "models",
}

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)?=", re.ASCII)
_KEY = re.compile(r"[a-z_]+(\.[a-z_]+)?", re.ASCII)
_NUMBER = re.compile(r"-\d+|-\d*\.\d+")

_EPILOG = N_("""\
With no command, `olivepress [DIR]` opens the wizard on a lab's folder; with --plain it asks by lines.
Exit statuses: 0 done, 2 wrong request, 3 a stage failed, 4 this machine cannot do it, 130 cancelled.
""")


class UsageError(RequestError):
    """The words of the command line are wrong.

    Attributes:
        usage: how the command is used, for people.
    """

    def __init__(self, title: str, detail: str = "", hint: str = "", *, usage: str) -> None:
        super().__init__(title, detail, hint, code="usage")
        self.usage = usage


class Help(argparse.HelpFormatter):
    """Help whose own words are in the language in use; argparse's are those of a locale."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """How the command is used, behind its word in the language in use."""
        super().add_usage(usage, actions, groups, _("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        """A part of the help, under its heading in the language in use."""
        super().start_section(_(heading) if heading else heading)


class RawHelp(Help, argparse.RawDescriptionHelpFormatter):
    """The same, with what stands behind the options as it is."""


HEADINGS = (N_("positional arguments"), N_("options"))
"""What argparse writes above words and options."""
_WRONG = (
    N_("the following arguments are required: {names}"),
    N_("argument {name}: expected one argument"),
    N_("argument {name}: expected at least one argument"),
    N_("argument {name}: not allowed with argument {other}"),
    N_("argument {name}: ignored explicit argument {value}"),
    N_("argument {name}: invalid choice: {value} (choose from {choices})"),
    N_("argument {name}: invalid {kind} value: {value}"),
    N_("one of the arguments {names} is required"),
)
"""What argparse says of a wrong command line. What it says otherwise is shown as it is."""


def _said_by_argparse(message: str) -> str:
    """A message of argparse, in the language in use where that is known."""
    error = sys.exc_info()[1]
    reason = error.__context__ if isinstance(error, argparse.ArgumentError) else None
    if isinstance(error, argparse.ArgumentError) and isinstance(reason, argparse.ArgumentTypeError):
        return told("argument {name}: {reason}", name=error.argument_name or "", reason=words_of(reason))
    for known in _WRONG:
        form = re.escape(known).replace(r"\{", "(?P<").replace(r"\}", ">.+)")
        if found := re.fullmatch(form, message, re.DOTALL):
            return told(known, **found.groupdict())
    return message


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` where argparse would print and exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Help)
        super().__init__(*args, **{**kwargs, "add_help": False})
        self.add_argument("-h", "--help", action="help", help=_("show this help message and exit"))

    def error(self, message: str) -> NoReturn:
        raise UsageError(told("{message!c}.", message=_said_by_argparse(message)), usage=self.format_usage())

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words after the command's name; options may stand anywhere among them.

        Raises:
            UsageError: a word or an option is wrong, missing or too much.
        """
        if inner := actions_of(self):
            return self._read_action(inner, words)
        words = self._one_setting_each(words)
        self._refuse_missing_values(words)
        self._refuse_missing_words(words)
        self.usage = self._usage_as_given()
        try:
            options, rest = self.parse_known_intermixed_args(words)
        finally:
            self.usage = None
        if rest:
            self._refuse(rest)
        return options

    def _usage_as_given(self) -> str:
        """The usage without its word, as argparse takes it: by itself it cuts off as many letters as English has."""
        return self.format_usage().removeprefix(_("usage: ")).strip().replace("%", "%%")

    def _read_action(self, inner: Mapping[str, Parser], words: Sequence[str]) -> argparse.Namespace:
        """Read the words of a command whose first word says what it does."""
        first = next((word for word in words if not word.startswith("-")), None)
        if first is not None and first in inner:
            rest = list(words)
            rest.remove(first)
            return inner[first].read(rest)
        if first is None and any(word in ("-h", "--help") for word in words):
            return self.parse_args(["--help"])
        near = difflib.get_close_matches(first.lower(), inner, n=1) if first else []
        raise UsageError(
            told("{prog} does not know {first}.", prog=self.prog, first=repr(first))
            if first
            else told("{prog} needs to know what to do.", prog=self.prog),
            hint=told("Did you mean {near}?", near=near[0])
            if near
            else told("It can {names}.", names=", ".join(inner)),
            usage=self.format_usage(),
        )

    def _one_setting_each(self, words: Sequence[str]) -> list[str]:
        """``--set a=1 b=2`` as ``--set a=1 --set b=2``; ``--set a 1`` is refused with what was meant."""
        if "--set" not in self._option_string_actions:
            return list(words)
        made: list[str] = []
        left = iter(enumerate(words))
        setting = False
        for at, word in left:
            if word == "--":
                return [*made, *words[at:]]
            if setting and _SETTING.match(word):
                made += ["--set", word]
                continue
            setting = word == "--set" or word.startswith("--set=")
            made.append(word)
            if word == "--set" and at + 1 < len(words):
                _, value = next(left)
                self._refuse_setting_in_two(value, words[at + 2 :])
                made.append(value)
        return made

    def _refuse_setting_in_two(self, value: str, following: Sequence[str]) -> None:
        following = [word for word in following[:2] if word != "="]
        if _KEY.fullmatch(value) and following and not following[0].startswith("--"):
            raise UsageError(
                told("--set {value} has no value.", value=value),
                told("The next word is {following}.", following=repr(following[0])),
                told("Write it without a space: --set {value}", value=shlex.quote(f"{value}={following[0]}")),
                usage=self.format_usage(),
            )

    def _refuse_missing_values(self, words: Sequence[str]) -> None:
        for word, value in pairwise(words):
            if word == "--":
                return
            action = self._option_string_actions.get(word)
            takes_one = action is not None and action.nargs is None
            if takes_one and value.startswith("-") and not _NUMBER.fullmatch(value) and " " not in value:
                raise UsageError(
                    told("{word} needs a value.", word=word),
                    told("The next word is {value}, an option.", value=repr(value)),
                    told("A value that begins with a dash is written {word}=VALUE.", word=word),
                    usage=self.format_usage(),
                )

    def _refuse_missing_words(self, words: Sequence[str]) -> None:
        """As argparse would, for an option of several words; with what they are called."""
        for at, word in enumerate(words):
            action = self._option_string_actions.get(word)
            if action is None or not isinstance(action.nargs, int) or action.nargs < 2:
                continue
            values = words[at + 1 : at + 1 + action.nargs]
            if len(values) < action.nargs or any(value.startswith("-") for value in values):
                raise UsageError(
                    told(
                        "{word} needs {first} and {second}.",
                        word=word,
                        first=(action.metavar or ("",))[0],
                        second=(action.metavar or ("",))[-1],
                    ),
                    told("Given is: {names}.", names=" ".join(words[at:])),
                    usage=self.format_usage(),
                )

    def _refuse(self, rest: Sequence[str]) -> NoReturn:
        option = next((word for word in rest if word.startswith("-") and word != "--"), None)
        if option is None:
            raise UsageError(
                told("Too many words."),
                told("Not understood: {names}.", names=" ".join(rest)),
                usage=self.format_usage(),
            )
        name = option.split("=")[0]
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        raise UsageError(
            told("{prog} has no option {name}.", prog=self.prog, name=name),
            hint=told("Did you mean {near}?", near=near[0]) if near else "",
            usage=self.format_usage(),
        )


def actions_of(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """The parsers of what a command can do, by the word that says which; empty for a command that does one thing."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command. Each command's module adds its own by ``add(commands)``."""
    parser = Parser(
        prog="olivepress",
        description=_(
            "Take a language model through a whole lab: check, data, quantize, finetune, optimize, "
            "chat, upload."
        ),
        epilog=_(_EPILOG),
        formatter_class=RawHelp,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"olivepress {__version__}",
        help=_("show program's version number and exit"),
    )
    parser.add_argument(
        LANGUAGE,
        metavar="CODE",
        choices=tuple(LANGUAGES),
        help=_("speak this language: {names}", names=", ".join(LANGUAGES)),
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in dict.fromkeys(_MODULES.get(name, name) for name in COMMANDS):
        import_module(f"core.cli.{module}").add(commands)
    return parser


def command_parser(name: str) -> Parser:
    """The parser of one command; the modules of the others are not loaded."""
    commands = Parser(prog="olivepress").add_subparsers()
    import_module(f"core.cli.{_MODULES.get(name, name)}").add(commands)
    found: Parser = commands.choices[name]
    return found


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a whole command line; ``run`` of the result does what it asks.

    Raises:
        UsageError: a word is wrong, with the usage of the command that was meant.
        SystemExit: help or the version was asked for, and printed.
    """
    if arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    first, rest = arguments[0], list(arguments[1:])
    if first in COMMANDS:
        return command_parser(first).read(rest)
    named = next((word for word in rest if word in COMMANDS), None)
    if not first.startswith("-"):
        raise _no_command(first, rest, named)
    if named is None or first == "--version":
        return build_parser().parse_args(arguments)
    words = list(arguments)
    words.remove(named)
    return command_parser(named).read(words)


def _no_command(first: str, rest: Sequence[str], named: str | None) -> UsageError:
    usage = _("usage: ") + "olivepress COMMAND [DIR] ...\n"
    if first in STAGES:
        words = ("run", *rest[:1], first, *rest[1:])
        return UsageError(
            told("{first} is a stage.", first=first),
            hint=told("Run it with: {command}", command=command(*words)),
            usage=usage,
        )
    near = difflib.get_close_matches(first.lower(), COMMANDS, n=1)
    if near and not os.path.isdir(first):
        return UsageError(
            told("There is no command {first}.", first=repr(first)),
            hint=told("Did you mean: {command}", command=command(near[0], *rest)),
            usage=usage,
        )
    if named is not None:
        others = list(rest)
        others.remove(named)
        return UsageError(
            told("The command comes first."),
            hint=told("Write: {command}", command=command(named, first, *others)),
            usage=usage,
        )
    return UsageError(
        told("There is no command {first}.", first=repr(first)),
        hint=told("The commands are: {names}.", names=", ".join(COMMANDS)),
        usage=usage,
    )


def folder_word(text: str) -> str:
    """A folder as it was typed, with ``~`` filled in; never to be taken for a stage or an option later."""
    if not text:
        raise argparse.ArgumentTypeError(told("the name is empty"))
    return f"./{text}" if text in STAGES or text.startswith("-") else os.path.expanduser(text)


def whole_number(text: str) -> int:
    """A whole number, at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            told(
                "{text} is no whole number{without_comma}", text=repr(text), without_comma=without_comma(text)
            )
        ) from None
    if value < 1:
        raise argparse.ArgumentTypeError(told("{text} is too small: it must be at least 1", text=text))
    return value


def add_folder(parser: argparse.ArgumentParser, what: str = "") -> None:
    """The optional first word: the lab's folder, or ``what`` else it is."""
    parser.add_argument(
        "folder",
        nargs="?",
        default=".",
        type=folder_word,
        metavar="DIR",
        help=what or _("the lab's folder (default: here)"),
    )


def add_json(parser: argparse.ArgumentParser, what: str = "") -> None:
    """``--json``, and what it does if it is not to print one object."""
    usual = _("print one JSON object and nothing else on standard output")
    parser.add_argument("--json", action="store_true", help=what or usual)


def add_set(parser: argparse.ArgumentParser, what: str) -> None:
    """``--set KEY=VALUE``, any number of times; read by :func:`parse_settings`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=_("{what}; in text, \\n is a line break, \\t a tab, \\\\ a backslash", what=what),
    )


def parse_settings(words: Iterable[str], section: str = "") -> dict[str, Any]:
    """``["finetune.steps=10"]`` as ``{"finetune.steps": 10}``.

    Args:
        section: the table of keys that are written without one.

    Raises:
        RequestError: no ``=``, an unknown key or an impossible value.
    """
    from core.recipe import find_option

    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if section and "." not in name:
            name = f"{section}.{name}"
        if not equals:
            raise RequestError(
                told("--set {word} has no value.", word=word),
                hint=told("Write it as --set KEY=VALUE."),
                code="recipe.value",
            )
        try:
            values[name] = find_option(name, "--set").parse(text)
        except ValueError as error:
            raise RequestError(
                told("--set {name} is wrong.", name=name), told("{error}.", error=error), code="recipe.value"
            ) from None
    return values
