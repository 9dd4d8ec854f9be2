"""Memory, disk and time: what this recipe needs on this machine, beside what there is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from core.check.gpu import torch_cuda
from core.check.model import config_of, facts_of
from core.check.needs import Machine, StageNeed, stage_needs
from core.check.settings import record_lengths, resolved
from core.check.types import FAIL, OK, SKIP, WARN, Check, Subject
from core.errors import Hint, Use
from core.folder import room_hint
from core.formats import human_bytes, listed, rough_duration
from core.hardware import free_ram, load_nvml, read_gpus, usable_cores, usable_gpus
from core.language import told
from core.model.folder import config_facts
from core.model.gguf import check_gguf, is_unpacked, unpacking_memory
from core.model.sources import kind_of, local_place

LONG_S = 3600.0
LESS = told(
    "Lower {batch_size}, {max_seq_len} or {rank}.",
    batch_size=Use("finetune.batch_size"),
    max_seq_len=Use("data.max_seq_len"),
    rank=Use("finetune.rank"),
)


def machine() -> Machine:
    """This machine, as the estimates see it."""
    nvml = load_nvml()
    every = read_gpus(nvml) if nvml is not None else []
    gpus = usable_gpus(every) or every[:1]
    free, *others = [gpu.memory_total - gpu.memory_used for gpu in gpus] or [0]
    return Machine(free, usable_cores(), free_ram(), bool(torch_cuda()), tuple(others))


def estimates(subject: Subject) -> dict[str, StageNeed]:
    """What each stage would need here; empty where the model's configuration is not at hand."""
    config = config_of(subject)
    facts = None if config is None else config_facts(config)
    if facts is None or not facts.has_sizes:
        return {}
    recipe = resolved(subject, facts_of(subject)).recipe
    every = stage_needs(facts, recipe, machine(), record_lengths(subject, recipe.data.max_seq_len))
    every["quantize"] = replace(every["quantize"], ram=max(every["quantize"].ram, _unpacking(subject)))
    return every


def needs(subject: Subject) -> Iterator[Check]:
    """RAM, GPU memory, disk and time for each stage that is to run."""
    every = estimates(subject)
    if not every:
        yield Check(
            told("memory"), SKIP, told("The model's config.json is not at hand, so nothing can be estimated.")
        )
        return
    wanted = [need for name, need in every.items() if name in subject.stages]
    if not wanted:
        return
    yield judge_ram(wanted, free_ram())
    here = machine()
    if here.has_gpu:
        yield judge_gpu(wanted, here.gpu_free)
    existing = subject.lab.root
    while not existing.exists():
        existing = existing.parent
    yield judge_disk(wanted, shutil.disk_usage(existing).free, existing)
    yield judge_time(wanted, every["evaluate"] if "optimize" in subject.stages else None)


def _unpacking(subject: Subject) -> int:
    """Bytes of RAM that unpacking a GGUF file takes, which quantize does first; 0 where nothing is to be unpacked."""
    source, root = subject.recipe.model.source, subject.lab.root
    if kind_of(source, root) != "gguf":
        return 0
    header = check_gguf(local_place(source, root))
    return 0 if is_unpacked(header) else unpacking_memory(header)


def _table(wanted: list[StageNeed], field: str) -> str:
    return listed(
        told("{stage} {size}", stage=need.stage, size=human_bytes(getattr(need, field))) for need in wanted
    )


def judge_ram(wanted: list[StageNeed], free: int) -> Check:
    """RAM: the stage that needs most, against what is free."""
    most = max(wanted, key=lambda need: need.ram)
    found = told("{table}; {free} free", table=_table(wanted, "ram"), free=human_bytes(free))
    if most.ram > free:
        hints: dict[str, Hint] = {
            "quantize": told(
                "Use a smaller model, fewer {calibration_samples}, or a machine with more memory.",
                calibration_samples=Use("quantize.calibration_samples"),
            ),
            "finetune": LESS,
        }
        hint = hints.get(most.stage, told("Use a machine with more memory, or free some."))
        return Check(told("memory"), FAIL, found, hint)
    return Check(told("memory"), WARN if most.ram > 0.85 * free else OK, found)


def judge_gpu(wanted: list[StageNeed], free: int) -> Check:
    """GPU memory: what each stage needs, against what is free. A finetune takes what it can use.

    Args:
        free: on the first GPU, where no other decides.
    """
    least = min((need.gpu_free or free for need in wanted if need.gpu), default=free)
    found = told(
        "{table}; {least} free",
        table=_table([need for need in wanted if need.gpu], "gpu"),
        least=human_bytes(least),
    )
    if any(need.gpu > (need.gpu_free or free) for need in wanted):
        return Check(told("gpu memory"), FAIL, found, LESS)
    return Check(told("gpu memory"), OK, found)


def judge_disk(wanted: list[StageNeed], free: int, where: Path) -> Check:
    """Disk: all that the stages leave, and once more the largest, which is half made beside the old one."""
    total = sum(need.disk for need in wanted) + max(need.disk for need in wanted)
    found = told(
        "{total} needed, {free} free at {where}",
        total=human_bytes(total),
        free=human_bytes(free),
        where=where,
    )
    if total > free:
        return Check(told("disk"), FAIL, found, room_hint(where))
    return Check(told("disk"), OK, found)


def judge_time(wanted: list[StageNeed], after: StageNeed | None = None) -> Check:
    """Time: rough, and only worth a warning when it is long.

    Args:
        after: what may be run on the result; its time is told, and not judged.
    """
    total = sum(need.seconds for need in wanted)
    stages = listed(
        told("{stage} {time}", stage=need.stage, time=rough_duration(need.seconds)) for need in wanted
    )
    found = told("about {stages}", stages=stages)
    if after is not None:
        found = told(
            "about {stages}; {stage}, where it is asked for, {time}",
            stages=stages,
            stage=after.stage,
            time=rough_duration(after.seconds),
        )
    if total > LONG_S:
        return Check(
            told("time"),
            WARN,
            found,
            told("A GPU, fewer finetune.steps or a shorter data.max_seq_len shorten it."),
        )
    return Check(told("time"), OK, found)
