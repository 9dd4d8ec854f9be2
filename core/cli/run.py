"""``olivepress run``: run stages, in this order, and wait for them or not."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from core.cli.commands import COMMANDS
from core.cli.jobs import JsonEvents, run_job, say_started
from core.cli.parser import add_json, folder_word
from core.cli.show import EventPrinter, print_json, print_result
from core.errors import Do, RequestError
from core.folder import lab_folder
from core.language import _, told
from core.recipe import OPTIONS, Recipe
from core.remote.asked import DEFAULT_HOURS, MOST_HOURS, SERVICES, STAGES_THERE, On, handed_on
from core.stages import STAGES, default_stages
from core.text import clean, command

if TYPE_CHECKING:
    from core.lab import Lab


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "run",
        help=_("run stages of the lab"),
        description=_(
            "Run stages of the lab (default: {names}). A stage whose inputs have not changed is not "
            "run again.",
            names=" ".join(default_stages()),
        ),
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[DIR] STAGE",
        help=_("the lab's folder (default: here), then {names}", names=", ".join(STAGES)),
    )
    parser.add_argument(
        "--detach", action="store_true", help=_("start and return; the run goes on by itself")
    )
    parser.add_argument("--force", action="store_true", help=_("run even if nothing has changed"))
    parser.add_argument(
        "--verify",
        action="store_true",
        help=_("read every byte of earlier results, not sizes and times alone"),
    )
    parser.add_argument(
        "--gpus",
        type=_gpus,
        metavar="N",
        help=_('GPUs to finetune on, or "auto" for as many as pay (default: finetune.gpus of lab.toml)'),
    )
    parser.add_argument(
        "--on",
        choices=SERVICES,
        help=_("run on a machine of the lab's Azure ML workspace; the results come back here"),
    )
    parser.add_argument(
        "--compute",
        metavar="NAME",
        help=_("with --on: the cluster or instance (olivepress compute lists them)"),
    )
    parser.add_argument(
        "--hours",
        type=float,
        metavar="H",
        default=DEFAULT_HOURS,
        help=_(
            "with --on: end the job there after so long (default: {default_hours:g})",
            default_hours=DEFAULT_HOURS,
        ),
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help=_("with --on: show the job's file, what it may cost, and what would go up; send nothing"),
    )
    there = parser.add_argument_group(_("on the machine of a job"))
    there.add_argument(
        "--from", dest="source", metavar="FOLDER", help=_("what was sent; no DIR is named then")
    )
    there.add_argument(
        "--keep", metavar="FOLDER", help=_("with --from: where results and checkpoints are kept")
    )
    there.add_argument("--model", metavar="FOLDER", help=_("with --from: the model to start from"))
    parser.add_argument(
        "--no-check", action="store_true", help=_("do not look first whether this machine can do it")
    )
    add_json(
        parser, _("print the events of the jobs, one JSON object a line, and nothing else on standard output")
    )
    parser.set_defaults(run=run)


def _gpus(text: str) -> int | str:
    option = OPTIONS["finetune"]["gpus"]
    try:
        value: int | str = option.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return value


def split_words(words: list[str], unnamed: Sequence[str]) -> tuple[str, list[str]]:
    """The folder and the stages among the command's words. A first word that names a stage is one.

    Args:
        unnamed: the stages that are meant where none is named.

    Raises:
        RequestError: a word after the first is not a stage.
    """
    named = bool(words) and words[0] not in STAGES
    folder = folder_word(words[0]) if named else "."
    stages = words[1:] if named else words
    for word in stages:
        if word not in STAGES:
            raise _no_stage(word, words)
    return folder, stages or list(unnamed)


def _no_stage(word: str, words: list[str]) -> RequestError:
    others = [each for each in words if each != word]
    hint = told("The stages are: {names}.", names=", ".join(STAGES))
    near = difflib.get_close_matches(word.lower(), STAGES, n=1)
    if near:
        hint = told("Did you mean {near}? {hint}", near=near[0], hint=hint)
    elif word in COMMANDS:
        hint = told(
            "It is a command of its own: {command}",
            command=command(word, *(each for each in others if each not in STAGES)),
        )
    elif os.path.isdir(word) and all(each in STAGES for each in others):
        hint = told("The lab's folder comes first: {command}", command=command("run", word, *others))
    return RequestError(told("There is no stage {word}.", word=repr(word)), hint=hint, code="stage.unknown")


def _open(words: list[str], folder: str) -> Lab:
    """The lab. Where there is none, a misspelt stage or a folder with a stage's name may have been meant."""
    from core.lab import Lab

    if words and not lab_folder(folder).recipe_path.exists():
        first = words[0]
        if first in STAGES and lab_folder(first).recipe_path.exists():
            raise RequestError(
                told("There is no lab here."),
                told(
                    "{first} was taken for the stage. There is a folder of that name with a lab in it.",
                    first=first,
                ),
                told("For that lab: {command}", command=command("run", f"./{first}", *words[1:])),
                code="lab.missing",
            )
        near = difflib.get_close_matches(first.lower(), STAGES, n=1)
        if near and first not in STAGES and not os.path.exists(folder):
            raise RequestError(
                told("There is neither a stage nor a folder {first}.", first=repr(first)),
                hint=told("Did you mean: {command}", command=command("run", near[0], *words[1:])),
                code="stage.unknown",
            )
    return Lab.open(folder)


