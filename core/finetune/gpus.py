"""How many GPUs a finetune uses, and what each has of a step. Pure arithmetic, so that the check step can use it too.

Every GPU holds the whole frozen base and the whole adapter; the records of a step are divided. So the number of GPUs
changes the time that a training takes, and nothing of what comes out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from core.errors import MachineError, RequestError, Use
from core.formats import counted
from core.language import told
from core.options import AUTO, Auto

CPU_RANKS = "OLIVEPRESS_CPU_RANKS"
"""Environment variable: on a machine without a GPU, so many processes may train together as if each had one."""


def cpu_ranks() -> int:
    """How many processes may take the place of GPUs where there is none; 0 unless the environment says so."""
    with suppress(ValueError):
        return int(os.environ.get(CPU_RANKS, "0"))
    return 0


GPU_FLOPS = 4.0e14
"""Float operations a second that one data-centre GPU gives a training, bfloat16."""

STARTING_S = 25.0
"""Seconds more that several processes take to start: packages are loaded once more, and the GPUs find each other."""

LEAST_WORK = 2.0e13
"""Float operations of a step below which another GPU does not pay: some 50 ms of a data-centre GPU. A step of less
waits for its kernels to be started, however few records it has."""


def shares(batches: Sequence[int], rank: int, ranks: int) -> list[list[int]]:
    """Which records of a step's batches are those of one rank: for each batch the places in it, in order.

    Whole batches where they can be dealt out evenly, else records. A rank may have none of a batch, or of a step.

    Args:
        batches: how many records each batch of the step has.
    """
    if len(batches) % ranks == 0:
        return [list(range(size)) if at % ranks == rank else [] for at, size in enumerate(batches)]
    mine, before = [], 0
    for size in batches:
        mine.append([at for at in range(size) if (before + at) % ranks == rank])
        before += size
    return mine


def rows_at_once(batch_size: int, accumulation: int, gpus: int) -> int:
    """The most records of a batch that one GPU works on at once."""
    return batch_size if accumulation % gpus == 0 else -(-batch_size // gpus)


@dataclass(frozen=True)
class Work:
    """What a training has to do.

    Attributes:
        steps: how many there are.
        batch_size, accumulation: records of a batch, and batches of a step.
        row: float operations for one record, forward and backward.
    """

    steps: int
    batch_size: int
    accumulation: int
    row: float

    @property
    def rows(self) -> int:
        """Records of a step."""
        return self.batch_size * self.accumulation

    def share(self, gpus: int) -> int:
        """The records of a step that one of so many GPUs has at most."""
        return -(-self.rows // gpus)

    def seconds(self, gpus: int) -> float:
        """How long so many GPUs take for it, with what their processes take to start beyond that of one."""
        starting = STARTING_S if gpus > 1 else 0.0
        return starting + self.steps * self.share(gpus) * self.row / GPU_FLOPS


def gpus_that_pay(work: Work, there: int) -> int:
    """How many of the GPUs that are there make a training the shortest; of equals the fewest."""
    paying = [
        gpus
        for gpus in range(1, min(there, work.rows) + 1)
        if gpus == 1 or work.share(gpus) * work.row >= LEAST_WORK
    ]
    return min(paying, key=work.seconds, default=1)


def settled_gpus(asked: int | Auto, there: int, work: Work) -> int:
    """The number of GPUs to train on.

    Args:
        asked: ``finetune.gpus``.
        there: GPUs that can be used.

    Raises:
        MachineError: more are asked for than there are.
        RequestError: more are asked for than a step has records.
    """
    if asked == AUTO:
        return gpus_that_pay(work, there)
    if asked > max(1, there):
        found = told("no NVIDIA GPU") if there < 1 else counted(there, "GPU")
        detail = told("finetune.gpus = {asked}; found: {found}.", asked=asked, found=found)
        if seen := os.environ.get("CUDA_VISIBLE_DEVICES"):
            detail = told(
                "finetune.gpus = {asked}; found: {found} (CUDA_VISIBLE_DEVICES={seen}).",
                asked=asked,
                found=found,
                seen=seen,
            )
        raise MachineError(
            told("There are not {asked} GPUs on this machine.", asked=asked),
            detail,
            told(
                "Set {setting}, or {setting2} for as many as pay.",
                setting=Use("finetune.gpus", max(1, there)),
                setting2=Use("finetune.gpus", AUTO),
            ),
            code="gpu.count",
        )
    rows = work.rows
    if asked > rows:
        raise RequestError(
            told("There are more GPUs than records in a step."),
            told(
                "finetune.gpus = {asked}; a step has {records} (finetune.batch_size = {batch_size}, "
                "finetune.gradient_accumulation = {accumulation}).",
                asked=asked,
                records=counted(rows, "record"),
                batch_size=work.batch_size,
                accumulation=work.accumulation,
            ),
            told(
                "Set {setting}, or raise {setting2}.",
                setting=Use("finetune.gpus", rows),
                setting2=Use("finetune.batch_size"),
            ),
            code="gpu.idle",
        )
    return asked
