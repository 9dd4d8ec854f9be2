"""How many bytes a second the wizard sends to the terminal while a finetune runs and nothing is typed.

The real program runs in a pseudo-terminal on a lab whose job folder is written to as a fast finetune would:
ten steps a second with loss, rate and speed, progress ten times a second, and log lines. Everything that comes
out of the pseudo-terminal is counted, synchronised updates and cursor moves included.

    python benchmarks/slow_link.py [--seconds 30] [--size 80x24] [--lines 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.lab import Lab
from tests.tui.labs import FakeJob, losses, made
from tests.tui.ptys import Terminal


def train(job: FakeJob, stop: threading.Event, lines: int) -> None:
    """Write as a finetune of ten steps a second does, until told to stop."""
    curve = losses(5000)
    step = 0
    while not stop.wait(0.1):
        step += 1
        job.reporter.metric("loss", curve[step % 5000], step)
        job.reporter.metric("learning_rate", 2e-4 * (1 - step / 5000), step)
        job.reporter.metric("tokens_per_s", 11_000 + step % 700, step)
        job.reporter.metric("gpu_mem_gib", 7.3)
        if step % 50 == 0:
            job.reporter.metric("eval_loss", curve[step % 5000] + 0.1, step)
        job.reporter.progress("training", step, 5000)
        if lines and step % max(1, 10 // lines) == 0:
            job.log(f"step {step} loss {curve[step % 5000]:.4f} rate 0.0002 grad_norm 0.71 tokens/s 11832\n")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--size", default="80x24")
    parser.add_argument("--lines", type=int, default=5, help="log lines a second, 0 to 10")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    columns, rows = (int(part) for part in options.size.split("x"))
    folder = Path(tempfile.mkdtemp(prefix="olivepress-link-"))
    try:
        lab = Lab.create(folder / "lab", settings={"finetune.steps": 5000})
        made(lab, ("quantize",))
        job = FakeJob(lab, "finetune").run(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        stop = threading.Event()
        writer = threading.Thread(target=train, args=(job, stop, options.lines), daemon=True)
        writer.start()
        argv = [sys.executable, "-m", "core.cli", str(lab.root)]
        with Terminal(argv, folder, {"XDG_CONFIG_HOME": str(folder)}, (columns, rows)) as terminal:
            terminal.until("of 5,000", 30)
            terminal.pump(3)
            began = time.monotonic()
            worst, total = 0, 0
            while time.monotonic() - began < options.seconds:
                count = terminal.pump(1.0)
                worst, total = max(worst, count), total + count
            seconds = time.monotonic() - began
        stop.set()
        writer.join()
        job.let_go()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {
        "size": options.size,
        "log_lines_per_s": options.lines,
        "bytes_per_s": round(total / seconds),
        "worst_second_bytes": worst,
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
    }
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{options.size}, {options.lines} log lines a second: {total / seconds / 1000:.1f} kB/s to the terminal, "
            f"worst second {worst / 1000:.1f} kB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
