"""``olivepress upload``: register the optimized model in an Azure ML workspace."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.parser import add_folder, add_json, whole_number
from core.events import Event
from core.language import _, shown


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "upload",
        help=_("register the result in an Azure ML workspace"),
        description=_(
            "Send the optimized model to the workspace of lab.toml and register it. An upload that "
            "was stopped goes on where it was; content that is there already is not sent again."
        ),
    )
    add_folder(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help=_("check sign-in, rights, name and version; send nothing")
    )
    parser.add_argument(
        "--concurrency",
        type=whole_number,
        metavar="N",
        help=_("connections at once, at most (default: lab.toml)"),
    )
    parser.add_argument(
        "--detach", action="store_true", help=_("start and return; the upload goes on by itself")
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Upload, or say what an upload would do."""
    from core.cli.jobs import run_job, say_started
    from core.cli.show import EventPrinter, print_json, print_result
    from core.lab import Lab

    lab = Lab.open(options.folder)
    settings = {} if options.concurrency is None else {"upload.concurrency": options.concurrency}
    recipe = lab.recipe.with_values(settings)
    if options.dry_run:
        from core.cli.login import signed_in
        from core.upload.stage import dry_run

        result = signed_in(
            lambda stop, report: dry_run(lab.folder, recipe, report, stop), as_json=options.json
        )
        if options.json:
            print_json(result)
        else:
            _print_plan(result)
        return 0
    if options.detach:
        say_started(lab.start("upload", options=settings), options.folder, as_json=options.json)
        return 0
    printer = EventPrinter()

    def told(event: Event) -> None:
        # With --json too: a code that is to be entered is seen by whoever started this.
        if not options.json or (event["type"] == "log" and event["level"] != "info"):
            printer(event)

    done = run_job(lab, "upload", options.folder, told, options=settings)
    if isinstance(done, int):
        return done
    if options.json:
        print_json(done.numbers)
    else:
        print_result("upload", done.numbers)
    return 0


def _print_plan(plan: dict[str, Any]) -> None:
    from core.formats import human_bytes
    from core.text import clean

    for item in plan["contents"]:
        print(f"{shown(human_bytes(item['bytes'])):>12}  {clean(item['name'], keep_newlines=False)}")
    left_out = _("left out")
    for item in plan["left_out"]:
        print(f"{left_out:>12}  {clean(item['name'], keep_newlines=False)}: {shown(item['why'])}")
    print(
        _(
            "{part} of {size} would be sent to {storage} and registered as {name}:{version} in {workspace}.",
            part=human_bytes(plan["bytes_to_send"]),
            size=human_bytes(plan["bytes"]),
            storage=plan["storage"],
            name=plan["name"],
            version=plan["version"],
            workspace=plan["workspace"],
        )
        if not plan["registered"]
        else _(
            "This content is registered already as {name}:{version}; {size} would be sent.",
            name=plan["name"],
            version=plan["version"],
            size=human_bytes(plan["bytes_to_send"]),
        )
    )
    if plan["stale"]:
        print(_("The ONNX model is stale: {stale}.", stale=clean(plan["stale"], keep_newlines=False)))
    for what, state in plan["rights"].items():
        print(_("permission ({what}): {state}", what=what, state=state))
