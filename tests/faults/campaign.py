"""One fault, at a moment chosen by a seed, in a job; then what must be true of the lab.

``python -m tests.faults.campaign`` runs many and writes their figures into ``docs/reliability.md``.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import platform
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

import psutil

from core import Job, Lab, LabError
from core.files import MANIFEST, damage
from core.jobs import FINAL
from core.jobs.alive import pids

ROOT = Path(__file__).resolve().parents[2]
TOLD_S = 5.0
"""How long after the last process of a job its end may be unknown."""
ENDS_S = 60.0
"""How long a job that was told to end may take; the times before SIGTERM and SIGKILL, and room for a busy machine."""


@dataclass
class Scene:
    """A job in a lab, and one fault.

    Attributes:
        lab: the lab, for itself alone.
        stage: the stage that runs.
        chance: where all choices come from.
        moment: how many events the job has told when the fault happens, a few milliseconds later.
        undo: what makes the lab usable again, such as putting a file back.
        harmed: whether the fault was to the result itself.
        altered: whether it was to what the stage reads, so that another result is right.
        reasons: the codes of errors that are true, if the job fails.
    """

    lab: Lab
    stage: str
    chance: random.Random
    moment: int
    undo: list[Callable[[], object]] = field(default_factory=list)
    harmed: bool = False
    altered: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def job(self) -> Job:
        """The job that the fault is for."""
        job = self.lab.newest(self.stage)
        assert job is not None
        return job

    @property
    def result(self) -> Path:
        """The folder that the stage makes."""
        return {
            "quantize": self.lab.folder.quantized_dir,
            "finetune": self.lab.folder.finetuned_dir("travel"),
            "optimize": self.lab.folder.onnx_dir,
        }[self.stage]

    def start(self) -> None:
        """Start the stage, and wait for the moment."""
        job = self.lab.start(self.stage, force=True)
        self.wait(lambda: _events(job) >= self.moment or not job.active)

    def wait(self, moment: Callable[[], object]) -> None:
        """Wait for the moment, and a random bit longer."""
        until(moment, ENDS_S, "the moment of the fault")
        time.sleep(self.chance.uniform(0, 0.05))

    def send(self, number: signal.Signals, *who: str) -> None:
        """A signal to the job's processes, as far as they live."""
        for name, process in pids(self.job.folder).items():
            if name in who:
                with suppress(ProcessLookupError):
                    os.kill(process, number)

    def cancel(self) -> None:
        """Ask the job to stop; it may have ended."""
        with suppress(LabError):
            self.job.cancel()


def _events(job: Job) -> int:
    """How many events a job has told."""
    with suppress(FileNotFoundError):
        return job.events_path.read_bytes().count(b"\n")
    return 0


