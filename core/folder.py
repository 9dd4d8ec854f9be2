"""Where everything lies in a lab's folder."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from core.errors import Do, Hint, RequestError
from core.language import told


def lab_command(path: Path, command_name: str, *words: str) -> Do:
    """The command that does this to the lab in which ``path`` lies; in no lab, ``DIR`` stands for one."""
    lab = next((str(each) for each in (path, *path.parents) if (each / RECIPE_NAME).is_file()), "DIR")
    return Do.of(command_name, lab, *words)


def lab_folder(root: str | Path) -> LabFolder:
    """The folder of a lab, which need not exist yet.

    Raises:
        RequestError: a file stands there.
    """
    path = Path(os.path.expanduser(root)).resolve()
    if path.is_file():
        hint = told("Name the folder of a lab, the one with lab.toml.")
        if path.name == RECIPE_NAME:
            hint = told("Name the folder that it stands in: {parent}", parent=shlex.quote(str(path.parent)))
        raise RequestError(
            told("That is a file, not a lab's folder."),
            told("{path} is a file.", path=path),
            hint,
            code="lab.file",
        )
    return LabFolder(path)


def room_hint(path: Path, after: str = "") -> Hint:
    """What to do where the disk is full below ``path``; in a lab with the command that shows what can go.

    Args:
        after: what else is to be said.
    """
    if any((each / RECIPE_NAME).is_file() for each in (path, *path.parents)):
        hint = told(
            "Free some space ({command} shows what can go), or make the lab on another disk.",
            command=lab_command(path, "clean"),
        )
    else:
        hint = told("Free some space, or use a folder on another disk.")
    return (hint, *([" ", after] if after else []))


RECIPE_NAME = "lab.toml"
REPORT_NAME = "report.md"
REPORT_PAGE_NAME = "report.html"
WORKSHOP_NAME = "workshop.toml"
"""The file that makes a folder a workshop's: its seats' labs lie side by side in it."""

REFERENCE_NAME = "reference"
"""The lab of a workshop whose results are the prepared ones."""


def workshop_of(lab: Path) -> Path | None:
    """The folder of the workshop that a lab belongs to; None for a lab that belongs to none."""
    return lab.parent if (lab.parent / WORKSHOP_NAME).is_file() else None


def is_reference(lab: Path) -> bool:
    """Whether a lab is the one whose results a workshop's host hands out."""
    return lab.name == REFERENCE_NAME and workshop_of(lab) is not None


@dataclass(frozen=True)
class LabFolder:
    """The paths of a lab. Nothing is made or read here."""

    root: Path

    @property
    def recipe_path(self) -> Path:
        """``lab.toml``, the one hand-edited file."""
        return self.root / RECIPE_NAME

    @property
    def jobs_dir(self) -> Path:
        """One folder for each run of a stage."""
        return self.root / "jobs"

    @property
    def state_dir(self) -> Path:
        """What OlivePress remembers of this lab for itself: digests of files, the last upload."""
        return self.root / ".olivepress"

    @property
    def upload_path(self) -> Path:
        """What was uploaded last, and from which model."""
        return self.state_dir / "upload.json"

    @property
    def records_path(self) -> Path:
        """How many training records there are and how long, as they were counted last."""
        return self.state_dir / "records.json"

    @property
    def models_dir(self) -> Path:
        """What the stages make."""
        return self.root / "models"

    @property
    def quantized_dir(self) -> Path:
        """Hugging Face checkpoint, quantized."""
        return self.models_dir / "quantized"

    @property
    def finetuned_root(self) -> Path:
        """One PEFT adapter folder for each adapter name."""
        return self.models_dir / "finetuned"

    def finetuned_dir(self, adapter: str) -> Path:
        """The PEFT adapter of that name."""
        return self.finetuned_root / adapter

    def checkpoints_dir(self, adapter: str) -> Path:
        """Where a finetune keeps what it needs to go on after a stop."""
        return self.root / "checkpoints" / adapter

    @property
    def onnx_dir(self) -> Path:
        """The ONNX model, its tokenizer and its adapters."""
        return self.models_dir / "onnx"

    def adapter_file(self, adapter: str) -> Path:
        """An adapter as ONNX Runtime GenAI loads it."""
        return self.onnx_dir / "adapters" / f"{adapter}.onnx_adapter"

    def evaluation_dir(self, adapter: str) -> Path:
        """What was measured of the model with the adapter of that name, and without."""
        return self.root / "evaluation" / adapter

    @property
    def chats_dir(self) -> Path:
        """Transcripts, JSON Lines."""
        return self.root / "chats"

    @property
    def report_path(self) -> Path:
        """What was made, from what, how well and how fast."""
        return self.root / REPORT_NAME

    @property
    def report_page_path(self) -> Path:
        """The same as a page with charts, to send on."""
        return self.root / REPORT_PAGE_NAME


def merged_folder(onnx: Path, name: str) -> Path:
    """Beside the base in an ONNX model's folder, the model that an adapter of that name was merged into."""
    return onnx / "merged" / name


def adapter_names(onnx: Path) -> list[str]:
    """The adapters of an ONNX model's folder, switched and merged, in alphabetical order, whether they fit or not."""
    switched = {path.stem for path in onnx.glob("adapters/*.onnx_adapter")}
    return sorted(switched | {path.parent.name for path in onnx.glob("merged/*/genai_config.json")})
