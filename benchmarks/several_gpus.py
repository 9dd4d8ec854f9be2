"""A finetune at full size on one and on several GPUs: ``python -m benchmarks.several_gpus FOLDER``.

Makes the model and the records of :mod:`benchmarks.full_size`, quantizes once, and runs ``olivepress run finetune``
with each ``--gpus N``: time, speed, memory, and how far the loss curve is from that of the first N. Then, on ``--most``
GPUs: a training stopped in the middle that goes on with half of them, a rank that is killed, one that stands still, and
one whose GPU another program fills; what was said, how long it took, and what was left. And one where other programs
leave each GPU too little for the whole base, so that its layers are spread.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.full_size import SHAPE, make_records
from core import Lab
from core.events import Event, read_events
from core.hardware import load_nvml, read_gpus
from core.jobs.job import Job
from core.stage_context import versions

GIB = 2**30


def run(lab: Lab, gpus: int) -> subprocess.Popen[str]:
    """Start the real command."""
    words = ["run", str(lab.root), "finetune", "--gpus", str(gpus), "--no-check", "--json", "--force"]
    return subprocess.Popen(
        [sys.executable, "-m", "core.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def newest(lab: Lab, before: str) -> Job:
    """The job that was started after one."""
    while True:
        job = lab.newest("finetune")
        if job is not None and job.id != before:
            return job
        time.sleep(0.1)


def last_id(lab: Lab) -> str:
    """The id of the newest finetune."""
    job = lab.newest("finetune")
    return job.id if job else ""


def when(job: Job, holds: Callable[[Event], bool]) -> bool:
    """Wait for an event; False where the job ended without."""
    offset = 0
    while True:
        active = job.active
        events, offset = read_events(job.events_path, offset)
        if any(holds(event) for event in events):
            return True
        if not active:
            return False
        time.sleep(0.05)


def at_step(step: int) -> Callable[[Event], bool]:
    """Whether an event tells the loss of a step."""
    return lambda e: e["type"] == "metric" and e["name"] == "loss" and (e["step"] or 0) >= step


def ranks_of(job: Job) -> list[psutil.Process]:
    """The processes that train, in the order of their ranks."""
    worker = json.loads((job.folder / "pid.json").read_text())["worker"]
    found = {}
    for process in psutil.Process(worker).children(recursive=True):
        if "core.finetune.rank" in process.cmdline() and (rank := process.environ().get("RANK")):
            found[int(rank)] = process
    return [found[rank] for rank in sorted(found)]


def gpu_gib() -> list[float]:
    """What is in use on every GPU."""
    nvml = load_nvml()
    return [round(gpu.memory_used / GIB, 2) for gpu in read_gpus(nvml)] if nvml is not None else []


def curve(job: Job) -> dict[int, float]:
    """The losses of a job by step."""
    events, _ = read_events(job.events_path)
    return {e["step"]: e["value"] for e in events if e["type"] == "metric" and e["name"] == "loss"}


def apart(some: dict[int, float], others: dict[int, float]) -> float:
    """The greatest distance of two curves, as a share of the loss."""
    if set(some) != set(others):
        return float("nan")
    return max(abs(loss - others[step]) / loss for step, loss in some.items())


def measure(lab: Lab, gpus: int, alone: dict[int, float]) -> dict[str, Any]:
    """One training from its start to its end."""
    before, began = last_id(lab), time.monotonic()
    process = run(lab, gpus)
    job = newest(lab, before)
    _, words = process.communicate()
    row: dict[str, Any] = {
        "gpus": gpus,
        "exit": process.returncode,
        "wall_s": round(time.monotonic() - began, 1),
    }
    if process.returncode:
        return {**row, "error": words[-1500:]}
    events, _ = read_events(job.events_path)
    peaks: dict[str, float] = {}
    for event in events:
        if event["type"] == "metric" and "gpu" in event["name"] and event["name"].endswith("mem_gib"):
            peaks[event["name"]] = max(peaks.get(event["name"], 0.0), event["value"] or 0.0)
    result = job.result or {}
    losses = curve(job)
    keys = (
        "memory",
        "layers_on_gpus",
        "recomputed_layers",
        "training_s",
        "seconds_per_step",
        "tokens_per_s",
        "loading_s",
    )
    return {
        **row,
        "work_s": job.seconds,
        **{key: result.get(key) for key in (*keys, "gpu_peak_gib", "eval_loss_base", "eval_loss_tuned")},
        "seen_gib": list(peaks.values()),
        "apart": apart(alone or losses, losses),
        "losses": losses,
    }


def fault(
    lab: Lab, gpus: int, what: str, strike: Callable[[Job], Sequence[psutil.Process]]
) -> dict[str, Any]:
    """A training to which something is done; how it ends, how soon, and what it leaves."""
    held, before = gpu_gib(), last_id(lab)
    process = run(lab, gpus)
    job = newest(lab, before)
    there = strike(job)
    began = time.monotonic()
    process.communicate()
    took = time.monotonic() - began
    alive = [each.pid for each in there if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    error = job.error()
    return {
        "what": what,
        "gpus": gpus,
        "exit": process.returncode,
        "state": job.state,
        "code": error.code if error else "",
        "said": f"{error.title} {error.detail} {error.hint}" if error else "",
        "ended_after_s": round(took, 1),
        "left_processes": alive,
        "gpu_before_gib": held,
        "gpu_after_gib": gpu_gib(),
        "resumed_from": (job.result or {}).get("resumed_from"),
        "memory": (job.result or {}).get("memory"),
        "id": job.id,
    }


def signalled(number: signal.Signals, step: int) -> Callable[[Job], list[psutil.Process]]:
    """Send a signal to the last rank once a step is done."""

    def strike(job: Job) -> list[psutil.Process]:
        if not when(job, at_step(step)):
            return []
        there = ranks_of(job)
        there[-1].send_signal(number)
        return there

    return strike


def stopped(step: int) -> Callable[[Job], list[psutil.Process]]:
    """Cancel the job once a step is done."""

    def strike(job: Job) -> list[psutil.Process]:
        if not when(job, at_step(step)):
            return []
        there = ranks_of(job)
        job.cancel()
        return there

    return strike


BALLAST = """
import sys, torch
at, left = int(sys.argv[1]), float(sys.argv[2])
torch.cuda.set_device(at)
torch.zeros(1, device="cuda")
print("ready", flush=True)
sys.stdin.readline()
free, _ = torch.cuda.mem_get_info()
kept = torch.empty(max(0, int(free - left * 2**30)), dtype=torch.uint8, device="cuda")
print("full", flush=True)
sys.stdin.readline()
"""


def filled(
    gpu: int, left_gib: float, ballast: subprocess.Popen[str]
) -> Callable[[Job], list[psutil.Process]]:
    """Fill a GPU from another process, once the training has looked how much is free."""

    def strike(job: Job) -> list[psutil.Process]:
        if not when(job, lambda e: e["type"] == "log" and e["text"].startswith("Memory:")):
            return []
        _say(ballast, "go")
        there = ranks_of(job)
        _heard(ballast)
        return there

    return strike


def _say(process: subprocess.Popen[str], word: str) -> None:
    if process.stdin is not None:
        process.stdin.write(word + "\n")
        process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline() if process.stdout is not None else ""


def ballast_on(gpu: int, left_gib: float) -> subprocess.Popen[str]:
    """Another program on a GPU, which fills it but for so much when it is told to."""
    words = [sys.executable, "-c", BALLAST, str(gpu), str(left_gib)]
    ballast = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _heard(ballast)
    return ballast


def small_gpus(lab: Lab, gpus: int, left_gib: float, alone: dict[int, float]) -> dict[str, Any]:
    """A training where other programs have left so much of each GPU."""
    ballast = [ballast_on(at, left_gib) for at in range(gpus)]
    try:
        for each in ballast:
            _say(each, "go")
        for each in ballast:
            _heard(each)
        return {**measure(lab, gpus, alone), "left_gib": left_gib}
    finally:
        for each in ballast:
            each.kill()
            each.wait()


def full_gpu(lab: Lab, gpus: int, left_gib: float, memory: str) -> dict[str, Any]:
    """The last GPU has so much left after the training has made its plan."""
    lab.set({"finetune.memory": memory})
    ballast = ballast_on(gpus - 1, left_gib)
    try:
        what = f"another program leaves {left_gib:g} GiB of the last GPU, memory = {memory}"
        return fault(lab, gpus, what, filled(gpus - 1, left_gib, ballast))
    finally:
        ballast.kill()
        ballast.wait()
        lab.set({"finetune.memory": "auto"})


def prepared(options: argparse.Namespace) -> Lab:
    """The lab with its quantized base; made once."""
    options.folder.mkdir(parents=True, exist_ok=True)
    model, data, root = options.folder / "model", options.folder / "long.jsonl", options.folder / "lab"
    if not (model / "config.json").exists():
        command = [sys.executable, "-m", "benchmarks.full_size", str(model), "--only-model"]
        sizes = ["--layers", str(options.layers), "--hidden", str(options.hidden)]
        subprocess.run([*command, *sizes], check=True)
    if not (root / "lab.toml").exists():
        make_records(data, options.tokens, options.rows)
        settings = {
            "quantize.algorithm": "rtn",
            "quantize.group_size": 128 if options.hidden % 128 == 0 else 16,
            "data.max_seq_len": options.tokens,
            "finetune.rank": options.rank,
            "finetune.alpha": 16,
            "finetune.steps": options.steps,
            "finetune.batch_size": 8,
            "finetune.learning_rate": 2e-4,
            "finetune.turns": 1,
            "finetune.dropout": 0.0,
            "finetune.eval_every": 0,
        }
        Lab.create(root, model=str(model.resolve()), data=str(data.resolve()), settings=settings)
    lab = Lab.open(root)
    if lab.manifest("quantize") is None:
        lab.run("quantize")
    return lab


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the lab is to be like, and where figures go."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--hidden", type=int, default=SHAPE["hidden_size"])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write all figures here")


def main() -> None:
    """Make, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument(
        "--most", type=int, default=4, help="GPUs of the trainings to which something is done"
    )
    parser.add_argument("--memory", default="auto", help="finetune.memory of the measured trainings")
    parser.add_argument("--left", type=float, default=12.0, help="GiB that the other program leaves")
    parser.add_argument(
        "--small", type=float, help="GiB of each of --most GPUs that other programs leave a training"
    )
    parser.add_argument(
        "--faults", nargs="*", default=["stop", "kill", "hang", "full"], help="any of stop, kill, hang, full"
    )
    options = parser.parse_args()
    lab = prepared(options)
    lab.set({"finetune.memory": options.memory})
    machine = {
        "versions": versions("torch", "transformers", "olive-ai", "peft"),
        "gpus": [gpu.name for gpu in read_gpus(nvml)] if (nvml := load_nvml()) is not None else [],
    }
    print(json.dumps(machine), flush=True)
    heads = "GPUs,exit,100 steps (s),a step (s),faster,tokens/s,loss apart,way,peak GiB,stage (s),in all (s)"
    print("| " + heads.replace(",", " | ") + " |\n" + "| --- " * 11 + "|")
    rows: list[dict[str, Any]] = []
    for gpus in [*options.gpus, *([0] if options.small else [])]:
        alone = rows[0].get("losses", {}) if rows else {}
        row = measure(lab, gpus, alone) if gpus else small_gpus(lab, options.most, options.small, alone)
        rows.append(row)
        if options.json:
            options.json.write_text(json.dumps({**machine, "rows": rows}, indent=1))
        if row["exit"]:
            print(f"| {gpus} | {row['exit']} | {row['error']}", flush=True)
            continue
        name = f"{row['gpus']}, layers {row['layers_on_gpus']}" if row["layers_on_gpus"] else row["gpus"]
        first, each = rows[0].get("seconds_per_step"), row["seconds_per_step"]
        faster = f"{first / each:.2f}" if first else "-"
        print(
            f"| {name} | 0 | {100 * each:.1f} | {each:.4f} | {faster} | {row['tokens_per_s']} | {row['apart']:.1e} "
            f"| {row['memory']}, {row['recomputed_layers']} again | {row['gpu_peak_gib']} {row['seen_gib']} "
            f"| {row['work_s']} | {row['wall_s']} |",
            flush=True,
        )
    most = options.most
    faults: list[dict[str, Any]] = []
    step = max(2, options.steps // 5)
    lab.set({"finetune.memory": "auto"})
    if "stop" in options.faults:
        faults.append(fault(lab, most, "cancel in the middle", stopped(step)))
        again = fault(lab, max(1, most // 2), "run again on fewer", lambda job: [])
        wanted = rows[0].get("losses", {}) if rows else {}
        again["apart"] = apart(wanted, curve(lab.job(again["id"])))
        faults.append(again)
    if "kill" in options.faults:
        faults.append(fault(lab, most, "kill -9 of the last rank", signalled(signal.SIGKILL, step)))
    if "hang" in options.faults:
        faults.append(fault(lab, most, "kill -STOP of the last rank", signalled(signal.SIGSTOP, step)))
    if "full" in options.faults and machine["gpus"]:
        faults.append(full_gpu(lab, most, options.left, "fast"))
        faults.append(full_gpu(lab, most, options.left, "auto"))
    for each in faults:
        print(json.dumps(each), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**machine, "rows": rows, "faults": faults}, indent=1))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    main()
