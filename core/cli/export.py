"""``olivepress export``: take the result along, in a form that other programs read."""

from __future__ import annotations

import argparse
import sys
import textwrap

from core.cli.parser import RawHelp, UsageError, add_folder, add_json, command_parser
from core.export.forms import FORMS, ExportForm
from core.language import _, any_of, shown, told

SHORT = ("olive", "slurm", "skypilot")
"""Forms that have an option of their own."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export",
        help=_("take the result along, in a form that other programs read"),
        description=_("Write the lab's result in a form that other programs read."),
        epilog=_("forms:") + "\n" + "\n".join(map(_about, FORMS.values())),
        formatter_class=RawHelp,
    )
    add_folder(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--to",
        nargs=2,
        metavar=("FORM", "OUT"),
        help=_("the form, and where to: a folder or file that is not there yet, or OWNER/NAME of the hub"),
    )
    where.add_argument("--olive", metavar="FILE.json", help=_("the same as --to olive FILE.json"))
    where.add_argument("--slurm", metavar="FILE.sh", help=_("the same as --to slurm FILE.sh"))
    where.add_argument("--skypilot", metavar="FILE.yaml", help=_("the same as --to skypilot FILE.yaml"))
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--adapter",
        metavar="ADAPTER",
        help=_("the adapter that goes with it (default: the lab's, if it has one)"),
    )
    which.add_argument("--no-adapter", action="store_true", help=_("the base alone"))
    types = sorted({each for form in FORMS.values() for each in form.types})
    parser.add_argument(
        "--type",
        choices=types,
        metavar="TYPE",
        default="",
        help=_(
            "type of the weights: {names}",
            names="; ".join(f"{form.name}: {', '.join(form.types)}" for form in FORMS.values() if form.types),
        ),
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help=_("replace an earlier export; take a result older than the settings"),
    )
    folders = [form.name for form in FORMS.values() if form.is_folder]
    parser.add_argument(
        "--form",
        choices=folders,
        metavar="FORM",
        default="onnx",
        help=_("with --to hub: the form to send (default: onnx)"),
    )
    parser.add_argument(
        "--public", action="store_true", help=_("with --to hub: a new repository is for everybody")
    )
    parser.add_argument(
        "--dry-run", action="store_true", help=_("with --to hub: say what would be sent, and send nothing")
    )
    add_json(parser)
    parser.set_defaults(run=run)


def _about(form: ExportForm) -> str:
    head = f"  {form.name} {form.out}"
    return textwrap.fill(_(form.about), 78, initial_indent=f"{head:29}", subsequent_indent=" " * 29)


def run(options: argparse.Namespace) -> int:
    """Write it, and say what it is and how it is used."""
    from core.cli.show import StderrReporter, moving, print_json, redraws, say
    from core.events import Reporter
    from core.export.write import export
    from core.formats import human_bytes
    from core.lab import Lab
    from core.text import clean, command

    short = [(form, getattr(options, form)) for form in SHORT if getattr(options, form) is not None]
    if options.to is None and not short:
        raise UsageError(
            told("The form is not named."),
            hint=told(
                "{command} FORM OUT, where FORM is {names}.",
                command=command("export", options.folder, "--to"),
                names=any_of(FORMS),
            ),
            usage=command_parser("export").format_usage(),
        )
    form, out = options.to or short[0]
    report = StderrReporter() if redraws(sys.stderr) and not options.json else Reporter()
    done = export(
        Lab.open(options.folder),
        form,
        out,
        adapter=None if options.no_adapter else options.adapter or "auto",
        type=options.type,
        force=options.force,
        hub_form=options.form,
        public=options.public,
        dry_run=options.dry_run,
        report=report,
    )
    moving.end()
    if options.json:
        print_json(done.as_dict())
        return 0
    for path, what in done.files.items():
        say(clean(f"{path}: {shown(what)}", keep_newlines=False))
    if not done.files:
        size = f" ({shown(human_bytes(done.bytes))})" if done.bytes else ""
        say(clean(f"{_(FORMS[form].title)}: {done.path}{size}", keep_newlines=False))
    if options.dry_run:
        for each in done.numbers.get("contents", ()):
            say(f"{shown(human_bytes(each['bytes'])):>12}  {clean(each['name'], keep_newlines=False)}")
    for note in done.notes:
        say(clean(_("Note: {note}", note=note), keep_newlines=False))
    if done.next:
        say(clean(_("Next: {next}", next=done.next), keep_newlines=False), fold=False)
    return 0