def run(options: argparse.Namespace) -> int:
    """Run the stages."""
    _refuse_halves(options)
    if options.source:
        return _run_there(options)
    folder, stages = split_words(options.words, default_stages())
    lab = _open(options.words, folder)
    values = {} if options.gpus is None else {"finetune.gpus": options.gpus}
    choices: dict[str, Any] = {"verify": True} if options.verify else {}
    if options.on:
        _refuse_there(stages)
        where = On(options.compute, tuple(stages), options.hours)
        if options.dry_run:
            return _show_plan(lab, lab.recipe.with_values(values), where, as_json=options.json)
        choices |= where.option()
    with _packages_ahead(options, stages):
        if not options.no_check:
            from core.check import require

            require(lab, stages, values, elsewhere=bool(options.on))
        if options.detach:
            job = lab.start(
                stages[0], force=options.force, then=tuple(stages[1:]), options=choices, values=values
            )
            say_started(job, folder, then=stages[1:], as_json=options.json)
            return 0
        return _run_all(lab, folder, stages, options, choices, values)


def _packages_ahead(options: argparse.Namespace, stages: Sequence[str]) -> AbstractContextManager[None]:
    """The packages loaded beside the work, where several stages here need them; a detached run sees to it itself."""
    if options.on or options.detach or sum(STAGES[stage].computes for stage in stages) < 2:
        return nullcontext()
    from core.jobs.start import job_environment
    from core.jobs.warm import loaded_ahead

    return loaded_ahead(job_environment())


def _run_all(
    lab: Lab,
    folder: str,
    stages: Sequence[str],
    options: argparse.Namespace,
    choices: dict[str, Any],
    values: dict[str, Any],
) -> int:
    """One stage after the other, until one fails."""
    events = JsonEvents() if options.json else EventPrinter()
    for stage in stages:
        result = run_job(lab, stage, folder, events, force=options.force, options=choices, values=values)
        if isinstance(result, int):
            return result
        if not options.json:
            print_result(stage, result.numbers, reused=result.reused)
        choices |= handed_on(choices, lab.job(result.job).folder)
    return 0


def _refuse_halves(options: argparse.Namespace) -> None:
    """Refuse options that mean nothing without another."""
    if options.on and not options.compute:
        raise RequestError(
            told("The compute is not named."),
            told("--on azureml needs --compute NAME."),
            told(
                "See what there is: {command}",
                command=Do.of("compute", options.words[0] if options.words else "."),
            ),
            code="usage",
        )
    if not options.on and (options.compute or options.dry_run):
        what = "--compute" if options.compute else "--dry-run"
        raise RequestError(
            told("{what} is for a run elsewhere.", what=what), hint=told("Add --on azureml."), code="usage"
        )
    if options.on and not 0 < options.hours <= MOST_HOURS:
        raise RequestError(
            told("That is no time for a job."),
            told("--hours {hours:g}.", hours=options.hours),
            told("Between 0 and {most_hours:g}.", most_hours=MOST_HOURS),
            code="usage",
        )
    if bool(options.source) != bool(options.keep) or (options.model and not options.source):
        raise RequestError(
            told("--from and --keep go together."), told("--model goes with both."), code="usage"
        )


def _refuse_there(stages: list[str]) -> None:
    """Refuse a stage that leaves nothing to bring back."""
    for stage in stages:
        if stage not in STAGES_THERE:
            raise RequestError(
                told("{stage} runs on this machine only.", stage=stage),
                hint=told("Leave it out, and run it without --on."),
                code="usage",
            )


def _show_plan(lab: Lab, recipe: Recipe, where: On, *, as_json: bool) -> int:
    """What a run elsewhere would send and may cost."""
    import tempfile
    from pathlib import Path

    from core.cli.login import signed_in
    from core.cli.show import say
    from core.remote.stage import dry_run, plan_contents, plan_cost

    with tempfile.TemporaryDirectory() as folder:
        plan = signed_in(
            lambda stop, report: dry_run(lab.folder, recipe, where, stop, report, Path(folder)),
            as_json=as_json,
        )
    if as_json:
        print_json(plan)
        return 0
    print(clean(plan["file"]))
    for line in (*plan_contents(plan), *plan_cost(plan)):
        say(clean(line, keep_newlines=False))
    return 0


def _run_there(options: argparse.Namespace) -> int:
    """On the machine of a job: run the stages on what was sent, and keep their results."""
    from pathlib import Path

    from core.lab import Lab
    from core.remote.node import Node

    stages = list(options.words) or list(default_stages())
    for word in stages:
        if word not in STAGES:
            raise _no_stage(word, stages)
    node = Node.begin(Path(options.source), Path(options.keep), stages, options.model or "")
    lab = Lab.open(node.lab.root)
    values = {} if options.gpus is None else {"finetune.gpus": options.gpus}
    events = JsonEvents() if options.json else EventPrinter()
    with node.watched():
        for stage in stages:
            if not options.no_check:
                from core.check import require

                require(lab, [stage], values)
            result = run_job(lab, stage, str(node.lab.root), events, force=options.force, values=values)
            if isinstance(result, int):
                return result
            if not options.json:
                print_result(stage, result.numbers, reused=result.reused)
            job = lab.job(result.job)
            node.keep_result(stage, result.numbers, job.seconds, job.peaks)
    return 0
