"""What is asked of a run elsewhere, and what a lab remembers of the jobs that it sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Do, Hint, RequestError
from core.files import read_if_whole, write_json
from core.folder import LabFolder
from core.language import told

if TYPE_CHECKING:
    from core.azure.workspace import Place

OPTION = "on"
"""The key of a job's options that says where it runs; without it, on this machine."""
RECORD = "remote.json"
"""In a job's folder and in the lab's state: the job in Azure that it stands for."""
STAGES_THERE = ("quantize", "finetune", "optimize")
"""The stages whose inputs can go along with a job, and whose results come back."""
SERVICES = ("azureml",)
DEFAULT_HOURS, MOST_HOURS = 24.0, 24.0 * 30


@dataclass(frozen=True)
class On:
    """Where a run goes.

    Attributes:
        compute: the name of a cluster or instance of the workspace.
        stages: all that one job there runs, in order.
        hours: after which Azure ends it; waiting for a machine is not counted.
        job: the name of the job there that runs it already, if one was sent for an earlier stage of the same run.
    """

    compute: str
    stages: tuple[str, ...]
    hours: float = DEFAULT_HOURS
    job: str = ""

    def option(self) -> dict[str, Any]:
        """As it stands in a job's options."""
        return {OPTION: {"service": "azureml", **asdict(self), "stages": list(self.stages)}}


def on(options: Mapping[str, Any]) -> On | None:
    """Where a job with these options runs; None: on this machine.

    Raises:
        RequestError: a service or a form that this version does not know.
    """
    said = options.get(OPTION)
    if said is None:
        return None
    if not isinstance(said, dict) or said.get("service") not in SERVICES or not said.get("compute"):
        raise RequestError(
            told("This version does not know where that is to run."),
            told("options.on is {said!r}.", said=said),
            told("Run it with --on azureml --compute NAME."),
            code="remote.where",
        )
    hours = said.get("hours")
    return On(
        str(said["compute"]),
        tuple(map(str, said.get("stages") or ())),
        float(hours) if isinstance(hours, int | float) else DEFAULT_HOURS,
        str(said.get("job") or ""),
    )


@dataclass(frozen=True)
class SentJob:
    """A job in Azure that a lab has sent, or is about to send.

    Attributes:
        name: in the workspace.
        key: the digest of the recipe, the records, the model and the program that it runs with.
        datastore, out: where its outputs lie: a datastore, and the folder in it.
        page: its page in Azure ML studio.
    """

    name: str
    key: str
    stages: tuple[str, ...]
    compute: str
    subscription: str
    resource_group: str
    workspace: str
    datastore: str
    out: str
    page: str = ""

    @property
    def place(self) -> Place:
        """Its workspace."""
        from core.azure.workspace import Place

        return Place(self.subscription, self.resource_group, self.workspace)

    def write(self, job: Path, lab: LabFolder) -> None:
        """Remember it in the job's folder and in the lab."""
        for path in (job / RECORD, lab.state_dir / RECORD):
            write_json(path, asdict(self))


def sent(path: Path) -> SentJob | None:
    """What a ``remote.json`` tells; None where there is none that can be read."""
    noted = read_if_whole(path)
    if not isinstance(noted, dict):
        return None
    values = {each.name: noted.get(each.name, "") for each in fields(SentJob)}
    stages = values.pop("stages")
    if not isinstance(stages, list) or not all(isinstance(each, str) for each in values.values()):
        return None
    found = SentJob(**values, stages=tuple(map(str, stages)))
    return found if found.name and found.out and found.datastore else None


def sent_by(job: Path) -> SentJob | None:
    """The job in Azure that the job in this folder stands for."""
    return sent(job / RECORD)


def to_follow(job: Path) -> Hint:
    """What to do where the job here is gone and the one in Azure goes on; empty where there is none."""
    noted = sent_by(job)
    if noted is None:
        return ()
    stage = job.name.rsplit("-", 1)[0]
    words = (stage, "--on", SERVICES[0], "--compute", noted.compute)
    again = Do.of("run", job.parent.parent, *words)
    return told(
        "{name} goes on in Azure. Follow it, or take what it has made: {again}", name=noted.name, again=again
    )


def handed_on(options: Mapping[str, Any], job: Path) -> dict[str, Any]:
    """The options for the next stage of a run: it follows the same job there as ``job`` did."""
    asked, noted = on(options), sent_by(job)
    if asked is None:
        return {}
    return replace(asked, job=noted.name if noted else asked.job).option()


def later(stages: Sequence[str], stage: str) -> tuple[str, ...]:
    """The stages from one on."""
    return tuple(stages[list(stages).index(stage) :]) if stage in stages else (stage,)
