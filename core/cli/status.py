"""``olivepress status``, ``logs`` and ``cancel``: what the lab's jobs do, say, and how to stop them."""

from __future__ import annotations

import argparse
import sys
import time

from core.cli.parser import add_folder, add_json
from core.errors import RequestError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the three commands."""
    parser = commands.add_parser("status", help="every job, its state and progress")
    add_folder(parser)
    add_json(parser)
    parser.set_defaults(run=status)

    parser = commands.add_parser("logs", help="what a job printed")
    parser.add_argument(
        "words", nargs="+", metavar="[DIR] JOB", help="the lab's folder (default: here), then a job or stage"
    )
    parser.add_argument("--follow", "-f", action="store_true", help="go on printing until the job is over")
    parser.set_defaults(run=logs)

    parser = commands.add_parser("cancel", help="stop a job")
    parser.add_argument(
        "words", nargs="+", metavar="[DIR] JOB", help="the lab's folder (default: here), then a job or stage"
    )
    parser.set_defaults(run=cancel)


def status(options: argparse.Namespace) -> int:
    """List the jobs."""
    from core.cli.show import human_seconds, print_json
    from core.lab import Lab
    from core.text import clean

    states = [job.status() for job in Lab.open(options.folder).jobs()]
    if options.json:
        print_json({"jobs": [state.as_dict() for state in states]})
        return 0
    if not states:
        print("No job has run in this lab yet. Start with: olivepress run")
    for state in states:
        line = f"{state.id:<14} {state.state:<11} {(state.started or '')[:19]:<20}"
        if state.phase and state.total and state.state in ("running", "cancelling"):
            line += f" {clean(state.phase)} {state.done:g}/{state.total:g}"
            line += f", {human_seconds(state.eta_s)} left" if state.eta_s is not None else ""
        if state.error:
            line += f" {clean(state.error['title'], keep_newlines=False)}"
        print(line.rstrip())
    return 0


def _folder_and_job(words: list[str]) -> tuple[str, str]:
    if len(words) > 2:
        raise RequestError("Too many words.", " ".join(words), "Give the lab's folder and one job.")
    return (words[0], words[1]) if len(words) == 2 else (".", words[0])


def logs(options: argparse.Namespace) -> int:
    """Print a job's log, cleaned of what could harm a terminal."""
    from core.lab import Lab
    from core.text import clean_line

    folder, name = _folder_and_job(options.words)
    job = Lab.open(folder).job(name)
    rest = b""
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
        print(f"{job.id}: {job.state}", file=sys.stderr)
    return 0


def cancel(options: argparse.Namespace) -> int:
    """Ask a job to stop and wait until it has."""
    from core.lab import Lab

    folder, name = _folder_and_job(options.words)
    job = Lab.open(folder).job(name)
    job.cancel()
    print(f"{job.id}: asked to stop", file=sys.stderr)
    print(f"{job.id}: {job.wait()}")
    return 0
