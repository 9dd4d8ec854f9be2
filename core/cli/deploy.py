"""``olivepress deploy``: the registered model behind an endpoint of Azure ML."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from core.cli.parser import UsageError, add_folder, add_json, command_parser, whole_number
from core.errors import Cancelled, RequestError
from core.language import N_, _, told


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "deploy",
        help=_("put the registered model behind an Azure ML endpoint"),
        description=_(
            "Deploy the model that was registered by upload to a managed online endpoint, with "
            "OlivePress's own server in it: ask it there in OpenAI's form. It costs money as long as "
            "it is there; --delete ends that."
        ),
    )
    add_folder(parser)
    parser.add_argument("--azureml", metavar="ENDPOINT", help=_("the endpoint; made if it is not there"))
    parser.add_argument(
        "--model",
        default="",
        metavar="NAME[:VERSION]",
        help=_("the registered model (default: this lab's last)"),
    )
    parser.add_argument(
        "--size",
        default="Standard_DS3_v2",
        metavar="SIZE",
        help=_("of its machines (default: Standard_DS3_v2)"),
    )
    parser.add_argument(
        "--count", type=whole_number, default=1, metavar="N", help=_("how many machines (default: 1)")
    )
    parser.add_argument(
        "--traffic",
        type=int,
        choices=range(101),
        default=100,
        metavar="PERCENT",
        help=_("of the endpoint's requests, so many go to it (default: 100)"),
    )
    parser.add_argument(
        "--dry-run", action="store_true", help=_("show what it would be and cost; make nothing")
    )
    parser.add_argument(
        "--delete", action="store_true", help=_("remove the endpoint and all that is deployed to it")
    )
    parser.add_argument("--yes", action="store_true", help=_("do not ask"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Deploy, or remove."""
    from core.cli.login import signed_in
    from core.cli.show import print_json, say
    from core.lab import Lab
    from core.remote.deploy import DeploymentRequest, deploy, remove
    from core.text import clean, command

    if not options.azureml:
        raise UsageError(
            told("The endpoint is not named."),
            hint=told("{command} ENDPOINT", command=command("deploy", options.folder, "--azureml")),
            usage=command_parser("deploy").format_usage(),
        )
    lab = Lab.open(options.folder)
    recipe, as_json = lab.recipe, options.json
    if options.delete:
        _agree(
            options, _("{endpoint} is removed, with all that is deployed to it.", endpoint=options.azureml)
        )
        gone = signed_in(
            lambda stop, report: remove(lab.folder, recipe, options.azureml, stop, report), as_json=as_json
        )
        if as_json:
            print_json(gone)
        else:
            print(
                _("{endpoint} is removed.", endpoint=options.azureml)
                if gone["removed"]
                else _("There is no {endpoint}.", endpoint=options.azureml)
            )
        return 0
    wanted = DeploymentRequest(options.azureml, options.model, options.size, options.count, options.traffic)
    plan = signed_in(
        lambda stop, report: deploy(lab.folder, recipe, wanted, stop, report, dry=True), as_json=as_json
    )
    if options.dry_run and as_json:
        print_json(plan)
        return 0
    lines = _lines(plan)
    for line in lines:
        print(clean(line, keep_newlines=False), file=sys.stdout if options.dry_run else sys.stderr)
    if options.dry_run:
        return 0
    _agree(options, " ".join(lines))
    done = signed_in(lambda stop, report: deploy(lab.folder, recipe, wanted, stop, report), as_json=as_json)
    if as_json:
        print_json(done)
        return 0
    say(
        clean(_("{model} answers at {url}", model=done["model"], url=done["url"]), keep_newlines=False),
        fold=False,
    )
    say(clean(f"{done['question']}  {done['answer']}", keep_newlines=False))
    print(
        _(
            "Remove it: {command}",
            command=command("deploy", options.folder, "--azureml", options.azureml, "--delete"),
        )
    )
    return 0


def _lines(plan: dict[str, Any]) -> list[str]:
    price = plan["price_an_hour"]
    places = {name: plan[name] for name in ("model", "endpoint", "workspace", "traffic")}
    goes = (
        N_(
            "{model} would go to endpoint {endpoint} (there) in {workspace}, with {traffic} % of its requests."
        )
        if plan["there"]
        else N_(
            "{model} would go to endpoint {endpoint} (new) in {workspace}, with {traffic} % of its requests."
        )
    )
    machines = {name: plan[name] for name in ("count", "size")}
    costs = (
        _("{count} x {size}: its price is not told, from now until it is removed.", **machines)
        if price is None
        else _(
            "{count} x {size}: {price:g} {currency} an hour, from now until it is removed.",
            price=price,
            currency=plan["currency"],
            **machines,
        )
    )
    lines = [_(goes, **places), costs]
    if plan["replaces"]:
        lines.append(_("It replaces what is deployed there: {names}.", names=plan["replaces"]))
    return lines


def _agree(options: argparse.Namespace, what: str) -> None:
    """Go on only where somebody agrees."""
    if options.yes:
        return
    if options.json or not sys.stdin.isatty():
        raise RequestError(
            told("This is to be agreed to."), what, told("If that is meant, add --yes."), code="azure.agree"
        )
    if options.delete:
        print(what, end=" ", file=sys.stderr)
    print(_("Go on? [y/N] "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Cancelled(told("Nothing was changed."))
