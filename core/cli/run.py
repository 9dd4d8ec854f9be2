"""``olivepress run``: run stages, in this order, and wait for them or not."""

from __future__ import annotations

import argparse

from core.cli.parser import add_json
from core.errors import RequestError
from core.stages import DEFAULT_STAGES, STAGES


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "run",
        help="run stages of the lab",
        description="Run stages of the lab (default: " + " ".join(DEFAULT_STAGES) + "). "
        "A stage whose inputs have not changed is not run again.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[DIR] STAGE",
        help="the lab's folder (default: here), then " + ", ".join(STAGES),
    )
    parser.add_argument("--detach", action="store_true", help="start and return; the run goes on by itself")
    parser.add_argument("--force", action="store_true", help="run even if nothing has changed")
    parser.add_argument(
        "--no-check", action="store_true", help="do not look first whether this machine can do it"
    )
    add_json(parser, "the events of the jobs, one JSON object a line,")
    parser.set_defaults(run=run)


def split_words(words: list[str]) -> tuple[str, list[str]]:
    """The folder and the stages among the command's words.

    Raises:
        RequestError: a word after the first is not a stage.
    """
    folder = words[0] if words and words[0] not in STAGES else "."
    stages = words[1:] if words and words[0] not in STAGES else words
    for word in stages:
        if word not in STAGES:
            raise RequestError(
                f"There is no stage {word!r}.", hint="The stages are: " + ", ".join(STAGES) + "."
            )
    return folder, stages or list(DEFAULT_STAGES)


def run(options: argparse.Namespace) -> int:
    """Run the stages."""
    from core.cli.show import EventPrinter, print_json, print_result
    from core.lab import Lab

    folder, stages = split_words(options.words)
    lab = Lab.open(folder)
    if not options.no_check:
        from core.check import require

        require(lab, stages)
    if options.detach:
        job = lab.start(stages[0], force=options.force, then=tuple(stages[1:]))
        if options.json:
            print_json({"job": job.id, "then": stages[1:]})
        else:
            print(f"{job.id} runs by itself" + (f", then {', '.join(stages[1:])}." if stages[1:] else "."))
            print(
                f"Follow it: olivepress logs {folder} {job.id} --follow\n"
                f"Stop it:   olivepress cancel {folder} {job.id}"
            )
        return 0
    for stage in stages:
        result = lab.run(stage, on_event=print_json if options.json else EventPrinter(), force=options.force)
        if not options.json:
            print_result(stage, result.numbers, reused=result.reused)
    return 0
