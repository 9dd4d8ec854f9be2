"""Starting the processes that train together, watching over them, and saying how it ended.

``torch.distributed.run`` starts them on this machine; each is ``python -m core.finetune.rank FOLDER``. In that folder
they tell what they do:

    task.json           what is to be trained
    events.jsonl        what rank 0 reports, passed on here
    pulse-<rank>        whom a rank waits for (:class:`~core.finetune.ranks.Beat`)
    told-<rank>.json    how a rank ended, in its own words
    stop                made here: all end after the step at work
    output.txt          what they printed
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from core.errors import Cancelled, LabError, MachineError, RequestError, StageError, Use, error_from
from core.events import Reporter
from core.files import read_if_whole, write_json
from core.finetune.device import training_device
from core.finetune.gpus import Work, cpu_ranks, rows_at_once, settled_gpus
from core.finetune.memory import TEXTS_AT_ONCE, TrainingSize, spread_if_needed
from core.finetune.ranks import Beat, rank_name, read_beat
from core.finetune.training import AGAIN_LOW, Task, TooLittleMemory, Training
from core.formats import human_bytes
from core.hardware import load_nvml, read_gpus, usable_cores, usable_gpus
from core.language import all_of, told
from core.model.folder import config_facts, read_config
from core.options import AUTO, Auto
from core.text import clean_line

PATIENCE_S = 60.0
"""A rank may keep the others waiting so long in any case."""

PATIENCE = 10
"""And so many times as long as the longest that the last ones took from one meeting of all to the next."""

_REMEMBERED = 8
LOOK_S = 0.1
_AGAIN = told(
    "Run it again: it goes on from its last checkpoint, on as many GPUs as there are then. "
    "If it happens again, look for lack of memory, or for a GPU that fails (dmesg)."
)
_LAST_WORDS = 64 * 1024
_REASON_S = 1.0
_LEAVE_S = 30.0


def train(task: Task, report: Reporter) -> dict[str, Any]:
    """Train on as many GPUs as the recipe says; the numbers of the training.

    Raises:
        LabError: it could not be done, or somebody asked to stop.
    """
    recipe = task.settled()
    finetune, there = recipe.finetune, torch_gpus()
    if (spread := spread_training(task, finetune.gpus, there, report)) is not None:
        return spread.run()
    if finetune.objective == "kto":
        there = _one_for_kto(finetune.gpus, there)
    training: Training | None = None
    work = Work(finetune.steps, finetune.batch_size, finetune.gradient_accumulation, 0.0)
    if finetune.gpus == "auto" and there > 1:
        training = Training(task, report)
        facts, rows = training.size.facts, training.train
        work = replace(
            work, row=4 * (facts.linear_numbers + facts.end_numbers) * rows.tokens / len(rows.rows)
        )
    gpus = settled_gpus(finetune.gpus, there, work)
    if finetune.gpus == "auto" and there > 1:
        report.log(f"finetune.gpus is {gpus} of {there}: the number that makes this training the shortest.")
    if gpus == 1:
        return (training or Training(task, report)).run()
    del training
    try:
        return _train_on(gpus, task, report)
    except TooLittleMemory as full:
        if not full.low_may_fit:
            raise
        report.log(AGAIN_LOW, "warning")
    return _train_on(gpus, replace(task, memory="low"), report)


def spread_training(task: Task, asked: int | Auto, there: int, report: Reporter) -> Training | None:
    """The training with its layers spread over the GPUs, where one of them is too small for it and all are not."""
    count = there if asked == AUTO else asked
    nvml = load_nvml()
    if not 1 < count <= there or nvml is None or not torch.cuda.is_available():
        return None
    # Not by torch, which would take some memory of each for this process.
    free = [gpu.memory_total - gpu.memory_used for gpu in usable_gpus(read_gpus(nvml))[:count]]
    options = task.settled()
    finetune, facts = options.finetune, config_facts(read_config(Path(task.base)))
    texts = TEXTS_AT_ONCE[finetune.objective]
    share = texts * rows_at_once(finetune.batch_size, finetune.gradient_accumulation, count)
    # The most that it can be, so that the records need not be read for nothing.
    at_most = TrainingSize(facts, finetune.rank, share, options.data.max_seq_len, 4, finetune.dropout > 0)
    if len(free) < count or at_most.plan(min(free), finetune.memory).fits:
        return None
    training = Training(task, report, spread=[training_device(at) for at in range(count)])
    plan = spread_if_needed(training.size, share, free, finetune.memory)
    if plan is None:
        return None
    report.log(
        f"No GPU has room for the whole base: its layers are spread over {count}, which work one after another."
    )
    return training


def _one_for_kto(asked: int | Auto, there: int) -> int:
    """How many GPUs can be used where one alone may be."""
    if asked != AUTO and asked > 1:
        raise RequestError(
            told("KTO is trained on one GPU."),
            told(
                "finetune.gpus = {asked}. Its loss looks at all records of a batch at once, and each of "
                "several GPUs has a part of them.",
                asked=asked,
            ),
            told(
                "Set {setting}, or learn from pairs: {setting2}.",
                setting=Use("finetune.gpus", 1),
                setting2=Use("finetune.objective", "dpo"),
            ),
            code="gpu.kto",
        )
    return min(1, there)


def torch_gpus() -> int:
    """CUDA devices that torch may use; on a machine without one, what the environment says for trying it out."""
    if torch.cuda.is_available():
        return int(torch.cuda.device_count())
    return cpu_ranks()


def _train_on(gpus: int, task: Task, report: Reporter) -> dict[str, Any]:
    report.log(f"{gpus} GPUs, each with its share of the records of a step.")
    with tempfile.TemporaryDirectory(prefix="ranks-") as work, Watch(Path(work), gpus, task, report) as watch:
        return watch.wait()


class Watch:
    """The ranks of one training, from their start to their end. Leaving it leaves none of them.

    Args:
        work: an empty folder for what they tell.
    """

    def __init__(self, work: Path, gpus: int, task: Task, report: Reporter) -> None:
        self.work, self.gpus, self.report = work, gpus, report
        self._events = _Events(work / "events.jsonl", report)
        self._waits = _Waits(gpus)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        write_json(work / "task.json", asdict(task))

    def __enter__(self) -> Watch:
        threads = max(1, usable_cores() // self.gpus)
        environment = {
            "OMP_NUM_THREADS": str(threads),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONSAFEPATH": "1",
            "TORCHELASTIC_ERROR_FILE": str(self.work / "error.json"),
        }
        command = [
            sys.executable,
            "-P",
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--local-addr",
            "127.0.0.1",
        ]
        command += ["--nproc-per-node", str(self.gpus), "-m", "core.finetune.rank", str(self.work)]
        # A signal to the job reaches this process, which lets all ranks end at the same step.
        with (self.work / "output.txt").open("wb") as output, _held_back(signal.SIGTERM, signal.SIGINT):
            self._agent = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left of them, at once."""
        for beat in self._beats():
            if beat is not None and self._lives(beat.pid):
                with suppress(ProcessLookupError):
                    os.kill(beat.pid, signal.SIGKILL)
        self._agent.kill()
        self._agent.wait()
        end = time.monotonic() + _LEAVE_S
        while any(beat and self._lives(beat.pid) for beat in self._beats()) and time.monotonic() < end:
            time.sleep(LOOK_S)

    def wait(self) -> dict[str, Any]:
        """Wait for the end; rank 0's numbers.

        Raises:
            LabError: how it ended otherwise.
        """
        with self.report.unbroken():
            while True:
                over = self._agent.poll() is not None
                self._events.pass_on()
                said = self._told()
                result = said.get(0, {}).get("result")
                if isinstance(result, dict) and (over or len(said) == self.gpus):
                    self._events.pass_on()
                    return result
                if (error := self._failure(said, over=over)) is not None:
                    self._events.pass_on()
                    raise error
                with suppress(FileExistsError):
                    try:
                        self.report.check_cancelled()
                    except Cancelled:
                        (self.work / "stop").touch(exist_ok=False)
                with suppress(subprocess.TimeoutExpired):
                    self._agent.wait(LOOK_S)

    def _told(self) -> dict[int, dict[str, Any]]:
        """What those ranks said that have ended."""
        found = {}
        for rank in range(self.gpus):
            said = read_if_whole(self.work / f"told-{rank}.json")
            if isinstance(said, dict):
                found[rank] = said
        return found

    def _failure(self, said: dict[int, dict[str, Any]], *, over: bool) -> LabError | None:
        """Why the training cannot go on, if it cannot: the cause, not what followed from it."""
        errors = {rank: _error(each) for rank, each in said.items() if "error" in each}
        known = [error for error in errors.values() if error and not isinstance(error, Cancelled)]
        if known:
            return known[0]
        if (lost := self._lost(set(said))) is not None:
            return lost
        if any(error is None for error in errors.values()):
            # A rank whose neighbour is gone fails by that, and may be the first to say something.
            time.sleep(_REASON_S)
            rank = next(rank for rank, error in errors.items() if error is None)
            return self._lost(set(self._told())) or self._unexpected(rank, said[rank])
        if errors and (over or len(said) == self.gpus):
            return next(error for error in errors.values() if error is not None)
        if over:
            code = self._agent.returncode
            return self._gone(told("All of them ended with status {code} and no word.", code=code))
        if (late := self._waits.late(self._beats())) is not None:
            ranks, seconds = late
            # One that is stopped in the meeting itself has come to it as the others have.
            self._print_output()
            return MachineError(
                told("The training stands still."),
                told(
                    "{names} kept the others waiting for {seconds:.0f} s{where}. A step takes a fraction of "
                    "that.",
                    names=self._names(ranks or self._stopped()) or told("All of them"),
                    seconds=seconds,
                    where=self._events.where,
                ),
                _AGAIN,
                code="ranks.silent",
            )
        return None

    def _lost(self, said: set[int]) -> LabError | None:
        gone = [
            rank
            for rank, beat in enumerate(self._beats())
            if rank not in said and beat is not None and not self._lives(beat.pid)
        ]
        gone = [rank for rank in gone if rank not in self._told()]  # it may have said so just now
        if not gone:
            return None
        return self._gone(
            told("{who} was killed or crashed{where}.", who=self._names(gone), where=self._events.where)
        )

    def _unexpected(self, rank: int, said: dict[str, Any]) -> LabError:
        self._print_output()
        return StageError(
            told("The training failed."),
            told("{rank_name}: {error}", rank_name=rank_name(rank, self._device), error=said["error"]),
            told("Run it again."),
            code="ranks.failed",
        )

    def _gone(self, detail: str) -> LabError:
        self._print_output()
        if (free := shutil.disk_usage(self.work).free) < _LAST_WORDS:
            return MachineError(
                told("The disk is full."),
                told(
                    "{detail} Only {size} are free at {work}.",
                    detail=detail,
                    size=human_bytes(free),
                    work=self.work,
                ),
                told("Free some space and run it again: it goes on from its last checkpoint."),
                code="disk.full",
            )
        return MachineError(
            told("The training lost one of its processes."), detail, _AGAIN, code="ranks.lost"
        )

    def _print_output(self) -> None:
        """What the processes printed, into this one's own output."""
        with suppress(OSError):
            for line in (
                (self.work / "output.txt").read_bytes()[-16_384:].decode("utf-8", "replace").splitlines()
            ):
                print(clean_line(line), file=sys.stderr)
            sys.stderr.flush()

    def _stopped(self) -> list[int]:
        """The ranks whose processes were stopped, by a signal or a debugger."""
        import psutil

        found = []
        for rank, beat in enumerate(self._beats()):
            with suppress(psutil.Error, OSError):
                if beat is not None and psutil.Process(beat.pid).status() == psutil.STATUS_STOPPED:
                    found.append(rank)
        return found

    def _names(self, ranks: Iterable[int]) -> str:
        names = all_of(rank_name(rank, self._device) for rank in ranks)
        if names and self._device == "cuda":
            return told("The process of {names}", names=names)
        return names.capitalize()

    def _beats(self) -> list[Beat | None]:
        return [read_beat(self.work, rank) for rank in range(self.gpus)]

    def _lives(self, pid: int) -> bool:
        """Whether a process of this training has this number, and has not ended."""
        import psutil

        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            return process.status() != psutil.STATUS_ZOMBIE and str(self.work) in process.cmdline()
        return False


