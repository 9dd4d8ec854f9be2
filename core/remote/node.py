"""On the machine of the job: a lab from what was sent, what an earlier try kept, and results kept for who sent it.

A job's outputs are a mount of the storage: fit for whole files, not for a lab at work. So the lab lies on the machine's
own disk; checkpoints are copied out as they are written, each stage's result when it is done, its list of files last.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from core.errors import RequestError
from core.files import MANIFEST, digest, read_if_whole
from core.folder import RECIPE_NAME, LabFolder, lab_folder
from core.hardware import package_version
from core.language import told
from core.recipe import read_recipe, write_values
from core.stages import stage_named
from core.version import __version__

FOLDER = "olivepress-lab"
"""Where the lab lies, below the folder in which the job starts."""
LOOK_S = 5.0
"""Seconds between two looks whether there is a new checkpoint."""
LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""What Azure ML's launcher says of its one process: ours starts the others, and tells each its own."""


@dataclass(frozen=True)
class Node:
    """The lab on this machine, and the folder that is kept when the machine is given back."""

    lab: LabFolder
    keep: Path

    @classmethod
    def begin(cls, source: Path, keep: Path, stages: Sequence[str], model: str = "") -> Node:
        """Make the lab: from what was sent, and from what an earlier try of the same work has kept.

        Args:
            source: what was sent.
            model: the folder of a model that the service gives to the job.

        Raises:
            RequestError: nothing was sent, or it is no lab.
        """
        for name in LAUNCHER:
            os.environ.pop(name, None)
        sent = source / "lab"
        if not (sent / RECIPE_NAME).is_file():
            raise RequestError(
                told("There is no lab in what was sent."),
                told("{sent} is not there.", sent=sent / RECIPE_NAME),
                told("Send the job again."),
                code="remote.input",
            )
        lab = lab_folder(FOLDER)
        shutil.rmtree(lab.root, ignore_errors=True)
        shutil.copytree(sent, lab.root)
        beside = lab.root.parent / "model"
        if (source / "model").is_dir():
            with suppress(FileNotFoundError):
                beside.unlink()
            beside.symlink_to((source / "model").resolve(), target_is_directory=True)
        if model:
            write_values(lab.recipe_path, {"model.source": str(_model_in(Path(model)))})
        keep.mkdir(parents=True, exist_ok=True)
        node = cls(lab, keep)
        node._go_on(stages)
        return node

    def _go_on(self, stages: Sequence[str]) -> None:
        adapter = read_recipe(self.lab.recipe_path).finetune.adapter
        for stage in stages:
            makes = stage_named(stage).makes
            noted = read_if_whole(self.keep / f"{stage}.json")
            if makes is None or not isinstance(noted, dict):
                continue
            made = self.keep / str(noted.get("folder"))
            files = noted.get("files")
            if isinstance(files, dict) and all(_whole(made / name, each) for name, each in files.items()):
                target = makes.folder(self.lab, adapter)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(made, target)
        if (self.keep / "checkpoints").is_dir():
            shutil.copytree(self.keep / "checkpoints", self.lab.root / "checkpoints", dirs_exist_ok=True)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While entered, checkpoints are kept as they are written; a machine that is taken back keeps the last."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_S):
                with suppress(OSError):  # told at the end, when it is copied once more
                    self.keep_checkpoints()

        watching = threading.Thread(target=look, name="checkpoints", daemon=True)
        watching.start()
        before = signal.signal(signal.SIGTERM, _as_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            over.set()
            watching.join()
            self.keep_checkpoints()

    def keep_checkpoints(self) -> None:
        """Copy out what is new among the checkpoints, and forget those that are gone."""
        there, kept = self.lab.root / "checkpoints", self.keep / "checkpoints"
        files = {
            path.relative_to(there) for path in there.rglob("*") if path.is_file() and path.suffix != ".half"
        }
        for name in files:
            with suppress(FileNotFoundError):  # replaced or removed just now
                source, target = there / name, kept / name
                state = source.stat()
                if not target.exists() or (target.stat().st_size, target.stat().st_mtime) != (
                    state.st_size,
                    state.st_mtime,
                ):
                    _copy(source, target)
        for path in list(kept.rglob("*")) if kept.is_dir() else []:
            if path.is_file() and path.relative_to(kept) not in files:
                path.unlink(missing_ok=True)

    def keep_result(self, stage: str, result: dict[str, Any], seconds: float | None, peaks: Any) -> None:
        """Copy out what a stage has made, and say so when all of it is there."""
        makes = stage_named(stage).makes
        if makes is None:
            return
        folder = makes.folder(self.lab, read_recipe(self.lab.recipe_path).finetune.adapter)
        files = {
            path.relative_to(folder).as_posix(): (path.stat().st_size, digest(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        place = f"made/{stage}-{digest(folder / MANIFEST)[:16]}"
        for name, (size, _) in files.items():
            target = self.keep / place / name
            if not target.is_file() or target.stat().st_size != size:
                _copy(folder / name, target)
        self.keep_checkpoints()
        noted = {
            "v": 1,
            "stage": stage,
            "folder": place,
            "result": result,
            "seconds": seconds,
            "peaks": peaks,
            "made_on": {
                "olivepress": __version__,
                "system": platform.platform(),
                "torch": package_version("torch"),
            },
            "files": files,
        }
        half = self.keep / f".{stage}.json"
        half.write_text(json.dumps(noted), encoding="utf-8")
        os.replace(half, self.keep / f"{stage}.json")


def _model_in(folder: Path) -> Path:
    """Where the model lies in what the service gives: a catalogue keeps some in a folder below."""
    there = sorted(folder.resolve().rglob("config.json"), key=lambda path: (len(path.parts), path))
    return there[0].parent if there else folder.resolve()


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _whole(path: Path, noted: Any) -> bool:
    try:
        return bool(path.stat().st_size == noted[0] and digest(path) == noted[1])
    except (OSError, TypeError, IndexError):
        return False


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.half")
    try:
        shutil.copyfile(source, half)
        with suppress(OSError):  # a mount need not keep times; then it is copied once more than it need be
            state = source.stat()
            os.utime(half, ns=(state.st_atime_ns, state.st_mtime_ns))
        os.replace(half, target)
    except BaseException:  # Ctrl-C too: half a file is not left
        half.unlink(missing_ok=True)
        raise
