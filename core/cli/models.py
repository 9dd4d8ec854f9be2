"""``olivepress models`` and ``fetch``: what the workspace has of this lab, and bringing one back."""

from __future__ import annotations

import argparse
import sys

from core.cli.parser import add_folder, add_json, folder_word
from core.errors import RequestError
from core.language import _, told


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the two commands."""
    parser = commands.add_parser("models", help=_("list the models that the workspace has of this lab"))
    add_folder(parser)
    parser.add_argument(
        "--all", action="store_true", help=_("every model made with OlivePress, not only this lab's name")
    )
    add_json(parser)
    parser.set_defaults(run=models)

    parser = commands.add_parser(
        "fetch",
        help=_("bring a registered model back, as a lab that can chat"),
        description=_(
            "Bring a model of the workspace into DIR, a lab that can chat. A fetch that was stopped goes on."
        ),
    )
    parser.add_argument("model", metavar="NAME[:VERSION]", help=_("the model (default version: the newest)"))
    parser.add_argument(
        "folder", metavar="DIR", type=folder_word, help=_("where to; a new or an empty folder")
    )
    parser.add_argument(
        "--lab",
        default=".",
        type=folder_word,
        metavar="LAB",
        help=_("the lab whose workspace is asked (default: here)"),
    )
    parser.add_argument("--workspace", metavar="TEXT", help=_("the workspace's name, instead of a lab's"))
    add_json(parser)
    parser.set_defaults(run=fetch)


def models(options: argparse.Namespace) -> int:
    """List the models."""
    from core.azure.workspace import Place, list_models
    from core.cli.login import signed_in
    from core.cli.show import print_json
    from core.lab import Lab
    from core.text import clean

    lab = Lab.open(options.folder)
    recipe = lab.recipe
    place = Place.of(recipe, lab.root)
    name = "" if options.all else recipe.upload.name
    found = signed_in(lambda stop, report: list_models(place, name, stop, report), as_json=options.json)
    if options.json:
        print_json({"models": [model.as_dict() for model in found]})
        return 0
    if not found:
        print(
            _("{workspace} has no model yet.", workspace=place.workspace)
            if options.all
            else _("{workspace} has no model {name} yet.", workspace=place.workspace, name=name),
            file=sys.stderr,
        )
    for model in found:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(model.tags.items()) if key != "made_with")
        print(clean(f"{model.name}:{model.version:<6} {model.created[:19]:<20} {tags}", keep_newlines=False))
    return 0


def fetch(options: argparse.Namespace) -> int:
    """Bring a model back."""
    from pathlib import Path

    from core.azure.download import fetch_lab
    from core.azure.workspace import Place, find_workspaces, pick
    from core.cli.login import signed_in
    from core.cli.show import print_json
    from core.formats import human_bytes
    from core.lab import Lab
    from core.text import clean, command

    name, _colon, version = options.model.partition(":")
    if not name:
        raise RequestError(
            told("No model is named."), options.model, told("Write NAME or NAME:VERSION."), code="usage"
        )
    if options.workspace:
        place = pick(signed_in(find_workspaces, as_json=options.json).found, options.workspace).place
    else:
        lab = Lab.open(options.lab)
        place = Place.of(lab.recipe, lab.root)
    target = Path(options.folder).expanduser().resolve()
    result = signed_in(
        lambda stop, report: fetch_lab(place, name, version, target, stop, report), as_json=options.json
    )
    if options.json:
        print_json(result)
    else:
        print(
            _(
                "{name}:{version}, {size}, is in {target}.",
                name=result["name"],
                version=result["version"],
                size=human_bytes(result["bytes"]),
                target=clean(str(target)),
            )
        )
        print(_("Talk to it: {command}", command=command("chat", options.folder)))
    return 0
