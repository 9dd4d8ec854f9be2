"""How many GPUs a finetune uses, and what each has of a step. Pure arithmetic, so that the check step can use it too.

Every GPU holds the whole frozen base and the whole adapter; the records of a step are divided. So the number of GPUs
changes the time that a training takes, and nothing of what comes out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from core.errors import MachineError, RequestError
from core.formats import counted
from core.options import AUTO, Auto

CPU_RANKS = "OLIVEPRESS_CPU_RANKS"
"""Environment variable: on a machine without a GPU, so many processes may train together as if each had one."""


def cpu_ranks() -> int:
    """How many processes may take the place of GPUs where there is none; 0 unless the environment says so."""
    with suppress(ValueError):
        return int(os.environ.get(CPU_RANKS, "0"))
    return 0


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


def gpus_that_pay(batch_size: int, accumulation: int, row_work: float, there: int) -> int:
    """How many of the GPUs that are there shorten a step.

    Args:
        row_work: float operations for one record, forward and backward.
    """
    rows = batch_size * accumulation
    best = 1
    for gpus in range(2, min(there, rows) + 1):
        each = -(-rows // gpus)
        # One more that leaves the longest share as it was only waits.
        if each < -(-rows // best) and each * row_work >= LEAST_WORK:
            best = gpus
    return best


def settled_gpus(
    asked: int | Auto, *, there: int, batch_size: int, accumulation: int, row_work: float
) -> int:
    """The number of GPUs to train on.

    Args:
        asked: ``finetune.gpus``.
        there: GPUs that can be used.

    Raises:
        MachineError: more are asked for than there are.
        RequestError: more are asked for than a step has records.
    """
    if asked == AUTO:
        return gpus_that_pay(batch_size, accumulation, row_work, there)
    if asked > max(1, there):
        found = "no NVIDIA GPU" if there < 1 else counted(there, "GPU")
        raise MachineError(
            f"There are not {asked} GPUs on this machine.",
            f"finetune.gpus = {asked}; found: {found}"
            + (
                f" (CUDA_VISIBLE_DEVICES={seen})."
                if (seen := os.environ.get("CUDA_VISIBLE_DEVICES"))
                else "."
            ),
            f'Set finetune.gpus = {max(1, there)}, or "auto" for as many as pay.',
            code="gpu.count",
        )
    rows = batch_size * accumulation
    if asked > rows:
        raise RequestError(
            "There are more GPUs than records in a step.",
            f"finetune.gpus = {asked}; a step has {counted(rows, 'record')} "
            f"(finetune.batch_size = {batch_size}, finetune.gradient_accumulation = {accumulation}).",
            f"Set finetune.gpus = {rows}, or raise finetune.batch_size.",
            code="gpu.idle",
        )
    return asked
