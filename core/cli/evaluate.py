"""``olivepress evaluate``: what every step of the lab cost and gave, measured on held-out records."""

from __future__ import annotations

import argparse
from typing import Any

from core.cli.parser import add_folder, add_json, whole_number
from core.events import Event
from core.language import _, shown, told


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "evaluate",
        help=_("what every step cost and gave, on held-out records"),
        description=_(
            "Put the same held-out records to the float model, the quantized one and the ONNX one, "
            "with the adapter and without: perplexity, answers, what was forgotten, size, memory and "
            "speed. What was measured before and has not changed is not measured again."
        ),
    )
    add_folder(parser)
    parser.add_argument(
        "--rows", type=whole_number, metavar="N", help=_("held-out records at most (default: lab.toml)")
    )
    parser.add_argument("--adapter", metavar="ADAPTER", help=_("the adapter (default: lab.toml)"))
    parser.add_argument(
        "--lm-eval",
        action="append",
        default=[],
        metavar="TASK",
        help=_("a task of lm-eval too, again for each further one (needs the extra olivepress[evaluate])"),
    )
    parser.add_argument(
        "--task-folder", metavar="FOLDER", help=_("with --lm-eval: a folder with tasks of your own")
    )
    parser.add_argument(
        "--task-limit",
        type=whole_number,
        metavar="N",
        help=_("with --lm-eval: questions of each task at most"),
    )
    parser.add_argument("--force", action="store_true", help=_("measure all of it again"))
    parser.add_argument("--detach", action="store_true", help=_("start and return; it goes on by itself"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, and show what was found."""
    from core.cli.jobs import run_job, say_started
    from core.cli.show import EventPrinter, print_json, print_result
    from core.lab import Lab

    lab = Lab.open(options.folder)
    values = settings(options)
    if options.detach:
        job = lab.start("evaluate", force=options.force, values=values)
        say_started(job, options.folder, as_json=options.json)
        return 0
    printer = EventPrinter()

    def told(event: Event) -> None:
        if not options.json:
            printer(event)

    done = run_job(lab, "evaluate", options.folder, told, force=options.force, values=values)
    if isinstance(done, int):
        return done
    if options.json:
        print_json({**done.numbers, "reused": done.reused})
        return 0
    print_result("evaluate", done.numbers, reused=done.reused)
    print_variants(done.numbers)
    return 0


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of this run alone that the options ask for.

    Raises:
        RequestError: a folder that is not there.
    """
    from pathlib import Path

    from core.errors import RequestError

    values: dict[str, Any] = {}
    if options.rows:
        values["evaluate.rows"] = options.rows
    if options.adapter:
        values["finetune.adapter"] = options.adapter
    if options.lm_eval:
        values["evaluate.tasks"] = ",".join(options.lm_eval)
    if options.task_limit:
        values["evaluate.task_limit"] = options.task_limit
    if options.task_folder:
        folder = Path(options.task_folder).expanduser().resolve()
        if not folder.is_dir():
            raise RequestError(
                told("There is no such folder."), told("--task-folder {folder}", folder=folder), code="usage"
            )
        values["evaluate.task_folder"] = str(folder)
    return values


def print_variants(result: dict[str, Any]) -> None:
    """The table of the variants, and some answers side by side."""
    from core.cli.show import say
    from core.evaluated import TITLES, explained, left_out, measured, samples, table, tasks_table
    from core.text import clean

    there = measured(result)
    for name, numbers in there:
        say("")
        how = clean(str(numbers.get("how") or ""), keep_newlines=False)
        say((shown(TITLES[name]), "bold"), f" ({how})" if how else "")
        column = [each for each, _numbers in there].index(name)
        for label, cells in (*table(result), *tasks_table(result)):
            if cells[column]:
                say(cells[column], head=(f"  {shown(label)}: ", "dim"))
    for line in left_out(result):
        say(line, head=(_("Not measured: "), "yellow"))
    for sample in samples(result)[:2]:
        say("")
        say(clean(str(sample.get("question")), keep_newlines=False), head=(_("Question: "), "bold"))
        say(clean(str(sample.get("expected")), keep_newlines=False), head=("  " + _("expected: "), "dim"))
        for name, text in sample["answers"].items():
            title = shown(TITLES.get(str(name), clean(str(name), keep_newlines=False)))
            say(clean(str(text), keep_newlines=False), head=(f"  {title}: ", "dim"))
    say("")
    say((explained(result), "dim"))
