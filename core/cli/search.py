"""``olivepress search``: look for the settings that are best within limits, and put one of them into ``lab.toml``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from core.cli.parser import add_folder, add_json, whole_number
from core.language import _, shown, told, words_of
from core.search.space import SearchLimits, read_loss, read_seconds, read_size, read_speed

if TYPE_CHECKING:
    from core.lab import Lab
    from core.searched import Board


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "search",
        help=_(
            "find the settings of quantize that are best within limits, or with --finetune those of "
            "a training"
        ),
        description=_(
            "Try algorithms, group sizes and layers of 8 bits within the limits that you state: each "
            "on some layers, the most promising as a whole. With --finetune: learning rate, rank and "
            "scale, by short trainings. What was measured once is not measured again. --pick puts "
            "one of them into lab.toml."
        ),
    )
    add_folder(parser)
    parser.add_argument(
        "--finetune", action="store_true", help=_("look for a training's rate, rank and scale instead")
    )
    parser.add_argument(
        "--max-size", type=_read(read_size), metavar="SIZE", help=_("of the quantized weights, such as 2.5GB")
    )
    parser.add_argument(
        "--max-loss",
        type=_read(read_loss),
        metavar="SHARE",
        help=_("how much perplexity on held-out records may rise, such as 1%%"),
    )
    parser.add_argument(
        "--min-speed", type=_read(read_speed), metavar="N", help=_("tokens a second as ONNX on this machine")
    )
    parser.add_argument(
        "--within", type=_read(read_seconds), metavar="TIME", help=_("how long it may take, such as 20m")
    )
    parser.add_argument(
        "--algorithms", type=_names, default=[], metavar="A,B", help=_("try these alone (default: all)")
    )
    parser.add_argument(
        "--groups",
        type=_groups,
        default=[],
        metavar="N,N",
        help=_("group sizes (default: 128,64,32 that fit)"),
    )
    parser.add_argument(
        "--no-mixed", action="store_true", help=_("the same bits for all layers: do not try 8 bits for some")
    )
    parser.add_argument(
        "--finalists", type=whole_number, metavar="N", help=_("how many are made as a whole (default: 3)")
    )
    parser.add_argument(
        "--tries", type=whole_number, metavar="N", help=_("with --finetune: trainings (default: 12)")
    )
    parser.add_argument("--last", action="store_true", help=_("show the last search again; nothing is run"))
    parser.add_argument(
        "--pick", metavar="N", help=_("put that number of the last search, or the best, into lab.toml")
    )
    parser.add_argument(
        "--detach", action="store_true", help=_("start and return; the search goes on by itself")
    )
    parser.add_argument(
        "--no-check", action="store_true", help=_("do not look first whether this machine can do it")
    )
    add_json(
        parser,
        _(
            "print the events of the job, then the result, one JSON object a line, and nothing else on standard output"
        ),
    )
    parser.set_defaults(run=run)


def _read(read: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(words_of(error)) from None

    return parse


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _groups(text: str) -> list[int]:
    return [whole_number(name) for name in _names(text)]


def run(options: argparse.Namespace) -> int:
    """Search, or show or pick what the last search found."""
    from core.cli.parser import UsageError
    from core.cli.show import print_json
    from core.lab import Lab
    from core.searched import last_board

    lab = Lab.open(options.folder)
    kind = "finetune" if options.finetune else "quantize"
    if options.pick is not None:
        return _pick(lab, last_board(lab.folder, kind), options.pick, as_json=options.json)
    if options.last:
        board = last_board(lab.folder, kind)
        if options.json:
            print_json({"type": "search", **board.as_dict()})
        else:
            print_board(board, options.folder)
        return 0
    asked = _asked(options)
    if options.finetune and (wrong := [name for name in _OF_QUANTIZE if name in asked]):
        raise UsageError(
            told(
                "{of_quantize} is a limit of quantize, not of a training.", of_quantize=_OF_QUANTIZE[wrong[0]]
            ),
            hint=told("With --finetune there are --within and --tries."),
            usage=_("usage: ") + "olivepress search [DIR] --finetune [--within TIME] [--tries N]\n",
        )
    if not options.no_check:
        from core.check import require

        require(lab, [kind], {})
    return _search(lab, options, {"kind": kind, **asked})


_OF_QUANTIZE: Mapping[str, str] = {
    "size": "--max-size",
    "loss": "--max-loss",
    "speed": "--min-speed",
    "algorithms": "--algorithms",
    "groups": "--groups",
    "finalists": "--finalists",
}


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, flat; what was not is left out."""
    given = {
        "size": options.max_size,
        "loss": options.max_loss,
        "speed": options.min_speed,
        "seconds": options.within,
        "algorithms": options.algorithms or None,
        "groups": options.groups or None,
        "finalists": options.finalists,
        "tries": options.tries,
    }
    return {key: value for key, value in given.items() if value is not None}


