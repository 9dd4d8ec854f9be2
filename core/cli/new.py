"""``olivepress new``: make a lab."""

from __future__ import annotations

import argparse

from core.cli.parser import add_json, add_set, folder_word, parse_settings
from core.language import LANGUAGES
from core.resources import sample_file


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "new", help="make a lab", description="Make a lab: a folder with a recipe, lab.toml."
    )
    parser.add_argument("folder", metavar="DIR", type=folder_word, help="the folder to make it in")
    parser.add_argument(
        "--model", metavar="SRC", help="hub id, folder, azureml:// path, or rehearsal (the default)"
    )
    records = parser.add_mutually_exclusive_group()
    records.add_argument(
        "--data", metavar="FILE", help="training records (default: the bundled travel questions)"
    )
    records.add_argument(
        "--language",
        choices=LANGUAGES,
        default="en",
        help="the language of the bundled travel questions: %(choices)s (default: %(default)s)",
    )
    add_set(parser, "a recipe value, such as quantize.algorithm=rtn")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the lab and say what to do next."""
    from core.cli.show import print_json
    from core.lab import Lab
    from core.text import clean, command

    settings = parse_settings(options.set)
    if options.language != "en":
        settings = {"data.file": sample_file(options.language), **settings}
    lab = Lab.create(options.folder, options.model, options.data, settings)
    if options.json:
        print_json({"lab": str(lab.root), "recipe": str(lab.folder.recipe_path)})
        return 0
    print(f"Made {clean(str(lab.folder.recipe_path), keep_newlines=False)}")
    print(f"Next: {command('check', options.folder)}   then: {command('run', options.folder)}")
    return 0
