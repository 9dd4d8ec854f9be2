"""``olivepress data``: look at the training records, count tokens, find bad rows, write a clean file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from core.cli.parser import add_folder, add_json, add_set, parse_settings
from core.language import _, shown, told

if TYPE_CHECKING:
    from pathlib import Path

    from core.data.survey import DataReport
    from core.recipe import Recipe

SHOWN = 20
_BAR = 40


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("data", help=_("look at the training records and find bad rows"))
    add_folder(parser)
    add_json(parser)
    parser.add_argument(
        "--clean", metavar="OUT", help=_("write the rows without findings to this file (JSON Lines)")
    )
    parser.add_argument(
        "--keep",
        metavar="KINDS",
        default="",
        help=_("with --clean: kinds of findings to keep, such as too-long,near-duplicate"),
    )
    parser.add_argument(
        "--accept", action="store_true", help=_("write the proposed fields and template into lab.toml")
    )
    add_set(parser, _("write a recipe value into lab.toml first, such as data.prompt_field=question"))
    parser.add_argument(
        "--all", action="store_true", help=_("print all findings, not the first {shown}", shown=SHOWN)
    )
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
        why = (
            told("Training cannot use such rows.")
            if strange[0] in BLOCKING
            else told("There is no such kind.")
        )
        raise RequestError(
            told("--keep cannot keep {kind}.", kind=strange[0]),
            why,
            told("Kinds that can be kept: {names}.", names=", ".join(sorted(WARNINGS))),
            code="usage",
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
            told("There is nothing to accept."),
            told("{why!c}.", why=proposal.why),
            told("Set data.prompt_field and data.response_field in lab.toml."),
            code="data.accept",
        )
    print(_("accepted: {mapping}", mapping=_clean(proposal.mapping.words())), file=sys.stderr)
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

    return clean(shown(text), keep_newlines=False)


def _escaped(template: str) -> str:
    """A template on one line, a line break unlike a backslash and an n."""
    return template.replace("\\", "\\\\").replace("\n", "\\n")


def print_report(report: DataReport) -> None:
    """The figures of a data file, and what of it is not used."""
    from core.cli.show import cells, padded
    from core.data.findings import passes
    from core.data.unused import unused_words
    from core.formats import counted, human_bytes, number

    lines = [
        (_("file"), f"{_clean(str(report.path))}, {shown(human_bytes(report.bytes))}"),
        (
            _("rows"),
            _("{rows}, {usable} of them usable", rows=number(report.rows), usable=number(report.usable)),
        ),
        (_("fields"), _clean(", ".join(report.fields))),
    ]
    if report.proposal is not None:
        lines.append((_("mapping"), _clean(report.mapping.words())))
    template = _("the model's own chat template") if report.chat_template else _escaped(report.template)
    plain = next((each for each in report.auto if each.option == "data.template"), None)
    if plain is not None and plain.value is not None and not report.chat_template:
        template += f" ({shown(plain.reason)})"
    lines.append((_("template"), _clean(template)))
    unused = _clean(unused_words([each.as_dict() for each in report.not_used], report.usable))
    if report.usable:
        lines.append((_("not used"), unused or _("nothing")))
    for why, count in report.not_learnt.items():
        lines.append((_("not learnt"), f"{shown(counted(count, 'row'))}: {_clean(why)}"))
    if report.pairs:
        rows = counted(report.pairs, "row")
        lines.append((_("pairs"), _("{rows} with a chosen and a rejected answer", rows=rows)))
    if report.undesirable:
        good, bad = number(report.usable - report.undesirable), number(report.undesirable)
        lines.append((_("labels"), _("{good} good answers, {bad} to be avoided", good=good, bad=bad)))
    if report.turns_not_learnt:
        answers = counted(report.turns_not_learnt, "answer")
        lines.append((_("not learnt"), _("{answers} shown in the other rows", answers=answers)))
    lines += _token_lines(report)
    if report.usable:
        train, held = number(report.train), number(report.eval)
        lines.append((_("split"), _("{train} to train on, {held} held out", train=train, held=held)))
        seen = passes(report.epochs, report.train)
        lines.append(
            (
                _("training"),
                _("sees {rows}, {padding:.0%} of a batch is padding", rows=seen, padding=report.padding),
            )
        )
    width = max(10, *(cells(label) + 2 for label, _text in lines))
    for label, text in lines:
        print(padded(label, width) + text)


def _print_question(report: DataReport, folder: str) -> None:
    """What the rows suggest, and how to say yes or no to it."""
    from core.data.plan import FIELDS, options_of
    from core.text import command

    assert report.proposal is not None
    why = _clean(report.proposal.why)
    print(
        "\n" + _("To confirm: {mapping} ({why}).", mapping=_clean(report.proposal.mapping.words()), why=why)
    )
    print(
        _("This report goes by that. If it is right: {command}", command=command("data", folder, "--accept"))
    )
    print(
        _(
            "If not: set {question} and {answer} (or {messages}) in lab.toml.",
            question=FIELDS[0],
            answer=FIELDS[1],
            messages=FIELDS[2],
        )
    )
    if given := options_of(report.proposal):
        print(
            _(
                "The same in a new lab, by options of {command}: {options}",
                command=command("new"),
                options=_clean(given),
            )
        )


def print_findings(
    report: DataReport,
    most: int | None = SHOWN,
    more: str = "",
) -> None:
    """The findings by kind, and the first of them, or all for None; `more` says how to see the others."""
    from core.data.survey import to_words
    from core.formats import number

    total = len(report.findings)
    head = _("findings")
    print(f"\n{head}  " + (shown(number(total)) if total else _("0: nothing to mend")))
    for kind, count in sorted(report.findings.counts.items()):
        print(f"  {count:>9,}  {kind}")
    for place, finding in enumerate(report.findings):
        if most is not None and place >= most:
            way = more or _("--all prints them, --json gives them to a script")
            print(_("… and {count} more: {way}.", count=number(total - most), way=way))
            break
        print(_clean(to_words(finding))[:400])
        if finding.quote is not None:
            print(f"    {finding.quote}")


def _print_cleaned(report: DataReport, cleaned: dict[str, Any] | None, folder: str) -> None:
    from core.formats import counted
    from core.text import command

    if cleaned is not None:
        print(f"\n{_clean(cleaned['file'])}: {shown(counted(cleaned['kept'], 'row'))}")
        print(
            _(
                "{file}: {rows} left out, and why",
                file=_clean(cleaned["left_out_file"]),
                rows=counted(cleaned["left_out"], "row"),
            )
        )
    elif report.cleanable:
        clean_file = command("data", folder, "--clean", "OUT.jsonl")
        print(_("{command} writes a file without these rows.", command=clean_file))


def _token_lines(report: DataReport) -> list[tuple[str, str]]:
    from core.formats import number

    stats = report.tokens
    if not stats.total:
        return []
    spread = {"total": number(stats.total), "half": number(stats.p50), "most": number(stats.p95)}
    cut = {
        "longest": number(stats.max),
        "limit": number(report.max_seq_len),
        "lost": number(stats.lost),
    }
    lines = [
        (
            _("tokens"),
            _("{total} in all; half of the rows have {half} or fewer, 95% {most},", **spread),
        ),
        ("", _("the longest {longest}, with a limit of {limit} that cuts off {lost}", **cut)),
    ]
    if stats.estimated:
        lines.append(("", _("(estimated: the model's tokenizer is not on this machine)")))
    most = max((rows for _low, _high, rows in stats.histogram), default=0)
    for low, high, rows in stats.histogram:
        bar = "#" * max(1 if rows else 0, round(_BAR * rows / most))
        ends = f"{shown(number(low)):>7} - {shown(number(high)):<9}"
        lines.append(("", f"{ends} {bar:<{_BAR}} {shown(number(rows))}"))
    return lines
