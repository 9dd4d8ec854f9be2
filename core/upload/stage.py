"""The upload stage: look, say what would go, send, verify, register. And the same without sending, for a dry run.

It goes by blocks and goes on where it was stopped; a cancel is obeyed within a second whatever the line
does (:func:`core.azure.retry.cancellable`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.azure.retry import Beside, Stop, cancellable
from core.azure.signin import Identity, current, prompt_to
from core.azure.storage import Container
from core.azure.workspace import Datastore, Place, Registered, VersionTaken, Workspace, check_name
from core.errors import Cancelled, LabError, RequestError, StageError
from core.events import Reporter
from core.files import folder_stamp, write_atomic, write_json
from core.folder import LabFolder
from core.formats import counted, human_bytes
from core.language import speaking, told, wanted
from core.model.auto import Settled
from core.recipe import Recipe, read_recipe, write_values
from core.stage_context import StageContext
from core.stale import stale
from core.upload.contents import Contents, collect, described, digested
from core.upload.sender import Sender

TRIES = 3
"""How often a next free version is looked up when somebody else takes it in between."""


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """What is uploaded and where to. Nothing is kept by it: the workspace itself is asked each time.

    Raises:
        RequestError: no workspace is chosen, or there is no model yet.
    """
    Place.of(recipe, lab.root)
    contents = collect(lab, recipe)
    return {"files": len(contents.items), "bytes": contents.total, "name": recipe.upload.name}


def output(lab: LabFolder, recipe: Settled) -> Path | None:
    """None: whether there is anything to do is for the workspace to say."""
    return None


def run(context: StageContext) -> dict[str, Any]:
    """Send what is missing, verify, register; the result is that of ``olivepress upload --json``.

    Raises:
        RequestError, MachineError, StageError: explained, without anything secret in them.
        Cancelled: what has arrived is kept for the next time.
    """
    from core.azure.errors import explain

    # Choices of this run only, such as upload.concurrency.
    recipe = context.recipe.with_values({k: v for k, v in context.options.items() if k.startswith("upload.")})

    def work(stop: Stop, report: Reporter) -> dict[str, Any]:
        try:
            return upload(context.lab, recipe, report, stop)
        except OSError as error:
            detail = told("{strerror}: {filename}", strerror=error.strerror, filename=error.filename)
            raise StageError(
                told("The upload stopped."), detail, told("Run it again."), code="upload.stopped"
            ) from None
        except Exception as error:  # an exception of the SDK may quote a signature: it goes no further
            raise explain(error, "upload") from None

    try:
        return cancellable(work, context.report)
    except Cancelled:
        context.report.log("Cancelled. What has arrived is kept for the next upload; nothing was registered.")
        raise


@dataclass
class UploadPlan:
    """What an upload will do; nothing is sent yet.

    Attributes:
        there: the registered version with this very content, if there is one.
        version: the version it has or will get.
        to_send, kept: bytes that will be sent, and that the storage has already.
        rights: whether the storage takes what we write and the workspace a model: ``yes``, or ``unknown``.
    """

    identity: Identity
    workspace: Workspace
    store: Datastore
    container: Container
    contents: Contents
    sender: Sender
    name: str
    version: str
    there: Registered | None
    to_send: int
    kept: int
    rights: dict[str, str]

    def close(self) -> None:
        """Close the connections."""
        self.container.close()
        self.workspace.close()

    def as_dict(self, model: Registered | None) -> dict[str, Any]:
        """What ``--json`` has of an upload, done or not."""
        place, version = self.workspace.place, model.version if model else self.version
        where = f"{place.uri}/datastores/{self.store.name}/paths/{self.contents.prefix}"
        return {
            "id": model.id if model else None,
            "name": self.name,
            "version": version,
            "uri": model.uri if model else where,
            "url": place.page(self.name, version),
            "files": len(self.contents.items),
            "bytes": self.contents.total,
            "workspace": place.workspace,
        }


def make_plan(lab: LabFolder, recipe: Recipe, report: Reporter, stop: Stop) -> UploadPlan:
    """Look at everything that can be looked at before the first byte goes, the rights among it.

    A device code is asked for, through the report, where the sign-in was not kept.

    Raises:
        RequestError: nothing to upload, no workspace chosen, a name Azure does not take, a version taken.
        MachineError: not signed in, or no right.
    """
    upload = recipe.upload
    check_name("name", upload.name)
    if upload.version:
        check_name("version", upload.version)
    place = Place.of(recipe, lab.root)
    contents = collect(lab, recipe)
    report.progress(told("signing in"), 0, None)
    identity = current(stop=stop, on_prompt=prompt_to(report))
    report.log(f"Signed in as {identity.user} by {identity.method}, tenant {identity.tenant}.")
    workspace = Workspace(place, identity.credential, stop=stop, say=report.log)
    total = contents.total

    def look() -> tuple[list[Registered], str, Datastore, Container, str]:
        workspace.check()
        may_register = workspace.may_register()
        known = _known(workspace, recipe)
        store = workspace.default_datastore()
        container = workspace.container(store, upload.concurrency)
        return known, may_register, store, container, container.may_write()

    def check() -> None:
        report.check_cancelled()
        beside.check()

    # The disk reads while the network answers.
    beside = Beside(look)
    with beside:
        contents = digested(
            contents,
            lab.state_dir / "digests.json",
            lambda done: report.progress(told("reading"), done, total),
            check,
        )
    known, may_register, store, container, may_write = beside.value()
    version, there = _version(workspace, recipe, contents, known)
    sender = Sender(
        container,
        contents.prefix,
        contents.items,
        concurrency=upload.concurrency,
        stop=stop,
        on_bytes=lambda done: report.progress(told("upload"), done, total),
        on_end=lambda arrived: report.progress(told("arrived"), arrived, total),
    )
    found = sender.plan()
    return UploadPlan(
        identity,
        workspace,
        store,
        container,
        contents,
        sender,
        upload.name,
        version,
        there,
        found.bytes_sent,
        found.bytes_kept,
        {"storage": may_write, "register": may_register},
    )


def _known(workspace: Workspace, recipe: Recipe) -> list[Registered]:
    """The registered versions that matter: the one asked for, or all of the name."""
    upload = recipe.upload
    if not upload.version:
        return workspace.versions(upload.name)
    taken = workspace.model(upload.name, upload.version)
    return [] if taken is None else [taken]


def _version(
    workspace: Workspace, recipe: Recipe, contents: Contents, known: list[Registered]
) -> tuple[str, Registered | None]:
    upload = recipe.upload
    same = next((model for model in known if model.content == contents.digest), None)
    if upload.version:
        if known and same is None:
            raise VersionTaken(upload.name, upload.version)
        return upload.version, same
    if same is not None:
        return same.version, same
    return workspace.next_version(upload.name, known), None


def upload(lab: LabFolder, recipe: Recipe, report: Reporter, stop: Stop) -> dict[str, Any]:
    """Send and register; return the result as ``olivepress upload --json`` gives it. Raises LabError or Cancelled."""
    plan = make_plan(lab, recipe, report, stop)
    try:
        total = plan.contents.total
        if old := _stale(lab):
            report.log(f"The ONNX model is stale: {old}. It is sent as it is.", "warning")
        for name, why in plan.contents.left_out:
            report.log(f"Left out: {name} ({why}).")
        kept = told("; {kept} are there already", kept=human_bytes(plan.kept)) if plan.kept else ""
        report.log(
            f"Sending {human_bytes(plan.to_send)} of {counted(len(plan.contents.items), 'file')}, "
            f"{human_bytes(total)}, to {plan.store.account}/{plan.store.container}{kept}."
        )
        report.progress(told("upload"), plan.kept, total)
        sent = plan.sender.send()
        report.progress(told("verifying"), 0, None)
        plan.sender.verify()
        stop.check()
        report.progress(told("registering"), 0, None)
        model, said = _register(plan, lab, recipe)
        report.log(f"{said} {model.name}:{model.version} in {plan.workspace.subject}.")
        result = plan.as_dict(model) | {"bytes_sent": sent, "user": plan.identity.user}
    finally:
        plan.close()
    remember(lab, result, report)
    return result


def _stale(lab: LabFolder) -> str:
    """Why the ONNX model is stale, by ``lab.toml`` as it is now; empty where it is not, or that cannot be read."""
    try:
        return stale(lab, read_recipe(lab.recipe_path)).get("optimize", "")
    except LabError:
        return ""


def _register(plan: UploadPlan, lab: LabFolder, recipe: Recipe) -> tuple[Registered, str]:
    """Register what was sent, or give what is registered the tags of today; and what was done, in words."""
    tags, properties, text = described(lab, recipe, plan.contents)
    there = plan.there
    if there is not None:
        if there.tags == tags:
            return there, told("This content is registered already as")
        words = there.description or text
        changed = plan.workspace.register(
            there.name, there.version, there.uri, tags, there.properties, words, again=True
        )
        return changed, told("This content is registered already; its tags are now those of lab.toml:")
    path = f"azureml://datastores/{plan.store.name}/paths/{plan.contents.prefix}"
    version = plan.version
    for left in reversed(range(TRIES)):
        try:
            return plan.workspace.register(plan.name, version, path, tags, properties, text), "Registered"
        except VersionTaken:
            if recipe.upload.version or not left:
                raise
            version = plan.workspace.next_version(plan.name, plan.workspace.versions(plan.name))
    raise AssertionError("unreachable")


def remember(lab: LabFolder, result: dict[str, Any], report: Reporter) -> None:
    """Let ``lab.toml`` and the report know what was registered; a recipe that is being edited is left alone."""
    from core.report import with_upload

    write_json(lab.upload_path, {**result, "model": folder_stamp(lab.onnx_dir)})
    if lab.report_path.is_file():
        text = lab.report_path.read_text(encoding="utf-8", errors="replace")
        with speaking(wanted()):
            write_atomic(lab.report_path, with_upload(text, result))
    try:
        write_values(lab.recipe_path, {"upload.registered": f"{result['name']}:{result['version']}"})
    except RequestError as error:
        report.log(f"lab.toml was not changed: {error.title}", "warning")


def dry_run(lab: LabFolder, recipe: Recipe, report: Reporter, stop: Stop) -> dict[str, Any]:
    """Everything but sending and registering: sign-in, rights, name, version, and what would be sent."""
    plan = make_plan(lab, recipe, report, stop)
    try:
        tags, properties, _ = described(lab, recipe, plan.contents)
        return {
            "dry_run": True,
            "stale": _stale(lab),
            **plan.as_dict(plan.there),
            "bytes_sent": 0,
            "bytes_to_send": plan.to_send,
            "registered": plan.there is not None,
            "storage": f"{plan.store.account}/{plan.store.container}",
            "rights": plan.rights,
            "identity": plan.identity.shown(),
            "tags": tags,
            "properties": properties,
            **plan.contents.as_dict(),
        }
    finally:
        plan.close()
