"""How long until the wizard's first screen is drawn, against an empty Textual app with one label.

Each is started in a pseudo-terminal of 80 by 24, in turn, several times; the time runs from the start of the
process to the moment at which the expected words are on the screen, and the processor time up to then beside it, which
tells more where the machine has other work. Prints the medians and their ratios.

    python benchmarks/ui_start.py [--rounds 9] [--json]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time

EMPTY = """
from textual.app import App
from textual.widgets import Label
class Empty(App):
    def compose(self):
        yield Label("the first words")
Empty().run()
"""
WIZARD = "import sys; from core.cli import main; sys.exit(main([sys.argv[1]]))"


def first_screen(argv: list[str], words: bytes, timeout: float = 30.0) -> tuple[float, float]:
    """Seconds from the start of ``argv`` until its output has all of ``words``, and of them on the processor."""
    began = time.perf_counter()
    pid, master = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", OLIVEPRESS_GUIDE="off")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
        os.execv(argv[0], argv)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen = b""
    took = 0.0
    try:
        while words not in seen:
            if time.perf_counter() - began > timeout:
                raise TimeoutError(f"{words!r} did not come; the last bytes were {seen[-300:]!r}")
            if select.select([master], [], [], 0.05)[0]:
                seen += os.read(master, 65536)
        took = time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        used = os.wait4(pid, 0)[2]
        os.close(master)
    return took, used.ru_utime + used.ru_stime


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="olivepress-start-")
    empty, wizard = [], []
    try:
        for _ in range(options.rounds + 1):
            empty.append(first_screen([sys.executable, "-c", EMPTY], b"the first words"))
            wizard.append(first_screen([sys.executable, "-c", WIZARD, folder], b"Next: Data"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # The first round fills the caches of the disk.
    a, b = (statistics.median(took for took, _ in each[1:]) for each in (empty, wizard))
    cpu_a, cpu_b = (statistics.median(used for _, used in each[1:]) for each in (empty, wizard))
    found = {
        "empty_app_s": round(a, 4),
        "wizard_s": round(b, 4),
        "ratio": round(b / a, 3),
        "processor_ratio": round(cpu_b / cpu_a, 3),
        "rounds": options.rounds,
    }
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"empty Textual app {a * 1000:.0f} ms, wizard {b * 1000:.0f} ms, ratio {b / a:.2f}; "
            f"of the processor's time {cpu_a * 1000:.0f} and {cpu_b * 1000:.0f} ms, ratio {cpu_b / cpu_a:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