def _error(said: dict[str, Any]) -> LabError | None:
    """The error of a rank that foresaw it; None for any other."""
    words = said["error"]
    if not isinstance(words, dict):
        return None
    error = error_from(words, int(said.get("exit_status", StageError.exit_status)))
    if "low_may_fit" in said:
        full = TooLittleMemory(error.title, error.detail, error.advice, code=error.code)
        full.low_may_fit = bool(said["low_may_fit"])
        return full
    return error


class _Waits:
    """Who keeps whom waiting, and whether for too long."""

    def __init__(self, ranks: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._took: deque[float] = deque(maxlen=_REMEMBERED * ranks)
        self._clock = clock
        self._last = [(0, clock())] * ranks

    def late(self, beats: list[Beat | None]) -> tuple[list[int], float] | None:
        """The ranks that are waited for longer than they may, and for how long.

        No ranks where all have come to a meeting that does not end; None where all is well.
        """
        came = [beat.met if beat is not None else 0 for beat in beats]
        for rank, beat in enumerate(beats):
            last = self._last[rank]
            if beat is not None and beat.met > last[0]:
                # Quick steps come several between two looks.
                self._took.append((beat.at - last[1]) / (beat.met - last[0]))
                self._last[rank] = (beat.met, beat.at)
        top = max(came)
        first = [at for met, at in self._last if met == top]
        waiting = [beat for beat in beats if beat is not None and beat.met == top and beat.inside]
        if not waiting:
            return None
        behind = [rank for rank, met in enumerate(came) if met < top]
        if not behind and len(waiting) < len(beats):
            return None
        if any(beat is not None and beat.excused for beat in beats):
            return None
        seconds = self._clock() - (min(first) if behind else max(first))
        allowed = max(PATIENCE_S, PATIENCE * max(self._took, default=0.0))
        return (behind, seconds) if seconds > allowed else None


class _Events:
    """What rank 0 reports, passed on as it comes.

    Attributes:
        where: how far the training has come, in words to put behind others; empty before its first step.
    """

    def __init__(self, path: Path, report: Reporter) -> None:
        self._path, self._report, self._offset = path, report, 0
        self.where = ""

    def pass_on(self) -> None:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            name, *arguments = json.loads(line)
            getattr(self._report, name)(*arguments)
            if name == "progress" and arguments[0] == "training":
                self.where = told(
                    " after step {done:.0f} of {total:.0f}", done=arguments[1], total=arguments[2]
                )


@contextmanager
def _held_back(*signals: signal.Signals) -> Iterator[None]:
    """While entered these signals wait, and processes that are started are deaf to them until they say otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
