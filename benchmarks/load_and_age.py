"""What a lab of years costs to look at: hundreds of jobs, a log of gigabytes, a million events.

Makes such labs in a temporary folder and takes, for each, the seconds of ``olivepress status`` and of the wizard from
its start to the first screen that shows the job (the median of some starts, and what they took of a processor), the
longest wait for a key, and the most memory of the wizard. Modules are compiled before, as set-up leaves them.

    python benchmarks/load_and_age.py [--jobs 500] [--events 1000000] [--log-gb 2] [--rounds 5] [--minutes 0]

``--minutes`` keeps the wizard open on a running job for so long and says how much its memory has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from core.lab import Lab
from tests.tui.labs import FakeJob
from tests.tui.ptys import Terminal


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--log-gb", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="olivepress-age-"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(PYTHONPYCACHEPREFIX=str(folder / "compiled"), XDG_CONFIG_HOME=str(folder))
    try:
        for what, lab in (
            ("an empty lab", Lab.create(folder / "empty")),
            (f"{options.jobs} jobs", many_jobs(folder / "jobs", options.jobs)),
            (f"{options.events:,} events", many_events(folder / "events", options.events)),
            (f"a log of {options.log_gb:g} GB", long_log(folder / "log", options.log_gb)),
        ):
            first_screen(lab, folder)  # compiles what it loads
            starts = [first_screen(lab, folder) for _ in range(options.rounds)]
            wall, cpu = (statistics.median(each) for each in zip(*starts, strict=True))
            status, key, memory = measure(lab, folder)
            print(
                f"{what}: status {status:.2f} s, first screen {wall:.2f} s ({cpu:.2f} s of a processor), "
                f"longest wait for a key {key:.2f} s, {memory / 2**20:.0f} MiB",
                flush=True,
            )
        if options.minutes:
            before, after = soak(Lab.create(folder / "soak"), folder, options.minutes)
            print(
                f"{options.minutes:g} minutes beside a running job: "
                f"from {before / 2**20:.0f} to {after / 2**20:.0f} MiB"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def many_jobs(root: Path, count: int) -> Lab:
    """A lab of jobs that ended, each with some events and a log."""
    lab = Lab.create(root)
    for number in range(1, count + 1):
        job = FakeJob(lab, ("quantize", "finetune", "optimize")[number % 3], number).run()
        job.log("a line of the log\n" * 200)
        for step in range(50):
            job.reporter.metric("loss", 1 / (step + 1), step)
        job.end("failed" if number % 5 == 0 else "succeeded")
    return lab


def many_events(root: Path, count: int) -> Lab:
    """A lab whose training has told so many events and goes on."""
    lab = Lab.create(root)
    job = FakeJob(lab, "finetune").run()
    metric = {"v": 1, "t": "2026-11-20T10:00:00.000Z", "job": job.id, "type": "metric", "name": "loss"}
    with (job.folder / "events.jsonl").open("a", encoding="utf-8") as stream:
        for step in range(1, count):
            stream.write(json.dumps({**metric, "step": step, "value": 1 / step}) + "\n")
    job.progress("training", count, count + 1)
    return lab


def long_log(root: Path, gigabytes: float) -> Lab:
    """A lab whose job has a log of so many bytes, most of it a hole: it takes no room on the disk."""
    lab = Lab.create(root)
    job = FakeJob(lab, "quantize").run().progress("working", 1, 2)
    with (job.folder / "log.txt").open("r+b") as stream:
        os.truncate(stream.fileno(), int(gigabytes * 1e9))
        stream.seek(0, os.SEEK_END)
        stream.write(b"\nthe last line\n")
    return lab


def wizard(lab: Lab, folder: Path) -> Terminal:
    """The wizard on a lab, from the start."""
    return Terminal([sys.executable, "-m", "core.cli", str(lab.root)], folder)


def first_words(lab: Lab) -> str:
    """What stands on the first screen once it shows the job that runs, or else is drawn."""
    stage = next((job.stage for job in reversed(lab.jobs()) if job.active), "")
    return {"finetune": "training", "quantize": "working"}.get(stage, "F4")


def first_screen(lab: Lab, folder: Path) -> tuple[float, float]:
    """Seconds until the first screen, and seconds of a processor that it took."""
    words = first_words(lab)
    began = time.monotonic()
    with wizard(lab, folder) as terminal:
        terminal.until(words, 120)
        took = psutil.Process(terminal.pid).cpu_times()
        return time.monotonic() - began, took.user + took.system


def measure(lab: Lab, folder: Path) -> tuple[float, float, int]:
    """Seconds of ``status``, and until a key is answered at most; bytes of the wizard."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "core.cli", "status", str(lab.root)], check=True, capture_output=True
    )
    status = time.monotonic() - began
    with wizard(lab, folder) as terminal:
        terminal.until(first_words(lab), 120)
        waits, memory = [], 0
        process = psutil.Process(terminal.pid)
        until = time.monotonic() + 8  # what is read behind the first screen is read meanwhile
        while time.monotonic() < until:
            for key, step in (("2", "▸2"), ("3", "▸3"), ("4", "▸4"), ("1", "▸1")):
                sent = time.monotonic()
                terminal.send(key)
                terminal.until(step, 60)
                waits.append(time.monotonic() - sent)
                memory = max(memory, process.memory_info().rss)
                terminal.pump(0.2)
    return status, max(waits), memory


def soak(lab: Lab, folder: Path, minutes: float) -> tuple[int, int]:
    """Bytes of the wizard after its first minute (or half of the time) and at the end, beside a job that tells much."""
    job = FakeJob(lab, "finetune").run()
    with wizard(lab, folder) as terminal:
        terminal.until("F4", 60)
        process = psutil.Process(terminal.pid)
        began, before, step = time.monotonic(), 0, 0
        while (passed := time.monotonic() - began) < 60 * minutes:
            for _ in range(20):
                step += 1
                job.reporter.metric("loss", 1 / step, step)
                job.log(f"step {step} of a long training\n")
            job.progress("training", step, step + 1)
            terminal.send("2345"[step // 20 % 4])
            terminal.pump(0.2)
            if not before and passed > min(60, 30 * minutes):
                before = process.memory_info().rss
        after = process.memory_info().rss
    job.let_go()
    return before, after


if __name__ == "__main__":
    main()