def _signal(number: signal.Signals, *who: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        scene.start()
        scene.send(number, *who)
        if number == signal.SIGSTOP:  # only somebody else can bring that to an end
            scene.cancel()

    return strike


def _cancel(scene: Scene) -> None:
    scene.start()
    scene.cancel()


def _starter(number: signal.Signals) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        before = [each.id for each in scene.lab.jobs()]
        words = ["run", str(scene.lab.root), scene.stage, "--no-check", "--force"]
        with subprocess.Popen(
            [sys.executable, "-m", "core.cli", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as starter:
            job = Job(scene.lab.folder.jobs_dir / f"{scene.stage}-{len(before) + 1:03d}")
            scene.wait(lambda: _events(job) >= scene.moment or starter.poll() is not None)
            with suppress(ProcessLookupError):
                os.killpg(starter.pid, number)
        if [each.id for each in scene.lab.jobs()] == before:  # it came to no start
            scene.start()

    return strike


def _two_starts(scene: Scene) -> None:
    started: list[str] = []
    refused: list[str] = []

    def start() -> None:
        try:
            started.append(scene.lab.start(scene.stage, force=True).id)
        except LabError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(started), refused) == (1, ["job.running"] * 3)


def _some_file(scene: Scene) -> Path | None:
    """A file of the lab that is no result: the recipe, one of the job's, a checkpoint."""
    places = (scene.lab.root / "lab.toml", scene.job.folder, scene.lab.root / "checkpoints")
    found = [each for place in places for each in (place, *place.rglob("*")) if each.is_file()]
    return scene.chance.choice(sorted(found)) if found else None


def _recipe_comes_back(scene: Scene) -> None:
    text = scene.lab.folder.recipe_path.read_bytes()
    scene.undo.append(lambda: scene.lab.folder.recipe_path.write_bytes(text))


def _deleted(scene: Scene) -> None:
    _recipe_comes_back(scene)
    scene.start()
    if file := _some_file(scene):
        file.unlink(missing_ok=True)


def _cut(scene: Scene) -> None:
    _recipe_comes_back(scene)
    scene.start()
    if file := _some_file(scene):
        with suppress(FileNotFoundError):
            os.truncate(file, file.stat().st_size // 2)


def _half_written(scene: Scene) -> None:
    _recipe_comes_back(scene)
    scene.start()
    if file := _some_file(scene):
        with suppress(FileNotFoundError):
            _zero_the_end(file)


def _zero_the_end(file: Path) -> None:
    """As a loss of power leaves a file: as long as it was, its last half never written."""
    with file.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(size // 2)
        stream.write(b"\0" * (size - size // 2))


def _input_altered(scene: Scene) -> None:
    root = scene.lab.root
    inputs = [root / "input", root / "records.jsonl", *sorted((root / "model").glob("*"))]
    file = scene.chance.choice([each for each in inputs if each.is_file()])
    kept = file.read_bytes()
    scene.undo.append(lambda: file.write_bytes(kept))
    scene.altered = True
    scene.start()
    how = scene.chance.randrange(3)
    if how == 0:
        file.unlink()
    elif how == 1:
        os.truncate(file, len(kept) // 2)
    else:
        _zero_the_end(file)


def _quota(scene: Scene) -> None:
    scene.reasons = ("disk.quota",)
    scene.start()
    most = scene.chance.choice((2048, 1 << 15))
    for process in pids(scene.job.folder).values():
        with suppress(psutil.Error):
            psutil.Process(process).rlimit(psutil.RLIMIT_FSIZE, (most, most))


def _clock_moved(scene: Scene) -> None:
    clock = scene.lab.root.parent / "clock"
    clock.write_bytes(struct.pack("l", 0))
    words = ["run", str(scene.lab.root), scene.stage, "--detach", "--no-check", "--force"]
    moved = {**os.environ, "LD_PRELOAD": str(moved_clock()), "FAULT_CLOCK": str(clock)}
    subprocess.run(
        [sys.executable, "-m", "core.cli", *words], cwd=ROOT, env=moved, check=True, capture_output=True
    )
    job = scene.job
    scene.wait(lambda: _events(job) >= scene.moment or not job.active)
    with clock.open("r+b") as stream:
        stream.write(struct.pack("l", scene.chance.choice((-3 * 86_400, -3600, 30 * 86_400))))


@lru_cache(maxsize=1)
def moved_clock() -> Path:
    """What is preloaded to move a program's clock, compiled."""
    made = Path(tempfile.mkdtemp(prefix="olivepress-clock-")) / "clock.so"
    atexit.register(shutil.rmtree, made.parent, ignore_errors=True)
    source = str(Path(__file__).with_name("clock.c"))
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), source, "-ldl"], check=True)
    return made


def _recipe_edited(scene: Scene) -> None:
    _recipe_comes_back(scene)
    scene.start()
    path = scene.lab.folder.recipe_path
    path.write_text(path.read_text(encoding="utf-8")[:40] + "\n[quant", encoding="utf-8")


def _checkpoints_removed(scene: Scene) -> None:
    scene.start()
    shutil.rmtree(scene.lab.root / "checkpoints", ignore_errors=True)
    scene.send(signal.SIGKILL, "worker")


def _result_harmed(scene: Scene) -> None:
    scene.start()
    scene.job.wait(timeout=ENDS_S)
    file = scene.chance.choice(sorted(each for each in scene.result.rglob("*") if each.is_file()))
    how = scene.chance.randrange(3)
    data = bytearray(file.read_bytes())
    if how == 0 or not data:
        file.unlink()
    elif how == 1:
        os.truncate(file, len(data) // 2)
    else:
        data[scene.chance.randrange(len(data))] ^= 1
        file.write_bytes(data)
    scene.harmed = True


def _disk_full(scene: Scene) -> None:
    filler = scene.lab.root.parent / "filler"
    scene.undo.append(lambda: filler.unlink(missing_ok=True))
    scene.start()
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        most = shutil.disk_usage(filler.parent).free - (1 << 20)  # at once, before the job has ended
        os.posix_fallocate(stream.fileno(), 0, most)
        stream.seek(most)
        while True:
            stream.write(b"\0" * 4096)


def _read_only(scene: Scene) -> None:
    place = str(scene.lab.root.parent)

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)

    scene.undo.append(lambda: remount("rw"))
    remount("ro")
    code = ""
    try:
        scene.lab.start(scene.stage)
    except LabError as error:
        code = error.code
    assert code == "disk.not-writable"
    remount("rw")
    scene.start()


FAULTS: dict[str, Callable[[Scene], None]] = {
    "SIGKILL to the worker": _signal(signal.SIGKILL, "worker"),
    "SIGKILL to the supervisor": _signal(signal.SIGKILL, "supervisor"),
    "SIGKILL to both": _signal(signal.SIGKILL, "supervisor", "worker"),
    "SIGTERM to the worker": _signal(signal.SIGTERM, "worker"),
    "SIGTERM to the supervisor": _signal(signal.SIGTERM, "supervisor"),
    "SIGTERM to both": _signal(signal.SIGTERM, "supervisor", "worker"),
    "SIGHUP to both": _signal(signal.SIGHUP, "supervisor", "worker"),
    "SIGSTOP to the worker, then a cancel": _signal(signal.SIGSTOP, "worker"),
    "SIGSTOP to the supervisor, then a cancel": _signal(signal.SIGSTOP, "supervisor"),
    "a cancel": _cancel,
    "SIGKILL to who started it": _starter(signal.SIGKILL),
    "Ctrl-C to who started it": _starter(signal.SIGINT),
    "SIGHUP to who started it": _starter(signal.SIGHUP),
    "four starts at once": _two_starts,
    "a file of the lab deleted": _deleted,
    "a file of the lab cut": _cut,
    "a file of the lab half written": _half_written,
    "an input deleted, cut or half written": _input_altered,
    "lab.toml half edited": _recipe_edited,
    "checkpoints removed, worker killed": _checkpoints_removed,
    "a file of the result cut, flipped or removed": _result_harmed,
    "the clock set back or forward": _clock_moved,
    "a limit on the size of files": _quota,
    "the disk full": _disk_full,
    "the lab read-only at the start": _read_only,
}
NEEDS_A_DISK = ("the disk full", "the lab read-only at the start")
NEEDS_A_COMPILER = ("the clock set back or forward",)


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Attributes:
        state: the job's state afterwards.
        told_s: seconds from the end of its last process until that was told.
        seconds: all of it.
    """

    fault: str
    stage: str
    state: str
    told_s: float
    seconds: float


def contents(folder: Path) -> dict[str, bytes]:
    """What a stage has made, byte for byte, without the manifest, which has times."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.name != MANIFEST)
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in files}


def processes(lab: Lab) -> list[psutil.Process]:
    """Every living process that has to do with a lab."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if (
                alive
                and process.pid != os.getpid()
                and any(str(lab.root) in word for word in process.cmdline())
            ):
                found.append(process)
    return found


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for a condition; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """A disk of its own, where the system allows it; whether there is one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def strike(name: str, scene: Scene, wanted: dict[str, bytes]) -> Outcome:
    """Let one fault happen, and assert what must be true afterwards.

    Args:
        wanted: what an undisturbed run makes.
    """
    began = time.monotonic()
    lab = scene.lab
    FAULTS[name](scene)
    job = scene.job
    try:
        until(lambda: not processes(lab), ENDS_S, "its processes are gone")
        told = until(lambda: job.state in FINAL, TOLD_S, "its end is told")
        status = job.status()
        error = job.error()
        assert (error is None) == (status.state == "succeeded")
        if scene.reasons and error and status.state == "failed":
            assert error.code in scene.reasons, f"it says {error}"
        with suppress(OSError, ValueError):  # the file may have been harmed
            said = json.loads((job.folder / "outcome.json").read_bytes())["state"]
            assert status.state == said, "what the worker said of itself is told"
        for back in scene.undo:
            back()
        if not scene.harmed:
            if scene.result.exists():
                assert damage(scene.result, verify=True) == []
                assert scene.altered or contents(scene.result) == wanted, "what stands there is whole"
            assert scene.result.exists() or status.state != "succeeded"
        again = lab.run(scene.stage)
        assert contents(scene.result) == wanted, f"after {name} the next run made something else"
        assert not (scene.harmed and again.reused)
        until(lambda: not processes(lab), ENDS_S, "the processes of the next run are gone")
        models = [each.name for each in lab.folder.models_dir.rglob(".*")]
        reserves = list(lab.folder.jobs_dir.glob("*/reserve"))
        assert (models, reserves) == ([], []), "nothing is left over"
    finally:
        for process in processes(lab):
            with suppress(psutil.Error):
                process.kill()
    return Outcome(name, scene.stage, status.state, told, time.monotonic() - began)


@dataclass(frozen=True)
class Undisturbed:
    """A lab before a stage, what the stage makes of it, and how many events it tells."""

    root: Path
    stage: str
    wanted: dict[str, bytes]
    finished: Path
    events: int


def undisturbed(root: Path, stage: str, place: Path) -> Undisturbed:
    """Run the stage once in a copy of the lab."""
    finished = place / f"{stage}-finished"
    shutil.copytree(root, finished)
    lab = Lab.open(finished)
    lab.run(stage)
    scene = Scene(lab, stage, random.Random(), 0)
    return Undisturbed(root, stage, contents(scene.result), finished, _events(scene.job))


def run_one(seed: int, plain: Undisturbed, place: Path, names: list[str]) -> Outcome | None:
    """One fault in a copy of the lab; half of them where a result stands already. None: not possible here."""
    chance = random.Random(seed)
    name = names[seed % len(names)]
    if name in NEEDS_A_COMPILER and not shutil.which("cc"):
        return None
    disk = small_disk(place / "disk", "200m") if name in NEEDS_A_DISK else None
    with disk or _no_disk(place / "disk") as mounted:
        if name in NEEDS_A_DISK and not mounted:
            return None
        root = place / "disk" / "lab"
        shutil.copytree(plain.finished if chance.random() < 0.5 else plain.root, root)
        moment = chance.randint(0, plain.events)
        return strike(name, Scene(Lab.open(root), plain.stage, chance, moment), plain.wanted)


def many_at_once(plain: Undisturbed, place: Path, count: int) -> float:
    """The stage in so many labs at once: each ends as if it were alone. The seconds that it took."""
    began = time.monotonic()
    labs = []
    for number in range(count):
        shutil.copytree(plain.root, place / str(number) / "lab")
        labs.append(Lab.open(place / str(number) / "lab"))
    jobs = [lab.start(plain.stage) for lab in labs]
    for lab, job in zip(labs, jobs, strict=True):
        assert job.wait(timeout=ENDS_S * count) == "succeeded", f"{lab.root}: {job.error()}"
        assert contents(Scene(lab, plain.stage, random.Random(), 0).result) == plain.wanted
    for lab in labs:
        until(lambda lab=lab: not processes(lab), ENDS_S, "its processes are gone")  # type: ignore[misc]
    return time.monotonic() - began


@contextmanager
def _no_disk(place: Path) -> Iterator[bool]:
    place.mkdir()
    yield False


def light_lab(place: Path) -> Path:
    """A lab whose quantize is a quick stage that works as a training does."""
    lab = Lab.create(place / "light", settings={"chat.system": "steps"})
    (lab.root / "input").write_text("where the steps begin\n" * 100, encoding="utf-8")
    return lab.root


def real_lab(place: Path) -> Path:
    """A lab of a model of 100,000 weights."""
    from tests.end_to_end.labs import TINY
    from tests.tiny_models import make_tiny

    root = place / "real"
    make_tiny("llama", root / "model", tie=True)
    rows = [{"prompt": f"Where is {name}?", "response": f"{name} is good."} for name in "abcdefghijklmnop"]
    (root / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {**TINY, "finetune.steps": 60, "finetune.save_steps": 10}
    return Lab.create(root, model="model", data="records.jsonl", settings=settings).root


def main() -> None:
    """Run a campaign and write its figures."""
    parser = argparse.ArgumentParser(description="Faults in running jobs, and what came of them.")
    parser.add_argument("--light", type=int, default=200, help="how many in a quick stage")
    parser.add_argument("--real", type=int, default=21, help="how many in each of the real stages")
    parser.add_argument("--labs", type=int, default=30, help="labs in which the quick stage runs at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # in the background it is ignored, by children too
    began, packages = time.monotonic(), _packages()
    outcomes: list[Outcome] = []
    failures: list[str] = []
    together = ""
    with tempfile.TemporaryDirectory(prefix="olivepress-faults-") as name:
        place = Path(name)
        first = options.seed
        for plain, count in _labs(place, options.light, options.real):
            seeds, first = range(first, first + count), first + count
            if options.labs and not together:
                together = (
                    f"{options.labs} labs at once: {many_at_once(plain, place / 'labs', options.labs):.0f} s."
                )
            with ThreadPoolExecutor(options.at_once) as several:
                for found in several.map(lambda seed, plain=plain: _told(seed, plain, place), seeds):
                    if isinstance(found, str):
                        failures.append(found)
                    elif found:
                        outcomes.append(found)
    if changed := sorted({name for name, _ in packages ^ _packages()}):
        failures.append(
            f"{', '.join(changed)}: installed or changed meanwhile. What is made need not be the same: run it again"
        )
    page = ROOT / "docs/reliability.md"
    before, _, _ = page.read_text(encoding="utf-8").partition(_MARK)
    page.write_text(
        before + _MARK + "\n\n" + _table(outcomes, failures, together, time.monotonic() - began),
        encoding="utf-8",
    )
    sys.exit(1 if failures else 0)


def _packages() -> set[tuple[str, str]]:
    """What is installed: a model that is built with other packages may have other bytes."""
    return {(each.name, each.version) for each in distributions()}


def _told(seed: int, plain: Undisturbed, place: Path) -> Outcome | str | None:
    """What came of one fault; words where it was not survived, whose lab is kept until the end."""
    here = place / f"{plain.stage}-{seed}"
    here.mkdir()
    try:
        outcome = run_one(seed, plain, here, list(FAULTS))
    except (AssertionError, LabError, OSError, subprocess.SubprocessError) as error:
        words = f"{plain.stage}, seed {seed}, {list(FAULTS)[seed % len(FAULTS)]}: {error}"
        print(words, file=sys.stderr, flush=True)
        return words
    shutil.rmtree(here, ignore_errors=True)
    return outcome


_MARK = "<!-- written by make soak -->"


def _labs(place: Path, light: int, real: int) -> Iterator[tuple[Undisturbed, int]]:
    os.environ["OLIVEPRESS_PLUGIN"] = "tests.fake_stages.plugin"
    if light:
        yield undisturbed(light_lab(place), "quantize", place / "light-finished"), light
    del os.environ["OLIVEPRESS_PLUGIN"]
    if real:
        root = real_lab(place)
        for stage in ("quantize", "finetune", "optimize"):
            plain = undisturbed(root, stage, place / f"real-{stage}")
            yield plain, real
            root = plain.finished


def _table(outcomes: list[Outcome], failures: list[str], together: str, seconds: float) -> str:
    machine = f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}"
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, Python {platform.python_version()}: {len(outcomes) + len(failures)} "
        f"faults in {seconds / 60:.0f} minutes, {len(failures)} not survived.",
        "",
        "| fault | injected | ended as | told after, at most |",
        "| --- | --- | --- | --- |",
    ]
    for name in FAULTS:
        of_it = [each for each in outcomes if each.fault == name]
        if of_it:
            states = sorted({each.state for each in of_it})
            ended = ", ".join(f"{state} {sum(each.state == state for each in of_it)}" for state in states)
            told = max(each.told_s for each in of_it)
            lines.append(f"| {name} | {len(of_it)} | {ended} | {told:.1f} s |")
    by_stage = {each.stage: 0 for each in outcomes}
    for each in outcomes:
        by_stage[each.stage] += 1
    took = statistics.median(each.seconds for each in outcomes) if outcomes else 0
    shares = ", ".join(f"{stage} {count}" for stage, count in by_stage.items())
    lines += [
        "",
        f"By stage: {shares}. A fault and the run after it took {took:.1f} s in the median. {together}".rstrip(),
    ]
    lines += ["", *(f"- Not survived: {each}" for each in failures)] if failures else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
