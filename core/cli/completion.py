"""``olivepress completion``: the script that lets a shell complete our command lines.

The script hands the line back to us, and what fits is read off the parser: commands, options, stages, labs,
jobs, files and the keys of ``--set`` with their values. One module knows that, not three scripts.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from core.cli.commands import COMMANDS, LANGUAGE, PLAIN
from core.cli.parser import actions_of, build_parser, command_parser
from core.errors import LabError
from core.folder import lab_folder
from core.language import _
from core.stages import STAGES
from core.text import clean

Candidate = tuple[str, str]
"""A word that fits, and what it means. One that ends with a slash or an equals sign is not whole yet."""

SCRIPTS: Final = {
    "bash": """\
# Completion of olivepress in bash. Put into ~/.bashrc: eval "$(olivepress completion bash)"
_olivepress() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(COMP_WORDBREAKS="$COMP_WORDBREAKS" "${1/#\\~/$HOME}" completion bash \\
        --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[/=] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _olivepress olivepress
""",
    "zsh": """\
#compdef olivepress
# Completion of olivepress in zsh. Put after compinit in ~/.zshrc: eval "$(olivepress completion zsh)"
_olivepress() {
    local line whole=() part=() command=${~words[1]}
    for line in ${(f)"$($command completion zsh \\
        --line "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)"}; do
        case ${line%%:*} in (*[/=]) part+=$line ;; (*) whole+=$line ;; esac
    done
    (( $#whole )) && _describe -V olivepress whole
    (( $#part )) && _describe -V olivepress part -S ''
    return 0
}
compdef _olivepress olivepress
""",
    "fish": """\
# Completion of olivepress in fish. Put into ~/.config/fish/config.fish: olivepress completion fish | source
complete -c olivepress -f -k -a '(olivepress completion fish --line=(commandline -cp | string collect) 2>/dev/null)'
""",
}

_MARK = "\x1f"
"""Stands where the cursor is, so that an empty last word is one, too."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "completion",
        help=_("print a script that lets your shell complete olivepress"),
        description=_(
            'Print a script for your shell. In bash: eval "$(olivepress completion bash)"; its first '
            "lines say where to put it so that it stays."
        ),
    )
    parser.add_argument("shell", choices=tuple(SCRIPTS), help=_("your shell"))
    parser.add_argument("--line", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script; with ``--line``, as the script asks, what may stand at the end of that line."""
    if options.line is None:
        print(SCRIPTS[options.shell], end="")
        return 0
    words, begun = split_line(options.line)
    found = [each for each in candidates(words, begun) if each[0].startswith(begun)]
    for value, about in found:
        # A name with a line break or an escape code cannot be handed over by lines.
        if clean(value, keep_newlines=False) == value:
            print(_WRITTEN[options.shell](value, about, options.line, begun))
    return 0


def split_line(line: str) -> tuple[list[str], str]:
    """The words after the program's name, unquoted, and the word that is being typed (empty after a space)."""
    for end in ("", '"', "'"):
        try:
            words = shlex.split(line + _MARK + end)
            break
        except ValueError:
            continue
    else:
        return [], ""
    begun = words.pop().replace(_MARK, "")
    while words and re.match(r"\w+=", words[0]):  # as in LANG=C olivepress …
        words.pop(0)
    return words[1:], begun


def candidates(words: list[str], begun: str) -> Iterable[Candidate]:
    """What may stand after these words, whether it begins as ``begun`` does or not."""
    if words[:1] == ["help"] or not words:
        names = _subcommands(build_parser())
        if words:
            return names if len(words) == 1 else []
        if begun.startswith("-"):
            return [
                ("--help", _("help")),
                ("--version", _("the version")),
                (LANGUAGE, _("the language to speak")),
                (PLAIN, _("the wizard by lines")),
            ]
        return [*names, *_folders(begun)]
    name, *given = words
    if name not in COMMANDS:
        return []
    parser: argparse.ArgumentParser = command_parser(name)
    if actions := actions_of(parser):
        if not given or given[0] not in actions:
            return [] if given else [("--help", _("help"))] if begun.startswith("-") else _subcommands(parser)
        parser, given = actions[given[0]], given[1:]
    options = parser._option_string_actions
    for back in (1, 2):  # an option stands so many words before the one that is typed
        action = options.get(given[-back]) if len(given) >= back else None
        if action is not None and _takes(action) >= back:
            return _values(action, parser, name, given[:-back], begun, back - 1)
    option, equals, value = begun.partition("=")
    action = options.get(option) if equals else None
    if action is not None and _takes(action) == 1:
        return [(f"{option}={each}", about) for each, about in _values(action, parser, name, given, value)]
    if begun.startswith("-"):
        return [
            (string, action.help or "")
            for action in parser._actions
            if action.help != argparse.SUPPRESS
            for string in action.option_strings
            if string.startswith("--") and (string not in given or isinstance(action, argparse._AppendAction))
        ]
    return _positional(parser, name, given, begun)


def _subcommands(parser: argparse.ArgumentParser) -> list[Candidate]:
    chosen = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [(each.dest, each.help or "") for each in chosen._choices_actions]


def _positional(
    parser: argparse.ArgumentParser, name: str, given: list[str], begun: str
) -> Iterable[Candidate]:
    plain = _plain_words(parser, given)
    actions = [action for action in parser._actions if not action.option_strings]
    for at, action in enumerate(actions):
        if at == len(plain) or action.nargs in ("*", "+"):
            return _values(action, parser, name, plain, begun)
    return []


def _plain_words(parser: argparse.ArgumentParser, given: list[str]) -> list[str]:
    """Those that are neither options nor their values."""
    plain, left = [], iter(given)
    for word in left:
        if not word.startswith("-"):
            plain.append(word)
        elif (action := parser._option_string_actions.get(word)) is not None:
            for _ in range(_takes(action)):
                next(left, None)
    return plain


def _takes(action: argparse.Action) -> int:
    """How many words an option takes."""
    return 1 if action.nargs is None else action.nargs if isinstance(action.nargs, int) else 0


def _values(
    action: argparse.Action,
    parser: argparse.ArgumentParser,
    name: str,
    given: list[str],
    begun: str,
    place: int = 0,
) -> Iterable[Candidate]:
    """What an option or a plain word may be: its choices, or what its name in the help stands for."""
    if action.choices is not None:
        return [(str(choice), "") for choice in action.choices]
    plain = _plain_words(parser, given)
    metavar = action.metavar[place] if isinstance(action.metavar, tuple) else action.metavar
    find = BY_METAVAR.get(str(metavar))
    return find(name, plain, begun) if find is not None else []


def _lab_or_stages(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    yield from ((stage.name, _(stage.title)) for stage in STAGES.values() if stage.name not in plain)
    if not plain:
        yield from _folders(begun)


def _lab_or_jobs(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    from core.cli.show import state_word
    from core.jobs import list_jobs

    if len(plain) > 1:
        return
    try:
        jobs = list_jobs(lab_folder(os.path.expanduser(plain[0]) if plain else "."))
    except (LabError, OSError):
        jobs = []
    yield from ((job.id, state_word(job.state)) for job in reversed(jobs))
    if not plain:
        yield from _folders(begun)


def _adapters(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    from core.lab import Lab

    try:
        found = Lab(lab_folder(os.path.expanduser(plain[0]) if plain else ".")).adapters()
    except (LabError, OSError):
        found = []
    yield from ((adapter, "") for adapter in found)


def _seats(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    from core.workshop.folder import Workshop

    with suppress(LabError):
        yield from ((seat, "") for seat in Workshop.open(plain[0] if plain else ".").seat_names())


def _forms(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    from core.export.forms import FORMS

    yield from ((form.name, _(form.about)) for form in FORMS.values())


def _settings(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    from core.recipe import OPTIONS

    before = "chat." if name == "chat" else ""
    for section in OPTIONS.values():
        for option in section.values():
            if not option.name.startswith(before):
                continue
            key = option.name.removeprefix(before)
            if not begun.startswith(f"{key}="):
                yield f"{key}=", _(option.help)
                continue
            choices = ["true", "false"] if option.kind is bool else [str(each) for each in option.choices]
            for value in [
                *choices,
                *(["auto"] if (option.auto or option.auto_here) and "auto" not in choices else []),
            ]:
                yield f"{key}={value}", ""


def _listed(begun: str) -> Iterator[os.DirEntry[str]]:
    """What lies in the folder that has been typed so far."""
    head, tail = os.path.split(os.path.expanduser(begun))
    try:
        entries = sorted(os.scandir(head or "."), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    for entry in entries:
        if entry.name.startswith(tail) and (tail or not entry.name.startswith(".")):
            yield entry


def _folders(begun: str) -> list[Candidate]:
    """The labs there; where there is none, the folders that lead on."""
    head = begun[: begun.rfind("/") + 1]
    folders = [entry for entry in _listed(begun) if _is_dir(entry)]
    labs = [entry for entry in folders if os.path.exists(os.path.join(entry.path, "lab.toml"))]
    return [(f"{head}{entry.name}", _("a lab")) for entry in labs] or [
        (f"{head}{entry.name}/", "") for entry in folders
    ]


def _files(name: str, plain: list[str], begun: str) -> Iterator[Candidate]:
    head = begun[: begun.rfind("/") + 1]
    for entry in _listed(begun):
        yield f"{head}{entry.name}" + ("/" if _is_dir(entry) else ""), ""


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


BY_METAVAR: Final[dict[str, Callable[[str, list[str], str], Iterable[Candidate]]]] = {
    "DIR": lambda name, plain, begun: _folders(begun),
    "LAB": lambda name, plain, begun: _folders(begun),
    "FOLDER": lambda name, plain, begun: _folders(begun),
    "[DIR] STAGE": _lab_or_stages,
    "[DIR] JOB": _lab_or_jobs,
    "[DIR] NAME": lambda name, plain, begun: _folders(begun),
    "FILE": _files,
    "FILE.json": _files,
    "FILE.sh": _files,
    "FILE.yaml": _files,
    "OUT": _files,
    "SRC": lambda name, plain, begun: [
        ("rehearsal", _("a small model that comes along")),
        *_files(name, plain, begun),
    ],
    "KEY=VALUE": _settings,
    "ADAPTER": _adapters,
    "FORM": _forms,
    "SEAT": _seats,
}
"""How to find what may stand for a word of the help."""


def _for_bash(value: str, about: str, line: str, begun: str) -> str:
    # Bash replaces no more than what follows the last sign that breaks words for it.
    breaks = [at for at, sign in enumerate(begun) if sign in os.environ.get("COMP_WORDBREAKS", "=:")]
    rest = value[breaks[-1] + 1 :] if breaks else value
    in_quotes = re.search(r"""(?:^|[\s=])["'][^"']*\Z""", line) is not None
    return rest if in_quotes else re.sub(r"([^\w@%+=:,./~-])", r"\\\1", rest)


def _for_zsh(value: str, about: str, line: str, begun: str) -> str:
    return value.replace("\\", "\\\\").replace(":", "\\:") + f":{_short(about)}"


def _for_fish(value: str, about: str, line: str, begun: str) -> str:
    return f"{value}\t{_short(about)}"


def _short(about: str) -> str:
    return about if len(about) <= 70 else about[:69].rstrip() + "…"


_WRITTEN: Final = {"bash": _for_bash, "zsh": _for_zsh, "fish": _for_fish}