def job_options(asked: Mapping[str, Any], *, mixed: bool = True) -> dict[str, Any]:
    """The options of the job that searches so: limits by themselves."""
    limits = SearchLimits.from_dict(asked)
    rest = {key: value for key, value in asked.items() if key not in limits.as_dict()}
    return {**rest, "limits": limits.as_dict(), "mixed": mixed}


def _search(lab: Lab, options: argparse.Namespace, asked: Mapping[str, Any]) -> int:
    from core.cli.jobs import JsonEvents, run_job, say_started
    from core.cli.show import EventPrinter, print_json
    from core.searched import last_board

    wanted = job_options(asked, mixed=not options.no_mixed)
    folder = options.folder
    if options.detach:
        say_started(lab.start("search", options=wanted), folder, as_json=options.json)
        return 0
    events = JsonEvents() if options.json else EventPrinter()
    done = run_job(lab, "search", folder, events, options=wanted)
    if isinstance(done, int):
        return done
    board = last_board(lab.folder, str(asked["kind"]))
    if options.json:
        print_json({"type": "search", **board.as_dict()})
    else:
        print_board(board, folder)
    return 0


def _pick(lab: Lab, board: Board, word: str, *, as_json: bool) -> int:
    from core.cli.show import print_json, say
    from core.errors import RequestError

    if word == "best" and board.best is None:
        raise RequestError(
            told("The last search found none that is within the limits."),
            board.limits,
            told("Pick one by its number, or search with other limits."),
            code="search.pick",
        )
    number = board.best if word == "best" else int(word) if word.isdecimal() else -1
    picked = board.picked(number if number is not None else -1)
    lab.set(picked.values)
    if as_json:
        print_json({"type": "picked", "number": picked.number, "values": picked.values})
    else:
        for name, value in picked.values.items():
            say(f"{name} = {value!r}" if isinstance(value, str) else f"{name} = {value}")
        say(_("These stand in {recipe_path} now.", recipe_path=lab.folder.recipe_path))
    return 0


def print_board(board: Board, folder: str) -> None:
    """The tries of a search as a table and as points, on standard output."""
    from core.cli.show import cells, padded, say
    from core.searched import PLOT_LEGEND, plot, refused_words, table
    from core.text import command

    found = table(board)
    rows = [tuple(map(shown, row)) for row in (found.heads, *found.rows)]
    used = [at for at in range(len(found.heads)) if any(row[at] for row in found.rows)]
    widths = [max(cells(row[at]) for row in rows) for at in used]
    for row in rows:
        line = "  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True))
        say((line.rstrip(), "bold") if row is rows[0] or row[0] == "*" else line.rstrip(), fold=False)
    if refused := refused_words(board):
        say(refused)
    lines = plot([each for each in board.tries if each.state != "refused"])
    if lines:
        say("")
        say(PLOT_LEGEND)
        for line in lines:
            say(line, fold=False)
    say("")
    if board.note:
        say((board.note, "yellow"))
    if any(each.part < 1 and each.loss is not None for each in board.tries):
        say(_("~ is an estimate: from some of the layers, or a part of the training."))
    words = ["--finetune"] if board.kind == "finetune" else []
    if board.best is not None:
        best = board.picked(board.best)
        say((_("Best: {number}, {title}.", number=best.number, title=best.title), "green"))
    say(
        _(
            "Put one into lab.toml: {command}",
            command=command("search", folder, *words, "--pick", board.best or "N"),
        ),
        fold=False,
    )
