"""``olivepress new``: make a lab."""

from __future__ import annotations

import argparse
from typing import Any

from core.errors import RequestError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "new", help="make a lab", description="Make a lab: a folder with a recipe, lab.toml."
    )
    parser.add_argument("folder", metavar="DIR", help="the folder to make it in")
    parser.add_argument(
        "--model", metavar="SRC", help="hub id, folder, azureml:// path, or rehearsal (the default)"
    )
    parser.add_argument(
        "--data", metavar="FILE", help="training records (default: the bundled travel questions)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a recipe value, such as quantize.algorithm=rtn",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the lab and say what to do next."""
    from core.lab import Lab

    lab = Lab.create(options.folder, options.model, options.data, parse_settings(options.set))
    print(f"Made {lab.folder.recipe_path}")
    print(f"Next: olivepress check {options.folder}   then: olivepress run {options.folder}")
    return 0


def parse_settings(words: list[str]) -> dict[str, Any]:
    """``["finetune.steps=10"]`` as ``{"finetune.steps": 10}``.

    Raises:
        RequestError: no ``=``, an unknown key or an impossible value.
    """
    from core.recipe import find_option

    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise RequestError(f"--set {word} has no value.", hint="Write it as --set finetune.steps=200.")
        try:
            values[name.strip()] = find_option(name.strip(), "--set").parse(text)
        except ValueError as error:
            raise RequestError(f"--set {name} is wrong.", f"{error}.") from None
    return values
