"""``olivepress data``: look at the training records, count tokens, find bad rows, write a clean file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from core.cli.parser import add_folder, add_json, add_set, parse_settings

if TYPE_CHECKING:
    from pathlib import Path

    from core.data.survey import DataReport
    from core.recipe import Recipe

SHOWN = 20
_BAR = 40


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("data", help="look at the training records and find bad rows")
    add_folder(parser)
    add_json(parser)
    parser.add_argument(
        "--clean", metavar="OUT", help="write the rows without findings to this file (JSON Lines)"
    )
    parser.add_argument(
        "--keep",
        metavar="KINDS",
        default="",
        help="with --clean: kinds of findings to keep, such as too-long,near-duplicate",
    )
    parser.add_argument(
        "--accept", action="store_true", help="write the proposed fields and template into lab.toml"
    )
    add_set(parser, "write a recipe value into lab.toml first, such as data.prompt_field=question")
    parser.add_argument("--all", action="store_true", help=f"print all findings, not the first {SHOWN}")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at every row; 0 when training can start with the file, else 2."""
    from pathlib import Path

    from core.cli.show import StderrReporter, moving, redraws
    from core.data.survey import summary
    from core.events import Reporter
    from core.lab import Lab

    keep = _kinds(options.keep)
    lab = Lab.open(options.folder)
    given = parse_settings(options.set, "data")
    recipe = lab.set(given) if given else lab.recipe
    # Beside a report of one page, progress is for people at a terminal only.
    reporter = StderrReporter() if redraws(sys.stderr) else Reporter()
    if options.accept:
        recipe = accept(lab.folder.recipe_path, lab.root, recipe)
    report = summary(lab.root, recipe, reporter)
    cleaned: dict[str, Any] | None = None
    if options.clean:
        from core.data.clean import write_clean

        done = write_clean(report, Path(options.clean).expanduser(), keep=keep, progress=reporter)
        cleaned = {
            "file": str(done.path),
            "left_out_file": str(done.left_out_path),
            "kept": done.kept,
            "left_out": done.left_out,
        }
    moving.end()
    if options.json:
        _print_json(report, cleaned)
    else:
        print_report(report)
        if report.to_confirm and report.proposal is not None:
            _print_question(report, options.folder)
        print_findings(report, None if options.all else SHOWN)
        _print_cleaned(report, cleaned, options.folder)
    return 0 if report.ok or cleaned else 2


def _kinds(text: str) -> set[str]:
    from core.data.types import BLOCKING, WARNINGS
    from core.errors import RequestError

    kinds = {kind.strip() for kind in text.split(",") if kind.strip()}
    strange = sorted(kinds - WARNINGS)
    if strange:
        why = "training cannot use such rows" if strange[0] in BLOCKING else "there is no such kind"
        raise RequestError(
            f"--keep cannot keep {strange[0]}.",
            f"{why[:1].upper()}{why[1:]}.",
            "Kinds that can be kept: " + ", ".join(sorted(WARNINGS)) + ".",
        )
    return kinds


def accept(recipe_path: Path, root: Path, recipe: Recipe) -> Recipe:
    """Write what the rows suggest into ``lab.toml``.

    Raises:
        RequestError: they suggest nothing.
    """
    from core.data.examples import first_problem, resolve_data_file, sample_fields
    from core.data.model_text import read_model_text
    from core.data.plan import settle
    from core.errors import RequestError
    from core.recipe import write_values

    path = resolve_data_file(recipe, root)
    sample = sample_fields(path)
    settled = settle(recipe, sample, read_model_text(recipe, root), first_problem(path))
    proposal = settled.proposal
    if not sample and settled.problem is not None:
        raise settled.problem
    if not proposal.mapping.complete:
        raise RequestError(
            "There is nothing to accept.",
            proposal.why[:1].upper() + proposal.why[1:] + ".",
            "Set data.prompt_field and data.response_field in lab.toml.",
        )
    print(f"accepted: {_clean(proposal.mapping.words())}", file=sys.stderr)
    return write_values(recipe_path, proposal.settings())


def _print_json(report: DataReport, cleaned: dict[str, Any] | None) -> None:
    """One object on one line, the findings written as they come: there may be millions."""
    data = report.as_dict()
    if cleaned is not None:
        data["clean"] = cleaned
    from core.text import json_line

    out = sys.stdout
    out.write(json_line(data)[:-1] + ', "findings": [')
    for number, finding in enumerate(report.findings):
        out.write((", " if number else "") + json_line(finding.as_dict()))
    out.write("]}\n")
    out.flush()


def _clean(text: str) -> str:
    from core.text import clean

    return clean(text, keep_newlines=False)


