"""The one way to take a result along: what is asked for, what of the lab it is made from, and the folder it becomes.

A folder is written beside its place and renamed into it when it is whole. What the lab has is looked at first: a result
that is damaged, older than the settings, or of another base is not taken along unsaid.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from core.errors import Do, RequestError
from core.events import Reporter
from core.export.forms import FORMS, ExportForm, form_named, type_of
from core.files import (
    MANIFEST,
    as_umask_says,
    explained,
    folder_bytes,
    publish,
    read_if_whole,
    read_json,
    refuse_damaged,
    require_disk,
)
from core.folder import LabFolder
from core.language import told
from core.stale import older_answers, stale
from core.tqdm_progress import reporting

if TYPE_CHECKING:
    from core.lab import Lab

EXPORT = "export"
"""The manifest's key that tells an export from any other folder."""


@dataclass(frozen=True)
class ExportRequest:
    """What is to be written, settled.

    Attributes:
        form: the form.
        out: where to: a path, or a repository of the hub.
        adapter: the adapter that goes with it; None for the base alone.
        type: of the weights, one of the form's.
        force: replace an earlier export, and take what is older than the settings.
        hub_form: the form that goes to the hub.
        public: a new repository of the hub is for everybody.
        dry_run: say what would be sent, and send nothing.
    """

    lab: Lab
    form: ExportForm
    out: str
    adapter: str | None = None
    type: str = ""
    force: bool = False
    hub_form: str = "onnx"
    public: bool = False
    dry_run: bool = False
    report: Reporter = field(default_factory=Reporter)

    @property
    def folder(self) -> LabFolder:
        """The lab's folder."""
        return self.lab.folder


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder or file, or the address on the hub.
        files: each file with what it is, where a few files were written and no folder.
        notes: what people should know of it: a licence, a conversation that could not be carried over.
        next: how it is used.
        numbers: the rest, JSON-able.
    """

    form: str
    path: str
    bytes: int = 0
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    next: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` gives it."""
        return {
            "form": self.form,
            "path": self.path,
            "bytes": self.bytes,
            "files": self.files,
            "notes": list(self.notes),
            "next": self.next,
            **self.numbers,
        }


