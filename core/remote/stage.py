"""One stage of a lab on a machine of Azure ML, for the job here that stands for it.

A job there may run several stages of a lab, one after the other; here each has a job of its own, which follows that one
until its stage is done and brings the result back. The job there is known by its name, which is written down before
it is sent: whoever comes later follows it, and sends no second one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.azure.retry import Beside, Stop, cancellable
from core.azure.storage import Container
from core.azure.workspace import Place
from core.errors import Cancelled, LabError, StageError
from core.events import Reporter
from core.folder import LabFolder
from core.language import told
from core.recipe import Recipe
from core.remote import contents as content
from core.remote import jobfile
from core.remote.asked import RECORD, On, SentJob, later, sent
from core.remote.fetch import Made, bring, look
from core.remote.follow import Follower
from core.remote.send import AzureLine, checked, digest_all, make_plan, send

CANCEL_S = 12.0
"""Seconds that a stop takes at most, in which the job there is told."""


@dataclass(frozen=True)
class Brought:
    """A stage's result, here.

    Attributes:
        folder: its files, on the lab's disk.
        unchanged: whether recipe, records and model are still those that the job was sent with.
    """

    folder: Path
    made: Made
    sent: SentJob
    unchanged: bool


def run(
    stage: str, on: On, lab: LabFolder, recipe: Recipe, job: Path, report: Reporter, *, force: bool
) -> Brought:
    """Have a stage run there; its result in a folder here, not yet published, and what is told of it.

    Args:
        recipe: as it was written: what is "auto" is settled there.
        job: the folder of the job here.
        force: send a new job, whatever there is.

    Raises:
        LabError: the stage failed there, or Azure refused or failed.
        Cancelled: somebody asked to stop; the job there was told to.
    """
    known = sent(lab.state_dir / RECORD) if on.job else None
    # Where the job is, whatever workspace the recipe names by now.
    place = known.place if known is not None and known.name == on.job else Place.of(recipe, lab.root)
    report.stop_takes(CANCEL_S / 2)

    def work(stop: Stop, relay: Reporter) -> Brought:
        line = AzureLine.to(place, stop, relay)
        try:
            there, container = _found_or_sent(line, stage, on, lab, recipe, job, force=force)
            try:
                made = Follower(line.runs, container, there, stage, stop, relay, lab=lab.root).follow()
                folder = bring(container, there.out, stage, made, lab, stop, relay)
                return Brought(folder, made, there, _key_now(lab, recipe, relay) == there.key)
            finally:
                container.close()
        finally:
            line.close()

    try:
        brought: Brought = cancellable(_explained(work), report)
    except (Cancelled, KeyboardInterrupt):
        there = sent(job / RECORD)
        noted = there is not None and _cancel(there)
        if there is not None:
            report.log(
                f"{there.name} {'was' if noted else 'could not be'} told to end in Azure.",
                "info" if noted else "warning",
            )
        raise
    return brought


def _explained(work: Callable[[Stop, Reporter], Any]) -> Callable[[Stop, Reporter], Any]:
    def inside(stop: Stop, report: Reporter) -> Any:
        from core.azure.errors import explain

        try:
            return work(stop, report)
        except OSError as error:
            raise StageError(
                told("The work with Azure stopped."),
                told("{strerror}: {filename}", strerror=error.strerror, filename=error.filename),
                told("Run it again."),
                code="upload.stopped",
            ) from None
        except Exception as error:  # an exception of the SDK may quote a signature: it goes no further
            raise explain(error, told("the job in Azure")) from None

    return inside


def _found_or_sent(
    line: AzureLine, stage: str, on: On, lab: LabFolder, recipe: Recipe, job: Path, *, force: bool
) -> tuple[SentJob, Container]:
    """The job there for this stage, and the storage of its outputs."""
    report = line.report
    if on.job:
        known = sent(lab.state_dir / RECORD)
        if known is not None and known.name == on.job:
            known.write(job, lab)
            return known, _container(line, known, recipe)
    on = replace(on, stages=later(on.stages, stage), job="")
    key = content.key(lab, recipe, report.check_cancelled)
    if not force and (known := _going_on(line, stage, key, lab, recipe)):
        report.log(f"{known.name} was sent for this before; it is followed, and no second one is sent.")
        known.write(job, lab)
        return known, _container(line, known, recipe)
    contents = digest_all(lab, recipe, on.stages, report)
    plan = make_plan(line, lab, recipe, on, contents, key, fresh=force)
    try:
        there = send(line, plan, lab, job)
    except BaseException:  # Ctrl-C too: the files that the plan holds open are given back
        plan.close()
        raise
    return there, plan.container


def _key_now(lab: LabFolder, recipe: Recipe, report: Reporter) -> str:
    try:
        return content.key(lab, recipe, report.check_cancelled)
    except (Cancelled, KeyboardInterrupt):
        raise
    except LabError:  # the records are gone
        return ""


def _container(line: AzureLine, there: SentJob, recipe: Recipe) -> Container:
    store = line.workspace.datastore(there.datastore)
    return line.workspace.container(store, recipe.upload.concurrency)


def _going_on(line: AzureLine, stage: str, key: str, lab: LabFolder, recipe: Recipe) -> SentJob | None:
    """A job that was sent for the same work and has this stage before it, or has done it."""
    known = sent(lab.state_dir / RECORD)
    if known is None or known.key != key or stage not in known.stages:
        return None
    if known.place != line.workspace.place:
        line.report.log(
            f"{known.name} was sent for this to workspace {known.workspace} before. It is left alone there: a new job "
            f"is sent to {line.workspace.place.workspace}.",
            "warning",
        )
        return None
    state = line.runs.state(known.name)
    if state is None:
        return None
    if not state.ended:
        return None if state.status.lower() == "cancelrequested" else known
    container = _container(line, known, recipe)
    try:
        return known if look(container, known.out, stage, lab.root) is not None else None
    finally:
        container.close()


def _cancel(there: SentJob) -> bool:
    """Tell a job there to end, in the little time that a stop has."""

    def tell() -> bool:
        line = AzureLine.to(there.place, Stop(), Reporter())
        try:
            return line.runs.cancel(there.name)
        finally:
            line.close()

    telling = Beside(tell)
    telling.start()
    telling.join(CANCEL_S)
    try:
        return not telling.is_alive() and bool(telling.value())
    except LabError:
        return False


def dry_run(
    lab: LabFolder, recipe: Recipe, on: On, stop: Stop, report: Reporter, folder: Path
) -> dict[str, Any]:
    """What sending would do: the job's file, checked, what decides its cost, and what would go up. Nothing is sent.

    Args:
        folder: an empty one, for the file.
    """
    line = AzureLine.to(Place.of(recipe, lab.root), stop, report)
    try:
        contents = digest_all(lab, recipe, on.stages, report)
        key = content.key(lab, recipe, report.check_cancelled)
        plan = make_plan(line, lab, recipe, on, contents, key, fresh=False)
        try:
            checked(plan, folder / jobfile.FILE)
            return {
                "dry_run": True,
                **jobfile.facts(plan.compute, on.hours, on.stages),
                "file": plan.text,
                "bytes": contents.total,
                "bytes_to_send": plan.to_send,
                "storage": f"{plan.store.account}/{plan.store.container}",
                "outputs": plan.sent.out,
                "workspace": plan.sent.workspace,
                "identity": line.identity.shown(),
                **contents.as_dict(),
            }
        finally:
            plan.close()
    finally:
        line.close()


def plan_contents(plan: dict[str, Any]) -> list[str]:
    """What a dry run tells of what would be sent, in lines for people."""
    from core.formats import human_bytes

    lines = [f"{human_bytes(item['bytes']):>12}  {item['name']}" for item in plan["contents"]]
    lines += [
        told("    not sent  {name}: {why}", name=item["name"], why=item["why"]) for item in plan["left_out"]
    ]
    lines.append(
        told(
            "{sent} of {all} would go to {storage}.",
            sent=human_bytes(plan["bytes_to_send"]),
            all=human_bytes(plan["bytes"]),
            storage=plan["storage"],
        )
    )
    return lines


def plan_cost(plan: dict[str, Any]) -> list[str]:
    """What a dry run tells of the machine, its price and its quota, in lines for people."""
    from core.formats import counted

    price, most = plan["price_an_hour"], plan["cost_at_most"]
    gpus = told("GPUs not told") if plan["gpus"] is None else counted(plan["gpus"], "GPU")
    lines: list[str] = [
        told(
            "Compute: {compute}, {size}, {gpus}, 1 node, {priority} priority.",
            compute=plan["compute"],
            size=plan["size"],
            gpus=gpus,
            priority=plan["priority"],
        ),
        told(
            "Price: {price:g} {currency} an hour; ended after {hours:g} h, so {most:g} at most, and what its "
            "node costs while it is idle.",
            price=price,
            currency=plan["currency"],
            hours=plan["hours_at_most"],
            most=most,
        )
        if price is not None
        else told("Price: not told by Azure. Ended after {hours:g} h.", hours=plan["hours_at_most"]),
    ]
    if plan["quota_limit"] is not None:
        lines.append(
            told(
                "Quota: {quota_used} of {quota_limit} vCPUs are in use.",
                quota_used=plan["quota_used"],
                quota_limit=plan["quota_limit"],
            )
        )
    return lines
