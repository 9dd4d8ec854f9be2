"""``olivepress compute``: the machines of the lab's Azure ML workspace; and making a cluster there, when asked."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from core.cli.parser import add_folder, add_json, whole_number
from core.errors import Cancelled, RequestError
from core.language import _, shown, told

if TYPE_CHECKING:
    from core.azure.compute import NewCluster
    from core.azure.workspace import Place


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "compute",
        help=_("list the machines of the workspace; make a cluster"),
        description=_(
            "List the compute of the workspace of lab.toml: size, state, price, quota, and when idle "
            "nodes are given back. With --create a cluster is made, after its cost was shown and "
            "agreed to."
        ),
    )
    add_folder(parser)
    parser.add_argument(
        "--sizes",
        action="store_true",
        help=_("list the sizes of machine of the region, those with GPUs first"),
    )
    parser.add_argument("--create", metavar="NAME", help=_("make a cluster of this name"))
    parser.add_argument(
        "--size", metavar="SIZE", help=_("its size of machine, such as Standard_NC24ads_A100_v4")
    )
    parser.add_argument(
        "--low-priority", action="store_true", help=_("cheaper nodes that may be taken back at any time")
    )
    parser.add_argument(
        "--nodes", type=whole_number, metavar="N", default=1, help=_("most nodes (default: 1)")
    )
    parser.add_argument(
        "--idle",
        type=whole_number,
        metavar="MINUTES",
        default=10,
        help=_("give an idle node back after so long (default: 10)"),
    )
    parser.add_argument(
        "--dry-run", action="store_true", help=_("with --create: show what it would be and cost")
    )
    parser.add_argument("--yes", action="store_true", help=_("with --create: do not ask"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List, or make one."""
    from core.azure.compute import find_computes, find_sizes
    from core.azure.workspace import Place
    from core.cli.login import signed_in
    from core.cli.show import print_json, say
    from core.lab import Lab
    from core.text import clean, command

    lab = Lab.open(options.folder)
    place = Place.of(lab.recipe, lab.root)
    if options.create:
        return _create(options, place)
    if options.sizes:
        location, sizes = signed_in(
            lambda stop, report: find_sizes(place, stop, report), as_json=options.json
        )
        if options.json:
            print_json({"location": location, "sizes": [asdict(each) for each in sizes]})
            return 0
        for size in sizes:
            say(clean(shown(size.line()), keep_newlines=False))
        if not sizes:
            print(_("The sizes of {location} are not told.", location=location), file=sys.stderr)
        return 0
    found = signed_in(lambda stop, report: find_computes(place, stop, report), as_json=options.json)
    if options.json:
        print_json({"workspace": place.workspace, "compute": [each.as_dict() for each in found]})
        return 0
    for each in found:
        say(clean(shown(each.line()), keep_newlines=False))
    if not found:
        print(_("{workspace} has no compute yet.", workspace=place.workspace), file=sys.stderr)
        print(
            _("Make one: {command} NAME --size SIZE", command=command("compute", options.folder, "--create")),
            file=sys.stderr,
        )
    elif first := next((each.name for each in found if not each.why_not()), ""):
        print(
            _(
                "Run there: {command}",
                command=command("run", options.folder, "--on", "azureml", "--compute", first),
            )
        )
    return 0


def _create(options: argparse.Namespace, place: Place) -> int:
    from core.azure.compute import NewCluster
    from core.cli.login import signed_in
    from core.cli.show import print_json
    from core.formats import duration
    from core.text import clean

    if not options.size:
        raise RequestError(
            told("The size of the new compute is not said."),
            hint=told("Add --size, such as --size Standard_NC4as_T4_v3."),
            code="usage",
        )  # fmt: skip
    wanted = NewCluster(options.create, options.size, options.low_priority, options.nodes, options.idle * 60)
    facts = signed_in(
        lambda stop, report: _with(place, wanted, stop, report, make=False), as_json=options.json
    )
    price = (
        _("{price:g} {currency} an hour", price=facts["price"], currency=facts["currency"])
        if facts["price"] is not None
        else _("not told")
    )
    lines = (
        _(
            "{name}: {size}, {gpus} GPUs a node, {nodes} at most, in {location}.",
            name=wanted.name,
            size=facts["size"],
            gpus="?" if facts["gpus"] is None else facts["gpus"],
            nodes=wanted.nodes,
            location=facts["location"],
        ),
        _(
            "Priority: {priority}. Price of a node: {price}, while it is up.",
            priority=facts["priority"],
            price=price,
        ),
        _(
            "No node is up until a job comes; one that is idle is given back after {time}.",
            time=duration(wanted.idle_s),
        ),
    )
    if not options.json:
        for line in lines:
            print(clean(line, keep_newlines=False), file=sys.stderr)
    if options.dry_run:
        if options.json:
            print_json({"dry_run": True, **facts})
        return 0
    if not options.yes:
        if options.json or not sys.stdin.isatty():
            raise RequestError(
                told("Making a compute can cost money: it is to be agreed to."),
                " ".join(lines),
                told("Look at the price, then add --yes."),
                code="azure.agree",
            )
        print(_("Make it? [y/N] "), end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Cancelled(told("Nothing was made."))
    signed_in(lambda stop, report: _with(place, wanted, stop, report, make=True), as_json=options.json)
    if options.json:
        print_json({"created": True, **facts})
    else:
        print(_("{name} is made, and can take jobs.", name=wanted.name))
    return 0


def _with(place: Place, wanted: NewCluster, stop: Any, report: Any, *, make: bool) -> dict[str, Any]:
    from core.azure.compute import Computes, looked_at
    from core.azure.rest import Rest
    from core.azure.signin import current, prompt_to

    rest = Rest(current(stop=stop, on_prompt=prompt_to(report)).credential, stop, report.log)
    try:
        computes = Computes(rest, place)
        facts = looked_at(computes, wanted)
        if make:
            report.progress(told("making it"), 0, None)
            computes.create(wanted, stop)
        return facts
    finally:
        rest.close()
