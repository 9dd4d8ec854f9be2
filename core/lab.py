"""The lab: what scripts, the command line and the wizard all speak to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import Cancelled, RequestError
from core.events import Event
from core.files import MANIFEST, explained, read_json, write_atomic
from core.folder import LabFolder, adapter_names, lab_folder
from core.jobs import Job, list_jobs, start_job
from core.language import told
from core.recipe import Recipe, read_recipe, recipe_text, write_values
from core.resources import REHEARSAL
from core.stages import stage_named

if TYPE_CHECKING:
    from core.chat.session import ChatSession


@dataclass(frozen=True)
class StageResult:
    """What a finished stage gave.

    Attributes:
        stage: its name.
        job: the id of the job that ran it.
        reused: nothing had changed, so nothing was done.
        numbers: the result in numbers, as the stage's own documentation lists them.
    """

    stage: str
    job: str
    reused: bool
    numbers: dict[str, Any] = field(default_factory=dict)


class Lab:
    """A lab's folder and all that can be done in it.

    >>> lab = Lab.create("my-lab", model="rehearsal")  # doctest: +SKIP
    >>> lab.run("quantize", on_event=print)  # doctest: +SKIP
    """

    def __init__(self, folder: LabFolder) -> None:
        self.folder = folder

    @classmethod
    def create(
        cls,
        root: str | Path,
        model: str | None = None,
        data: str | Path | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Lab:
        """Make a lab in a new or an empty folder, or in one that has no ``lab.toml`` yet.

        Args:
            root: the lab's folder.
            model: hub id, folder, ``azureml://`` path, or ``rehearsal``.
            data: the training records; a relative path is kept relative to the lab.
            settings: further values, ``{"quantize.algorithm": "rtn"}``.

        Raises:
            RequestError: there is a lab already, or a value is wrong.
            MachineError: the folder cannot be written.
        """
        folder = LabFolder(Path(root).expanduser().resolve())
        if folder.recipe_path.exists():
            raise RequestError(
                told("There is a lab already."),
                told("{recipe_path} exists.", recipe_path=folder.recipe_path),
                told("Open it as it is, edit that file, or name another folder."),
                code="lab.exists",
            )
        if folder.root.exists() and not folder.root.is_dir():
            raise RequestError(
                told("A file is in the way."),
                told("{root} is not a folder.", root=folder.root),
                told("Name another folder."),
                code="lab.file",
            )
        values: dict[str, Any] = {}
        source = model or str((settings or {}).get("model.source", REHEARSAL))
        if source not in (REHEARSAL, "") and "://" not in source and Path(source).expanduser().exists():
            # A folder or file is meant from where the user stands now, not from inside the lab.
            source = str(Path(source).expanduser().resolve())
        values["model.source"] = source
        if data is not None:
            values["data.file"] = _as_seen_from(Path(data).expanduser(), folder.root)
        values.update({k: v for k, v in (settings or {}).items() if k != "model.source"})
        recipe = Recipe().with_values(values)
        with explained(folder.root):
            folder.root.mkdir(parents=True, exist_ok=True)
        write_atomic(folder.recipe_path, recipe_text(recipe))
        return cls(folder)

    @classmethod
    def open(cls, root: str | Path = ".") -> Lab:
        """Open a lab and check its recipe.

        Raises:
            RequestError: there is no lab, or its recipe is wrong.
        """
        lab = cls(lab_folder(root))
        read_recipe(lab.folder.recipe_path)
        return lab

    @classmethod
    def at(cls, root: str | Path = ".") -> Lab:
        """The lab in a folder, for those who only look at jobs or stop them: its recipe is not read.

        Raises:
            RequestError: there is neither a recipe nor a job.
        """
        lab = cls(lab_folder(root))
        if not lab.jobs():
            read_recipe(lab.folder.recipe_path)
        return lab

    @property
    def root(self) -> Path:
        """The lab's folder."""
        return self.folder.root

    @property
    def recipe(self) -> Recipe:
        """The recipe as ``lab.toml`` has it now. Raises :class:`RequestError` if it is wrong."""
        return read_recipe(self.folder.recipe_path)

    def set(self, values: dict[str, Any]) -> Recipe:
        """Change values of ``lab.toml``, ``{"finetune.steps": 200}``; comments stay. Returns the new recipe."""
        return write_values(self.folder.recipe_path, values)

    def start(
        self,
        stage: str,
        *,
        force: bool = False,
        then: tuple[str, ...] = (),
        options: dict[str, Any] | None = None,
        values: dict[str, Any] | None = None,
    ) -> Job:
        """Start a stage in a process of its own, which goes on without this one.

        Args:
            force: run even if nothing has changed.
            then: stages that follow by themselves once this one has succeeded.
            options: choices of this run that are not in the recipe.
            values: settings of this run alone, ``{"finetune.gpus": 2}``, in place of those of ``lab.toml``.

        Raises:
            RequestError: no such stage, a wrong recipe, or another job is running.
        """
        for name in (stage, *then):
            stage_named(name)
        recipe = self.recipe.with_values(values or {})
        return start_job(self.folder, recipe, stage, force=force, then=then, options=options)

    def run(
        self,
        stage: str,
        on_event: Callable[[Event], object] | None = None,
        *,
        force: bool = False,
        options: dict[str, Any] | None = None,
        values: dict[str, Any] | None = None,
    ) -> StageResult:
        """Run a stage and wait for it, as :meth:`start` begins it. Interrupting the wait (Ctrl-C) cancels the job.

        Raises:
            RequestError, MachineError, StageError, Cancelled: with ``title``, ``detail`` and ``hint``.
        """
        job = self.start(stage, force=force, options=options, values=values)
        try:
            for event in job.follow():
                if on_event is not None:
                    on_event(event)
        except KeyboardInterrupt:
            if job.active:
                job.cancel()
            job.wait()
            said = job.error()
            raise (
                said if isinstance(said, Cancelled) else Cancelled(told("{job} was cancelled.", job=job.id))
            ) from None
        error = job.error()
        if error is not None:
            raise error
        return StageResult(stage, job.id, job.reused, job.result or {})

    def jobs(self) -> list[Job]:
        """All jobs of this lab, oldest first."""
        return list_jobs(self.folder)

    def job(self, name: str) -> Job:
        """A job by its id; a stage's name means that stage's newest job.

        Raises:
            RequestError: there is none.
        """
        jobs = self.jobs()
        for job in reversed(jobs):
            if name in (job.id, job.stage):
                return job
        known = ", ".join(job.id for job in jobs[-5:]) or told("none yet")
        raise RequestError(
            told("There is no job {name} in this lab.", name=repr(name)),
            told("{root}", root=self.root),
            told("The newest are: {known}.", known=known),
            code="job.missing",
        )

    def newest(self, stage: str) -> Job | None:
        """The newest job of a stage, or None."""
        return next((job for job in reversed(self.jobs()) if job.stage == stage), None)

    def adapters(self) -> list[str]:
        """The adapters that the ONNX model has, in alphabetical order."""
        return adapter_names(self.folder.onnx_dir)

    def manifest(self, stage: str, adapter: str | None = None) -> dict[str, Any] | None:
        """``olivepress.json`` of what a stage made: its fingerprint and result. None if it made nothing yet.

        Raises:
            RequestError: there is no such stage, or the file is damaged.
        """
        makes = stage_named(stage).makes
        if makes is None:
            return None
        folder = makes.folder(self.folder, adapter or self.recipe.finetune.adapter)
        found: dict[str, Any] | None = read_json(folder / MANIFEST)
        return found

    def chat(self, adapter: str | None = "auto") -> ChatSession:
        """Open a conversation with the optimized model, in a process of its own.

        Args:
            adapter: an adapter's name; None for the base; ``"auto"`` takes the lab's adapter if it
                has exactly one.

        Raises:
            RequestError: there is no optimized model yet, or no such adapter.
        """
        from core.chat.session import ChatSession

        return ChatSession.open(self, adapter)


def _as_seen_from(data: Path, root: Path) -> str:
    """A path given where the user stands, as the lab's recipe should name it."""
    if data.is_absolute():
        return str(data)
    here = (Path.cwd() / data).resolve()
    if here.exists() and not (root / data).exists():
        return str(here.relative_to(root)) if here.is_relative_to(root) else str(here)
    return str(data)
