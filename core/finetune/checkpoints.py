"""What a finetune keeps on disk to go on after a stop.

One file, replaced atomically, tied to what is being trained by a key: a checkpoint of another
recipe, model or data is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from core.files import explained

NAME = "last.pt"


def key_of(fingerprint: dict[str, Any]) -> str:
    """A digest of all that the training depends on."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


class _Writing:
    """Passes to a stream what torch writes, and remembers why the system refused: torch says only that it failed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self._stream.flush()


class Checkpoints:
    """The checkpoints of one adapter.

    Args:
        folder: where they lie; made when the first is saved.
        key: as :func:`key_of` gives it; only a checkpoint with the same key is loaded.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by ``state``: tensors, numbers, text, and lists and dicts of these.

        Raises:
            MachineError: the disk is full or the folder cannot be written.
        """
        import torch

        target = self.folder / NAME
        half = self.folder / f".{NAME}.half"
        with explained(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with half.open("wb") as stream:
                    writing = _Writing(stream)
                    try:
                        torch.save({"key": self.key, "state": state}, writing)
                    except RuntimeError:
                        if writing.refusal is not None:
                            raise writing.refusal from None
                        raise
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(half, target)
            except BaseException:  # a cancel too: half a checkpoint is removed, and all goes on up
                half.unlink(missing_ok=True)
                raise

    def load(self) -> dict[str, Any] | None:
        """The last state saved with the same key, on the CPU; None if there is none that can be used."""
        saved = self._read()
        if saved is None or saved.get("key") != self.key:
            return None
        state = saved.get("state")
        return state if isinstance(state, dict) else None

    def damaged(self) -> bool:
        """Whether there is a checkpoint that cannot be read."""
        return (self.folder / NAME).exists() and self._read() is None

    def _read(self) -> dict[str, Any] | None:
        import torch

        try:
            saved = torch.load(self.folder / NAME, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            return None  # absent, or cut short by a loss of power: train from the start
        return saved if isinstance(saved, dict) else None

    def clear(self) -> None:
        """Remove the checkpoints, and their folder's parent if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()