def export(
    lab: Lab,
    form: str,
    out: str | Path,
    *,
    adapter: str | None = "auto",
    type: str = "",
    force: bool = False,
    hub_form: str = "onnx",
    public: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> Exported:
    """Write a lab's result in a form that other programs read.

    Args:
        form: one of :data:`~core.export.forms.FORMS`.
        out: a folder or file that is not there yet; for the hub ``owner/name``.
        adapter: a name, None for the base alone, ``"auto"`` for the lab's adapter if it has one.
        type: of the weights; empty for the form's own.
        force: replace an earlier export, and take results that are older than the settings.
        hub_form, public, dry_run: see :class:`ExportRequest`.

    Raises:
        RequestError: the lab has nothing of the form, or what it has is damaged, older than its settings, or of
            another base; the place is taken; the model cannot be written in this form.
        MachineError: the disk is full, the place cannot be written, or the hub cannot be reached.
        StageError: what was written is not what it should be.
    """
    chosen = form_named(form)
    source = chosen
    if form == "hub":
        source = form_named(hub_form)
        if not source.is_folder:
            raise RequestError(
                told("{title} cannot be sent to the hub.", title=source.title),
                hint=told(
                    "The forms are: {forms}.",
                    forms=", ".join(name for name, each in FORMS.items() if each.is_folder),
                ),
                code="export.form",
            )
    wanted = ExportRequest(
        lab,
        chosen,
        str(out),
        _adapter(lab, source, adapter),
        type_of(source, type),
        force,
        hub_form,
        public,
        dry_run,
        report or Reporter(),
    )
    _look(wanted, source)
    with reporting(wanted.report):
        return chosen.load().run(wanted)


def _adapter(lab: Lab, form: ExportForm, wanted: str | None) -> str | None:
    """The adapter that goes along."""
    if not form.made_from or wanted is None:
        return None
    there = lab.adapters() if form.made_from == "optimize" else _trained(lab.folder)
    usual = lab.recipe.finetune.adapter
    if wanted == "auto":
        return there[0] if len(there) == 1 else usual if usual in there else None
    if wanted not in there:
        raise RequestError(
            told("There is no adapter {wanted!r}.", wanted=wanted),
            told("{root} has: {there}.", root=lab.root, there=", ".join(there) or told("none")),
            told("Name one of those, or train it: {run}", run=Do.of("run", lab.root, "finetune", "optimize")),
            code="export.adapter",
        )
    return wanted


def _trained(lab: LabFolder) -> list[str]:
    return sorted(file.parent.name for file in lab.finetuned_root.glob("*/adapter_config.json"))


def _look(wanted: ExportRequest, form: ExportForm) -> None:
    """Refuse results that are not there, damaged, of another base, or older than the lab's settings."""
    lab, adapter = wanted.folder, wanted.adapter
    if not form.made_from:
        return
    place, proof = (
        (lab.onnx_dir, "genai_config.json")
        if form.made_from == "optimize"
        else (lab.quantized_dir, "config.json")
    )
    again = Do.of("run", lab.root, form.made_from, "--force")
    if not (place / proof).is_file():
        raise RequestError(
            told("There is nothing to export yet."),
            told("{place} does not hold a model.", place=place),
            told("Make it: {run}", run=Do.of("run", lab.root)),
            code="export.nothing",
        )
    refuse_damaged(place, told("Make it anew: {again}", again=again))
    if form.made_from == "quantize" and adapter is not None:
        refuse_damaged(
            lab.finetuned_dir(adapter),
            told("Make it anew: {run}", run=Do.of("run", lab.root, "finetune", "--force")),
        )
        _refuse_other_base(lab, adapter)
    if reason := _older(wanted, form):
        if not wanted.force:
            raise RequestError(
                told("The result is older than the lab's settings."),
                reason,
                told(
                    "Make it anew: {run}; or take it as it is: {export}",
                    run=Do.of("run", lab.root),
                    export=Do.of("export", lab.root, "--force"),
                ),
                code="export.stale",
            )
        wanted.report.log(reason, "warning")


def _older(wanted: ExportRequest, form: ExportForm) -> str:
    recipe, adapter = wanted.lab.recipe, wanted.adapter
    if form.made_from == "optimize":
        found = older_answers(wanted.folder, recipe).get(adapter or "")
        return found.reason if found else ""
    reasons = stale(wanted.folder, recipe)
    if "quantize" in reasons:
        return told(
            "The quantized model is older than the settings: {quantize}.", quantize=reasons["quantize"]
        )
    if adapter == recipe.finetune.adapter and "finetune" in reasons:
        return told("The adapter is older than the settings: {finetune}.", finetune=reasons["finetune"])
    return ""


def _refuse_other_base(lab: LabFolder, adapter: str) -> None:
    """Refuse an adapter that was trained on another quantized model than the lab has now."""
    base = (read_json(lab.quantized_dir / MANIFEST) or {}).get("fingerprint")
    trained = (read_json(lab.finetuned_dir(adapter) / MANIFEST) or {}).get("fingerprint", {}).get("base")
    if base and trained and base != trained:
        raise RequestError(
            told("The adapter {adapter} was trained on another base.", adapter=adapter),
            told("{quantized_dir} was made anew since.", quantized_dir=lab.quantized_dir),
            told("Train it again: {run}", run=Do.of("run", lab.root, "finetune", "optimize")),
            code="export.other-base",
        )


# The folder


def into_folder(wanted: ExportRequest, needed: int, write: Callable[[Path], dict[str, Any]]) -> Exported:
    """Let ``write`` fill a new folder, put the model card into it, and rename it to its place.

    Args:
        needed: bytes of disk, about.

    Raises:
        RequestError: something stands there already.
        MachineError: the disk is full, or the place cannot be written.
    """
    from core.export.card import write_card

    target = free_place(wanted)
    require_disk(
        target.parent, needed + (16 << 20), told("Free some space, or name a place on another disk.")
    )
    with beside(target) as made:
        numbers = write(made)
        notes = [*numbers.pop("notes", ()), *write_card(wanted, made)]
        as_umask_says(made)
        about = {"form": wanted.form.name, "adapter": wanted.adapter, "type": wanted.type, **numbers}
        publish(made, target, {EXPORT: about})
    wanted.report.artifact(target, wanted.form.title)
    return Exported(
        wanted.form.name,
        str(target),
        folder_bytes(target),
        notes=tuple(notes),
        next=wanted.form.next.format(out=target, name=target.name),
        numbers={"adapter": wanted.adapter, "type": wanted.type, **numbers},
    )


def free_place(wanted: ExportRequest) -> Path:
    """The absolute path of what is to be written, if nothing stands there or it may be replaced.

    Raises:
        RequestError: something does, or it is a place of the lab's own.
    """
    target = Path(os.path.abspath(Path(wanted.out).expanduser()))
    models = wanted.folder.models_dir
    if target in (wanted.lab.root, models) or models in target.parents or target in wanted.lab.root.parents:
        raise RequestError(
            told("That place belongs to the lab."),
            told("{target}.", target=target),
            told("Name a new folder elsewhere."),
            code="export.place",
        )
    if not target.name or target.is_symlink() or (target.exists() and not _may_go(target, wanted)):
        earlier = target.is_dir() and _is_export(target)
        raise RequestError(
            told("Something stands there already."),
            told(
                "{target} is {there}.",
                target=target,
                there=told("an earlier export")
                if earlier
                else told("a folder")
                if target.is_dir()
                else told("a file"),
            ),
            told("Replace it: {export}, or name another place.", export=Do.of("export", "DIR", "--force"))
            if earlier
            else told("Name another place."),
            code="export.exists",
        )
    return target


def _is_export(folder: Path) -> bool:
    manifest = read_if_whole(folder / MANIFEST)
    return isinstance(manifest, dict) and EXPORT in manifest


def _may_go(target: Path, wanted: ExportRequest) -> bool:
    if target.is_file():
        return wanted.force and not wanted.form.is_folder
    return target.is_dir() and (not any(target.iterdir()) or (wanted.force and _is_export(target)))


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder to make ``target`` in; gone afterwards if it was not renamed."""
    made = target.with_name(f".{target.name}.making-{os.getpid()}")
    with explained(target):
        for left in target.parent.glob(f".{glob.escape(target.name)}.making-*"):
            pid = left.name.rpartition("-")[2]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)  # of an export that was killed
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
