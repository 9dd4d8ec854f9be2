"""``olivepress status``, ``show``, ``logs`` and ``cancel``: what the lab's jobs do, gave and say; how to stop them."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from core.cli.parser import add_folder, add_json, folder_word
from core.errors import LabError, RequestError, text_of
from core.folder import lab_folder
from core.language import _, shown, told
from core.stages import STAGES
from core.text import command

if TYPE_CHECKING:
    from core.jobs import Job
    from core.lab import Lab


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the four commands."""
    parser = commands.add_parser("status", help=_("every job, its state and progress"))
    add_folder(parser)
    add_json(parser)
    parser.set_defaults(run=status)

    parser = commands.add_parser("show", help=_("the last result of each stage, and how to take it along"))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[DIR] STAGE",
        help=_("the lab's folder (default: here), then the stages (default: all that have a result)"),
    )
    add_json(parser)
    parser.set_defaults(run=show)

    parser = commands.add_parser("logs", help=_("what a job told and printed"))
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[DIR] JOB",
        help=_("the lab's folder (default: here), then a job or stage"),
    )
    parser.add_argument("--follow", "-f", action="store_true", help=_("go on printing until the job is over"))
    parser.set_defaults(run=logs)

    parser = commands.add_parser("cancel", help=_("stop a job"))
    parser.add_argument(
        "words",
        nargs="+",
        metavar="[DIR] JOB",
        help=_("the lab's folder (default: here), then a job or stage"),
    )
    add_json(parser)
    parser.set_defaults(run=cancel)


def status(options: argparse.Namespace) -> int:
    """List the jobs."""
    from core.cli.show import (
        STATES,
        TONES,
        cells,
        padded,
        phase_words,
        print_json,
        progress_words,
        say,
        state_word,
    )
    from core.lab import Lab
    from core.text import clean

    lab = Lab.at(options.folder)
    states = [job.status() for job in lab.jobs()]
    old = _stale(lab)
    if options.json:
        said = None if old is None else [{"stage": stage, "reason": reason} for stage, reason in old.items()]
        print_json({"jobs": [state.as_dict() for state in states], "stale": said})
        return 0
    if not states:
        print(
            _("No job has run in this lab yet. Start with: {command}", command=command("run", options.folder))
        )
    width = max((11, *(cells(state_word(each)) + 1 for each in STATES)))
    for state in states:
        line = f" {(state.started or '')[:19]:<20}"
        if state.phase and state.state in ("running", "cancelling"):
            phase = phase_words({"phase": state.phase})
            line += f" {progress_words(phase, state.done, state.total, state.eta_s)}"
        if state.error:
            line += f" {clean(shown(text_of(state.error, 'title')), keep_newlines=False)}"
        word = padded(state_word(state.state), width)
        say((word, TONES.get(state.state, "")), line.rstrip(), head=f"{state.id:<14} ")
    for stage, reason in (old or {}).items():
        say(
            (_("{stage} is stale:", stage=stage), TONES["WARN"]),
            f" {clean(shown(reason), keep_newlines=False)}",
        )
    if old:
        say(_("Make it anew: {command}", command=command("run", options.folder)), fold=False)
    return 0


def show(options: argparse.Namespace) -> int:
    """Print what each stage last gave."""
    from core.cli.evaluate import print_variants
    from core.cli.run import split_words
    from core.cli.show import TONES, print_json, print_result, say
    from core.lab import Lab
    from core.report import last_results
    from core.takeaway import TITLE, takeaway
    from core.text import clean

    folder, named = split_words(options.words, ())
    lab = Lab.at(folder)
    results = [each for each in last_results(lab.folder) if each.stage in (named or STAGES)]
    missing = [stage for stage in named if all(each.stage != stage for each in results)]
    if missing:
        raise RequestError(
            told("{missing} has no result in this lab yet.", missing=missing[0]),
            hint=told("Make it with: {command}", command=command("run", folder, missing[0])),
            code="result.missing",
        )
    old = _stale(lab) or {}
    taken = None if named else takeaway(lab.folder)
    if options.json:
        said = [{**each.as_dict(), "stale": old.get(each.stage)} for each in results]
        print_json({"results": said, "takeaway": taken and taken.as_dict()})
        return 0
    if not results:
        print(
            _("No stage has a result in this lab yet. Start with: {command}", command=command("run", folder))
        )
    for each in results:
        print_result(
            each.stage, each.numbers, clean(f"{shown(each.heading)}, {each.where}", keep_newlines=False)
        )
        if each.stage == "evaluate" and named:
            print_variants(each.numbers)
        if each.stage in old:
            say(("  " + _("stale:"), TONES["WARN"]), f" {clean(shown(old[each.stage]), keep_newlines=False)}")
    if taken is not None:
        say((_(TITLE), "bold"))
        for line in taken.lines():
            say(line, head="  ", fold=False)
    return 0


