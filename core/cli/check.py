"""``olivepress check``: can this machine run the lab, and what to do if not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.cli.parser import add_folder, add_json
from core.language import _, shown

if TYPE_CHECKING:
    from core.check import Check
    from core.model.auto import Chosen


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("check", help=_("can this machine run the lab?"))
    add_folder(parser)
    add_json(parser)
    parser.add_argument(
        "--markdown", action="store_true", help=_("print a table to paste into a report of a problem")
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help=_("read every byte of what the stages made, not sizes and times alone"),
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu", "npu"),
        default="",
        help=_(
            "say of each provider of a device whether models can be built and run here, and what is missing"
        ),
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the checks; exit status 4 if one failed."""
    from core.check import run_checks, settings_of
    from core.check.types import as_markdown, overall
    from core.cli.show import print_json
    from core.errors import MachineError
    from core.folder import lab_folder
    from core.report import auto_table
    from core.text import clean

    root = lab_folder(options.folder).root
    checks = run_checks(root, verify=options.verify, device=options.device)
    chosen = settings_of(root)
    good = overall(checks)
    if options.json:
        print_json(
            {
                "ok": good,
                "checks": [check.as_dict() for check in checks],
                "auto": [each.as_dict() for each in chosen],
            }
        )
    elif options.markdown:
        print(clean(as_markdown(checks)))
        if chosen:
            print(clean(f"\n{auto_table(each.as_dict() for each in chosen)}"))
    else:
        print_checks(checks)
        print_settings(chosen)
    return 0 if good else MachineError.exit_status


def print_checks(checks: Sequence[Check]) -> None:
    """The checks, each with what to do where there is something."""
    from core.cli.show import TONES, cells, padded, say
    from core.errors import said
    from core.text import clean

    width = max(cells(shown(check.name)) for check in checks)
    for check in checks:
        say(
            clean(shown(check.found), keep_newlines=False),
            head=[
                (f"{check.state:<4} ", TONES.get(check.state, "")),
                f"{padded(shown(check.name), width)}  ",
            ],
        )
        if check.fix and check.state != "OK":
            say(
                (clean(said(check.advice), keep_newlines=False), "cyan"),
                head=f"     {'':<{width}}  -> ",
                fold=False,
            )


def print_settings(chosen: Sequence[Chosen]) -> None:
    """The settings that are "auto", with what they are and why."""
    from core.cli.show import say
    from core.text import clean

    if not chosen:
        return
    print("\n" + _("settings that follow the model and the data (auto):"))
    wide = max(len(each.option) for each in chosen)
    for each in chosen:
        say(
            f"{clean(shown(each.words))}: {clean(shown(each.reason))}",
            head=f"     {each.option:<{wide}}  ",
        )
