"""The processes that train together: one a GPU, each with its share of the records, all with the same weights.

Only sums travel: once a step the adapter's gradients, the loss and whether somebody asked to stop, in one flat
all-reduce. Its result has the same bits on every rank, so that their weights stay equal without being compared.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from core.errors import StageError
from core.language import told

_BEAT = struct.Struct("=qqqqd")


def rank_name(rank: int, device: str) -> str:
    """What people call a rank: by its GPU."""
    return f"GPU {rank}" if device == "cuda" else told("process {rank}", rank=rank)


@dataclass(frozen=True)
class Beat:
    """Where a rank is, as it wrote down last.

    Attributes:
        pid: its process.
        met: how many meetings of all ranks it has come to.
        inside: whether it waits in the last of them.
        excused: whether it does alone what may take long, and the others wait for it.
        at: when it wrote this, by the system's monotonic clock, which is one for all processes.
    """

    pid: int
    met: int = 0
    inside: bool = False
    excused: bool = False
    at: float = 0.0


class Pulse:
    """A rank's file with its :class:`Beat`, from which its watcher learns who waits for whom."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = os.open(pulse_file(folder, rank), os.O_WRONLY | os.O_CREAT, 0o600)
        self._met = 0
        self._write()

    def enter(self) -> None:
        """Come to a meeting."""
        self._met += 1
        self._write(inside=True)

    def excuse(self) -> None:
        """Keep the others waiting."""
        self._write(excused=True)

    def leave(self) -> None:
        """Go on from it."""
        self._write()

    def _write(self, *, inside: bool = False, excused: bool = False) -> None:
        os.pwrite(self._file, _BEAT.pack(os.getpid(), self._met, inside, excused, time.monotonic()), 0)


def pulse_file(folder: Path, rank: int) -> Path:
    """Where a rank writes its beats."""
    return folder / f"pulse-{rank}"


def read_beat(folder: Path, rank: int) -> Beat | None:
    """A rank's last beat; None before its first."""
    try:
        data = pulse_file(folder, rank).read_bytes()
    except OSError:
        return None
    if len(data) != _BEAT.size:
        return None
    pid, met, inside, excused, at = _BEAT.unpack(data)
    return Beat(pid, met, bool(inside), bool(excused), at)


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training, seen from one of them. As it is made by default: one, this process.

    Attributes:
        rank: which one this is, from 0. Rank 0 alone tells, keeps and writes.
        count: how many there are.
        pulse: where it writes down whom it waits for; None with one rank.
    """

    rank: int = 0
    count: int = 1
    pulse: Pulse | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that tells, keeps and writes."""
        return self.rank == 0

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """While entered, this rank waits for the others."""
        if self.pulse is not None:
            self.pulse.enter()
        yield  # not in a finally: one that fails here has not gone on
        if self.pulse is not None:
            self.pulse.leave()

    @contextmanager
    def excused(self) -> Iterator[None]:
        """While entered, this rank does what may take long; it is not said to hang."""
        if self.pulse is not None:
            self.pulse.excuse()
        yield
        if self.pulse is not None:
            self.pulse.leave()

    def sum(self, values: torch.Tensor) -> None:
        """Add up a tensor over the ranks, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(values)

    def lowest(self, value: int, device: torch.device) -> int:
        """The lowest of the ranks' values."""
        if self.count == 1:
            return value
        with self.meeting():
            tensor = torch.tensor([value], dtype=torch.int64, device=device)
            torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
            return int(tensor)

    def all_of(self, value: float, device: torch.device) -> list[float]:
        """The values of all ranks, in order."""
        values = torch.zeros(self.count, dtype=torch.float64, device=device)
        values[self.rank] = value
        with self.meeting():
            self.sum(values)
            found: list[float] = values.tolist()
        return found

    def begin_alike(self, digest: int, weights: Iterable[torch.Tensor], device: torch.device) -> None:
        """Make sure that all ranks are about to do the same, from rank 0's weights.

        Args:
            digest: a number below 2**62 that tells what is trained on, and from which step.

        Raises:
            StageError: the ranks' digests differ.
        """
        # The lowest of a number and of its negative: both ends at once.
        low, high = self.lowest(digest, device), -self.lowest(-digest, device)
        if low != high:
            raise StageError(
                told("The GPUs' processes do not read the same records."),
                told("Records, recipe or checkpoint changed while the training began."),
                told("Run it again."),
                code="ranks.differ",
            )
        with self.meeting(), torch.no_grad():
            for tensor in weights:
                torch.distributed.broadcast(tensor, 0)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