def _escaped(template: str) -> str:
    """A template on one line, a line break unlike a backslash and an n."""
    return template.replace("\\", "\\\\").replace("\n", "\\n")


def print_report(report: DataReport) -> None:
    """The figures of a data file, and what of it is not used."""
    from core.data.findings import passes
    from core.data.unused import unused_words
    from core.formats import counted, human_bytes

    print(f"file      {_clean(str(report.path))}, {human_bytes(report.bytes)}")
    print(f"rows      {report.rows:,}, {report.usable:,} of them usable")
    print(f"fields    {_clean(', '.join(report.fields))}")
    if report.proposal is not None:
        print(f"mapping   {_clean(report.mapping.words())}")
    template = "the model's own chat template" if report.chat_template else _escaped(report.template)
    plain = next((each for each in report.auto if each.option == "data.template"), None)
    if plain is not None and plain.value is not None and not report.chat_template:
        template += f" ({plain.reason})"
    print(f"template  {_clean(template)}")
    unused = _clean(unused_words([each.as_dict() for each in report.not_used], report.usable))
    if report.usable:
        print(f"not used  {unused or 'nothing'}")
    for why, count in report.not_learnt.items():
        print(f"not learnt  {counted(count, 'row')}: {_clean(why)}")
    if report.pairs:
        print(f"pairs     {counted(report.pairs, 'row')} with a chosen and a rejected answer")
    if report.undesirable:
        print(
            f"labels    {report.usable - report.undesirable:,} good answers, {report.undesirable:,} to be avoided"
        )
    if report.turns_not_learnt:
        print(f"not learnt  {counted(report.turns_not_learnt, 'answer')} shown in the other rows")
    _print_tokens(report)
    if report.usable:
        print(f"split     {report.train:,} to train on, {report.eval:,} held out")
        print(
            f"training  sees {passes(report.epochs, report.train)}, {report.padding:.0%} of a batch is padding"
        )


def _print_question(report: DataReport, folder: str) -> None:
    """What the rows suggest, and how to say yes or no to it."""
    from core.data.plan import FIELDS, options_of
    from core.text import command

    assert report.proposal is not None
    why = _clean(report.proposal.why)
    print(f"\nTo confirm: {_clean(report.proposal.mapping.words())} ({why}).")
    print(f"This report goes by that. If it is right: {command('data', folder, '--accept')}")
    print(f"If not: set {' and '.join(FIELDS[:2])} (or {FIELDS[2]}) in lab.toml.")
    if given := options_of(report.proposal):
        print(f"The same in a new lab, by options of olivepress new: {_clean(given)}")


def print_findings(
    report: DataReport,
    shown: int | None = SHOWN,
    more: str = "--all prints them, --json gives them to a script",
) -> None:
    """The findings by kind, and the first of them, or all for None; `more` says how to see the others."""
    from core.data.survey import to_words

    total = len(report.findings)
    print(f"\nfindings  {total:,}" + ("" if total else ": nothing to mend"))
    for kind, count in sorted(report.findings.counts.items()):
        print(f"  {count:>9,}  {kind}")
    for number, finding in enumerate(report.findings):
        if shown is not None and number >= shown:
            print(f"… and {total - shown:,} more: {more}.")
            break
        print(_clean(to_words(finding))[:400])
        if finding.quote is not None:
            print(f"    {finding.quote}")


def _print_cleaned(report: DataReport, cleaned: dict[str, Any] | None, folder: str) -> None:
    from core.formats import counted
    from core.text import command

    if cleaned is not None:
        print(f"\n{_clean(cleaned['file'])}: {counted(cleaned['kept'], 'row')}")
        print(f"{_clean(cleaned['left_out_file'])}: {counted(cleaned['left_out'], 'row')} left out, and why")
    elif report.cleanable:
        clean_file = command("data", folder, "--clean", "OUT.jsonl")
        print(f"{clean_file} writes a file without these rows.")


def _print_tokens(report: DataReport) -> None:
    stats = report.tokens
    if not stats.total:
        return
    note = " (estimated: the model's tokenizer is not on this machine)" if stats.estimated else ""
    cut = f"a limit of {report.max_seq_len:,} that cuts off {stats.lost:,}"
    print(
        f"tokens    {stats.total:,} in all; half of the rows have {stats.p50:,} or fewer, 95% {stats.p95:,},"
    )
    print(f"          the longest {stats.max:,}, with {cut}{note}")
    most = max((rows for _, _, rows in stats.histogram), default=0)
    for low, high, rows in stats.histogram:
        bar = "#" * max(1 if rows else 0, round(_BAR * rows / most))
        print(f"          {low:>7,} - {high:<9,} {bar:<{_BAR}} {rows:,}")
