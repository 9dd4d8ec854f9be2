"""Room on the disk that a job sets aside at its start, for its last words when the disk is full.

Without it a job whose disk fills up could not even say so: its result and its log need room too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from core.errors import MachineError
from core.files import explained
from core.folder import room_hint
from core.formats import human_bytes
from core.language import told

NAME = "reserve"
BYTES = 256 * 1024


def take(folder: Path) -> None:
    """Set the room aside in a job's folder.

    Raises:
        MachineError: the disk is full.
    """
    with explained(folder / NAME):
        (folder / NAME).write_bytes(b"\0" * BYTES)


def give_back(folder: Path) -> None:
    """Free the room again; harmless where it is free already."""
    with contextlib.suppress(OSError):
        (folder / NAME).unlink()


def why_nothing_is_written(folder: Path) -> MachineError | None:
    """The error for a job that could not say why it ended, if its folder cannot be written; else None."""
    if not folder.is_dir():
        return None
    if not os.access(folder, os.W_OK):
        return MachineError(
            told("The folder cannot be written."),
            told(
                "{name} ended without a result, and {folder} is read-only.", name=folder.name, folder=folder
            ),
            told("Give yourself the right to write there, or use another folder."),
            code="disk.not-writable",
        )
    free = shutil.disk_usage(folder).free
    if free >= BYTES:
        return None
    return MachineError(
        told("The disk is full."),
        told(
            "{name} ended without a result, and only {free} are free at {folder}.",
            name=folder.name,
            free=human_bytes(free),
            folder=folder,
        ),
        room_hint(folder.absolute()),
        code="disk.full",
    )
