"""One of the processes that train together: ``python -m core.finetune.rank FOLDER``, as ``launch.py`` has it started.

:mod:`core.finetune.launch` says what lies in the folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from core.errors import Cancelled, LabError
from core.events import Reporter
from core.files import read_json, refusal, write_json
from core.hardware import gpu_fault

_PR_SET_PDEATHSIG = 1
_FOR_EVER = timedelta(days=7)
"""Who waits too long is told by the watcher, who knows how long a step takes."""


class RankReporter(Reporter):
    """Writes down what rank 0 reports, for the watcher to pass on; of the others, nothing. Sees its wish to stop."""

    def __init__(self, work: Path, rank: int) -> None:
        self._stop = work / "stop"
        self._stream = (work / "events.jsonl").open("a", encoding="utf-8", buffering=1) if rank == 0 else None
        self._asked = False
        self._unbroken = 0

    def _write(self, *call: Any) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(call) + "\n")

    def progress(self, phase: str, done: float, total: float | None) -> None:
        self._write("progress", phase, done, total)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._write("metric", name, value, step)

    def log(self, text: str, level: str = "info") -> None:
        self._write("log", text, level)

    def stop_takes(self, seconds: float) -> None:
        self._write("stop_takes", seconds)

    def check_cancelled(self) -> None:
        if self._asked or self._stop.exists():
            raise Cancelled

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        self._unbroken += 1
        try:
            yield
        finally:
            self._unbroken -= 1

    def obey(self, number: int, frame: FrameType | None) -> None:
        """A signal: end now, or where it is safe."""
        self._asked = True
        if not self._unbroken:
            raise KeyboardInterrupt


def main(work: Path) -> int:
    """Do a rank's part; write ``told-<rank>.json``; the exit status."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    report = RankReporter(work, rank)
    told: dict[str, Any]
    status = 0
    try:
        with suppress(OSError, AttributeError):  # Linux alone has it
            # Whoever started this may be killed; nothing may stay on the GPU then.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, report.obey)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        told = {"result": _train(work, rank, count, report)}
    except (Cancelled, KeyboardInterrupt) as stopped:
        said = stopped if isinstance(stopped, Cancelled) else Cancelled()
        told = {"error": said.as_dict(), "exit_status": said.exit_status}
        # Who starts the ranks ends the others when one fails; this one did not, if all were asked.
        status = 0 if (work / "stop").exists() else said.exit_status
    except BaseException as error:
        known = refusal(error, work) if isinstance(error, OSError) else gpu_fault(error) or error
        if isinstance(known, LabError):
            told = {"error": known.as_dict(), "exit_status": known.exit_status}
            if (again := getattr(known, "low_may_fit", None)) is not None:
                told["low_may_fit"] = again
        else:
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"[:600]}
        status = 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    write_json(work / f"told-{rank}.json", told)
    return status


def _train(work: Path, rank: int, count: int, report: Reporter) -> dict[str, Any]:
    from core.finetune.ranks import Pulse, Ranks

    pulse = Pulse(work, rank)
    import torch

    from core.finetune.training import Task, Training
    from core.tqdm_progress import reporting

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    device = torch.device("cuda", rank) if on_gpu else None
    ranks = Ranks(rank, count, pulse)
    with ranks.meeting():
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", rank=rank, world_size=count, timeout=_FOR_EVER, device_id=device
        )
    phases = {"Loading weights": "loading", "Replacing submodules": "loading"}
    with reporting(report, phases):
        return Training(Task(**read_json(work / "task.json")), report, ranks).run()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the group's own end waits for ranks that may be gone
