"""Where the time of a training step goes, on one GPU and on several: ``python -m benchmarks.step_parts FOLDER``.

``FOLDER`` is that of :mod:`benchmarks.several_gpus`; its lab is made if it is not there. The real trainer runs on each
number of GPUs, and for each batch size, with marks on the GPU's own clock: what its records take forward and backward,
the sum over the GPUs, and the rest (the gradient's norm, the optimizer). Beside them how long Python took to ask for
it all: where that is as long as the step, a faster GPU would be no faster. With ``--profile`` the kernels that took
most of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.several_gpus import add_options, prepared
from core import Lab
from core.events import Reporter
from core.recipe import recipe_text

WARM = 4


@dataclass
class Marks:
    """What was seen of the steps of one rank, in seconds."""

    step: list[float] = field(default_factory=list)
    records: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    summed: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)


def mark(profile: list[Any]) -> Marks:
    """Have the trainer's steps timed, by wrapping what they call."""
    import torch

    from core.finetune.loop import Trainer
    from core.finetune.trained import Trained

    marks, clock = Marks(), dict[str, float]()
    events: dict[str, torch.cuda.Event] = {}
    on_gpu = torch.cuda.is_available()
    real_step, add_up, clip = Trainer._step, Trained.sum, Trained.clip

    def now(name: str) -> None:
        clock[name] = time.perf_counter()
        if on_gpu:
            events[name] = torch.cuda.Event(enable_timing=True)
            events[name].record()

    def between(first: str, last: str) -> float:
        if on_gpu:
            return float(events[first].elapsed_time(events[last])) / 1e3
        return clock[last] - clock[first]

    def timed_step(self: Trainer, step: int) -> None:
        began = time.perf_counter()
        now("began")
        real_step(self, step)
        took = time.perf_counter() - began
        now("ended")
        if on_gpu:
            torch.cuda.synchronize()
        if step > WARM:
            before = "before" if "before" in clock else "clip"
            marks.step.append(took)
            marks.records.append(between("began", before))
            marks.summed.append(between(before, "clip"))
            marks.rest.append(between("clip", "ended"))
            marks.asked.append(clock[before] - began)
        if profile and step == WARM:
            profile[0].start()
        if profile and step == WARM + 3:
            profile[0].stop()

    def timed_sum(self: Trained, numbers: Any, *, stop: bool) -> Any:
        now("before")
        return add_up(self, numbers, stop=stop)

    def timed_clip(self: Trained, most: float, device: torch.device) -> torch.Tensor:
        now("clip")
        return clip(self, most, device)

    Trainer._step = timed_step  # type: ignore[method-assign]
    Trained.sum = timed_sum  # type: ignore[method-assign]
    Trained.clip = timed_clip  # type: ignore[method-assign]
    return marks


def rank(work: Path) -> None:
    """One of the processes: train, write what was seen."""
    import torch

    from core.finetune.ranks import Ranks
    from core.finetune.training import Task, Training

    at, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    wanted = json.loads((work / "wanted.json").read_text())
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(at)
    if count > 1:
        device = torch.device("cuda", at) if on_gpu else None
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", rank=at, world_size=count, device_id=device
        )
    profile = []
    if wanted["profile"] and at == 0:
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        profile.append(torch.profiler.profile(activities=activities))
    marks = mark(profile)
    Training(Task(**wanted["task"]), Reporter(), Ranks(at, count)).run()
    (work / f"seen-{at}.json").write_text(json.dumps(asdict(marks)))
    if profile:
        found = profile[0].key_averages()
        kernels = [e for e in found if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels.sort(key=lambda e: -e.self_device_time_total)
        rows = [[e.self_device_time_total / 3e3, e.count / 3, e.key[:110]] for e in kernels]
        told = {"busy_ms": sum(row[0] for row in rows), "kernels": sum(row[1] for row in rows)}
        (work / "kernels.json").write_text(json.dumps({**told, "top": rows[:40]}))
    sys.stdout.flush()
    os._exit(0)


def measure(lab: Lab, gpus: int, batch: int, steps: int, *, profile: bool) -> dict[str, Any]:
    """One short training; the medians over its steps, of the rank where each part took longest."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        values = {
            "finetune.batch_size": batch,
            "finetune.steps": steps,
            "finetune.gpus": 1,
            "data.eval_fraction": 0.0,
        }
        (work / "lab.toml").write_text(recipe_text(lab.recipe.with_values(values)))
        base, data = str(lab.root / "models" / "quantized"), str(lab.root)
        task = {
            "base": base,
            "recipe": str(work / "lab.toml"),
            "data_root": data,
            "checkpoints": "",
            "checkpoint_key": "",
            "adapter": str(work / "adapter"),
        }
        (work / "wanted.json").write_text(json.dumps({"task": task, "profile": profile}))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        launcher += ["--nproc-per-node", str(gpus)]
        command = [sys.executable, *(launcher if gpus > 1 else []), "-m", "benchmarks.step_parts"]
        done = subprocess.run(
            [*command, str(work), "--is-rank"], check=False, stderr=subprocess.PIPE, text=True
        )
        row: dict[str, Any] = {"gpus": gpus, "batch": batch, "exit": done.returncode}
        if done.returncode:
            return {**row, "error": done.stderr[-2000:]}
        seen = [json.loads((work / f"seen-{at}.json").read_text()) for at in range(gpus)]
        for part in seen[0]:
            row[f"{part}_ms"] = round(1e3 * max(median(each[part]) for each in seen), 2)
        if profile:
            row["profile"] = json.loads((work / "kernels.json").read_text())
        return row


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--batches", type=int, nargs="*", default=[8])
    parser.add_argument("--profile", action="store_true", help="name the kernels that take longest")
    parser.add_argument("--is-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.is_rank:
        rank(options.folder)
    lab = prepared(options)
    heads = "GPUs,batch,a step (ms),records,Python until then,sum over GPUs,rest"
    print("| " + heads.replace(",", " | ") + " |\n" + "| --- " * 7 + "|")
    rows = []
    for gpus in options.gpus:
        for batch in options.batches:
            row = measure(lab, gpus, batch, options.steps, profile=options.profile)
            rows.append(row)
            if row["exit"]:
                print(f"| {gpus} | {batch} | {row['error']}", flush=True)
                continue
            parts = " | ".join(str(row[f"{k}_ms"]) for k in ("step", "records", "asked", "summed", "rest"))
            print(f"| {gpus} | {batch} | {parts} |", flush=True)
            if options.profile:
                found = row["profile"]
                print(f"  {found['kernels']:.0f} kernels, {found['busy_ms']:.1f} ms", flush=True)
                for took, count, name in found["top"]:
                    print(f"  {took:8.2f} ms {count:6.0f} x {name}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    main()
