"""A stage whose behaviour is chosen by ``chat.system``.

It is one of ok, error, cuda and an error's number, crash, hang, deaf, flood, full, fill, go, step, steps.

``steps`` goes on from a checkpoint, and its bytes depend on every step and on the file ``input``.
``go`` and ``step`` wait for a file ``go`` in the lab; ``step`` does it where no signal may end it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from core.errors import Cancelled, RequestError, StageError
from core.files import content_stamp, publish, read_if_whole, write_json
from core.folder import LabFolder
from core.recipe import Recipe
from core.stage_context import StageContext


class AcceleratorError(RuntimeError):
    """As torch tells what a GPU said."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"CUDA error: number {number}\nCUDA kernel errors might be reported at some other call."
        )
        self.error_code = number


def fingerprint(lab: LabFolder, recipe: Recipe) -> dict[str, Any]:
    read = lab.root / INPUT
    if (lab.root / "needed").exists() and not read.is_file():
        raise RequestError("The input is gone.")
    return {
        "system": recipe.chat.system,
        "bits": recipe.quantize.bits,
        "input": content_stamp(read) if read.is_file() else "",
    }


def output(lab: LabFolder, recipe: Recipe) -> Path:
    return lab.quantized_dir


STEPS, KEEP_EVERY = 40, 10
INPUT = "input"
"""A file of the lab that ``steps`` reads, if it is there; it must be, where a file ``needed`` is."""


def steps(context: StageContext, target: Path) -> dict[str, Any]:
    """Work as a training does it, in a fraction of a second."""
    checkpoint = context.lab.checkpoints_dir("steps") / "last.json"
    saved = read_if_whole(checkpoint)
    read = context.lab.root / INPUT
    begin = read.read_text(errors="replace") if read.is_file() else "begin"
    same = isinstance(saved, dict) and saved.get("begin") == begin
    done, state = (int(saved["step"]), str(saved["state"])) if same else (0, begin)
    try:
        while done < STEPS:
            context.report.check_cancelled()
            with context.report.unbroken():
                time.sleep(0.005)
                done, state = done + 1, hashlib.sha256(state.encode()).hexdigest()
            context.report.metric("loss", 1 / done, done)
            context.report.progress("working", done, STEPS)
            if done % KEEP_EVERY == 0:
                write_json(checkpoint, {"begin": begin, "step": done, "state": state})
    except (Cancelled, KeyboardInterrupt):
        write_json(checkpoint, {"begin": begin, "step": done, "state": state})
        raise
    made = context.work / "made"
    made.mkdir()
    for part in range(8):
        with (made / f"part-{part}").open("w") as stream:
            for line in range(20):
                stream.write(f"{state} {part} {line}\n" * 20)
                stream.flush()
            time.sleep(0.002)
    publish(made, target, {**context.manifest, "result": {"steps": done}})
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return {"steps": done}


def run(context: StageContext) -> dict[str, Any]:
    return work(context, context.lab.quantized_dir)


def work(context: StageContext, target: Path) -> dict[str, Any]:
    mode = context.recipe.chat.system
    context.report.progress("working", 0, 2)
    print(f"mode {mode}", flush=True)
    context.report.log("a word to people", "warning")
    context.report.log("a word to nobody", "debug")
    if mode == "steps":
        return steps(context, target)
    if mode == "error":
        raise StageError("It failed as asked.", "the detail", "the hint")
    if mode == "bug":
        raise ValueError("not foreseen")
    if mode.startswith("cuda"):
        raise AcceleratorError(int(mode[4:]))
    if mode == "full":
        raise OSError(28, "No space left on device", "/some/file")
    if mode == "fill":
        with (context.work / "all-there-is").open("wb") as stream:
            while True:
                stream.write(b"0" * 65536)
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "flood":
        for number in range(100_000):
            print(f"line {number} [/x] \x1b[31mred\x1b[0m")
    go = context.lab.root / "go"
    while mode == "go" and not go.exists():
        context.report.check_cancelled()
        time.sleep(0.01)
    if mode == "step":
        context.report.stop_takes(0.5)
        with context.report.unbroken():
            print("in the step", flush=True)
            while not go.exists():
                time.sleep(0.01)
            print("the step is done", flush=True)
        context.report.check_cancelled()
    while mode in ("hang", "deaf"):
        if mode == "hang":
            context.report.check_cancelled()
        time.sleep(0.02)
    made = context.work / "quantized"
    made.mkdir()
    (made / "weights").write_text("w" * 10)
    context.report.metric("loss", 1.5, 1)
    context.report.progress("working", 2, 2)
    result = {"bytes": 10}
    publish(made, target, {**context.manifest, "result": result})
    return result
