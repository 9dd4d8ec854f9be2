"""``olivepress login``, ``logout`` and ``workspaces``: who we are in Azure, and which workspace is meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from core.cli.parser import add_folder, add_json
from core.language import _

if TYPE_CHECKING:
    from core.azure.retry import Stop
    from core.azure.signin import Ask, Prompt
    from core.events import Reporter

T = TypeVar("T")

METHODS = ("cli", "device", "environment", "workload", "managed")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands."""
    parser = commands.add_parser(
        "login",
        help=_("sign in to Azure"),
        description=_(
            "Sign in to Azure: by the Azure CLI's session if there is one, else by a code that is "
            "entered in a browser on any machine. The choice is remembered for this user."
        ),
    )
    parser.add_argument(
        "--method", choices=METHODS, default="", help=_("how (default: cli if it works, else device)")
    )
    parser.add_argument("--tenant", default="", metavar="ID", help=_("the tenant's id or domain"))
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument(
        "--allow-file",
        action="store_true",
        help=_("where the platform keeps no secrets, keep the token in a file that only you can read"),
    )
    keep.add_argument("--no-keep", action="store_true", help=_("do not keep the token; an upload asks again"))
    parser.add_argument("--show", action="store_true", help=_("only tell who is signed in"))
    add_json(
        parser,
        _(
            "print events, the last of type signed_in, one JSON object a line, and nothing else on standard output"
        ),
    )
    parser.set_defaults(run=login)

    parser = commands.add_parser("logout", help=_("forget the Azure sign-in and its token"))
    add_json(parser)
    parser.set_defaults(run=logout)

    parser = commands.add_parser(
        "workspaces",
        help=_("list the Azure ML workspaces, or choose one for a lab"),
        description=_(
            "List the Azure ML workspaces that you can see. With --use, write one into the lab's lab.toml."
        ),
    )
    add_folder(parser)
    parser.add_argument(
        "--filter", default="", metavar="TEXT", help=_("only those with these words in their names")
    )
    parser.add_argument(
        "--use", metavar="NAME", help=_("the workspace for this lab: its name, or words that fit only one")
    )
    add_json(parser)
    parser.set_defaults(run=workspaces)


def show_prompt(as_json: bool) -> Ask:
    """Shows a device code on standard error; as an object on standard output too, if asked."""
    from core.cli.show import print_json
    from core.text import clean

    def show(prompt: Prompt) -> None:
        said = prompt.as_dict()
        if as_json:
            print_json(said)
        print(
            "\n" + _("Open {uri} in a browser on any machine and enter the code", uri=clean(prompt.uri)),
            file=sys.stderr,
        )
        print(f"\n    {clean(prompt.code)}\n", file=sys.stderr)
        minutes = said["expires_in_s"] // 60
        print(
            _("It holds for {minutes} minutes. Ctrl-C gives up.", minutes=minutes),
            file=sys.stderr,
            flush=True,
        )

    return show


def signed_in(work: Callable[[Stop, Reporter], T], *, as_json: bool) -> T:
    """Do a command's work with Azure; where a sign-in is kept nowhere, the code is asked for here, in front.

    Raises:
        LabError: the work failed.
        Cancelled: Ctrl-C.
    """
    from core.azure.retry import cancellable
    from core.azure.signin import current, remembered
    from core.cli.show import StderrReporter, moving

    def both(stop: Stop, report: Reporter) -> T:
        choice = remembered()
        if choice is not None and choice.kept_nowhere:
            current(stop=stop, on_prompt=show_prompt(as_json))
        return work(stop, report)

    try:
        return cancellable(both, StderrReporter())
    finally:
        moving.end()


def login(options: argparse.Namespace) -> int:
    """Sign in and remember it; or show who is signed in."""
    from core.azure.retry import cancellable
    from core.azure.signin import KEEP, Identity, current, sign_in
    from core.cli.show import StderrReporter, print_json
    from core.text import clean

    # Asked before the work moves to another thread, where a question cannot be interrupted.
    may_write = _may_write_file(options)

    def work(stop: Stop, report: Reporter) -> Identity:
        if options.show:
            return current(stop=stop)
        ask = show_prompt(options.json)
        return sign_in(
            options.method, tenant=options.tenant, may_write_file=may_write, on_prompt=ask, stop=stop
        )

    identity = cancellable(work, StderrReporter())
    if options.json:
        print_json({"type": "signed_in", **identity.shown()})
        return 0
    print(
        _(
            "Signed in as {user}, tenant {tenant}, by {method}.",
            user=clean(identity.user),
            tenant=clean(identity.tenant),
            method=identity.method,
        )
    )
    if identity.method == "device":
        print(
            _("The sign-in is kept: {keep}.", keep=KEEP[identity.keep])
            if identity.keep != "none"
            else _("It is not kept.")
        )
    return 0


def _may_write_file(options: argparse.Namespace) -> bool:
    """Whether the token may be kept in a file; a person is asked where that has to be decided."""
    from core.azure.signin import cli_works, platform_keeps_secrets

    if options.show or options.allow_file or options.no_keep or options.method not in ("", "device"):
        return bool(options.allow_file)
    if not options.method:
        options.method = "cli" if cli_works(options.tenant) else "device"
    if options.method == "cli" or options.json or not sys.stdin.isatty() or platform_keeps_secrets():
        return False
    print(_("This machine has no place that keeps secrets encrypted."), file=sys.stderr)
    print(_("Keep the sign-in in a file that only you can read? [y/N] "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def logout(options: argparse.Namespace) -> int:
    """Forget the sign-in."""
    from core.azure.signin import sign_out
    from core.cli.show import print_json
    from core.text import clean

    before = sign_out()
    if options.json:
        print_json({"signed_out": before is not None, "user": before.user if before else None})
    elif before is None:
        print(_("Nobody was signed in here."))
    else:
        print(_("Signed out {user}.", user=clean(before.user)) if before.user else _("Signed out."))
        if before.method == "cli":
            print(_("The Azure CLI itself is still signed in; az logout ends that."))
    return 0


def workspaces(options: argparse.Namespace) -> int:
    """List the workspaces, or write one into a lab's recipe."""
    from core.azure.workspace import WorkspaceList, choose, find_workspaces, pick
    from core.cli.show import print_json
    from core.lab import Lab
    from core.text import clean

    path = None if options.use is None else Lab.open(options.folder).folder.recipe_path
    listed = signed_in(find_workspaces, as_json=options.json)
    if path is not None:
        chosen = pick(listed.found, options.use)
        choose(path, chosen)
        if options.json:
            print_json({"chosen": chosen.as_dict()})
        else:
            print(
                _(
                    "{chosen} in {resource_group} is written into {path}.",
                    chosen=clean(chosen.name),
                    resource_group=clean(chosen.resource_group),
                    path=clean(str(path)),
                )
            )
        return 0
    found = tuple(item for item in listed.found if item.matches(options.filter))
    if options.json:
        print_json(WorkspaceList(found, listed.refused).as_dict())
        return 0
    for item in found:
        where = f"{item.resource_group}, {item.subscription_name or item.subscription}, {item.location}"
        print(f"{clean(item.name, keep_newlines=False):<32} {clean(where, keep_newlines=False)}")
    if not found:
        print(_("No match."), file=sys.stderr)
    for name in listed.refused:
        print(
            _("The subscription {name} did not tell its own.", name=clean(name, keep_newlines=False)),
            file=sys.stderr,
        )
    return 0
