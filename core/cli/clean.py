"""``olivepress clean``: what takes room on the disk and can go, and making it go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from core.cli.parser import add_json
from core.language import _, shown


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "clean",
        help=_("what takes room on the disk and can go"),
        description=_(
            "Show what of the lab and of your caches can be removed, and what it would cost to have "
            "it again. With --yes, remove what is named, or all that nobody would miss. Models of "
            "the Hugging Face hub are shown and never removed."
        ),
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[DIR] NAME",
        help=_("the lab's folder (default: here), then what is to go"),
    )
    parser.add_argument("--yes", action="store_true", help=_("remove it; without this it is only shown"))
    add_json(parser)
    parser.set_defaults(run=clean)


def clean(options: argparse.Namespace) -> int:
    """Show, or remove."""
    from core.cli.show import print_json, say
    from core.folder import RECIPE_NAME
    from core.formats import human_bytes
    from core.lab import Lab
    from core.space import removable, remove
    from core.text import clean as cleaned
    from core.text import command

    words = list(options.words)
    # A name of what is to go looks like a folder: it is one where there is a lab in it, or none here.
    named = words and (Path(words[0], RECIPE_NAME).is_file() or not Path(RECIPE_NAME).is_file())
    folder = words.pop(0) if named else "."
    lab = Lab.at(folder)
    found = removable(lab.folder)
    unknown = [name for name in words if name not in {each.name for each in found}]
    if unknown:
        remove(lab.folder, unknown)  # raises by the reason
    chosen = [each for each in found if (each.name in words if words else each.free_of_cost)]
    gone = remove(lab.folder, [each.name for each in chosen]) if options.yes else []
    if options.json:
        print_json(
            {
                "removable": [each.as_dict() for each in found if each not in gone],
                "removed": [each.as_dict() for each in gone],
                "bytes_removed": sum(each.bytes for each in gone),
            }
        )
        return 0
    if gone or options.yes:
        for each in gone:
            say(_("removed {name}, {size}", name=each.name, size=human_bytes(each.bytes)))
        say(_("{size} are free again.", size=human_bytes(sum(each.bytes for each in gone))))
        return 0
    for each in found:
        say(
            cleaned(shown(each.what), keep_newlines=False),
            ("; " + shown(each.cost or _("nobody would miss it")), "dim"),
            head=[
                f"{shown(human_bytes(each.bytes)):>10}  ",
                (f"{cleaned(each.name, keep_newlines=False)}  ", "bold"),
            ],
        )
    if not found:
        print(_("There is nothing to remove."), file=sys.stderr)
    else:
        print(
            _("Remove some of it with: {command}", command=command("clean", folder, "NAME", "--yes")),
            file=sys.stderr,
        )
    return 0
