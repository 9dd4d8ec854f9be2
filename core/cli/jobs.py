"""What the commands that run jobs have in common: how a start is told, and a failure once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.cli.output import OutputLost
from core.cli.show import cells, padded, print_error, print_json
from core.errors import LabError
from core.events import Event
from core.language import _, told
from core.text import command

if TYPE_CHECKING:
    from core.jobs.job import Job
    from core.lab import Lab, StageResult


class JsonEvents:
    """The events of the jobs on standard output. Remembers whether a failure has been told."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, event: Event) -> None:
        self.told = self.told or bool(event.get("error"))
        print_json(event)


def say_started(job: Job, folder: str, *, then: Sequence[str] = (), as_json: bool) -> None:
    """Say that a job runs by itself, and how it is followed and stopped."""
    if as_json:
        print_json({"job": job.id, "then": list(then)})
        return
    if then:
        print(_("{job} runs by itself, then {stages}.", job=job.id, stages=", ".join(then)))
    else:
        print(_("{job} runs by itself.", job=job.id))
    ways = {
        _("Follow it:"): command("logs", folder, job.id, "--follow"),
        _("Stop it:"): command("cancel", folder, job.id),
    }
    width = max(map(cells, ways))
    for words, way in ways.items():
        print(padded(words, width), way)


def run_job(
    lab: Lab, stage: str, folder: str, on_event: Callable[[Event], None], **how: Any
) -> StageResult | int:
    """Run a stage and wait for it.

    Args:
        on_event: gets the job's events. A failure that :class:`JsonEvents` has told is told no second time.
        how: the other arguments of :meth:`core.lab.Lab.run`.

    Returns:
        The result, or the exit status of a failure that has been told with its events.

    Raises:
        LabError: it failed.
        OutputLost: nobody reads the output any more. The hint says that the job goes on, and how to follow it.
    """
    try:
        return lab.run(stage, on_event=on_event, **how)
    except LabError as error:
        if isinstance(on_event, JsonEvents) and on_event.told:
            print_error(error)
            return error.exit_status
        raise
    except OutputLost as lost:
        newest = lab.newest(stage)
        if newest is not None and newest.active:
            follow = command("logs", folder, newest.id, "--follow")
            lost.hint = told("{job} goes on by itself. Follow it: {command}", job=newest.id, command=follow)
        raise