def _stale(lab: Lab) -> dict[str, str] | None:
    """The stages whose result is stale, with the reason; None where the recipe cannot be read."""
    from core.stale import stale

    try:
        return stale(lab.folder, lab.recipe)
    except LabError:
        return None


def _job(name: str, words: list[str]) -> Job:
    """The job that the words of ``logs`` and ``cancel`` name: a lab's folder, if not here, and a job or a stage."""
    from core.lab import Lab

    if len(words) > 2:
        raise RequestError(
            told("Too many words."), " ".join(words), told("Give the lab's folder and one job."), code="usage"
        )
    *folders, wanted = words
    folder = folder_word(folders[0]) if folders else "."
    known = re.sub(r"-\d+$", "", wanted) in STAGES
    if not known and _is_lab(wanted):
        if folders:
            hint = told("The lab's folder comes first: {command}", command=command(name, wanted, folder))
        else:
            jobs = [job.id for job in Lab.at(wanted).jobs()]
            hint = (
                told("For its newest: {command}", command=command(name, wanted, jobs[-1]))
                if jobs
                else told("None has run in it yet.")
            )
        raise RequestError(
            told("Which job? {wanted} is a lab's folder.", wanted=repr(wanted)), hint=hint, code="job.missing"
        )
    return Lab.at(folder).job(wanted)


def _is_lab(folder: str) -> bool:
    try:
        lab = lab_folder(folder)
        return lab.recipe_path.exists() or lab.jobs_dir.is_dir()
    except RequestError:
        return False


def logs(options: argparse.Namespace) -> int:
    """Print a job's log, cleaned of what could harm a terminal."""
    from core.cli.show import state_word
    from core.text import clean_line

    job = _job("logs", options.words)
    if options.follow:
        job = _picked_up(job)
    rest = b""
    if not job.log_path.is_file():
        print(_("{job} has no log.", job=job.id), file=sys.stderr)
        return 0
    with job.log_path.open("rb") as stream:
        while True:
            over = not job.active
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    print(clean_line(line.decode("utf-8", "replace")), flush=options.follow)
            if over or not options.follow:
                break
            time.sleep(0.1)
    if rest:
        print(clean_line(rest.decode("utf-8", "replace")))
    if options.follow:
        print(f"{job.id}: {state_word(job.state)}", file=sys.stderr)
    return 0


def _picked_up(job: Job) -> Job:
    """The job; where it is gone and the one in Azure that it stood for goes on, a new one that follows that."""
    from core.lab import Lab
    from core.remote.asked import sent_by

    lab = Lab.at(job.folder.parent.parent)
    newest = lab.newest(job.stage)
    if job.state != "crashed" or sent_by(job.folder) is None or newest is None or newest.id != job.id:
        return job
    options = job.spec.get("options")
    again = lab.start(job.stage, options=options if isinstance(options, dict) else {})
    print(_("{job} is gone; {again} follows its job in Azure.", job=job.id, again=again.id), file=sys.stderr)
    return again


def cancel(options: argparse.Namespace) -> int:
    """Ask a job to stop and wait until it has."""
    from core.cli.show import print_json, state_word
    from core.events import stop_takes
    from core.formats import duration
    from core.text import clean

    job = _job("cancel", options.words)
    job.cancel()
    takes = stop_takes(job.folder)
    if takes > 1:
        asked = _(
            "{job}: asked to stop; it finishes its step and keeps a checkpoint, which takes about {time}",
            job=job.id,
            time=duration(takes),
        )
    else:
        asked = _("{job}: asked to stop", job=job.id)
    print(asked, file=sys.stderr)
    state = job.wait()
    error = job.error()
    if options.json:
        print_json({"job": job.id, "state": state})
    else:
        print(f"{job.id}: {state_word(state)}")
        if error is not None and error.detail and state == "cancelled":
            print(f"  {clean(shown(error.detail), keep_newlines=False)}")
    return 0
