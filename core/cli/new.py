"""``olivepress new``: make a lab."""

from __future__ import annotations

import argparse

from core.cli.commands import LANGUAGE
from core.cli.parser import add_json, add_set, folder_word, parse_settings
from core.language import LANGUAGES, _
from core.resources import sample_file


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "new", help=_("make a lab"), description=_("Make a lab: a folder with a recipe, lab.toml.")
    )
    parser.add_argument("folder", metavar="DIR", type=folder_word, help=_("the folder to make it in"))
    parser.add_argument(
        "--model", metavar="SRC", help=_("hub id, folder, azureml:// path, or rehearsal (the default)")
    )
    parser.add_argument(
        "--data", metavar="FILE", help=_("training records (default: the bundled travel questions)")
    )
    parser.add_argument(
        LANGUAGE,
        metavar="CODE",
        choices=LANGUAGES,
        default="en",
        help=_(
            "speak this language, and take the bundled travel questions in it: {names} (default of those: en)",
            names=", ".join(LANGUAGES),
        ),
    )
    add_set(parser, _("a recipe value, such as quantize.algorithm=rtn"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the lab and say what to do next."""
    from core.cli.show import print_json
    from core.lab import Lab
    from core.text import clean, command

    settings = parse_settings(options.set)
    if options.language != "en" and options.data is None:
        settings = {"data.file": sample_file(options.language), **settings}
    lab = Lab.create(options.folder, options.model, options.data, settings)
    if options.json:
        print_json({"lab": str(lab.root), "recipe": str(lab.folder.recipe_path)})
        return 0
    print(_("Made {path}", path=clean(str(lab.folder.recipe_path), keep_newlines=False)))
    print(
        _(
            "Next: {check}   then: {run}",
            check=command("check", options.folder),
            run=command("run", options.folder),
        )
    )
    return 0
