"""Sending a job: what goes up and where to, the job's file, and the one call that makes it one in Azure."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.azure.compute import Compute
from core.azure.retry import Stop, retried
from core.azure.runs import Runs
from core.azure.signin import Identity, current, prompt_to
from core.azure.storage import Container
from core.azure.workspace import Datastore, Place, Workspace
from core.errors import RequestError
from core.events import Reporter
from core.files import write_atomic
from core.folder import LabFolder
from core.formats import counted, human_bytes
from core.language import told
from core.model.sources import kind_of
from core.recipe import Recipe
from core.remote import contents as content
from core.remote import jobfile
from core.remote.asked import On, SentJob
from core.upload.contents import PREFIX, Contents, digested
from core.upload.sender import Sender


@dataclass
class AzureLine:
    """The line to a workspace: who is signed in, and the calls."""

    identity: Identity
    workspace: Workspace
    runs: Runs
    stop: Stop
    report: Reporter

    @classmethod
    def to(cls, place: Place, stop: Stop, report: Reporter) -> AzureLine:
        """Sign in and open it."""
        report.progress(told("signing in"), 0, None)
        identity = current(stop=stop, on_prompt=prompt_to(report))
        workspace = Workspace(place, identity.credential, stop=stop, say=report.log)
        return cls(identity, workspace, Runs(identity.credential, place, stop, report.log), stop, report)

    def close(self) -> None:
        """Close the connections."""
        self.runs.close()
        self.workspace.close()


@dataclass
class JobPlan:
    """A job that could be sent; nothing has been."""

    contents: Contents
    compute: Compute
    store: Datastore
    container: Container
    sender: Sender
    sent: SentJob
    document: dict[str, Any]
    to_send: int
    kept: int

    @property
    def text(self) -> str:
        """The job's file."""
        return jobfile.text_of(self.document)

    def close(self) -> None:
        """Close the connections."""
        self.container.close()


def digest_all(lab: LabFolder, recipe: Recipe, stages: Sequence[str], report: Reporter) -> Contents:
    """What would go up, every file with its digest."""
    found = content.collect(lab, recipe, stages)
    total = found.total
    return digested(
        found,
        lab.state_dir / "sent-digests.json",
        lambda done: report.progress(told("reading"), done, total),
        report.check_cancelled,
    )


def make_plan(
    line: AzureLine, lab: LabFolder, recipe: Recipe, on: On, contents: Contents, key: str, *, fresh: bool
) -> JobPlan:
    """Look at everything that can be looked at before the first byte goes.

    Args:
        key: as :func:`core.remote.contents.key` gives it.
        fresh: whether the job begins anew, and not from what an earlier one for the same work has left.

    Raises:
        RequestError, MachineError: no such compute, one that cannot be used, or something is missing.
    """
    compute = line.runs.computes.named(on.compute)
    jobfile.check_compute(compute, recipe, on.stages)
    store = line.workspace.default_datastore()
    container = line.workspace.container(store, recipe.upload.concurrency)
    container.may_write()
    report, total = line.report, contents.total
    sender = Sender(
        container,
        contents.prefix,
        contents.items,
        concurrency=recipe.upload.concurrency,
        stop=line.stop,
        on_bytes=lambda done: report.progress(told("sending"), done, total),
    )
    found = sender.plan()
    name = f"olivepress-{on.stages[0]}-{uuid.uuid4().hex[:10]}"
    out = f"{PREFIX}/runs/{name if fresh else key}"
    paths = f"azureml://datastores/{store.name}/paths"
    place = line.workspace.place
    document = jobfile.JobFile(
        name,
        lab.root.name,
        on.stages,
        compute,
        f"{paths}/{contents.prefix}",
        f"{paths}/{out}",
        on.hours,
        recipe.finetune.gpus if "finetune" in on.stages else 1,
        _given(lab, recipe, on.stages),
    ).document()
    sent = SentJob(
        name,
        key,
        on.stages,
        compute.name,
        place.subscription,
        place.resource_group,
        place.workspace,
        store.name,
        out,
    )
    return JobPlan(
        contents, compute, store, container, sender, sent, document, found.bytes_sent, found.bytes_kept
    )


def _given(lab: LabFolder, recipe: Recipe, stages: Sequence[str]) -> str:
    """The address of a model that Azure ML gives to the job."""
    source = recipe.model.source
    if "quantize" not in stages or kind_of(source, lab.root) != "azureml":
        return ""
    if "/labels/" in source.lower():
        raise RequestError(
            told("A job takes one version of a model, not its label."),
            told("model.source = {source!r}.", source=source),
            told("Name the version: …/versions/N."),
            code="azure.address",
        )
    return source


def send(line: AzureLine, plan: JobPlan, lab: LabFolder, job: Path) -> SentJob:
    """Send what is missing, write the job's file into the job's folder, and submit it.

    The name is written down before: whatever happens then, the job can be found again.

    Raises:
        LabError: Azure refused or failed.
        Cancelled: what has arrived is kept for the next time.
    """
    report, total = line.report, plan.contents.total
    kept = f"; {human_bytes(plan.kept)} are there already" if plan.kept else ""
    report.log(
        f"Sending {human_bytes(plan.to_send)} of {counted(len(plan.contents.items), 'file')}, {human_bytes(total)}, "
        f"to {plan.store.account}/{plan.store.container}{kept}."
    )
    path = job / jobfile.FILE
    checked(plan, path)
    plan.sender.send()
    report.progress(told("verifying"), 0, None)
    plan.sender.verify()
    line.stop.check()
    report.progress(told("submitting"), 0, None)
    plan.sent.write(job, lab)
    page = _submit(line, path)
    sent = replace(plan.sent, page=page)
    sent.write(job, lab)
    report.log(f"Submitted to {sent.compute} as {sent.name}." + (f" Its page: {page}" if page else ""))
    return sent


def checked(plan: JobPlan, path: Path) -> None:
    """Write the job's file, and have it checked."""
    jobfile.refuse_secret(plan.text)
    write_atomic(path, plan.text)
    jobfile.check_file(path, plan.document)


def _submit(line: AzureLine, path: Path) -> str:
    """Submit the job of a file by azure-ai-ml; its page."""
    from azure.ai.ml import MLClient, load_job
    from azure.ai.ml.exceptions import MlException

    from core.azure.errors import explain
    from core.azure.rest import cloud
    from core.azure.transport import Transport

    os.environ["GIT_DIR"] = os.devnull  # the SDK would tell which repository this folder lies in
    place = line.workspace.place
    client = MLClient(
        line.identity.credential,
        place.subscription,
        place.resource_group,
        place.workspace,
        enable_telemetry=False,
        cloud=cloud().sdk,
        retry_total=0,
        transport=Transport(line.stop),
    )
    with jobfile.sdk_unheard():
        job = load_job(str(path))
    subject = told("job {name}", name=job.name)
    try:
        # Under the same name again it is the same job: an answer that was lost makes no second one.
        with jobfile.sdk_unheard():
            retried(lambda: client.jobs.create_or_update(job), subject, stop=line.stop, say=line.report.log)
    except MlException as error:
        if line.runs.state(str(job.name)) is None:
            raise explain(error, subject) from None
    state = line.runs.state(str(job.name))
    return state.page if state else ""
