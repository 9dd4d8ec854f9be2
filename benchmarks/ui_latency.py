"""How long from a key to the screen while a job's log floods, how much memory, and whether anything is lost.

The real program runs in a pseudo-terminal of 80 by 24 on a lab with a running job. A process writes 20,000
lines a second to the job's log, 100 MB in all. Meanwhile keys are pressed that change the screen, and the time
until the change is drawn is taken. At the end the log must have every line, and the wizard must be able to go to
its first and its last one.

    python benchmarks/ui_latency.py [--megabytes 100] [--rate 20000] [--json]
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

WRITER = """
import sys, time
path, rate, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
batch, number, size = rate // 20, 0, 0
pad = "x" * 60
began = time.monotonic()
with open(path, "a") as out:
    while size < total:
        text = "".join(f"line {number + i:09d} of the flood {pad}\\n" for i in range(batch))
        out.write(text); out.flush()
        number += batch; size += len(text)
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
print(number)
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rate", type=int, default=20_000, help="lines a second")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="olivepress-latency-"))
    try:
        found = measure(folder, options.rate, int(options.megabytes * 1e6))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['keys']} keys under {found['lines_per_s']} lines a second: median {found['median_ms']} ms "
            f"(of those that draw the whole screen {found['median_whole_screen_ms']} ms), "
            f"worst {found['worst_ms']} ms; memory {found['memory_mb_before']} -> {found['memory_mb_after']} MB; "
            f"{found['lines']} lines, {found['lost']} lost"
        )
    return 0


def measure(folder: Path, rate: int, total: int) -> dict[str, float]:
    """Flood a job's log with ``total`` bytes and press keys meanwhile."""
    lab = Lab.create(folder / "lab")
    job = FakeJob(lab, "quantize").run().progress("flooding", 1, 10)
    log_path = job.folder / "log.txt"
    argv = [sys.executable, "-m", "core.cli", str(lab.root)]
    times: list[float] = []
    whole: list[float] = []
    with Terminal(argv, folder, {"XDG_CONFIG_HOME": str(folder)}) as terminal:
        terminal.until("flooding", 30)
        terminal.until("GiB", 30)
        before = psutil.Process(terminal.pid).memory_info().rss
        began = time.monotonic()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(log_path), str(rate), str(total)],
            stdout=subprocess.PIPE,
            text=True,
        )
        terminal.until("of the flood", 30)
        # Then: hold and follow the flood (a key as most are), and each fifth time the
        # settings in place of the run and back (the whole screen styled, laid out and drawn anew).
        to_log(terminal)
        while writer.poll() is None:
            for _ in range(4):
                times.append(press(terminal, "f", "held", True))
                terminal.pump(0.07)
                times.append(press(terminal, "f", "held", False))
                terminal.pump(0.09)
            whole.append(press(terminal, "e", "More settings", True))
            terminal.pump(0.11)
            whole.append(press(terminal, "e", "More settings", False))
            to_log(terminal)
        seconds = time.monotonic() - began
        lines = int(writer.communicate()[0])
        last = f"line {lines - 1:09d}"
        terminal.send("l")
        terminal.until(last, 60)
        after = psutil.Process(terminal.pid).memory_info().rss
        terminal.send("\x1b[H")
        terminal.until("line 000000000", 30)
    job.let_go()
    with log_path.open("rb") as log:
        kept = sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(1 << 20), b""))
    every = times + whole
    ordered = sorted(every)
    return {
        "keys": len(every),
        "median_ms": round(statistics.median(every) * 1000, 1),
        "median_whole_screen_ms": round(statistics.median(whole) * 1000, 1),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)] * 1000, 1),
        "worst_ms": round(max(every) * 1000, 1),
        "lines": lines,
        "lines_per_s": round(lines / seconds),
        "lost": lines - kept,
        "memory_mb_before": round(before / 1e6),
        "memory_mb_after": round(after / 1e6),
        "cores": os.cpu_count() or 0,
    }


def to_log(terminal: Terminal) -> None:
    """Tab until the log has the focus: its key holds it there."""
    for _ in range(10):
        terminal.send("tab")
        terminal.pump(0.3)
        terminal.send("f")
        terminal.pump(0.3)
        if "held" in terminal.text:
            press(terminal, "f", "held", False)
            return
    raise AssertionError(f"no Tab leads to the log:\n{terminal.text}")


def press(terminal: Terminal, key: str, words: str, there: bool) -> float:
    """Seconds from the key until these words are on the screen, or gone from it."""
    began = time.perf_counter()
    terminal.send(key)
    terminal.until(lambda text: (words in text) is there, 20)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
