"""Measures the data screen on a large file: opening it, going to any row, and staying awake meanwhile.

    python benchmarks/data_screen.py [--rows 2000000] [--file big.jsonl]

The screen is the real one, drawn at 80 by 24 without a terminal, with the checking of all rows running
beside it as it does for a user. Times are from the key to the row's text on the screen.
"""

# ruff: noqa: E402 - run from any folder

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.data import make_file
from core.lab import Lab
from tests.tui.conftest import screen_text
from tui.app import OlivePressApp
from tui.screens.data import DataScreen


async def until(condition: Callable[[], bool], limit: float = 120.0) -> float:
    """Seconds until it holds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > limit:
            raise SystemExit(f"this took too long: {condition.__code__.co_names}")
        await asyncio.sleep(0.002)
    return time.perf_counter() - began


class Lag:
    """How long the event loop is ever away: what a key would have waited."""

    def __init__(self) -> None:
        self.worst = self.busy = 0.0  # seconds waited; of these, processor time of the screen's own thread

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            began, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.005)
            self.busy = max(self.busy, time.thread_time() - used)
            self.worst = max(self.worst, time.perf_counter() - began - 0.005)


async def measure(lab: Lab, rows: int) -> None:
    """Open the file, jump before and after it is indexed, and print."""
    app = OlivePressApp(lab.root, "check")
    async with app.run_test(size=(80, 24)):
        await until(lambda: app._watch is not None)
        lag = Lag()
        watcher = asyncio.create_task(lag.watch())
        began = time.perf_counter()
        app.simulate_key("2")
        await until(lambda: isinstance(app.current, DataScreen) and "Row 1 of" in screen_text(app))
        opened = time.perf_counter() - began
        opening_lag, lag.worst = lag.worst, 0.0
        screen = app.current
        assert isinstance(screen, DataScreen)
        source = screen.state.source
        assert source is not None
        indexed_from = time.perf_counter()

        async def jump(row: int, exact: bool) -> float:
            app.simulate_key("g")
            await until(lambda: bool(app.screen.query("#row")))
            app.screen.query_one("#row").value = str(row)  # type: ignore[attr-defined]
            began = time.perf_counter()
            app.simulate_key("enter")
            words = f"Row {row:,} of"
            end = f", line {row}\n" if exact else ""
            await until(lambda: words in screen.whole.text and end in screen.whole.text)
            await until(lambda: words in screen_text(app))
            if exact:
                assert f" {row - 1}." in screen.whole.text, "another row"
            return time.perf_counter() - began

        early = await jump(rows - rows // 4, False)
        was_early = not source.exact
        await until(lambda: source.exact)
        indexed = time.perf_counter() - indexed_from
        chance = random.Random(3)
        jumps = [await jump(chance.randrange(1, rows), True) for _ in range(20)]
        state = screen.state.survey.state if screen.state.survey else "none"
        watcher.cancel()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = source.bytes / 2**20
    print(
        f"{size:,.0f} MiB, {rows:,} rows: key to first row {opened:.2f} s; a far row"
        f"{' before the index' if was_early else ''} {early:.2f} s; index {indexed:.1f} s; "
        f"20 rows anywhere: median {sorted(jumps)[10]:.2f} s, slowest {max(jumps):.2f} s; "
        f"a key would have waited at most {opening_lag * 1000:.0f} ms while the "
        f"screen was made and {lag.worst * 1000:.0f} ms afterwards ({lag.busy * 1000:.0f} ms of it the "
        f"screen's own work); peak memory {peak:.0f} MiB; "
        f"checking of all rows: {state}; load {os.getloadavg()[0]:.0f}"
    )


def main() -> None:
    """Make the file and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument(
        "--file", type=Path, help="made by an earlier run of benchmarks/data.py with as many rows"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="olivepress-bench-"))
    os.environ["XDG_CONFIG_HOME"] = str(folder)
    try:
        file = options.file.resolve() if options.file else folder / "big.jsonl"
        if not file.exists():
            make_file(file, "jsonl", options.rows)
        lab = Lab.create(folder / "lab", settings={"data.file": str(file)})
        asyncio.run(measure(lab, options.rows))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
